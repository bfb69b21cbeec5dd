//! Peers that leave the cluster for good: their allocations go to a successor or to others, then they are
//! removed.
//!
//! Invariant: a removed peer has no allocation, and gets none again, unless it is forgotten
//! ([`REMOVED_MAX`]).

use std::collections::{BTreeMap, BTreeSet};

use minicbor::{Decode, Encode};

use super::{Beside, PinSet, check_decided_in};
use crate::{
    state::op::{Outcome, Refused},
    types::{Allocation, Cid, LogPosition, PeerId, Pin},
};

/// Removed peers that the state remembers. The oldest one is forgotten first.
const REMOVED_MAX: usize = 256;

/// The removed peers in the order of their removal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub(in crate::state) struct Removed(#[n(0)] Vec<PeerId>);

/// A part of the pins in the order of their CIDs, so that one entry changes a bounded number of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Page {
    /// The pins after this CID; absent: from the first one.
    #[n(0)]
    pub after: Option<Cid>,
    /// The last CID of the page.
    #[n(1)]
    pub last: Cid,
}

/// The absences of a member. Leaders add them up by their monotonic clocks, so that no wall clock and no
/// change of the leader shortens or prolongs them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Away {
    /// Seconds that it has been away so far; 0 when it is back.
    #[n(0)]
    pub seconds: u32,
    /// Number of absences lately.
    #[n(1)]
    pub absences: u8,
    /// Seconds since it was back.
    #[n(2)]
    pub back_seconds: u32,
    /// Its zone.
    #[n(3)]
    pub zone: Option<String>,
}

impl Removed {
    pub(super) fn contains(&self, peer: PeerId) -> bool {
        self.0.contains(&peer)
    }

    fn add(&mut self, peer: PeerId) {
        if self.0.len() >= REMOVED_MAX {
            self.0.remove(0);
        }
        self.0.push(peer);
    }
}

impl PinSet {
    /// Whether a peer was removed from the cluster for good.
    #[must_use]
    pub fn is_removed(&self, peer: PeerId) -> bool {
        self.beside.removed.contains(peer)
    }

    /// The members that are away, or were lately.
    #[must_use]
    pub fn away(&self) -> &BTreeMap<PeerId, Away> {
        &self.beside.away
    }

    /// The members that give their copies away.
    #[must_use]
    pub fn departing(&self) -> &BTreeSet<PeerId> {
        &self.beside.departing
    }

    /// The departing members whose pods were scaled in.
    #[must_use]
    pub fn scaled_in(&self) -> &BTreeSet<PeerId> {
        &self.beside.scaled_in
    }

    /// The pins of a page that are allocated to a peer.
    pub fn allocated_in<'a>(
        &'a self,
        page: &'a Page,
        peer: PeerId,
    ) -> impl Iterator<Item = Cid> + 'a {
        let pins = self.after(page.after.as_ref()).take_while(|(cid, _)| *cid <= page.last);
        pins.filter(move |(_, pin)| pin.is_on(peer)).map(|(cid, _)| cid)
    }

    /// The page of at most `len` pins after a CID; absent if there are no more pins.
    #[must_use]
    pub fn page_after(&self, after: Option<Cid>, len: usize) -> Option<Page> {
        let (last, _) = self.after(after.as_ref()).take(len).last()?;
        Some(Page { after, last })
    }

    pub(super) fn transfer(
        &mut self,
        position: LogPosition,
        (from, to): (PeerId, PeerId),
        page: Page,
        decided_in: u64,
    ) -> Result<Outcome, Refused> {
        check_decided_in(position.term, decided_in)?;
        if self.is_removed(to) {
            return Err(Refused::Removed);
        }
        if from == to {
            return Ok(Outcome::Unchanged);
        }
        let cids: Vec<Cid> = self.allocated_in(&page, from).collect();
        for cid in &cids {
            self.change_allocations(*cid, |pin, _| {
                hand_over(pin, from, to, position.index + 1);
                Ok(Outcome::Changed)
            })?;
        }
        Ok(Outcome::of_change(!cids.is_empty()))
    }

    pub(super) fn remove(
        &mut self,
        term: u64,
        peer: PeerId,
        decided_in: u64,
    ) -> Result<Outcome, Refused> {
        check_decided_in(term, decided_in)?;
        if self.is_removed(peer) {
            return Ok(Outcome::Unchanged);
        }
        if self.copies_of(peer) > 0 {
            return Err(Refused::HasCopies);
        }
        self.beside.departing.remove(&peer);
        self.beside.away.remove(&peer);
        self.beside.scaled_in.remove(&peer);
        self.beside.removed.add(peer);
        Ok(Outcome::Changed)
    }

    pub(super) fn note_away(
        &mut self,
        term: u64,
        peer: PeerId,
        away: Option<&Away>,
        decided_in: u64,
    ) -> Result<Outcome, Refused> {
        check_decided_in(term, decided_in)?;
        if self.is_removed(peer) {
            return Err(Refused::Removed);
        }
        if self.beside.away.get(&peer) == away {
            return Ok(Outcome::Unchanged);
        }
        match away {
            Some(away) => self.beside.away.insert(peer, away.clone()),
            None => self.beside.away.remove(&peer),
        };
        Ok(Outcome::Changed)
    }

    pub(super) fn depart(
        &mut self,
        term: u64,
        peer: PeerId,
        (departs, scaled_in): (bool, bool),
        decided_in: u64,
    ) -> Result<Outcome, Refused> {
        check_decided_in(term, decided_in)?;
        if self.is_removed(peer) {
            return Err(Refused::Removed);
        }
        let Beside { departing, scaled_in: all_scaled_in, .. } = &mut self.beside;
        let was_scaled_in = all_scaled_in.contains(&peer);
        if scaled_in && departing.contains(&peer) && !was_scaled_in {
            // A person asked for it.
            return Ok(Outcome::Unchanged);
        }
        let changed = match departs {
            true => departing.insert(peer),
            false => departing.remove(&peer),
        };
        match departs && scaled_in {
            true => all_scaled_in.insert(peer),
            false => all_scaled_in.remove(&peer),
        };
        Ok(Outcome::of_change(changed || was_scaled_in != self.beside.scaled_in.contains(&peer)))
    }
}

/// Gives the allocation of one peer to another. It is a new one, so that no earlier report of that peer
/// counts. If the other one has an allocation already, it keeps it, and stays if the first one stayed.
fn hand_over(pin: &mut Pin, from: PeerId, to: PeerId, at_entry: u64) {
    let Some(index) = pin.allocations.iter().position(|old| old.peer == from) else { return };
    let leaving = pin.allocations[index].leaving;
    match pin.allocations.iter_mut().find(|allocation| allocation.peer == to) {
        Some(known) => {
            known.leaving &= leaving;
            pin.allocations.remove(index);
        }
        None => pin.allocations[index] = Allocation { peer: to, leaving, at_entry },
    }
}
