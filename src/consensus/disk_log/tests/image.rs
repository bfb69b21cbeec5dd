//! A log's files, and what a crash leaves of them.

use std::{fs, io, path::Path};

use raft_log::chunked_wal::Config;
use rand::{Rng as _, RngExt as _, rngs::StdRng};

/// A disk writes pages in any order; small pages, so that there are many.
const PAGE_LEN: usize = 64;

/// The files in order, each with the number of log bytes before it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Files(pub(super) Vec<(String, u64, Vec<u8>)>);

impl Files {
    pub(super) fn of(folder: &Path) -> Self {
        let mut files = Vec::new();
        for entry in fs::read_dir(folder).expect("the log's folder") {
            let path = entry.expect("a name").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Ok(start) = Config::parse_chunk_file_name(&name) {
                files.push((name, start, fs::read(path).expect("a file of the log")));
            }
        }
        files.sort_unstable();
        Self(files)
    }

    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        self.0.iter().try_for_each(|(name, _, bytes)| fs::write(folder.join(name), bytes))
    }

    /// Adds the files that only `other` has.
    pub(super) fn and(mut self, other: Self) -> Self {
        let names: Vec<_> = self.0.iter().map(|(name, ..)| name.clone()).collect();
        self.0.extend(other.0.into_iter().filter(|(name, ..)| !names.contains(name)));
        self.0.sort_unstable();
        self
    }

    /// Bytes of the log up to the end of the last file.
    pub(super) fn end(&self) -> u64 {
        self.0.last().map_or(0, |(_, start, bytes)| start + bytes.len() as u64)
    }

    pub(super) fn start_of_last(&self) -> u64 {
        self.0.last().map_or(0, |(_, start, _)| *start)
    }

    /// The first `len` bytes of the log.
    pub(super) fn cut(&self, len: u64) -> Self {
        let mut cut = self.clone();
        for (_, start, bytes) in &mut cut.0 {
            bytes.truncate(usize::try_from(len.saturating_sub(*start)).expect("a short log"));
        }
        cut
    }

    /// The files after a crash: the first `synced` bytes, and none, some or all of the later ones. Only
    /// one file is torn; later files were at most begun, since the log syncs a file before it writes
    /// into the next.
    pub(super) fn torn(&self, synced: u64, random: &mut StdRng) -> Self {
        let mut left = self.clone();
        let first = self.0.iter().rposition(|(_, start, _)| *start <= synced).unwrap_or_default();
        let torn = random.random_range(first..self.0.len());
        for (_, _, bytes) in &mut left.0[torn + 1..] {
            bytes.clear();
        }
        left.0.truncate(random.random_range(torn + 1..=self.0.len()));
        let (_, start, bytes) = &mut left.0[torn];
        let kept = usize::try_from(synced.saturating_sub(*start)).expect("a short log");
        tear(bytes, kept, random);
        left
    }
}

/// Tears everything after the first `kept` bytes.
fn tear(bytes: &mut Vec<u8>, kept: usize, random: &mut StdRng) {
    let kept = kept.min(bytes.len());
    match random.random_range(0..6) {
        0 => bytes.truncate(kept),
        1 => {}
        2 => bytes.truncate(random.random_range(kept..=bytes.len())),
        // Only the length was written.
        3 => bytes[kept..].fill(0),
        // Some pages were written.
        4 => {
            for at in (kept..bytes.len()).step_by(PAGE_LEN) {
                let end = bytes.len().min(at + PAGE_LEN);
                if random.random_bool(0.5) {
                    bytes[at..end].fill(0);
                }
            }
        }
        // The end holds old data of the disk.
        _ => {
            let at = random.random_range(kept..=bytes.len());
            random.fill_bytes(&mut bytes[at..]);
        }
    }
}
