//! A small file beside a store that records how much of the store was on disk.
//!
//! A store that ends early looks like one whose last writes were lost in a crash before they were
//! synced, and the libraries below continue with what is left. The mark distinguishes the two:
//! everything up to it was synced, so a store that holds less has lost data.
//!
//! Invariant: the mark is never ahead of what is synced, since it is raised afterwards. Only the first
//! mark, zero, is synced itself; syncing the others would double the syncs. So the mark is exact after
//! a crash of the process. After a crash of the machine it may be older, and then protects less. For
//! the same reason a damaged mark counts as none.

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

/// The open file. Only the store's owner raises the mark.
#[derive(Debug)]
pub struct HighWater {
    file: File,
    failed: AtomicBool,
}

impl HighWater {
    /// Opens or creates the file; also returns the mark, if there is one.
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
            tracing::warn!(path = %path.display(), "the mark is damaged; starting a new one");
        } else if mark.is_none() {
            file.write_all_at(&encode(0), 0)?;
            file.sync_all()?;
            File::open(path.parent().unwrap_or_else(|| Path::new("/")))?.sync_all()?;
        }
        Ok((Self { file, failed: AtomicBool::new(false) }, mark))
    }

    /// Records that the store is synced up to `mark`.
    pub fn raise(&self, mark: u64) {
        let bytes = encode(mark);
        // An older mark is still true, so a failure does not stop the store; it is logged once.
        if let Err(error) = self.file.write_all_at(&bytes, 0)
            && !self.failed.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(%error, "cannot raise the mark of a store");
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
