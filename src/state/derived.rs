//! Values derived from the pins, kept up to date so that no query visits all pins.
//!
//! Invariant: every pin of the set counts here as it is. It is taken out before it changes, and put in
//! afterwards.

use std::collections::{BTreeMap, BTreeSet};

use super::deletion_guard::WaitingSet;
use crate::types::{Cid, Owner, PackedCid, PeerId, Pin, Uid};

/// Numbers of pins, and the waiting claims.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Derived {
    /// Number of pins allocated to each peer; never zero.
    pub(super) allocations: BTreeMap<PeerId, u64>,
    /// Number of pins that only objects want, without Retain.
    pub(super) at_stake: u64,
    /// The waiting claims.
    pub(super) waiting: WaitingSet,
    /// The pins with a leaving peer.
    pub(super) moving: BTreeSet<PackedCid>,
}

impl Derived {
    pub(super) fn put_in(&mut self, cid: Cid, pin: &Pin) {
        self.count(pin, 1);
        if is_moving(pin) {
            self.moving.insert((&cid).into());
        }
        if let Some(uid) = waiting_uid(pin) {
            self.waiting.insert(uid, cid);
        }
    }

    pub(super) fn take_out(&mut self, cid: Cid, pin: &Pin) {
        self.count(pin, -1);
        if is_moving(pin) {
            self.moving.remove(&(&cid).into());
        }
        if let Some(uid) = waiting_uid(pin) {
            self.waiting.remove(uid);
        }
    }

    fn count(&mut self, pin: &Pin, by: i64) {
        for allocation in &pin.allocations {
            let number = self.allocations.entry(allocation.peer).or_default();
            *number = number.saturating_add_signed(by);
            if *number == 0 {
                self.allocations.remove(&allocation.peer);
            }
        }
        if pin.goes_with_objects() {
            self.at_stake = self.at_stake.saturating_add_signed(by);
        }
    }
}

fn is_moving(pin: &Pin) -> bool {
    pin.allocations.iter().any(|allocation| allocation.leaving)
}

/// The UID of the deleted object whose claim waits, if any. A waiting claim is the only one of its pin.
pub(super) fn waiting_uid(pin: &Pin) -> Option<&Uid> {
    match pin.claims.last() {
        Some((Owner::Waiting(uid), _)) => Some(uid),
        _ => None,
    }
}
