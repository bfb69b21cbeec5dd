//! A Raft log in memory, on a host's disk: records are written in sequence and synced together. A crash
//! keeps the synced records and some of the first unsynced ones, as an append-only file does.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Debug,
    io,
    ops::RangeBounds,
    sync::Arc,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::{Mutex as Turns, watch},
    time::Instant,
};

use super::disk::SimDisk;
use crate::{
    consensus::{
        BoundLog, CodecError,
        sim::{
            IOFlushed, LogState, OptionalSend, RaftEntry, RaftLogId, RaftLogReader, RaftLogStorage,
            RaftVote, TypeConfig, index_of, ops_of, position_of,
        },
    },
    runtime::random_u64,
    state::Op,
    types::{ClusterId, LogPosition},
};

#[derive(Clone, Debug, Default)]
struct Contents {
    entries: BTreeMap<u64, RaftEntry>,
    vote: Option<RaftVote>,
    committed: Option<RaftLogId>,
    purged: Option<RaftLogId>,
    cluster: Option<(ClusterId, u64)>,
}

#[derive(Clone, Debug)]
enum Record {
    Entry(RaftEntry),
    Vote(RaftVote),
    Committed(Option<RaftLogId>),
    /// Removes the entries from this index on.
    Truncate(u64),
    Purge(RaftLogId),
    Cluster(ClusterId, u64),
}

#[derive(Debug, Default)]
struct Halves {
    volatile: Contents,
    durable: Contents,
    /// Unsynced records, in order.
    unsynced: VecDeque<Record>,
    /// Purged entries, for observers.
    purged: BTreeMap<u64, RaftEntry>,
    /// When each position was first written in this life.
    appended: BTreeMap<LogPosition, Instant>,
    /// Records ever written, and how many of them are synced.
    written: u64,
    synced: u64,
}

/// The log; clones share it.
#[derive(Clone, Debug)]
pub struct SimLog {
    halves: Arc<Mutex<Halves>>,
    disk: SimDisk,
    /// One sync at a time, in the order of requests.
    turns: Arc<Turns<()>>,
    flushed: watch::Sender<Option<u64>>,
}

impl SimLog {
    /// An empty log.
    #[must_use]
    pub fn new(disk: SimDisk) -> Self {
        Self {
            halves: Arc::default(),
            disk,
            turns: Arc::default(),
            flushed: watch::Sender::new(None),
        }
    }

    /// The log after a crash, as another log.
    #[must_use]
    pub fn after_crash(&self) -> Self {
        let halves = self.lock();
        let mut durable = halves.durable.clone();
        let kept = random_u64() % (halves.unsynced.len() as u64 + 1);
        let kept = usize::try_from(kept).unwrap_or(usize::MAX);
        halves.unsynced.iter().take(kept).for_each(|record| durable.apply(record.clone()));
        let last = durable.last().map(|id| index_of(&id));
        let halves = Halves { volatile: durable.clone(), durable, ..Halves::default() };
        Self {
            halves: Arc::new(Mutex::new(halves)),
            disk: self.disk.clone(),
            turns: Arc::default(),
            flushed: watch::Sender::new(last),
        }
    }

    /// The last index known to be synced.
    #[must_use]
    pub fn flushed(&self) -> watch::Receiver<Option<u64>> {
        self.flushed.subscribe()
    }

    /// The position and ops of the entry at an index, even if it was purged in this life.
    #[must_use]
    pub fn entry(&self, index: u64) -> Option<(LogPosition, Vec<Op>)> {
        let halves = self.lock();
        let entry = halves.volatile.entries.get(&index).or_else(|| halves.purged.get(&index))?;
        Some((position_of(entry.log_id), ops_of(entry)))
    }

    /// When the entry at a position was written, if that was in this life.
    #[must_use]
    pub fn appended_at(&self, position: LogPosition) -> Option<Instant> {
        self.lock().appended.get(&position).copied()
    }

    fn lock(&self) -> MutexGuard<'_, Halves> {
        self.halves.lock()
    }

    fn write(&self, records: impl IntoIterator<Item = Record>) {
        let mut halves = self.lock();
        for record in records {
            if let Record::Purge(upto) = &record {
                let Halves { volatile, purged, .. } = &mut *halves;
                let gone = volatile.entries.range(..=index_of(upto));
                purged.extend(gone.map(|(index, entry)| (*index, entry.clone())));
            }
            if let Record::Entry(entry) = &record {
                halves.appended.entry(position_of(entry.log_id)).or_insert_with(Instant::now);
            }
            halves.volatile.apply(record.clone());
            halves.unsynced.push_back(record);
            halves.written += 1;
        }
    }

    /// Syncs all records written so far. A sync that waits for its turn finds much of it done.
    async fn sync(&self) -> io::Result<()> {
        let asked = self.lock().written;
        let _turn = self.turns.lock().await;
        let until = {
            let halves = self.lock();
            if halves.synced >= asked {
                return Ok(());
            }
            halves.written
        };
        tokio::time::sleep(self.disk.sync_time()).await;
        self.disk.space()?;
        let mut halves = self.lock();
        while halves.synced < until {
            let Some(record) = halves.unsynced.pop_front() else { break };
            halves.durable.apply(record);
            halves.synced += 1;
        }
        let last = halves.durable.last().map(|id| index_of(&id));
        self.flushed.send_replace(last);
        Ok(())
    }
}

impl Contents {
    fn last(&self) -> Option<RaftLogId> {
        self.entries.last_key_value().map(|(_, entry)| entry.log_id).or(self.purged)
    }

    fn apply(&mut self, record: Record) {
        match record {
            Record::Entry(entry) => {
                self.entries.insert(index_of(&entry.log_id), entry);
            }
            Record::Vote(vote) => self.vote = Some(vote),
            Record::Committed(committed) => self.committed = committed,
            Record::Truncate(first) => drop(self.entries.split_off(&first)),
            Record::Purge(upto) => {
                self.entries = self.entries.split_off(&(index_of(&upto) + 1));
                self.purged = Some(upto);
            }
            Record::Cluster(cluster, epoch) => self.cluster = Some((cluster, epoch)),
        }
    }
}

impl BoundLog for SimLog {
    fn cluster(&self) -> Result<Option<(ClusterId, u64)>, CodecError> {
        Ok(self.lock().volatile.cluster)
    }

    fn set_cluster(&self, cluster: ClusterId, epoch: u64) -> io::Result<()> {
        self.disk.space()?;
        self.write([Record::Cluster(cluster, epoch)]);
        Ok(())
    }

    fn purged(&self) -> Option<LogPosition> {
        self.lock().volatile.purged.map(position_of)
    }

    fn last(&self) -> Option<LogPosition> {
        self.lock().volatile.last().map(position_of)
    }
}

impl RaftLogReader<TypeConfig> for SimLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        Ok(self.lock().volatile.entries.range(range).map(|(_, entry)| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> Result<Option<RaftVote>, io::Error> {
        Ok(self.lock().volatile.vote)
    }
}

impl RaftLogStorage<TypeConfig> for SimLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let halves = self.lock();
        Ok(LogState {
            last_purged_log_id: halves.volatile.purged,
            last_log_id: halves.volatile.last(),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> Result<(), io::Error> {
        self.write([Record::Vote(*vote)]);
        self.sync().await
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> Result<(), io::Error> {
        self.write([Record::Committed(committed)]);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<RaftLogId>, io::Error> {
        Ok(self.lock().volatile.committed)
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
        self.write(entries.into_iter().map(Record::Entry));
        let log = self.clone();
        tokio::spawn(async move {
            let synced = log.sync().await;
            callback.io_completed(synced);
        });
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> Result<(), io::Error> {
        self.write([Record::Truncate(last.map_or(0, |id| index_of(&id) + 1))]);
        Ok(())
    }

    async fn purge(&mut self, upto: RaftLogId) -> Result<(), io::Error> {
        self.write([Record::Purge(upto)]);
        Ok(())
    }
}
