//! Counts the copies of a Pin. Pure.

use crate::crd::{AllocationState, PinAllocation};

/// Numbers of copies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Count {
    /// Confirmed copies. Those that leave count up to the wanted number: a copy that moves is there
    /// until its successor is.
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
        let pinned = |leaving| {
            let is = |copy: &&PinAllocation| {
                copy.state == AllocationState::Pinned && copy.leaving == leaving
            };
            copies.iter().filter(is).count()
        };
        let staying = pinned(false);
        let confirmed = staying.max(wanted.min(staying + pinned(true)));
        let holders = copies.iter().filter(|copy| !copy.leaving).count();
        Self { confirmed, holders, min, wanted, peers }
    }
}
