//! The Raft log on disk, in raft-log: entries, votes and the commit position in one stream of
//! checksummed records, synced by raft-log's own thread.
//!
//! Invariants:
//! - A vote is on disk when `save_vote` returns; entries are on disk when their callback runs.
//! - Data that was once on disk and is no longer whole is refused (see [`whole`]).
//! - The log is bound to the same cluster as the state beside it.

mod whole;

use std::{
    fmt::Debug,
    io::{self, Read, Write},
    ops::{Bound, RangeBounds},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use openraft::{
    EntryPayload, LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use parking_lot::{Mutex, MutexGuard};
use raft_log::{
    RaftLog, Segment, Types,
    api::raft_log_writer::RaftLogWriter,
    codeq::{Decode, Encode},
};
use tokio::sync::{oneshot, watch};

use super::raft_types::{
    CodecError, Payload, RaftEntry, RaftLogId, RaftVote, TypeConfig, body_out, decode, encode,
    entry_in, position_in, position_out, vote_in, vote_out,
};
use crate::{
    files,
    high_water::HighWater,
    types::{ClusterId, Entry, EntryBody, LogPosition, Vote},
};

/// Bytes of entries kept in memory for followers that are slightly behind; raft-log's default is 1 GiB.
const CACHE_LEN_MAX: usize = 4 * 1024 * 1024;
/// Entries kept in memory.
const CACHE_ENTRIES_MAX: usize = 16 * 1024;
/// A chunk is one file; a chunk is removed once it is purged completely.
const CHUNK_LEN_MAX: usize = 16 * 1024 * 1024;
/// Records per chunk.
const CHUNK_RECORDS_MAX: usize = 128 * 1024;
/// Buffer for replaying a chunk at the start; raft-log's default is 64 MiB.
const READ_BUFFER_LEN: usize = 1024 * 1024;
/// Bytes queued for the disk; a writer that would exceed the limit waits.
const FLUSH_QUEUE_LEN_MAX: usize = 16 * 1024 * 1024;
/// Largest stored record accepted when reading.
const RECORD_LEN_MAX: u32 = 64 * 1024 * 1024;

pub(super) const BODY_VERSION: u8 = 1;
pub(super) const VOTE_VERSION: u8 = 1;
const CLUSTER_VERSION: u8 = 1;

/// The types stored by raft-log: ours, each as a length and our versioned encoding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Records;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct StoredPosition(LogPosition);

/// The body of an entry.
#[derive(Clone, Debug)]
enum StoredBody {
    /// As appended.
    Appended(Payload),
    /// As read from disk. The reader decodes it, since an unknown encoding is not damage.
    Read(Vec<u8>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct StoredVote(Vote);

#[derive(Clone, Debug, PartialEq, Eq)]
struct StoredCluster(Vec<u8>);

/// Called by raft-log's thread after a sync.
struct Synced {
    /// The log's end in bytes since its beginning.
    upto: u64,
    mark: Arc<HighWater>,
    then: Then,
}

/// Receiver of a sync.
enum Then {
    Entries {
        callback: IOFlushed<TypeConfig>,
        last: Option<u64>,
        flushed: watch::Sender<Option<u64>>,
        /// Number of truncations, and its value when the entries were appended.
        truncations: Arc<AtomicU64>,
        then: u64,
    },
    Vote(oneshot::Sender<io::Result<()>>),
    Nothing,
}

impl Types for Records {
    type LogId = StoredPosition;
    type LogPayload = StoredBody;
    type Vote = StoredVote;
    type Callback = Synced;
    type UserData = StoredCluster;

    fn log_index(log_id: &StoredPosition) -> u64 {
        log_id.0.index
    }

    fn payload_size(body: &StoredBody) -> u64 {
        let len = match body {
            StoredBody::Appended(EntryPayload::Normal(batch)) => batch.size(),
            StoredBody::Appended(_) => 0,
            StoredBody::Read(bytes) => bytes.len(),
        };
        len as u64
    }
}

impl raft_log::Callback for Synced {
    fn send(self, result: io::Result<()>) {
        // First, so that the mark covers everything acknowledged.
        if result.is_ok() {
            self.mark.raise(self.upto);
        }
        match self.then {
            Then::Entries { callback, last, flushed, truncations, then } => {
                if result.is_ok() {
                    flushed.send_if_modified(|flushed| {
                        let current = truncations.load(Ordering::SeqCst) == then;
                        if current {
                            *flushed = last;
                        }
                        current
                    });
                }
                callback.io_completed(result);
            }
            // The receiver is gone only when openraft stops.
            Then::Vote(waiter) => drop(waiter.send(result)),
            Then::Nothing => {}
        }
    }
}

impl PartialOrd for StoredVote {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        vote_in(self.0).partial_cmp(&vote_in(other.0))
    }
}

fn put(mut to: impl Write, bytes: &[u8]) -> io::Result<usize> {
    let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    to.write_all(&len.to_be_bytes())?;
    to.write_all(bytes)?;
    Ok(4 + bytes.len())
}

fn take(mut from: impl Read) -> io::Result<Vec<u8>> {
    let mut len = [0; 4];
    from.read_exact(&mut len)?;
    let len = u32::from_be_bytes(len);
    if len > RECORD_LEN_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a record's length is out of bounds",
        ));
    }
    let mut bytes = vec![0; len as usize];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

impl Encode for StoredPosition {
    fn encode<W: Write>(&self, mut to: W) -> io::Result<usize> {
        to.write_all(&self.0.term.to_be_bytes())?;
        to.write_all(&self.0.index.to_be_bytes())?;
        Ok(16)
    }
}

impl Decode for StoredPosition {
    fn decode<R: Read>(mut from: R) -> io::Result<Self> {
        let mut number = [0; 8];
        from.read_exact(&mut number)?;
        let term = u64::from_be_bytes(number);
        from.read_exact(&mut number)?;
        Ok(Self(LogPosition { term, index: u64::from_be_bytes(number) }))
    }
}

impl Encode for StoredBody {
    fn encode<W: Write>(&self, to: W) -> io::Result<usize> {
        match self {
            Self::Appended(payload) => put(to, &encode(BODY_VERSION, &body_out(payload))),
            Self::Read(bytes) => put(to, bytes),
        }
    }
}

impl Decode for StoredBody {
    fn decode<R: Read>(from: R) -> io::Result<Self> {
        take(from).map(Self::Read)
    }
}

impl Encode for StoredVote {
    fn encode<W: Write>(&self, to: W) -> io::Result<usize> {
        put(to, &encode(VOTE_VERSION, &self.0))
    }
}

impl Decode for StoredVote {
    fn decode<R: Read>(from: R) -> io::Result<Self> {
        Ok(Self(decode("a vote", VOTE_VERSION, &take(from)?)?))
    }
}

impl Encode for StoredCluster {
    fn encode<W: Write>(&self, to: W) -> io::Result<usize> {
        put(to, &self.0)
    }
}

impl Decode for StoredCluster {
    fn decode<R: Read>(from: R) -> io::Result<Self> {
        take(from).map(Self)
    }
}

/// Reads all records; each must encode to the bytes it was read from.
#[cfg(any(test, feature = "simulation"))]
pub(super) fn read_and_write(mut bytes: &[u8]) -> io::Result<()> {
    while let Ok(record) = raft_log::RaftLogRecord::<Records>::decode(&mut bytes) {
        let mut written = Vec::new();
        record.encode(&mut written)?;
        let again = raft_log::RaftLogRecord::<Records>::decode(&written[..])?;
        assert_eq!(format!("{again:?}"), format!("{record:?}"));
    }
    Ok(())
}

/// The log. Clones share it.
#[derive(Clone)]
pub struct DiskLog {
    log: Arc<Mutex<RaftLog<Records>>>,
    flushed: watch::Sender<Option<u64>>,
    /// Truncations so far in this process.
    truncations: Arc<AtomicU64>,
    mark: Arc<HighWater>,
    /// raft-log's thread has ended.
    ended: Arc<AtomicBool>,
}

impl Debug for DiskLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskLog").finish_non_exhaustive()
    }
}

impl DiskLog {
    /// Opens or creates the log in its own folder, with the mark of what was on disk beside it
    /// (`<folder>.synced`). A record torn by a crash at the very end is cut off; any other damage is
    /// refused.
    ///
    /// # Errors
    /// When another process uses it, or it is damaged or cannot be read or written.
    pub fn open(folder: &Path) -> io::Result<Self> {
        Self::open_with(folder, CHUNK_LEN_MAX)
    }

    pub(super) fn open_with(folder: &Path, chunk_len_max: usize) -> io::Result<Self> {
        files::folder(folder)?;
        let (mark, synced) = HighWater::open(&folder.with_extension("synced"))?;
        mark.raise(whole::check_files(folder, synced)?);
        let mut config = raft_log::Config::new(folder.display());
        config.wal.read_buffer_size = Some(READ_BUFFER_LEN);
        config.wal.chunk_max_records = Some(CHUNK_RECORDS_MAX);
        config.wal.chunk_max_size = Some(chunk_len_max);
        config.wal.truncate_incomplete_record = Some(true);
        config.wal.flush_batch_wait = Some(Duration::ZERO);
        config.wal.flush_queue_max_bytes = Some(FLUSH_QUEUE_LEN_MAX);
        config.log_cache_max_items = Some(CACHE_ENTRIES_MAX);
        config.log_cache_capacity = Some(CACHE_LEN_MAX);
        let log = RaftLog::<Records>::open(Arc::new(config))?;
        whole::check_beginning(&log)?;
        let last = log.log_state().last().map(|position| position.0.index);
        let flushed = watch::Sender::new(last);
        Ok(Self {
            log: Arc::new(Mutex::new(log)),
            flushed,
            truncations: Arc::default(),
            mark: Arc::new(mark),
            ended: Arc::default(),
        })
    }

    /// The last index known to be on disk.
    #[must_use]
    pub fn flushed(&self) -> watch::Receiver<Option<u64>> {
        self.flushed.subscribe()
    }

    /// The cluster the log belongs to; absent in a blank log.
    ///
    /// # Errors
    /// When another version wrote it.
    pub fn cluster(&self) -> Result<Option<(ClusterId, u64)>, CodecError> {
        let stored = self.lock().log_state().user_data.clone();
        stored.map(|stored| decode("the log's cluster", CLUSTER_VERSION, &stored.0)).transpose()
    }

    /// Binds the log to a cluster; durable with the next vote.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn set_cluster(&self, cluster: ClusterId, epoch: u64) -> io::Result<()> {
        let cluster = StoredCluster(encode(CLUSTER_VERSION, &(cluster, epoch)));
        self.write(|log| {
            let written = log.save_user_data(Some(cluster))?;
            self.sync(log, written, Then::Nothing)
        })
    }

    /// Writes to the log. Returns the error that ended the log's thread, if it has ended.
    ///
    /// A log whose thread has ended is not asked again: its count of queued bytes may have gone below
    /// zero, and the next request would wait for space for ever (chunked-wal 0.2.3 gives a request's
    /// bytes back twice when the thread ends between their reservation and the send).
    fn write<T>(&self, act: impl FnOnce(&mut RaftLog<Records>) -> io::Result<T>) -> io::Result<T> {
        let mut log = self.lock();
        let done = match self.ended.load(Ordering::SeqCst) {
            true => Err(io::Error::other("the log's thread has ended")),
            false => act(&mut log),
        };
        done.map_err(|error| match log.wait_worker_idle() {
            Ok(()) => error,
            Err(reason) => {
                self.ended.store(true, Ordering::SeqCst);
                reason
            }
        })
    }

    /// Requests a sync of everything up to `written`, the last record.
    fn sync(&self, log: &mut RaftLog<Records>, written: Segment, then: Then) -> io::Result<()> {
        let upto = written.offset + written.size;
        log.flush(true, Some(Synced { upto, mark: self.mark.clone(), then }))
    }

    /// The position of the last purged entry: included in the state, and no longer in the log.
    #[must_use]
    pub fn purged(&self) -> Option<LogPosition> {
        self.lock().log_state().purged().map(|position| position.0)
    }

    /// The position of the last entry, or of the last purged one.
    #[must_use]
    pub fn last(&self) -> Option<LogPosition> {
        self.lock().log_state().last().map(|position| position.0)
    }

    fn lock(&self) -> MutexGuard<'_, RaftLog<Records>> {
        self.log.lock()
    }
}

impl RaftLogReader<TypeConfig> for DiskLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index.saturating_add(1),
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        let log = self.lock();
        log.read(start, end)
            .map(|record| {
                let (StoredPosition(id), body) = record?;
                Ok(match body {
                    StoredBody::Appended(payload) => RaftEntry { log_id: position_in(id), payload },
                    StoredBody::Read(bytes) => {
                        let body: EntryBody = decode("a log entry", BODY_VERSION, &bytes)?;
                        entry_in(Entry { id, body })?
                    }
                })
            })
            .collect()
    }

    async fn read_vote(&mut self) -> Result<Option<RaftVote>, io::Error> {
        Ok(self.lock().log_state().vote().map(|vote| vote_in(vote.0)))
    }
}

impl RaftLogStorage<TypeConfig> for DiskLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let log = self.lock();
        let position = |stored: Option<&StoredPosition>| stored.map(|p| position_in(p.0));
        Ok(LogState {
            last_purged_log_id: position(log.log_state().purged()),
            last_log_id: position(log.log_state().last()),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> Result<(), io::Error> {
        let (synced, waiter) = oneshot::channel();
        self.write(|log| {
            let written = log.save_vote(StoredVote(vote_out(vote)))?;
            self.sync(log, written, Then::Vote(synced))
        })?;
        let ended = |_| self.write(|_| Err(io::Error::other("the log's thread has ended")));
        waiter.await.unwrap_or_else(ended)
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> Result<(), io::Error> {
        let Some(committed) = committed else { return Ok(()) };
        self.write(|log| {
            // Reaches the disk with the next write; it needs no sync of its own, since a lost commit
            // position is learnt again.
            log.commit(StoredPosition(position_out(committed))).map(drop)
        })
    }

    async fn read_committed(&mut self) -> Result<Option<RaftLogId>, io::Error> {
        Ok(self.lock().log_state().committed().map(|position| position_in(position.0)))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(|entry| {
            let position = position_out(entry.log_id);
            (StoredPosition(position), StoredBody::Appended(entry.payload))
        });
        self.write(|log| {
            let written = log.append(entries)?;
            let last = log.log_state().last().map(|position| position.0.index);
            let flushed = self.flushed.clone();
            let truncations = Arc::clone(&self.truncations);
            let then = truncations.load(Ordering::SeqCst);
            self.sync(log, written, Then::Entries { callback, last, flushed, truncations, then })
        })
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> Result<(), io::Error> {
        let first_removed = last.map_or(0, |id| id.index + 1);
        self.write(|log| {
            if log.log_state().last().is_none_or(|position| position.0.index < first_removed) {
                return Ok(());
            }
            // Entries that replace removed ones are not on disk just because those were. Counted first,
            // since after an error some may have been removed nevertheless.
            self.truncations.fetch_add(1, Ordering::SeqCst);
            self.flushed.send_modify(|flushed| *flushed = (*flushed).min(last.map(|id| id.index)));
            log.truncate(first_removed)?;
            // Reaches the disk with the entries that replace the removed ones.
            log.flush(false, None)
        })
    }

    async fn purge(&mut self, upto: RaftLogId) -> Result<(), io::Error> {
        self.write(|log| {
            let written = log.purge(StoredPosition(position_out(upto)))?;
            self.sync(log, written, Then::Nothing)
        })
    }
}

#[cfg(test)]
mod tests;
