//! What can happen to a file: cut off anywhere, or a bit flipped anywhere.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tempfile::TempDir;

/// Calls `check` with the bytes cut at, and flipped in, every place below `dense` and every
/// `step`th behind it; in every place, and every bit there, when `PINKEEPER_SOAK` is set.
///
/// # Panics
/// When `check` does; names the damage.
pub(crate) fn each(whole: &[u8], dense: usize, step: usize, mut check: impl FnMut(&str, &[u8])) {
    let soak = std::env::var_os("PINKEEPER_SOAK").is_some();
    let mut run = |what: String, bytes: &[u8]| {
        let checked = catch_unwind(AssertUnwindSafe(|| check(&what, bytes)));
        assert!(checked.is_ok(), "{what} of {} bytes", whole.len());
    };
    for at in (0..whole.len()).filter(|at| soak || *at < dense || at % step == 0) {
        run(format!("cut at {at}"), &whole[..at]);
        for bit in (0..8).filter(|bit| soak || *bit == at % 8) {
            let mut flipped = whole.to_vec();
            flipped[at] ^= 1 << bit;
            run(format!("bit {bit} of byte {at} flipped"), &flipped);
        }
    }
}

/// A folder in memory where the system has that: thousands of openings would wait for a disk.
pub(crate) fn folder() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).expect("a folder")
}
