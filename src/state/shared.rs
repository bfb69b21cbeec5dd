//! The state as the running parts see it: read by everybody, written by consensus alone.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::broadcast;

use super::PinSet;
use crate::types::Cid;

/// What changed with one batch of applied entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// These CIDs, in order of application.
    Cids(Arc<[Cid]>),
    /// Anything: a snapshot was installed.
    Everything,
}

/// Batches a slow subscriber may be behind before it is told that it missed some
/// (`RecvError::Lagged`) and must look at everything.
const CHANGES_MAX: usize = 1024;

/// A handle to the state; clones see the same.
#[derive(Clone, Debug)]
pub struct SharedState {
    pins: Arc<RwLock<PinSet>>,
    changes: broadcast::Sender<Changed>,
    entries: Arc<AtomicU64>,
}

impl SharedState {
    /// Wraps a state.
    #[must_use]
    pub fn new(pins: PinSet) -> Self {
        Self {
            pins: Arc::new(RwLock::new(pins)),
            changes: broadcast::channel(CHANGES_MAX).0,
            entries: Arc::default(),
        }
    }

    /// Reads; `read` must be quick and must not take other locks, since writers wait for it.
    pub fn read<R>(&self, read: impl FnOnce(&PinSet) -> R) -> R {
        read(&self.pins.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Writes, so that the state includes so many entries, and tells what changed; whoever reads the new
    /// state has been told already. Only consensus (and tests) may call it.
    pub fn write<R>(&self, entries: u64, write: impl FnOnce(&mut PinSet) -> (R, Changed)) -> R {
        let mut pins = self.pins.write().unwrap_or_else(PoisonError::into_inner);
        let (result, changed) = write(&mut pins);
        self.set_entries(entries);
        // Without subscribers there is nobody to tell.
        let _ = self.changes.send(changed);
        result
    }

    /// Told of changes from now on. Subscribe first, then read everything.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Changed> {
        self.changes.subscribe()
    }

    /// How many entries of the log the state includes, from the first on: replicas that say the same
    /// are equal.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries.load(Ordering::Acquire)
    }

    /// The same, of which all subscribers have been told what they changed.
    #[must_use]
    pub fn entries_told(&self) -> u64 {
        self.read(|_| self.entries())
    }

    /// Entries that changed nothing. Only consensus may call it.
    pub fn set_entries(&self, count: u64) {
        self.entries.store(count, Ordering::Release);
    }
}
