//! Checks that the log's files still hold everything that was once on disk.
//!
//! raft-log takes a short or zeroed end of its last file for a write torn by a crash and cuts it off;
//! it removes a last file without a whole first record. That is right only for unsynced data: one
//! flipped bit in a length would remove every later entry, even acknowledged ones. So the files are
//! checked before raft-log may change them. A crash can also leave other ends: a disk writes pages in
//! any order, so later pages may be there without the first. Such an end is cut off here.

use std::{fs::File, io, path::Path};

use raft_log::{RaftLog, RaftLogRecord, chunked_wal, codeq::Decode as _};

use super::Records;

/// A file of the log.
struct Chunk {
    name: String,
    /// Bytes of the log before this file.
    start: u64,
    len: u64,
}

/// Refuses files that do not hold the first `synced` bytes of the log whole, or that do not follow each
/// other. A torn end after these bytes is cut off; nothing is cut off if `synced` is unknown. Returns
/// how many bytes are whole. These are synced first, since the process that wrote them may have been
/// killed before it could.
pub(super) fn check_files(folder: &Path, synced: Option<u64>) -> io::Result<u64> {
    let may_cut = synced.is_some();
    let synced = synced.unwrap_or_default();
    let chunks = chunks(folder)?;
    let mut found = 0;
    // From the end: the files without a whole record, and the last file with one.
    let mut ends = Vec::new();
    for chunk in chunks.iter().rev() {
        let (whole, error) = whole_records(&folder.join(&chunk.name))?;
        found = chunk.start + whole;
        if found < synced {
            let reason = error.map_or_else(|| "it ends there".to_owned(), |e| e.to_string());
            return Err(damaged(format!(
                "{} has only {whole} whole bytes, but {} were on disk ({reason})",
                chunk.name,
                synced - chunk.start
            )));
        }
        ends.push((chunk, whole, error));
        if whole > 0 {
            break;
        }
    }
    if found < synced {
        return Err(damaged(format!("{synced} bytes were on disk, but its files are gone")));
    }
    // The log creates a file when the one before is full, and writes into it once that one is synced.
    // So a file without a whole record was never begun, and the one before it may be torn.
    let never_begun = if may_cut { ends.len().saturating_sub(1) } else { 0 };
    in_a_row(&chunks[..chunks.len() - never_begun])?;
    for (chunk, whole, error) in ends {
        let path = folder.join(&chunk.name);
        match error {
            Some(error) if may_cut => cut(&path, whole, &error)?,
            _ => File::open(&path)?.sync_all()?,
        }
    }
    Ok(found)
}

/// Refuses files that do not follow each other.
fn in_a_row(chunks: &[Chunk]) -> io::Result<()> {
    for pair in chunks.windows(2) {
        let [one, next] = pair else { continue };
        if one.len == 0 || one.start + one.len != next.start {
            return Err(damaged(format!(
                "{} has {} bytes, and the next file, {}, begins {} after it",
                one.name,
                one.len,
                next.name,
                next.start - one.start
            )));
        }
    }
    Ok(())
}

/// Refuses a log whose first entries are missing: raft-log trusts what its first file says about
/// earlier entries.
pub(super) fn check_beginning(log: &RaftLog<Records>) -> io::Result<()> {
    let state = log.log_state();
    let first = state.purged().map_or(0, |position| position.0.index + 1);
    match state.last() {
        Some(last) if last.0.index >= first && log.read(first, first + 1).next().is_none() => {
            Err(damaged(format!("the file with entry {first} is gone")))
        }
        _ => Ok(()),
    }
}

/// The files in order.
fn chunks(folder: &Path) -> io::Result<Vec<Chunk>> {
    let mut chunks = Vec::new();
    for entry in folder.read_dir()? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // raft-log ignores other files too.
        if let Ok(start) = chunked_wal::Config::parse_chunk_file_name(&name) {
            chunks.push(Chunk { name, start, len: entry.metadata()?.len() });
        }
    }
    chunks.sort_unstable_by_key(|chunk| chunk.start);
    Ok(chunks)
}

/// How many bytes of a file are whole records, and the error of the next one. A file is one chunk, so
/// the memory is bounded.
fn whole_records(path: &Path) -> io::Result<(u64, Option<io::Error>)> {
    let bytes = std::fs::read(path)?;
    let mut rest = &bytes[..];
    let mut whole = 0;
    while !rest.is_empty() {
        if let Err(error) = RaftLogRecord::<Records>::decode(&mut rest) {
            return Ok((whole, Some(error)));
        }
        whole = (bytes.len() - rest.len()) as u64;
    }
    Ok((whole, None))
}

fn cut(path: &Path, len: u64, error: &io::Error) -> io::Result<()> {
    let path_shown = path.display();
    tracing::warn!(path = %path_shown, len, %error, "cut off an end of the log that was torn before it was synced");
    let file = File::options().write(true).open(path)?;
    file.set_len(len)?;
    file.sync_all()
}

fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
