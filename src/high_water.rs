//! A small file beside a store that says how much of it was on disk already.
//!
//! A store that ends early looks like one whose last writes a crash took before they were synced,
//! and the libraries below go on with what is left. The mark tells the two apart: what it counts was
//! synced once, so a store that holds less has lost it.
//!
//! Invariant: the mark is never ahead of what is synced, since it is raised afterwards. Only the first one,
//! of nothing, is synced itself; the others would cost a second sync per write: when the process crashes it is exact,
//! when the machine does it may be behind by what the system had not written out, and then guards
//! less. For the same reason a damaged mark is taken for none.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::files;

/// The number, big endian, and its CRC-32.
const LEN: usize = 12;

/// The open file. Only the owner of the store raises it.
#[derive(Debug)]
pub struct HighWater {
    file: File,
    failed: AtomicBool,
}

impl HighWater {
    /// Opens or makes the file; also returns what it says, if it says anything.
    ///
    /// # Errors
    /// When it cannot be opened or read.
    pub fn open(path: &Path) -> io::Result<(Self, Option<u64>)> {
        let file = files::open_or_create(path)?;
        let mut bytes = [0; LEN];
        let mark = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => decode(bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => return Err(error),
        };
        if mark.is_none() && file.metadata()?.len() > 0 {
            tracing::warn!(path = %path.display(), "the mark is damaged; it is begun anew");
        } else if mark.is_none() {
            file.write_all_at(&encode(0), 0)?;
            file.sync_all()?;
            File::open(path.parent().unwrap_or_else(|| Path::new("/")))?.sync_all()?;
        }
        Ok((Self { file, failed: AtomicBool::new(false) }, mark))
    }

    /// Says that the store is synced up to `mark`.
    pub fn raise(&self, mark: u64) {
        let bytes = encode(mark);
        // An old mark is true too, so a failure is no reason to stop; it is told once.
        if let Err(error) = self.file.write_all_at(&bytes, 0)
            && !self.failed.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(%error, "a store's mark cannot be raised");
        }
    }
}

fn encode(mark: u64) -> [u8; LEN] {
    let number = mark.to_be_bytes();
    let mut bytes = [0; LEN];
    bytes[..8].copy_from_slice(&number);
    bytes[8..].copy_from_slice(&crc32fast::hash(&number).to_be_bytes());
    bytes
}

fn decode(bytes: [u8; LEN]) -> Option<u64> {
    let (number, sum) = bytes.split_first_chunk()?;
    (crc32fast::hash(number).to_be_bytes() == sum).then(|| u64::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_last_mark_is_read_and_a_damaged_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mark");
        let (mark, before) = HighWater::open(&path).unwrap();
        assert_eq!(before, None);
        assert_eq!(HighWater::open(&path).unwrap().1, Some(0));
        mark.raise(7);
        mark.raise(300);
        assert_eq!(HighWater::open(&path).unwrap().1, Some(300));
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            std::fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(HighWater::open(&path).unwrap().1, None, "cut at {at}");
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            std::fs::write(&path, flipped).unwrap();
            assert_eq!(HighWater::open(&path).unwrap().1, None, "flipped at {at}");
        }
    }
}
