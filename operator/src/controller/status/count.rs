//! Counts the copies of a Pin. Pure.

use crate::crd::{AllocationState, PinAllocation};

/// Numbers of copies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Count {
    /// Confirmed copies.
    pub(super) confirmed: usize,
    /// Allocated and not leaving.
    pub(super) holders: usize,
    /// Needed for Ready.
    pub(super) min: usize,
    /// Wanted.
    pub(super) wanted: usize,
    /// Members of the cluster.
    pub(super) peers: usize,
}

impl Count {
    pub(super) fn of(copies: &[PinAllocation], min: usize, wanted: usize, peers: usize) -> Self {
        let confirmed = copies.iter().filter(|copy| copy.state == AllocationState::Pinned).count();
        let holders = copies.iter().filter(|copy| copy.state != AllocationState::Leaving).count();
        Self { confirmed, holders, min, wanted, peers }
    }
}
