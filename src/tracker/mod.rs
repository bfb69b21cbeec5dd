//! The tracker: makes the daemon beside this peer hold what the state allocates to this peer, and
//! says truthfully what it holds.
//!
//! [`machine`] decides (pure), [`ledger`] remembers whose a pin is (on disk), the driver runs
//! actions and feeds events. It is level-triggered: what is desired is read from the state at
//! start, on each change, after a snapshot or missed changes, and on a period; what is held is asked
//! of the daemon. It never changes the state and never talks to other peers: the barrier is a port.

mod disk;
mod driver;
pub mod ledger;
pub mod machine;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use futures::future::BoxFuture;
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use self::machine::Machine;
pub use self::{
    disk::LedgerPort,
    ledger::{Ledger, LedgerEntry, LedgerError},
    machine::{Config, Counters},
};
use crate::{
    clock::Clock,
    ipfs::SharedIpfs,
    state::{Changed, SharedState},
    types::{Cid, DaemonInfo, GcCounters, GcResult, GcState, PeerId, PinStatus},
};

/// Why a read barrier was not passed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BarrierError(pub String);

/// Passes when everything acknowledged before the call is applied to the local state: a read index
/// from the current leader, applied here.
pub type Barrier = Arc<dyn Fn() -> BoxFuture<'static, Result<(), BarrierError>> + Send + Sync>;

/// What the tracker works on.
#[derive(Clone)]
pub struct Ports {
    /// The daemon.
    pub ipfs: SharedIpfs,
    /// The ledger, beside the daemon's repository.
    pub ledger: LedgerPort,
    /// The cluster's state on this peer.
    pub state: SharedState,
    /// This peer.
    pub me: PeerId,
    /// Asked before unpinning.
    pub barrier: Barrier,
    /// For the times people read.
    pub clock: Clock,
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ports").field("me", &self.me).finish_non_exhaustive()
    }
}

/// Starts trackers.
#[derive(Debug)]
pub struct Tracker;

impl Tracker {
    /// Reads the ledger (blocking: a second for a million entries) and starts the tracker's task,
    /// which ends soon after `token` is cancelled; pins in flight are broken off then.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn spawn(
        config: Config,
        ports: Ports,
        token: CancellationToken,
    ) -> Result<(TrackerHandle, JoinHandle<()>), LedgerError> {
        let (collectors, asked) = mpsc::channel(1);
        let driver = driver::Driver::new(config, ports, asked)?;
        let handle = TrackerHandle { shared: driver.shared(), collectors };
        Ok((handle, tokio::spawn(driver.run(token))))
    }
}

/// Reads what the tracker knows; clones see the same.
#[derive(Clone, Debug)]
pub struct TrackerHandle {
    shared: Arc<Shared>,
    collectors: mpsc::Sender<driver::Collector>,
}

/// Batches of changes a slow subscriber may be behind before it is told that it missed some.
const CHANGES_MAX: usize = 1024;
/// Statuses taken under one lock, so that readers never hold up the driver for long.
const PAGE_LEN: usize = 1024;

#[derive(Debug)]
struct Shared {
    machine: Mutex<Machine>,
    daemon: Mutex<Option<DaemonInfo>>,
    /// The state was compared as a whole once.
    compared: AtomicBool,
    /// See [`TrackerHandle::seen`].
    seen: AtomicU64,
    changes: broadcast::Sender<Changed>,
}

impl Shared {
    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn daemon(&self) -> MutexGuard<'_, Option<DaemonInfo>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TrackerHandle {
    /// Told of CIDs whose status may read differently. Subscribe first, then read all; after
    /// `Everything` or `Lagged`, read all again.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Changed> {
        self.shared.changes.subscribe()
    }

    /// Whether the first comparison with the state and with the daemon's list has ended. Before, a
    /// full set of statuses says less of the pins than was known before this peer's start.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.shared.compared.load(Ordering::Acquire) && self.shared.machine().is_settled()
    }

    /// Statuses taken from now on are of a time when the tracker had seen what so many entries of the
    /// log changed in the state.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.shared.seen.load(Ordering::Acquire)
    }

    /// The status of one CID; none when this peer has nothing to do with it.
    #[must_use]
    pub fn status(&self, cid: &Cid) -> Option<PinStatus> {
        self.shared.machine().status(cid)
    }

    /// The next statuses after a CID, in order, from at most `max` CIDs; and where to go on, none at
    /// the end. A page may be empty and not the last.
    #[must_use]
    pub fn page(&self, after: Option<&Cid>, max: usize) -> (Vec<(Cid, PinStatus)>, Option<Cid>) {
        self.shared.machine().statuses(after, max)
    }

    /// All statuses, for tests and worlds. Taken page by page, so two of them may be of different
    /// instants.
    #[cfg(any(test, feature = "simulation"))]
    #[must_use]
    pub fn statuses(&self) -> std::collections::BTreeMap<Cid, PinStatus> {
        let mut statuses = std::collections::BTreeMap::new();
        let mut after = None;
        loop {
            let (page, next) = self.page(after.as_ref(), PAGE_LEN);
            statuses.extend(page);
            match next {
                Some(next) => after = Some(next),
                None => return statuses,
            }
        }
    }

    /// Has the daemon collect its garbage, after a collection that is under way. Pins wait meanwhile;
    /// it ends in any case, also when nobody waits for it any more.
    ///
    /// # Errors
    /// Why it was not done, for people.
    pub async fn run_gc(&self) -> GcResult {
        let stopping = || "the peer stops".to_owned();
        let (sender, result) = oneshot::channel();
        self.collectors.send(sender).await.map_err(|_| stopping())?;
        result.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// What others are told of the daemon's garbage.
    #[must_use]
    pub fn gc(&self) -> GcState {
        self.shared.machine().gc()
    }

    /// Collections so far, for metrics.
    #[must_use]
    pub fn collections(&self) -> GcCounters {
        self.shared.machine().collections()
    }

    /// Numbers for metrics.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.machine().counters()
    }

    /// The daemon as it said itself at the last probe; none while it does not answer.
    #[must_use]
    pub fn daemon(&self) -> Option<DaemonInfo> {
        self.shared.daemon().clone()
    }
}

#[cfg(test)]
mod tests;
