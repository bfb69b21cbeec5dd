//! Damage to a file: cut off at any place, or one bit flipped at any place.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tempfile::TempDir;

/// Calls `check` with the bytes cut off, and with one bit flipped, at every place below `dense` and at
/// every `step`th place after it. With `PINKEEPER_SOAK`: at every place, and with every bit below
/// `dense`.
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
        for bit in (0..8).filter(|bit| (soak && at < dense) || *bit == at % 8) {
            let mut flipped = whole.to_vec();
            flipped[at] ^= 1 << bit;
            run(format!("bit {bit} of byte {at} flipped"), &flipped);
        }
    }
}

/// A folder in memory if the system has one: thousands of openings would wait for a disk.
pub(crate) fn folder() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).expect("a folder")
}
