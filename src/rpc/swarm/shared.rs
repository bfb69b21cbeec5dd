//! State shared by the callers, the lanes' tasks and the network task.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU64},
};

use libp2p::Multiaddr;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    links::Links,
    outbound::{Answer, Call, LaneState, QUEUE_BYTES_MAX, QUEUE_MAX, Worker},
    streams::Streams,
};
use crate::{
    rpc::{RpcMetrics, frame},
    types::{Lane, PeerId},
};

/// Locks are held for a few lines and never across an await.
pub(super) struct Shared {
    pub(super) own: PeerId,
    pub(super) token: CancellationToken,
    /// All tasks of the transport.
    pub(super) tasks: TaskTracker,
    pub(super) streams: Arc<Streams>,
    /// Numbers all calls, so that an answer can never match another lane's call.
    pub(super) next_id: AtomicU64,
    pub(super) wanted: Wanted,
    pub(super) metrics: RpcMetrics,
    links: Mutex<Links>,
    /// The members of the cluster, and their names.
    members: Mutex<BTreeMap<PeerId, String>>,
    lanes: Mutex<BTreeMap<(PeerId, Lane), LaneHandle>>,
}

/// Targets wanted by callers, until the network task has taken them over.
#[derive(Default)]
pub(super) struct Wanted {
    news: Mutex<News>,
    pub(super) changed: Notify,
}

/// Changes that the network task has not yet seen.
#[derive(Default)]
pub(super) struct News {
    pub(super) peers: BTreeMap<PeerId, Vec<Multiaddr>>,
    pub(super) seeds: Option<Vec<Multiaddr>>,
}

impl Wanted {
    pub(super) fn change(&self, change: impl FnOnce(&mut News)) {
        change(&mut self.news.lock());
        self.changed.notify_one();
    }

    pub(super) fn take(&self) -> News {
        std::mem::take(&mut *self.news.lock())
    }
}

struct LaneHandle {
    queue: mpsc::Sender<Call>,
    bytes: Arc<Semaphore>,
    state: Arc<LaneState>,
}

/// A call that is queued.
pub(super) struct Queued {
    pub(super) answer: oneshot::Receiver<Answer>,
    pub(super) state: Arc<LaneState>,
}

/// The lane's queue is full.
pub(super) struct QueueFull;

impl Shared {
    pub(super) fn new(
        own: PeerId,
        streams: Arc<Streams>,
        metrics: RpcMetrics,
        token: CancellationToken,
    ) -> Self {
        Self {
            own,
            token,
            tasks: TaskTracker::new(),
            streams,
            next_id: AtomicU64::new(0),
            wanted: Wanted::default(),
            metrics,
            links: Mutex::default(),
            members: Mutex::default(),
            lanes: Mutex::default(),
        }
    }

    pub(super) fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock()
    }

    pub(super) fn set_members(&self, members: BTreeMap<PeerId, String>) {
        *self.members.lock() = members;
    }

    /// A member's name, for people; empty while unknown.
    pub(super) fn name(&self, peer: &PeerId) -> String {
        let members = self.members.lock();
        members.get(peer).cloned().unwrap_or_default()
    }

    /// Largest frame accepted from a peer, in bytes.
    pub(super) fn frame_len_max(&self, from: &PeerId) -> usize {
        let members = self.members.lock();
        match members.contains_key(from) {
            true => frame::FRAME_LEN_MAX,
            false => frame::FRAME_LEN_STRANGER_MAX,
        }
    }

    fn lanes(&self) -> MutexGuard<'_, BTreeMap<(PeerId, Lane), LaneHandle>> {
        self.lanes.lock()
    }

    /// Queues a framed request in its lane, and starts the lane's task if there is none.
    pub(super) fn enqueue(
        self: &Arc<Self>,
        peer: PeerId,
        lane: Lane,
        id: u64,
        frame: Vec<u8>,
    ) -> Result<Queued, QueueFull> {
        let mut lanes = self.lanes();
        let handle = lanes.entry((peer, lane)).or_insert_with(|| self.start_lane(peer, lane));
        let bytes = take_bytes(&handle.bytes, frame.len())?;
        let (sender, answer) = oneshot::channel();
        let call = Call { id, frame, answer: sender, bytes };
        handle.queue.try_send(call).map_err(|_| QueueFull)?;
        Ok(Queued { answer, state: Arc::clone(&handle.state) })
    }

    fn start_lane(self: &Arc<Self>, peer: PeerId, lane: Lane) -> LaneHandle {
        let (queue, calls) = mpsc::channel(QUEUE_MAX);
        let state = Arc::new(LaneState::new());
        let worker = Worker {
            shared: Arc::clone(self),
            peer,
            lane,
            state: Arc::clone(&state),
            queue: calls,
        };
        self.tasks.spawn(worker.run());
        LaneHandle { queue, bytes: Arc::new(Semaphore::new(QUEUE_BYTES_MAX)), state }
    }

    /// Removes an idle lane; false if a call has just been queued.
    pub(super) fn retire_lane(
        &self,
        peer: PeerId,
        lane: Lane,
        queue: &mpsc::Receiver<Call>,
    ) -> bool {
        // Calls are queued under the same lock.
        let mut lanes = self.lanes();
        let idle = queue.is_empty();
        if idle {
            lanes.remove(&(peer, lane));
        }
        idle
    }
}

fn take_bytes(bytes: &Arc<Semaphore>, len: usize) -> Result<OwnedSemaphorePermit, QueueFull> {
    let len = u32::try_from(len).map_err(|_| QueueFull)?;
    Arc::clone(bytes).try_acquire_many_owned(len).map_err(|_| QueueFull)
}
