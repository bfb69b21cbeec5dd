//! Agreement: Raft (openraft) over the peers' log, state and transport.
//!
//! This is the only module that imports openraft. Acknowledged means on the disks of a majority.
//! Invariants:
//! - A peer's node ID is its key, so no node returns with an empty log.
//! - Log and state on one disk belong to one cluster and epoch.
//! - The log is never shorter than the state beside it.

mod disk_log;
mod errors;
#[cfg(any(test, feature = "simulation"))]
pub(crate) mod fuzzing;
mod image;
mod leadership;
mod machine;
mod membership;
mod network;
mod raft_types;
mod runtime;
mod serve;
mod state_store;

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use openraft::{
    Config, Raft, ReadPolicy, SnapshotPolicy,
    async_runtime::watch::WatchReceiver,
    errors::{InitializeError, LinearizableReadError, RaftError},
    metrics::WaitError,
    storage::RaftLogStorage,
};
use parking_lot::Mutex;
use tokio::sync::watch;

pub use self::{
    disk_log::DiskLog,
    errors::{OpenError, ProposeError},
    leadership::{ConsensusWatch, Leadership},
    raft_types::CodecError,
    state_store::{StateStore, StoreError},
};
use self::{
    errors::write_error,
    machine::{Knows, Machine, NotKnown},
    network::Network,
    raft_types::{Batch, TypeConfig},
    serve::SnapshotInbox,
};
use crate::{
    rpc::SharedTransport,
    state::{Applied, Op, SharedState},
    types::{ClusterId, LogPosition, Member, PeerId, Program, SnapshotChunk, millis},
};

/// Largest number of entries in one message; the network may send fewer.
const ENTRIES_PER_MESSAGE: u64 = 300;
/// Largest entry in bytes: it must fit in a message with its other fields, or no later entry would ever
/// be committed. A batch of ops that name many peers can be larger.
const ENTRY_LEN_MAX: usize = 3 * 1024 * 1024;
/// Time for the installation of a whole snapshot.
const SNAPSHOT_DEADLINE_MS: u64 = 120_000;

/// Raft's timing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Interval between a leader's heartbeats.
    pub heartbeat: Duration,
    /// Shortest wait of a follower, after the leader's lease has ended, before it stands for election.
    pub election_min: Duration,
    /// Longest such wait, and the lease: for so long after a leader's last message no other peer gets
    /// votes.
    pub election_max: Duration,
}

/// When the state is checkpointed, and how it is sent to a peer that is too far behind for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoints {
    /// Entries after which the state is checkpointed and the log before it may be purged.
    pub every: u64,
    /// Entries kept before a checkpoint, so that a peer that was away briefly needs no snapshot.
    pub kept: u64,
    /// Bytes of a snapshot per message, at most [`SnapshotChunk::LEN_MAX`].
    pub piece_len: usize,
}

/// For every process; only worlds use other values.
impl Default for Checkpoints {
    fn default() -> Self {
        Self { every: 5_000, kept: 2_000, piece_len: SnapshotChunk::LEN_MAX }
    }
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// Name and addresses.
    pub member: Member,
    /// Whether it votes; learners only follow.
    pub voter: bool,
}

/// How far this peer's log has been applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogProgress {
    /// Last index in the log.
    pub last: Option<u64>,
    /// Last index applied.
    pub applied: Option<u64>,
    /// Last index that is on a majority's disks, as far as this peer knows.
    pub committed: Option<u64>,
}

/// The log, state and cluster binding of consensus.
#[derive(Debug)]
pub struct Stores<L> {
    /// The log.
    pub log: L,
    /// Last index of the log that is on disk.
    pub flushed: watch::Receiver<Option<u64>>,
    /// The state's checkpoint.
    pub state: StateStore,
}

/// The running consensus; clones share it.
#[derive(Clone)]
pub struct Consensus {
    id: PeerId,
    /// For so long after a leader's last message no other peer gets votes.
    lease: Duration,
    raft: Raft<TypeConfig, Machine>,
    state: SharedState,
    store: StateStore,
    cluster: Arc<OnceLock<(ClusterId, u64)>>,
    /// Held while the stores are bound, so that both are bound to the same cluster.
    binding: Arc<Mutex<()>>,
    bind_log: Arc<dyn Fn(ClusterId, u64) -> io::Result<()> + Send + Sync>,
    inbox: Arc<Mutex<SnapshotInbox>>,
    program: Program,
    /// Set once this program met something it cannot apply.
    not_known: NotKnown,
}

impl std::fmt::Debug for Consensus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consensus").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What a log must offer besides openraft's own trait.
pub trait BoundLog: RaftLogStorage<TypeConfig> + Clone + Sync {
    /// The cluster the log belongs to.
    ///
    /// # Errors
    /// When another version wrote it.
    fn cluster(&self) -> Result<Option<(ClusterId, u64)>, CodecError>;
    /// Binds it to a cluster.
    ///
    /// # Errors
    /// When the disk fails.
    fn set_cluster(&self, cluster: ClusterId, epoch: u64) -> io::Result<()>;
    /// The position of the last entry purged.
    fn purged(&self) -> Option<LogPosition>;
    /// The position of the last entry, or of the last one purged.
    fn last(&self) -> Option<LogPosition>;
}

impl BoundLog for DiskLog {
    fn cluster(&self) -> Result<Option<(ClusterId, u64)>, CodecError> {
        self.cluster()
    }

    fn set_cluster(&self, cluster: ClusterId, epoch: u64) -> io::Result<()> {
        self.set_cluster(cluster, epoch)
    }

    fn purged(&self) -> Option<LogPosition> {
        self.purged()
    }

    fn last(&self) -> Option<LogPosition> {
        self.last()
    }
}

impl Consensus {
    /// Opens consensus on the disk's contents. A blank peer waits until it founds a cluster or a leader
    /// adds it.
    ///
    /// # Errors
    /// When the disk's contents cannot be used; nothing is changed then.
    pub async fn open<L: BoundLog>(
        id: PeerId,
        timing: Timing,
        checkpoints: Checkpoints,
        program: Program,
        stores: Stores<L>,
        transport: SharedTransport,
    ) -> Result<Self, OpenError> {
        check_stores(&stores)?;
        let cluster = Arc::new(OnceLock::new());
        if let Some((id, epoch)) = stores.state.cluster()? {
            cluster.get_or_init(|| (id, epoch));
            // A crash may have happened between the two bindings.
            if stores.log.cluster()?.is_none() {
                let failed = |source| OpenError::Log { folder: "the log".to_owned(), source };
                stores.log.set_cluster(id, epoch).map_err(failed)?;
            }
        }
        let not_known = NotKnown::default();
        let knows = Knows { program, not_known: not_known.clone() };
        let machine = Machine::load(stores.state.clone(), stores.flushed, cluster.clone(), knows)?;
        let state = machine.state();
        let level = state.read(|pins| pins.level());
        program.check(level).map_err(|error| OpenError::NotKnown(error.to_string()))?;
        let piece_len = checkpoints.piece_len;
        let network = Network { transport, cluster: cluster.clone(), piece_len };
        let log = stores.log.clone();
        let raft =
            Raft::new(id, Arc::new(config(timing, checkpoints)?), network, stores.log, machine)
                .await
                .map_err(|error| match not_known.subscribe().borrow().clone() {
                    Some(what) => OpenError::NotKnown(what),
                    None => OpenError::Raft(error.to_string()),
                })?;
        Ok(Self {
            id,
            lease: timing.election_max,
            raft,
            state,
            store: stores.state,
            cluster,
            bind_log: Arc::new(move |cluster, epoch| log.set_cluster(cluster, epoch)),
            binding: Arc::default(),
            inbox: Arc::default(),
            program,
            not_known,
        })
    }

    /// The ID of this peer.
    #[must_use]
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// What this peer's program supports.
    #[must_use]
    pub fn program(&self) -> Program {
        self.program
    }

    /// Set once this program met something it cannot apply: the peer must stop then.
    #[must_use]
    pub fn not_known(&self) -> watch::Receiver<Option<String>> {
        self.not_known.subscribe()
    }

    /// The cluster and epoch this peer belongs to.
    #[must_use]
    pub fn cluster(&self) -> Option<(ClusterId, u64)> {
        self.cluster.get().copied()
    }

    /// Read access to the state.
    #[must_use]
    pub fn state(&self) -> &SharedState {
        &self.state
    }

    /// Binds a blank disk to a cluster, durably. From now on Raft messages of that cluster are served.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn bind(&self, cluster: ClusterId, epoch: u64) -> Result<(), OpenError> {
        let _only_one = self.binding.lock();
        if self.cluster.get().is_some() {
            return Ok(());
        }
        // The state first: a crash in between leaves a log without cluster and entries, which
        // `check_stores` accepts.
        self.store.set_cluster(cluster, epoch)?;
        (self.bind_log)(cluster, epoch)
            .map_err(|source| OpenError::Log { folder: "the log".to_owned(), source })?;
        self.cluster.get_or_init(|| (cluster, epoch));
        Ok(())
    }

    /// Makes this peer the first and only voter of its (bound) cluster.
    ///
    /// # Errors
    /// When it is already a member of one.
    pub async fn initialize(&self, member: Member) -> Result<(), ProposeError> {
        match self.raft.initialize(BTreeMap::from([(self.id, member)])).await {
            Ok(()) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(ProposeError::Stopped(error.to_string())),
        }
    }

    /// Writes ops as one entry, or as several in sequence if they are too long for one. Returns the
    /// result of each once they are acknowledged and applied.
    ///
    /// # Errors
    /// See [`ProposeError`]; entries before the failed one stay written.
    pub async fn propose(&self, ops: Vec<Op>) -> Result<Vec<Applied>, ProposeError> {
        let level = self.state.read(|pins| pins.level());
        if let Some(op) = ops.iter().find(|op| op.level() > level) {
            return Err(ProposeError::TooEarly { op: op.level(), cluster: level });
        }
        let batches = in_entries(ops);
        if let Some(batch) = batches.iter().find(|batch| batch.len() > ENTRY_LEN_MAX) {
            return Err(ProposeError::TooLong(batch.len()));
        }
        let mut applied = Vec::new();
        for batch in batches {
            let is_first = applied.is_empty();
            let written = self.raft.client_write(batch).await;
            let response = written.map_err(|error| write_error(error, is_first))?;
            applied.extend(response.data.0);
        }
        Ok(applied)
    }

    /// On the leader: a position that includes every write acknowledged before the call.
    ///
    /// # Errors
    /// When this peer is not the leader or cannot reach a majority.
    pub async fn read_index(&self) -> Result<Option<u64>, ProposeError> {
        match self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => Ok(Some(linearizer.read_log_id().index())),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(ProposeError::NotLeader(forward.leader_id))
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                Err(ProposeError::NotLeader(None))
            }
            Err(RaftError::Fatal(error)) => Err(ProposeError::Stopped(error.to_string())),
        }
    }

    /// Waits until the state of this peer includes the log up to `index`.
    ///
    /// # Errors
    /// When the deadline passes or the peer stops.
    pub async fn wait_applied(
        &self,
        index: Option<u64>,
        deadline: Duration,
    ) -> Result<(), ProposeError> {
        match self.raft.wait(Some(deadline)).applied_index_at_least(index, "read index").await {
            Ok(_) => Ok(()),
            Err(error @ WaitError::Timeout(..)) => Err(ProposeError::Late(error.to_string())),
            Err(error) => Err(ProposeError::Stopped(error.to_string())),
        }
    }

    /// The current leadership.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        self.watch().leadership()
    }

    /// Follows leadership, membership and progress from now on.
    #[must_use]
    pub fn watch(&self) -> ConsensusWatch {
        ConsensusWatch::new(self.id, self.lease, self.raft.metrics())
    }

    /// The progress of this peer.
    #[must_use]
    pub fn progress(&self) -> LogProgress {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        LogProgress {
            last: metrics.last_log_index,
            applied: metrics.last_applied.map(|id| id.index),
            committed: metrics.cluster_committed.map(|id| id.index),
        }
    }

    /// On the leader: asks another voter to take over.
    ///
    /// # Errors
    /// When the peer stops.
    pub async fn hand_over(&self, to: PeerId) -> Result<(), ProposeError> {
        self.raft
            .trigger()
            .transfer_leader(to)
            .await
            .map_err(|error| ProposeError::Stopped(error.to_string()))
    }

    /// For so long after a leader's last message no other peer gets votes.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// Asks the others for pre-votes and, if a majority would vote for this peer, for votes. Has no
    /// effect while this peer leads or a majority hears the leader.
    ///
    /// # Errors
    /// When the peer stops.
    pub async fn stand(&self) -> Result<(), ProposeError> {
        let stood = self.raft.trigger().elect(true).await;
        stood.map_err(|error| ProposeError::Stopped(error.to_string()))
    }

    /// Stops; everything acknowledged is on disk already.
    pub async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "consensus did not stop cleanly");
        }
    }
}

fn config(timing: Timing, checkpoints: Checkpoints) -> Result<Config, OpenError> {
    let config = Config {
        cluster_name: "pinkeeper".to_owned(),
        heartbeat_interval: millis(timing.heartbeat),
        election_timeout_min: millis(timing.election_min),
        election_timeout_max: millis(timing.election_max),
        max_payload_entries: ENTRIES_PER_MESSAGE,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(checkpoints.every),
        max_in_snapshot_log_to_keep: checkpoints.kept,
        install_snapshot_timeout: SNAPSHOT_DEADLINE_MS,
        enable_pre_vote: Some(true),
        // A leader that restarts must be elected again: another peer may hold the lease.
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    config.validate().map_err(|error| OpenError::Raft(error.to_string()))
}

/// Refuses a disk whose log and state do not belong together.
fn check_stores<L: BoundLog>(stores: &Stores<L>) -> Result<(), OpenError> {
    let head = stores.state.view()?.head;
    fit(Side {
        log: stores.log.cluster()?,
        state: stores.state.cluster()?,
        purged: stores.log.purged(),
        last: stores.log.last(),
        applied: head.applied,
        installed: head.installed,
    })
}

/// Cluster and positions of log and state.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    /// The cluster and epoch of the log.
    log: Option<(ClusterId, u64)>,
    /// Those of the state.
    state: Option<(ClusterId, u64)>,
    /// The log begins after this position.
    purged: Option<LogPosition>,
    /// The log ends at this position.
    last: Option<LogPosition>,
    /// The state includes everything up to this position.
    applied: Option<LogPosition>,
    /// A snapshot brought everything up to this position.
    installed: Option<LogPosition>,
}

fn fit(side: Side) -> Result<(), OpenError> {
    let Side { log, state, purged, last, applied, installed } = side;
    // Binding writes the state first, so a blank log beside a bound, empty state is valid.
    if log != state && !(log.is_none() && last.is_none() && applied.is_none()) {
        return Err(OpenError::Mixed { log, state });
    }
    // After a snapshot is installed, the state is ahead of the log until the log is purged up to it.
    if applied > last && applied != installed {
        return Err(OpenError::LogTooShort { log: last, state: applied });
    }
    // After a crash redb falls back to the previous checkpoint if the last one is damaged.
    if purged > applied {
        return Err(OpenError::StateTooOld { log: purged, state: applied });
    }
    Ok(())
}

/// The parts that a simulated log implements; openraft's names are used only here and in `crate::sim`.
#[cfg(any(test, feature = "simulation"))]
pub(crate) mod sim {
    pub(crate) use openraft::{
        LogState, OptionalSend, RaftLogReader,
        storage::{IOFlushed, RaftLogStorage},
    };

    pub(crate) use super::raft_types::{RaftEntry, RaftLogId, RaftVote, TypeConfig};
    use crate::{state::Op, types::LogPosition};

    pub(crate) fn ops_of(entry: &RaftEntry) -> Vec<Op> {
        match &entry.payload {
            openraft::EntryPayload::Normal(batch) => batch.ops().to_vec(),
            openraft::EntryPayload::Blank | openraft::EntryPayload::Membership(_) => Vec::new(),
        }
    }

    pub(crate) fn position_of(id: RaftLogId) -> LogPosition {
        super::raft_types::position_out(id)
    }

    pub(crate) fn index_of(id: &RaftLogId) -> u64 {
        id.index
    }
}

/// The ops in order, as entries within the limit unless a single op exceeds it.
fn in_entries(ops: Vec<Op>) -> Vec<Batch> {
    let batch = Batch::new(ops);
    if batch.len() <= ENTRY_LEN_MAX || batch.ops().len() == 1 {
        return vec![batch];
    }
    let (first, second) = batch.ops().split_at(batch.ops().len() / 2);
    [in_entries(first.to_vec()), in_entries(second.to_vec())].concat()
}

#[cfg(test)]
mod tests;
