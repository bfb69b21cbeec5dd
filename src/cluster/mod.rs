//! A peer's part in the cluster: the handle that users and controllers ask, and the tasks that serve
//! other peers.
//!
//! Invariants: every change of the state goes through the leader's log. Reports to the leader are kept
//! in memory only, and peers send each new leader a full set.

mod leader;
mod member;
mod runs;
mod serve;
mod use_cases;
mod writes;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::{
    leader::Leader,
    member::{Acquaintance, Source, TakenSince},
    runs::Runs,
    writes::QueuedWrite,
};
pub use self::{
    leader::{GcPolicy, MovePolicy, Reports},
    member::{AddressBook, ReadBarrier},
    use_cases::{Listed, UseCaseError},
};
pub use crate::{
    allocate::Obstacle,
    consensus::{Leadership, MemberView},
    tracker::Counters,
};
use crate::{
    clock::Clock,
    consensus::{Consensus, LogProgress, OpenError, ProposeError},
    ipfs::SharedIpfs,
    monitor::informer,
    rpc::{self, AskError, Inbound, SharedTransport},
    runtime::random_u64,
    state::{Op, Outcome, SharedState},
    tracker::TrackerHandle,
    types::{
        ClusterId, DaemonInfo, GcCounters, GcResult, Member, Metrics, PeerId, Program, Question,
        TooOld,
    },
};

/// Why a blank peer refuses requests.
const NOT_JOINED: &str = "this peer has not joined a cluster yet";
/// Deadline of a call to another peer.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// Wait for another voter to take over. If it does not, an election follows.
const HAND_OVER_DEADLINE: Duration = Duration::from_secs(2);
/// The first entry must be applied within this time.
const FOUNDING_DEADLINE: Duration = Duration::from_secs(30);

/// Whether this peer belongs to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its disk is blank.
    Blank,
    /// It belongs to this cluster at this epoch.
    Member {
        /// The cluster.
        cluster: ClusterId,
        /// Raised when a cluster is built anew from one disk.
        epoch: u64,
    },
}

/// Which cluster a blank peer joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinPolicy {
    /// None until [`Cluster::expect`] names one.
    Wait,
    /// The first one it finds.
    Any,
    /// This one only.
    Only(ClusterId),
}

/// An error that ends the peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FatalError {
    /// Another peer uses the same daemon.
    #[error(
        "peer {0} already uses this daemon; give each peer a daemon of its own (config key ipfs_api)"
    )]
    DaemonTaken(PeerId),
    /// Consensus stopped.
    #[error("consensus stopped: {0}")]
    Consensus(String),
    /// The disk failed while this peer joined.
    #[error("the disk was not bound to the cluster: {0}")]
    Disk(String),
    /// This peer founded a cluster because its configuration says so, and there is a larger one.
    #[error(
        "this peer has founded cluster {own}, but {name} ({peer}) is of cluster {other}, which has more members; if this peer belongs to that one, take found out of its configuration, remove its data folder and start it again; if not, give the two clusters different secrets"
    )]
    AnotherCluster {
        /// This peer's cluster.
        own: ClusterId,
        /// The other one.
        other: ClusterId,
        /// A member of the other cluster.
        peer: PeerId,
        /// Its name.
        name: String,
    },
    /// Another peer has the same name.
    #[error("peer {0} already has this name; give each peer a name of its own (config key name)")]
    NameTaken(PeerId),
    /// This peer was removed from its cluster for good.
    #[error(
        "this peer was removed from its cluster for good; give it an empty data folder so that it joins anew as another peer"
    )]
    Removed,
    /// The cluster's log has an op or a level that this program does not know.
    #[error("{0}")]
    NotKnown(String),
    /// A folder of this peer was deleted or replaced under it.
    #[error(
        "{0} was deleted or replaced while this peer ran: what it writes is lost, so it must not go on; put the folder back before you start it again, or it joins anew as another peer"
    )]
    FolderGone(String),
    /// A task ended that must run as long as the peer.
    #[error("a part has stopped: {0}")]
    Stopped(String),
}

impl From<TooOld> for FatalError {
    fn from(error: TooOld) -> Self {
        Self::NotKnown(error.to_string())
    }
}

/// A random ID for a new cluster.
#[must_use]
pub fn new_cluster_id() -> ClusterId {
    let halves = [random_u64(), random_u64()].map(u64::to_be_bytes);
    let mut id = [0; 16];
    id.copy_from_slice(halves.as_flattened());
    ClusterId(id)
}

/// Why ops were not acknowledged.
pub type SubmitError = ProposeError;

/// The parts of a cluster handle.
pub struct Parts {
    /// This peer's ID.
    pub id: PeerId,
    /// This peer's name and addresses.
    pub member: Member,
    /// This peer's consensus.
    pub consensus: Consensus,
    /// Reaches other peers.
    pub transport: SharedTransport,
    /// This peer's daemon.
    pub ipfs: SharedIpfs,
    /// This peer's tracker.
    pub tracker: TrackerHandle,
    /// The last known addresses of peers.
    pub addresses: AddressBook,
    /// This peer's own metrics.
    pub metrics: watch::Receiver<Metrics>,
    /// Wall-clock time for timestamps.
    pub clock: Clock,
    /// Which cluster to join while blank.
    pub join: JoinPolicy,
    /// When the leader begins collections without a request; absent: never.
    pub gc: Option<GcPolicy>,
    /// When copies of absent members move to others.
    pub moves: MovePolicy,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A handle to this peer's part in the cluster; clones share it.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

struct Inner {
    parts: Parts,
    join: watch::Sender<JoinPolicy>,
    leadership: watch::Sender<Leadership>,
    /// The reports to this peer in the present term.
    leader: watch::Sender<Arc<Leader>>,
    /// What this peer knows of other peers.
    acquaintance: Acquaintance,
    /// Daemons of the other peers.
    daemons: watch::Sender<BTreeMap<PeerId, DaemonInfo>>,
    /// When a leader last took this peer's metrics.
    answered: watch::Sender<Option<Instant>>,
    /// Since when the leader refuses this peer because another peer uses its daemon.
    taken: TakenSince,
    /// The queue of users' writes.
    writes: mpsc::Sender<QueuedWrite>,
    /// Runs of garbage collection on this peer's daemon.
    own_gc: Runs<(), GcResult>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("id", &self.0.parts.id).finish_non_exhaustive()
    }
}

/// Checks that this peer leads in `term`, in which something was decided.
fn check_leads_in(term: u64, leadership: Leadership) -> Result<(), ProposeError> {
    match leadership.local && leadership.term == term {
        true => Ok(()),
        false => Err(ProposeError::NotLeader(leadership.leader)),
    }
}

/// See [`Cluster::is_led`]. `answered` is the time since a leader took this peer's metrics.
fn is_led(own: PeerId, now: Leadership, answered: Option<Duration>) -> bool {
    match now.leader {
        Some(leader) if leader == own => now.local,
        Some(_) => answered.is_some_and(|ago| ago < informer::TTL),
        None => false,
    }
}

fn readiness(standing: Standing, is_led: bool, progress: LogProgress) -> Result<(), String> {
    /// A peer may be this many entries behind and still be ready.
    const LAG_MAX: u64 = 1_000;
    if standing == Standing::Blank {
        return Err(NOT_JOINED.to_owned());
    }
    if !is_led {
        return Err(
            "no leader answers; a majority of the voters must be up and reachable".to_owned()
        );
    }
    let lag = progress.last.unwrap_or(0).saturating_sub(progress.applied.unwrap_or(0));
    if lag > LAG_MAX {
        return Err(format!("the log is being applied: {lag} entries to go"));
    }
    Ok(())
}

/// The next peer after `me`, in a circle, of those at most [`leader::LAG_MAX`] entries behind the best.
fn successor(me: PeerId, mut lags: BTreeMap<PeerId, u64>) -> Option<PeerId> {
    let least = *lags.values().min()?;
    lags.retain(|_, lag| *lag <= least + leader::LAG_MAX);
    let next = lags.range(me..).next().or_else(|| lags.first_key_value());
    next.map(|(peer, _)| *peer)
}

/// Runs `work`, which may be cut off anywhere, until it ends or `token` is cancelled.
async fn until(
    token: CancellationToken,
    work: impl Future<Output = Result<(), FatalError>>,
) -> Result<(), FatalError> {
    token.run_until_cancelled_owned(work).await.unwrap_or(Ok(()))
}

impl Cluster {
    /// Starts this peer's part in the cluster, as tasks in `tasks`. When one of them returns an error, the
    /// peer must stop.
    #[must_use]
    pub fn start(
        parts: Parts,
        inbound: mpsc::Receiver<Inbound>,
        tasks: &mut JoinSet<Result<(), FatalError>>,
        token: &CancellationToken,
    ) -> Self {
        let (writes, queue) = mpsc::channel(writes::QUEUE_MAX);
        let inner = Inner {
            join: watch::Sender::new(parts.join),
            leadership: watch::Sender::new(parts.consensus.leadership()),
            leader: watch::Sender::default(),
            acquaintance: Acquaintance::default(),
            daemons: watch::Sender::default(),
            answered: watch::Sender::default(),
            taken: TakenSince::default(),
            writes,
            own_gc: Runs::default(),
            parts,
        };
        let cluster = Self(Arc::new(inner));
        cluster.name_members();
        tasks.spawn(cluster.clone().follow_leadership(token.clone()));
        tasks.spawn(cluster.clone().stand(token.clone()));
        tasks.spawn(until(token.clone(), cluster.clone().notice_stuck_disk()));
        tasks.spawn(cluster.clone().serve_all(inbound, token.clone()));
        tasks.spawn(cluster.clone().send_writes(queue, token.clone()));
        tasks.spawn(cluster.clone().join_until_member(token.clone()));
        tasks.spawn(until(token.clone(), cluster.clone().keep_acquainted()));
        tasks.spawn(until(token.clone(), cluster.clone().report()));
        tasks.spawn(until(token.clone(), cluster.clone().push_metrics()));
        tasks.spawn(until(token.clone(), cluster.clone().connect_daemons()));
        tasks.spawn(cluster.clone().lead(token.clone()));
        tasks.spawn(until(token.clone(), cluster.clone().run_own_gc()));
        tasks.spawn(until(token.clone(), cluster.clone().stop_at_unknown_ops()));
        cluster
    }

    /// This peer's ID.
    #[must_use]
    pub fn id(&self) -> PeerId {
        self.0.parts.id
    }

    /// This peer's name and addresses.
    #[must_use]
    pub fn member(&self) -> &Member {
        &self.0.parts.member
    }

    /// Whether this peer belongs to a cluster.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match self.consensus().cluster() {
            Some((cluster, epoch)) => Standing::Member { cluster, epoch },
            None => Standing::Blank,
        }
    }

    /// The cluster this peer belongs to.
    #[must_use]
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.consensus().cluster().map(|(cluster, _)| cluster)
    }

    /// Founds a cluster with this blank peer as its only member, and returns once that is on disk. A
    /// crash may leave it half done (bound, without members); then call this again with the same
    /// cluster. It does nothing on a founded cluster.
    ///
    /// # Errors
    /// When the disk belongs to another cluster, or fails.
    pub async fn found(&self, cluster: ClusterId, epoch: u64) -> Result<(), FoundError> {
        self.consensus().bind(cluster, epoch)?;
        if self.cluster_id() != Some(cluster) {
            return Err(FoundError::OtherCluster { own: self.cluster_id(), asked: cluster });
        }
        self.consensus().initialize(self.member().clone()).await?;
        // The membership is the first entry.
        self.consensus().wait_applied(Some(0), FOUNDING_DEADLINE).await?;
        Ok(())
    }

    /// Lets a blank peer join this cluster and no other.
    pub fn expect(&self, cluster: ClusterId) {
        self.0.join.send_replace(JoinPolicy::Only(cluster));
    }

    /// Takes in the present addresses of peers, as these report them (multiaddrs without `/p2p/…`). They
    /// are kept on disk, too.
    pub fn learn_addresses(&self, addresses: BTreeMap<PeerId, Vec<String>>) {
        self.take_addresses(Source::Itself, addresses);
    }

    /// The last known addresses of peers.
    #[must_use]
    pub fn addresses(&self) -> BTreeMap<PeerId, Vec<String>> {
        self.0.parts.addresses.all()
    }

    /// The leader and term, as this peer knows them.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.0.leadership.subscribe()
    }

    /// The replicated state, as far as this peer has applied the log.
    #[must_use]
    pub fn state(&self) -> &SharedState {
        self.consensus().state()
    }

    /// On the leader: the peers' reports of pins.
    #[must_use]
    pub fn reports(&self) -> Arc<Reports> {
        self.leader().reports.clone()
    }

    /// All members.
    #[must_use]
    pub fn members(&self) -> BTreeMap<PeerId, MemberView> {
        self.consensus().members()
    }

    /// On the leader: metrics of the peers that are not down.
    #[must_use]
    pub fn peer_metrics(&self) -> BTreeMap<PeerId, Metrics> {
        self.leader().metrics.valid()
    }

    /// The daemons of all peers: others as the leader last reported them, this peer's as it is now.
    #[must_use]
    pub fn daemons(&self) -> BTreeMap<PeerId, DaemonInfo> {
        let mut daemons = self.0.daemons.borrow().clone();
        let own = self.0.parts.metrics.borrow().daemon.clone();
        daemons.extend(own.map(|own| (self.id(), own)));
        daemons
    }

    /// This peer's own metrics.
    #[must_use]
    pub fn local_metrics(&self) -> watch::Receiver<Metrics> {
        self.0.parts.metrics.clone()
    }

    /// Counts of this peer's tracker, for Prometheus metrics.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.0.parts.tracker.counters()
    }

    /// Counts of collections on this peer's daemon, for Prometheus metrics.
    #[must_use]
    pub fn collections(&self) -> GcCounters {
        self.0.parts.tracker.collections()
    }

    /// On the leader of `term`: writes ops as one entry, and returns their outcomes.
    ///
    /// # Errors
    /// When this peer does not lead in that term, or stops leading meanwhile.
    pub async fn submit(&self, term: u64, ops: Vec<Op>) -> Result<Vec<Outcome>, SubmitError> {
        check_leads_in(term, *self.0.leadership.borrow())?;
        let applied = self.consensus().propose(ops).await?;
        Ok(applied.into_iter().map(|applied| applied.outcome).collect())
    }

    /// On the leader: asks another voter to take over, and waits a short time for that. Other peers do
    /// nothing. The next leader is the next connected voter in the order of IDs that has most of the log.
    /// So if it is no better off than this one, all others get a turn in the end.
    pub async fn hand_over(&self) {
        if self.consensus().leadership().leader != Some(self.id()) {
            return;
        }
        let Some(to) = self.successor() else { return };
        if let Err(error) = self.consensus().hand_over(to).await {
            tracing::warn!(%error, %to, "could not hand over leadership");
            return;
        }
        let own = self.id();
        let mut leadership = self.leadership();
        let taken = leadership.wait_for(|now| now.leader.is_some_and(|leader| leader != own));
        if tokio::time::timeout(HAND_OVER_DEADLINE, taken).await.is_err() {
            tracing::warn!(%to, "no other peer has taken over leadership yet");
        }
    }

    fn successor(&self) -> Option<PeerId> {
        let connected = self.0.parts.transport.connected();
        let others = self
            .members()
            .into_iter()
            .filter(|(peer, view)| view.voter && *peer != self.id() && connected.contains(peer));
        let departing = self.state().read(|pins| pins.departing().clone());
        let others = others.filter(|(peer, _)| !departing.contains(peer));
        let lags = others.filter_map(|(peer, _)| Some((peer, self.consensus().lag(peer)?)));
        successor(self.id(), lags.collect())
    }

    /// Whether a change of the voters is under way.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        self.consensus().joint().is_some()
    }

    /// Whether this peer leads with a majority, or the leader has answered it lately. A leader that
    /// consensus names is not enough, since consensus keeps naming the last leader after it is gone.
    #[must_use]
    pub fn is_led(&self) -> bool {
        let answered = self.0.answered.borrow().map(|at| at.elapsed());
        is_led(self.id(), *self.0.leadership.borrow(), answered)
    }

    /// Checks that this peer can serve.
    ///
    /// # Errors
    /// The reason why it cannot, for people.
    pub fn readiness(&self) -> Result<(), String> {
        self.check_cluster()?;
        readiness(self.standing(), self.is_led(), self.consensus().progress())
    }

    fn consensus(&self) -> &Consensus {
        &self.0.parts.consensus
    }

    /// Asks another peer, with [`CALL_DEADLINE`].
    async fn ask_peer<Q: Question>(&self, to: PeerId, question: Q) -> Result<Q::Answer, AskError> {
        let (transport, cluster) = (&*self.0.parts.transport, self.consensus().cluster());
        rpc::ask(transport, to, cluster, question, CALL_DEADLINE).await
    }

    /// The level of this peer's program.
    fn program(&self) -> Program {
        self.consensus().program()
    }

    /// The cluster's level, and that of this program.
    #[must_use]
    pub fn levels(&self) -> (u32, u32) {
        (self.state().read(|pins| pins.level()), self.program().level)
    }

    async fn stop_at_unknown_ops(self) -> Result<(), FatalError> {
        let mut not_known = self.consensus().not_known();
        // The sender lives as long as consensus.
        match not_known.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(what)) => Err(FatalError::NotKnown(what.clone())),
            Ok(None) | Err(_) => Ok(()),
        }
    }

    async fn follow_leadership(self, token: CancellationToken) -> Result<(), FatalError> {
        let mut watch = self.consensus().watch();
        loop {
            let now = watch.leadership();
            let changed = self.0.leadership.send_if_modified(|known| {
                let changed = *known != now;
                if now.term != known.term {
                    // Reports are for one leader and term only.
                    self.0.leader.send_replace(Arc::default());
                }
                *known = now;
                changed
            });
            if changed {
                let name = now.leader.and_then(|id| self.members().remove(&id));
                let name = name.map(|view| view.member.name).unwrap_or_default();
                let leader = now.leader.map_or_else(|| "none".to_owned(), |id| id.to_string());
                tracing::info!(%leader, name, term = now.term, local = now.local, "leadership");
            }
            tokio::select! {
                biased;
                () = token.cancelled() => return Ok(()),
                changed = watch.changed() => match changed {
                    Ok(()) => {}
                    Err(_) if token.is_cancelled() => return Ok(()),
                    Err(reason) => return Err(FatalError::Consensus(reason)),
                },
            }
        }
    }
}

/// Why a cluster was not founded.
#[derive(Debug, thiserror::Error)]
pub enum FoundError {
    /// The disk belongs to another cluster.
    #[error("this disk belongs to cluster {own:?}, not to {asked}")]
    OtherCluster {
        /// The disk's cluster.
        own: Option<ClusterId>,
        /// The cluster to found.
        asked: ClusterId,
    },
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] OpenError),
    /// The first entry was not applied.
    #[error(transparent)]
    Consensus(#[from] ProposeError),
}

#[cfg(test)]
mod tests;
