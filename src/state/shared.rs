//! The handle to the state. All parts read through it; only consensus writes.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::RwLock;
use tokio::sync::broadcast;

use super::PinSet;
use crate::types::Cid;

/// The changes of one batch of applied entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// These CIDs changed, in order of application.
    Cids(Arc<[Cid]>),
    /// Anything may have changed: a snapshot was installed.
    Everything,
}

/// Batches that a subscriber may fall behind. One that falls further behind gets `RecvError::Lagged`, and
/// must read everything again.
const CHANGES_MAX: usize = 1024;

/// A handle to the state; clones share it.
#[derive(Clone, Debug)]
pub struct SharedState {
    pins: Arc<RwLock<PinSet>>,
    changes: broadcast::Sender<Changed>,
    entries: Arc<AtomicU64>,
}

impl SharedState {
    /// A handle to this state, with log length 0.
    #[must_use]
    pub fn new(pins: PinSet) -> Self {
        Self {
            pins: Arc::new(RwLock::new(pins)),
            changes: broadcast::channel(CHANGES_MAX).0,
            entries: Arc::default(),
        }
    }

    /// Reads the state. `read` must be quick and must not take other locks, since writers wait for it.
    pub fn read<R>(&self, read: impl FnOnce(&PinSet) -> R) -> R {
        read(&self.pins.read())
    }

    /// Changes the state, sets its log length to `entries`, and sends the change to all subscribers before
    /// the new state can be read. Only consensus and tests may call it.
    pub fn write<R>(&self, entries: u64, write: impl FnOnce(&mut PinSet) -> (R, Changed)) -> R {
        let mut pins = self.pins.write();
        let (result, changed) = write(&mut pins);
        self.set_entries(entries);
        // Fails only without subscribers.
        let _ = self.changes.send(changed);
        result
    }

    /// Receives all changes from now on. Subscribe first, then read everything.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Changed> {
        self.changes.subscribe()
    }

    /// The log length of the state. Replicas at the same log length are equal.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries.load(Ordering::Acquire)
    }

    /// The log length of the state, after all changes up to it were sent to the subscribers.
    #[must_use]
    pub fn entries_notified(&self) -> u64 {
        self.read(|_| self.entries())
    }

    /// Sets the log length after entries that changed nothing. Only consensus may call it.
    pub fn set_entries(&self, count: u64) {
        self.entries.store(count, Ordering::Release);
    }
}
