//! How many copies of a Pin there are and should be: pure.

use crate::crd::{AllocationState, PinAllocation};

/// Numbers of copies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Count {
    /// Confirmed to be held.
    pub(super) confirmed: usize,
    /// Allocated, not leaving.
    pub(super) holders: usize,
    /// Needed to be ready.
    pub(super) min: usize,
    /// Asked for.
    pub(super) wanted: usize,
    /// Peers of the cluster.
    pub(super) peers: usize,
}

impl Count {
    pub(super) fn of(copies: &[PinAllocation], min: usize, wanted: usize, peers: usize) -> Self {
        let confirmed = copies.iter().filter(|copy| copy.state == AllocationState::Pinned).count();
        let holders = copies.iter().filter(|copy| copy.state != AllocationState::Leaving).count();
        Self { confirmed, holders, min, wanted, peers }
    }
}
