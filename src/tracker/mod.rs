//! The tracker makes the daemon beside this peer hold what the state allocates to this peer, and
//! reports truthfully what the daemon holds.
//!
//! [`machine`] decides (pure), [`ledger`] records on disk which pins are ours, and the driver runs
//! actions and feeds events. It is level-triggered: it reads the desired pins from the state at start,
//! on each change, after a snapshot or missed changes, and periodically; it asks the daemon what is
//! held. It must not change the state or talk to other peers: the barrier is a port.

mod disk;
mod driver;
pub mod ledger;
pub mod machine;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use futures::future::BoxFuture;
use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
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

/// Passes once every write acknowledged before the call is applied to the local state: gets a read
/// index from the current leader and waits until it is applied here.
pub type Barrier = Arc<dyn Fn() -> BoxFuture<'static, Result<(), BarrierError>> + Send + Sync>;

/// The ports of the tracker.
#[derive(Clone)]
pub struct Ports {
    /// The daemon.
    pub ipfs: SharedIpfs,
    /// The ledger, stored beside the daemon's repository.
    pub ledger: LedgerPort,
    /// The cluster's state on this peer.
    pub state: SharedState,
    /// The ID of this peer.
    pub me: PeerId,
    /// Passed before each unpin.
    pub barrier: Barrier,
    /// Wall-clock time, for timestamps that people read.
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
    /// Reads the ledger (blocking: one second for a million entries) and spawns the tracker's task. The
    /// task ends soon after `token` is cancelled and cancels the pins in flight.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn spawn(
        config: Config,
        ports: Ports,
        token: CancellationToken,
    ) -> Result<(TrackerHandle, JoinHandle<()>), LedgerError> {
        let (collectors, collections) = mpsc::channel(1);
        let (missed, misses) = mpsc::channel(MISSES_MAX);
        let driver = driver::Driver::new(config, ports, collections, misses)?;
        let handle = TrackerHandle { shared: driver.shared(), collectors, missed };
        Ok((handle, tokio::spawn(driver.run(token))))
    }
}

/// Read access to the tracker; clones share it.
#[derive(Clone, Debug)]
pub struct TrackerHandle {
    shared: Arc<Shared>,
    collectors: mpsc::Sender<driver::Collector>,
    missed: mpsc::Sender<Vec<Cid>>,
}

/// Batches of changes a slow subscriber may lag behind before it gets `Lagged`.
const CHANGES_MAX: usize = 1024;
/// Bound on lists of CIDs that the tracker has not asked about again yet.
const MISSES_MAX: usize = 16;
/// Statuses read under one lock, so that readers never block the driver for long.
const PAGE_LEN: usize = 1024;

#[derive(Debug)]
struct Shared {
    machine: Mutex<Machine>,
    /// The daemon's answer to the last probe.
    daemon: watch::Sender<Option<DaemonInfo>>,
    /// The whole state has been compared once.
    compared: AtomicBool,
    /// See [`TrackerHandle::seen`].
    seen: AtomicU64,
    changes: broadcast::Sender<Changed>,
}

impl Shared {
    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock()
    }
}

impl TrackerHandle {
    /// Yields the CIDs whose status may have changed. Subscribe first, then read all statuses; after
    /// `Everything` or `Lagged`, read all of them again.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Changed> {
        self.shared.changes.subscribe()
    }

    /// Whether the first comparisons with the state and with the daemon's list have ended. Until then a
    /// full set of statuses may contain less than was known before this peer started.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.shared.compared.load(Ordering::Acquire) && self.shared.machine().is_settled()
    }

    /// Number of log entries whose changes the tracker had seen; statuses read from now on are at least
    /// that recent.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.shared.seen.load(Ordering::Acquire)
    }

    /// The status of one CID; none if this peer does not track it.
    #[must_use]
    pub fn status(&self, cid: &Cid) -> Option<PinStatus> {
        self.shared.machine().status(cid)
    }

    /// The next statuses after a CID, in order, from at most `max` CIDs, and the CID to continue after
    /// (none at the end). A page may be empty without being the last.
    #[must_use]
    pub fn page(&self, after: Option<&Cid>, max: usize) -> (Vec<(Cid, PinStatus)>, Option<Cid>) {
        self.shared.machine().statuses(after, max)
    }

    /// All statuses, for tests and worlds. They are read page by page, so they need not be of the same
    /// instant.
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

    /// Runs the daemon's garbage collection, after one that is already under way. Pins wait meanwhile.
    /// The collection always ends, even if the caller stops waiting.
    ///
    /// # Errors
    /// Why it failed, for people.
    pub async fn run_gc(&self) -> GcResult {
        let stopping = || "the peer stops".to_owned();
        let (sender, result) = oneshot::channel();
        self.collectors.send(sender).await.map_err(|_| stopping())?;
        result.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Makes the tracker ask its daemon about CIDs that another question found missing. Calls that come too
    /// fast have no effect: the next list finds them.
    pub fn are_missing(&self, cids: Vec<Cid>) {
        let _ = self.missed.try_send(cids);
    }

    /// State of the daemon's garbage, for peer metrics.
    #[must_use]
    pub fn gc(&self) -> GcState {
        self.shared.machine().gc()
    }

    /// Totals of collections, for Prometheus metrics.
    #[must_use]
    pub fn collections(&self) -> GcCounters {
        self.shared.machine().collections()
    }

    /// Numbers for Prometheus metrics.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.machine().counters()
    }

    /// Follows the daemon: its answer to the last probe; none while it does not answer.
    #[must_use]
    pub fn daemon(&self) -> watch::Receiver<Option<DaemonInfo>> {
        self.shared.daemon.subscribe()
    }
}

#[cfg(test)]
mod tests;
