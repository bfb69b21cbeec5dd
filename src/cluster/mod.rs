//! A stand-in for the peer's use cases: one peer, in memory, that is its own majority.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{broadcast, watch};

use crate::{
    state::{Changed, Op, Outcome, PinSet, SharedState},
    types::{Cid, ClusterId, DaemonInfo, Member, Metrics, PeerId, PinStatus, Replication},
};

/// Whether the peer belongs to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its disk is empty.
    Blank,
    /// It has data of a cluster.
    Member {
        /// The cluster.
        cluster: ClusterId,
        /// Its epoch.
        epoch: u64,
    },
}

/// Who leads, as this peer knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The leader.
    pub leader: Option<PeerId>,
    /// The term.
    pub term: u64,
    /// This peer leads and has applied everything of earlier terms.
    pub local: bool,
}

/// A member as the membership has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// Name and addresses.
    pub member: Member,
    /// It votes.
    pub voter: bool,
}

/// Why a cluster was not founded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this peer is not blank")]
pub struct FoundError;

/// Why ops were not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this peer does not lead in that term")]
pub struct SubmitError;

/// A handle to the peer.
#[derive(Clone, Debug)]
pub struct Cluster(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: PeerId,
    member: Member,
    standing: Mutex<Standing>,
    state: SharedState,
    board: Board,
    leadership: watch::Sender<Leadership>,
    metrics: watch::Sender<Metrics>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cluster {
    /// A blank peer.
    #[must_use]
    pub fn stand_in(id: PeerId, member: Member, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            id,
            member,
            standing: Mutex::new(Standing::Blank),
            state: SharedState::new(PinSet::default()),
            board: Board::default(),
            leadership: watch::channel(Leadership::default()).0,
            metrics: watch::channel(metrics).0,
        }))
    }

    /// Sets who leads.
    pub fn lead(&self, leadership: Leadership) {
        self.0.leadership.send_replace(leadership);
    }

    /// Own identity.
    #[must_use]
    pub fn id(&self) -> PeerId {
        self.0.id
    }
    /// Own name and addresses.
    #[must_use]
    pub fn member(&self) -> &Member {
        &self.0.member
    }
    /// Whether it belongs to a cluster.
    #[must_use]
    pub fn standing(&self) -> Standing {
        *lock(&self.0.standing)
    }
    /// Founds a cluster alone.
    ///
    /// # Errors
    /// When the peer is not blank.
    #[allow(clippy::unused_async)]
    pub async fn found(&self, cluster: ClusterId, epoch: u64) -> Result<(), FoundError> {
        let mut standing = lock(&self.0.standing);
        if *standing != Standing::Blank {
            return Err(FoundError);
        }
        *standing = Standing::Member { cluster, epoch };
        self.lead(Leadership { leader: Some(self.0.id), term: 1, local: true });
        Ok(())
    }
    /// Joins only that cluster from now on.
    pub fn expect(&self, _cluster: ClusterId) {}
    /// Where other peers are.
    pub fn learn_addresses(&self, _addresses: BTreeMap<PeerId, Vec<String>>) {}
    /// The other peers' daemons.
    pub fn learn_daemons(&self, _daemons: Vec<DaemonInfo>) {}
    /// Who leads.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.0.leadership.subscribe()
    }
    /// The state.
    #[must_use]
    pub fn state(&self) -> &SharedState {
        &self.0.state
    }
    /// What peers reported.
    #[must_use]
    pub fn board(&self) -> &Board {
        &self.0.board
    }
    /// All members.
    #[must_use]
    pub fn members(&self) -> BTreeMap<PeerId, MemberView> {
        let view = MemberView { member: self.0.member.clone(), voter: true };
        match self.standing() {
            Standing::Blank => BTreeMap::new(),
            Standing::Member { .. } => BTreeMap::from([(self.0.id, view)]),
        }
    }
    /// Unexpired peer metrics.
    #[must_use]
    pub fn peer_metrics(&self) -> BTreeMap<PeerId, Metrics> {
        BTreeMap::from([(self.0.id, self.0.metrics.borrow().clone())])
    }
    /// Own peer metrics.
    #[must_use]
    pub fn local_metrics(&self) -> watch::Receiver<Metrics> {
        self.0.metrics.subscribe()
    }
    /// Where a pin could go.
    #[must_use]
    pub fn candidates(&self, _cid: &Cid, _replication: Replication) -> Vec<PeerId> {
        vec![self.0.id]
    }
    /// Applies ops as the leader of `term`.
    ///
    /// # Errors
    /// When this peer does not lead in that term.
    #[allow(clippy::unused_async)]
    pub async fn submit(&self, term: u64, ops: Vec<Op>) -> Result<Vec<Outcome>, SubmitError> {
        let now = *self.0.leadership.borrow();
        if !now.local || now.term != term {
            return Err(SubmitError);
        }
        Ok(self.0.state.write(|pins| {
            let outcomes: Vec<Outcome> = ops.iter().map(|op| pins.apply(term, op)).collect();
            let cids: Vec<Cid> = ops.iter().map(op_cid).collect();
            (outcomes, Some(Changed::Cids(cids.into())))
        }))
    }
    /// Gives up leadership.
    #[allow(clippy::unused_async)]
    pub async fn hand_over(&self) {}
}

fn op_cid(op: &Op) -> Cid {
    match op {
        Op::Claim { cid, .. }
        | Op::Release { cid, .. }
        | Op::Allocate { cid, .. }
        | Op::Leave { cid, .. }
        | Op::LetGo { cid, .. } => *cid,
    }
}

/// What each peer reported in this leadership.
#[derive(Clone, Debug)]
pub struct Board {
    statuses: Arc<Mutex<BTreeMap<Cid, BTreeMap<PeerId, PinStatus>>>>,
    reported: Arc<Mutex<BTreeSet<PeerId>>>,
    changes: broadcast::Sender<Changed>,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            statuses: Arc::default(),
            reported: Arc::default(),
            changes: broadcast::channel(1024).0,
        }
    }
}

impl Board {
    /// Takes in reports.
    pub fn report(&self, peer: PeerId, statuses: Vec<(Cid, Option<PinStatus>)>) {
        lock(&self.reported).insert(peer);
        let cids: Vec<Cid> = statuses.iter().map(|(cid, _)| *cid).collect();
        let mut all = lock(&self.statuses);
        for (cid, status) in statuses {
            match status {
                Some(status) => all.entry(cid).or_default().insert(peer, status),
                None => all.entry(cid).or_default().remove(&peer),
            };
        }
        let _ = self.changes.send(Changed::Cids(cids.into()));
    }
    /// What peers say of a pin.
    #[must_use]
    pub fn statuses(&self, cid: &Cid) -> BTreeMap<PeerId, PinStatus> {
        lock(&self.statuses).get(cid).cloned().unwrap_or_default()
    }
    /// Whether a peer's full set has arrived.
    #[must_use]
    pub fn reported(&self, peer: &PeerId) -> bool {
        lock(&self.reported).contains(peer)
    }
    /// Told of changes.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Changed> {
        self.changes.subscribe()
    }
}
