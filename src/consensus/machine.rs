//! The state machine for openraft: applies committed entries to the state in memory and to its
//! checkpoint on disk.
//!
//! Applying has no side effects: it changes the state and notifies watchers. Watchers of the state
//! decide what to do then.

use std::{
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::{Stream, StreamExt};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot,
    alias::{SnapshotMetaOf, SnapshotOf},
    storage::{EntryResponder, RaftStateMachine},
};
use tokio::{sync::watch, time::Instant};

use super::{
    image::Image,
    raft_types::{
        Outcomes, RaftLogId, RaftMembership, TypeConfig, position_in, position_out,
        stored_membership_out,
    },
    state_store::{Head, StateStore, StoreError, View},
};
use crate::{
    runtime::block,
    state::{Applied, Changed, Op, PinSet, SharedState},
    types::{Cid, ClusterId, LogPosition, PackedCid, Program},
};

/// Most changed pins before a transaction. A transaction copies each page that it touches: with more
/// pins each page is copied less often, but applying pauses for longer.
const PINS_PER_TRANSACTION: usize = 256 * 1024;
/// Shortest time between two smaller transactions.
const STORE_PERIOD: Duration = Duration::from_secs(5);

/// What this program cannot apply, once it met it; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct NotKnown(Arc<watch::Sender<Option<String>>>);

impl NotKnown {
    pub(super) fn subscribe(&self) -> watch::Receiver<Option<String>> {
        self.0.subscribe()
    }

    pub(super) fn note(&self, what: &impl ToString) {
        self.0.send_replace(Some(what.to_string()));
    }
}

/// What this program supports, and where to report what it does not.
#[derive(Clone, Debug, Default)]
pub(super) struct Knows {
    pub(super) program: Program,
    pub(super) not_known: NotKnown,
}

/// A snapshot's contents.
#[derive(Debug)]
pub(super) enum SnapshotData {
    /// A view of this peer's own state.
    Own(Box<View>),
    /// The contents of an image from a leader.
    Received(Box<Image>),
}

/// The state machine.
#[derive(Debug)]
pub(super) struct Machine {
    store: StateStore,
    state: SharedState,
    head: Head,
    membership: RaftMembership,
    /// Pins changed since the last transaction, possibly repeated. Until a checkpoint, the log has
    /// their changes.
    unstored: Vec<PackedCid>,
    stored_at: Instant,
    /// Last entry whose effect is stored.
    stored: Option<LogPosition>,
    /// The log's last index on disk. The stored state must not be ahead of it, or a crash or disk
    /// failure could leave a log shorter than the state.
    flushed: watch::Receiver<Option<u64>>,
    cluster: Arc<OnceLock<(ClusterId, u64)>>,
    knows: Knows,
}

impl Machine {
    /// Loads the stored state.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn load(
        store: StateStore,
        flushed: watch::Receiver<Option<u64>>,
        cluster: Arc<OnceLock<(ClusterId, u64)>>,
        knows: Knows,
    ) -> Result<Self, StoreError> {
        let view = store.view()?;
        let state = SharedState::new(view.pin_set()?);
        let head = view.head.clone();
        let membership = store.membership(&head)?;
        state.set_entries(head.entries());
        let (unstored, stored_at, stored) = (Vec::new(), Instant::now(), head.applied);
        Ok(Self {
            store,
            state,
            head,
            membership,
            unstored,
            stored_at,
            stored,
            flushed,
            cluster,
            knows,
        })
    }

    /// The state, shared with all readers.
    #[must_use]
    pub(super) fn state(&self) -> SharedState {
        self.state.clone()
    }

    /// Returns pins only if the proposer asked for them.
    fn apply_ops(&mut self, position: LogPosition, ops: &[Op], asked: bool) -> Outcomes {
        let (outcomes, cids) = self.state.write(position.index + 1, |pins| {
            let mut cids = Vec::with_capacity(ops.len());
            let apply = |op| {
                pins.touched(op, &mut cids);
                match asked {
                    true => pins.apply_shown(position, op),
                    false => Applied { outcome: pins.apply(position, op), pin: None },
                }
            };
            let outcomes = Outcomes(ops.iter().map(apply).collect());
            let cids: Arc<[Cid]> = cids.into();
            ((outcomes, cids.clone()), Changed::Cids(cids))
        });
        self.unstored.extend(cids.iter().map(PackedCid::from));
        outcomes
    }

    /// Stores the applied state once the log on disk reaches it: a store is synced when the process
    /// ends, and a state ahead of its log is refused as one whose log was lost.
    async fn store(&mut self) -> Result<(), io::Error> {
        if self.stored == self.head.applied {
            return Ok(());
        }
        let installed = self.head.installed.map(|position| position.index);
        if let Some(applied) = self.head.applied.map(|position| position.index)
            && Some(applied) > installed
        {
            self.flushed
                .wait_for(|flushed| *flushed >= Some(applied))
                .await
                .map_err(|_| io::Error::other("the log has stopped"))?;
        }
        let mut unstored = std::mem::take(&mut self.unstored);
        unstored.sort_unstable();
        unstored.dedup();
        let stored = block(|| {
            self.state.read(|state| {
                let pins = unstored.iter().map(PackedCid::cid).map(|cid| (cid, state.get(&cid)));
                self.store.apply(pins, state.beside(), &self.head)
            })
        });
        self.stored_at = Instant::now();
        stored.map_err(io::Error::other)?;
        self.stored = self.head.applied;
        Ok(())
    }

    /// Stops a program that does not support the cluster's new level. The level is on disk by then, so
    /// the next start is refused at once.
    async fn check_level(&mut self) -> Result<(), io::Error> {
        let level = self.state.read(|pins| pins.level());
        match self.knows.program.check(level) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.checkpoint().await?;
                self.knows.not_known.note(&error);
                Err(io::Error::other(error))
            }
        }
    }

    fn check_cluster(&self, of: (ClusterId, u64)) -> Result<(), io::Error> {
        match self.cluster.get() {
            Some(own) if *own != of => Err(io::Error::other(format!(
                "the snapshot is of cluster {}, this peer is of {}",
                of.0, own.0
            ))),
            _ => Ok(()),
        }
    }

    /// The contents of a snapshot.
    fn contents(&self, snapshot: SnapshotData) -> Result<(Head, PinSet), io::Error> {
        match snapshot {
            SnapshotData::Own(view) => {
                let pins = view.pin_set().map_err(io::Error::other)?;
                Ok((view.head, pins))
            }
            SnapshotData::Received(image) => {
                self.check_cluster(image.cluster)?;
                Ok((image.head, image.pins))
            }
        }
    }

    fn meta(head: &Head, membership: RaftMembership) -> SnapshotMetaOf<TypeConfig> {
        SnapshotMetaOf::<TypeConfig> {
            last_log_id: head.applied.map(position_in),
            last_membership: membership,
        }
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<RaftLogId>, RaftMembership), io::Error> {
        Ok((self.head.applied.map(position_in), self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let is_first = self.head.applied.is_none();
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let position = position_out(entry.log_id);
            let outcomes = match &entry.payload {
                EntryPayload::Blank => Outcomes(Vec::new()),
                EntryPayload::Normal(batch) => {
                    self.apply_ops(position, batch.ops(), responder.is_some())
                }
                EntryPayload::Membership(membership) => {
                    self.membership = RaftMembership::new(Some(entry.log_id), membership.clone());
                    self.head.membership = stored_membership_out(&self.membership);
                    Outcomes(Vec::new())
                }
            };
            self.head.applied = Some(position);
            self.state.set_entries(self.head.entries());
            self.check_level().await?;
            if self.unstored.len() >= PINS_PER_TRANSACTION {
                // Tasks woken by earlier entries must not wait for this thread meanwhile.
                tokio::task::yield_now().await;
                self.store().await?;
            }
            if let Some(responder) = responder {
                responder.send(outcomes);
            }
        }
        if self.stored_at.elapsed() >= STORE_PERIOD {
            self.store().await?;
        }
        if is_first {
            // From here on a lost log is noticed: an empty log beside this state is refused, and cannot
            // pass for that of a peer that has not taken part yet.
            self.checkpoint().await?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { snapshot: Some(self.checkpoint().await) }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<TypeConfig>,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        let (head, installed) = block(|| self.contents(snapshot))?;
        self.head = Head { installed: head.applied, ..head };
        self.membership = meta.last_membership.clone();
        block(|| self.store.replace(&installed, &self.head)).map_err(io::Error::other)?;
        self.unstored.clear();
        self.stored = self.head.applied;
        self.state.write(self.head.entries(), |pins| {
            *pins = installed;
            ((), Changed::Everything)
        });
        self.check_level().await
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<TypeConfig, SnapshotData>>, io::Error> {
        if self.head.applied.is_none() {
            return Ok(None);
        }
        // Nothing is stored or synced for it: consensus asks again and again while a peer is away. The
        // log goes on where the stored state ends, since it is purged only up to a checkpoint.
        let snapshot = self.viewed()?;
        Ok(snapshot.meta.last_log_id.is_some().then_some(snapshot))
    }
}

impl Machine {
    /// Syncs the state up to the applied position, and takes a view of it.
    async fn checkpoint(&mut self) -> Result<SnapshotOf<TypeConfig, SnapshotData>, io::Error> {
        self.store().await?;
        block(|| self.store.checkpoint()).map_err(io::Error::other)?;
        self.viewed()
    }

    fn viewed(&self) -> Result<SnapshotOf<TypeConfig, SnapshotData>, io::Error> {
        let view = self.store.view().map_err(io::Error::other)?;
        let membership = self.store.membership(&view.head).map_err(io::Error::other)?;
        let meta = Self::meta(&view.head, membership);
        Ok(Snapshot { meta, snapshot: SnapshotData::Own(Box::new(view)) })
    }
}

/// Returns the view taken when the builder was made.
#[derive(Debug)]
pub(super) struct Builder {
    snapshot: Option<Result<SnapshotOf<TypeConfig, SnapshotData>, io::Error>>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, SnapshotData>, io::Error> {
        self.snapshot
            .take()
            .unwrap_or_else(|| Err(io::Error::other("a snapshot builder builds one snapshot")))
    }
}
