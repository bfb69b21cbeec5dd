//! A Raft log in memory: what was not synced is lost in a crash.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    io,
    ops::RangeBounds,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    consensus::{
        BoundLog, CodecError,
        sim::{
            IOFlushed, LogState, OptionalSend, RaftEntry, RaftLogId, RaftLogReader, RaftLogStorage,
            RaftVote, TypeConfig, index_of, position_of,
        },
    },
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

#[derive(Debug, Default)]
struct Halves {
    volatile: Contents,
    durable: Contents,
}

/// The log; clones share it.
#[derive(Clone, Debug)]
pub struct SimLog {
    halves: Arc<Mutex<Halves>>,
    sync_time: Duration,
    flushed: watch::Sender<Option<u64>>,
}

impl SimLog {
    /// An empty log on a disk whose syncs take `sync_time`.
    #[must_use]
    pub fn new(sync_time: Duration) -> Self {
        Self { halves: Arc::default(), sync_time, flushed: watch::Sender::new(None) }
    }

    /// What a crash leaves: another log with what was synced.
    #[must_use]
    pub fn after_crash(&self) -> Self {
        let durable = self.lock().durable.clone();
        let last = durable.last().map(|id| index_of(&id));
        let halves = Halves { volatile: durable.clone(), durable };
        Self {
            halves: Arc::new(Mutex::new(halves)),
            sync_time: self.sync_time,
            flushed: watch::Sender::new(last),
        }
    }

    /// The last index known to be synced.
    #[must_use]
    pub fn flushed(&self) -> watch::Receiver<Option<u64>> {
        self.flushed.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Halves> {
        self.halves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn sync(&self) {
        tokio::time::sleep(self.sync_time).await;
        let mut halves = self.lock();
        halves.durable = halves.volatile.clone();
        let last = halves.durable.last().map(|id| index_of(&id));
        self.flushed.send_replace(last);
    }
}

impl Contents {
    fn last(&self) -> Option<RaftLogId> {
        self.entries.last_key_value().map(|(_, entry)| entry.log_id).or(self.purged)
    }
}

impl BoundLog for SimLog {
    fn cluster(&self) -> Result<Option<(ClusterId, u64)>, CodecError> {
        Ok(self.lock().volatile.cluster)
    }

    fn set_cluster(&self, cluster: ClusterId, epoch: u64) -> io::Result<()> {
        self.lock().volatile.cluster = Some((cluster, epoch));
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
        self.lock().volatile.vote = Some(*vote);
        self.sync().await;
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> Result<(), io::Error> {
        self.lock().volatile.committed = committed;
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
        {
            let mut halves = self.lock();
            for entry in entries {
                halves.volatile.entries.insert(index_of(&entry.log_id), entry);
            }
        }
        let log = self.clone();
        tokio::spawn(async move {
            log.sync().await;
            callback.io_completed(Ok(()));
        });
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> Result<(), io::Error> {
        let first_removed = last.map_or(0, |id| index_of(&id) + 1);
        self.lock().volatile.entries.split_off(&first_removed);
        Ok(())
    }

    async fn purge(&mut self, upto: RaftLogId) -> Result<(), io::Error> {
        let mut halves = self.lock();
        halves.volatile.entries = halves.volatile.entries.split_off(&(index_of(&upto) + 1));
        halves.volatile.purged = Some(upto);
        Ok(())
    }
}
