//! The plan for one pin: which peers get a copy, which are to leave, which may let go.
//!
//! All who place content use it: REST, the controllers of Pins, and the reconciler. The state checks the
//! resulting ops again when they are applied, since a plan may be outdated by then.

use std::collections::{BTreeMap, BTreeSet};

use super::{Candidate, ZONE_TAG, order};
use crate::types::{Allocation, Cid, Metrics, PeerId, Pin, Replication};

/// The members and their free space at one moment. Gathered once for a batch of pins.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    members: usize,
    takers: Vec<Candidate>,
    zones: BTreeMap<PeerId, String>,
    /// Members that give their copies away. They are not counted as members.
    departing: BTreeSet<PeerId>,
}

/// A pin to plan for.
#[derive(Clone, Copy, Debug)]
pub struct Need<'a> {
    /// The content.
    pub cid: &'a Cid,
    /// Its present copies.
    pub allocations: &'a [Allocation],
    /// The wanted copies.
    pub replication: Replication,
}

/// What brings a pin to the wanted number of holders. Empty if it has just that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Peers that can take a copy, best first. Empty if no holder is missing; there may be more peers
    /// than missing holders. A leaving peer among them stays.
    pub add: Vec<PeerId>,
    /// The number of missing holders.
    pub missing: usize,
    /// Surplus holders that are to leave.
    pub leave: Vec<PeerId>,
    /// Leaving peers that may let go.
    pub let_go: Vec<PeerId>,
    /// The holders that `let_go` relies on.
    pub confirmed: Vec<Allocation>,
}

impl Fleet {
    /// `allocations` has the number of pins on each peer, `departing` the members that give theirs away.
    #[must_use]
    pub fn new(
        members: &BTreeSet<PeerId>,
        departing: &BTreeSet<PeerId>,
        metrics: &BTreeMap<PeerId, Metrics>,
        allocations: &BTreeMap<PeerId, u64>,
    ) -> Self {
        let members: BTreeSet<PeerId> = members.difference(departing).copied().collect();
        let on = |peer| allocations.get(peer).copied().unwrap_or_default();
        let heard = metrics.iter().filter(|(peer, _)| members.contains(peer));
        let takers = heard.filter_map(|(peer, metrics)| Candidate::judge(*peer, metrics, on(peer)));
        let zone = |(peer, metrics): (&PeerId, &Metrics)| {
            Some((*peer, metrics.tags.get(ZONE_TAG)?.clone()))
        };
        Self {
            members: members.len(),
            takers: takers.collect(),
            zones: metrics.iter().filter_map(zone).collect(),
            departing: departing.clone(),
        }
    }

    /// The number of members that stay, whether they can take content or not.
    #[must_use]
    pub fn members(&self) -> usize {
        self.members
    }

    /// Counts copies that are about to be proposed, so that the pins of one batch spread.
    pub fn reserve(&mut self, peers: &[PeerId]) {
        for taker in &mut self.takers {
            taker.allocations += peers.iter().filter(|peer| **peer == taker.peer).count() as u64;
        }
    }

    /// Members that can take a copy beside the holders, best first.
    fn best(&self, cid: &Cid, holders: &[PeerId]) -> Vec<PeerId> {
        // A full holder can take nothing, but its zone has a copy.
        let zones = holders.iter().filter_map(|holder| self.zones.get(holder).cloned());
        let free = self.takers.iter().filter(|taker| !holders.contains(&taker.peer));
        order(cid, &zones.collect::<Vec<_>>(), &free.cloned().collect::<Vec<_>>())
    }
}

impl<'a> Need<'a> {
    /// A pin as it is.
    #[must_use]
    pub fn of(cid: &'a Cid, pin: &'a Pin) -> Self {
        Self { cid, allocations: &pin.allocations, replication: pin.replication() }
    }

    /// The pin as it is with one claim more; `pin` is absent if this claim makes it.
    #[must_use]
    pub fn with_claim(cid: &'a Cid, pin: Option<&'a Pin>, replication: Replication) -> Self {
        let Some(pin) = pin else { return Self { cid, allocations: &[], replication } };
        Self { replication: replication.larger(pin.replication()), ..Self::of(cid, pin) }
    }

    /// The peers that have or get a copy, without the leaving ones.
    pub fn holders(&self) -> impl Iterator<Item = &'a Allocation> {
        self.allocations.iter().filter(|allocation| !allocation.leaving)
    }

    fn leaving(&self) -> impl Iterator<Item = PeerId> {
        self.allocations.iter().filter(|allocation| allocation.leaving).map(|leaving| leaving.peer)
    }

    /// Whether it has just the wanted holders, and none that leaves or departs. Its plan is empty then.
    #[must_use]
    pub fn is_met(&self, fleet: &Fleet) -> bool {
        self.allocations.len() == self.replication.wanted(fleet.members)
            && self.leaving().next().is_none()
            && self.holders().all(|holder| !fleet.departing.contains(&holder.peer))
    }
}

impl Plan {
    /// The peers that get a copy if the plan is applied now.
    #[must_use]
    pub fn added(&self) -> &[PeerId] {
        &self.add[..self.missing.min(self.add.len())]
    }
}

/// Plans for one pin. `confirmed` are the peers whose daemon was seen to hold it.
#[must_use]
pub fn plan(need: &Need<'_>, fleet: &Fleet, confirmed: &BTreeSet<PeerId>) -> Plan {
    let holders: Vec<PeerId> = need.holders().map(|holder| holder.peer).collect();
    let (departing, staying): (Vec<PeerId>, Vec<PeerId>) =
        holders.iter().partition(|holder| fleet.departing.contains(holder));
    let wanted = need.replication.wanted(fleet.members);
    let mut plan = Plan::default();
    if staying.len() < wanted {
        plan.missing = wanted - staying.len();
        plan.add = fleet.best(need.cid, &holders);
    } else {
        plan.leave = surplus(&staying, wanted, confirmed);
    }
    // Nothing leaves without a successor, unless every other member has a copy already.
    if staying.len() >= wanted.min(fleet.members) {
        plan.leave.extend(departing);
    }
    let confirmed: Vec<Allocation> =
        need.holders().filter(|holder| confirmed.contains(&holder.peer)).copied().collect();
    let may_go = |peer: &PeerId| {
        let departs = fleet.departing.contains(peer);
        confirmed.len() >= need.replication.needed_beside(fleet.members, departs)
    };
    plan.let_go = need.leaving().filter(may_go).collect();
    if !plan.let_go.is_empty() {
        plan.confirmed = confirmed;
    }
    plan
}

/// The holders beyond the wanted number: unconfirmed ones first, then those allocated last.
fn surplus(holders: &[PeerId], wanted: usize, confirmed: &BTreeSet<PeerId>) -> Vec<PeerId> {
    let mut last_first: Vec<PeerId> = holders.iter().rev().copied().collect();
    last_first.sort_by_key(|peer| confirmed.contains(peer));
    last_first.truncate(holders.len() - wanted);
    last_first
}

#[cfg(test)]
mod tests;
