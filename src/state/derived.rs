//! What follows from the pins, kept beside them so that nobody has to look at all of them.
//!
//! Invariant: a pin counts here as it is while it is in the set: it is taken out before it changes,
//! and put in afterwards.

use std::collections::BTreeMap;

use super::deletion_guard::WaitingSet;
use crate::types::{Cid, Owner, PeerId, Pin, Uid};

/// Numbers of the pins, and those that wait for a person.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Derived {
    /// How many pins are on each peer; none is zero.
    pub(super) allocations: BTreeMap<PeerId, u64>,
    /// How many pins hang on objects alone.
    pub(super) at_stake: u64,
    /// Claims that wait for a person.
    pub(super) waiting: WaitingSet,
}

impl Derived {
    pub(super) fn put_in(&mut self, cid: Cid, pin: &Pin) {
        self.count(pin, 1);
        if let Some(uid) = waits(pin) {
            self.waiting.insert(uid, cid);
        }
    }

    pub(super) fn take_out(&mut self, pin: &Pin) {
        self.count(pin, -1);
        if let Some(uid) = waits(pin) {
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

/// The gone object for whose claim alone it is kept until a person decides, if it is.
pub(super) fn waits(pin: &Pin) -> Option<&Uid> {
    match pin.claims.last() {
        Some((Owner::Waiting(uid), _)) => Some(uid),
        _ => None,
    }
}
