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
    /// Members that are away for so long that their copies move to others.
    gone: BTreeSet<PeerId>,
    /// How many copies each member may receive from others now. Members that are not named receive none.
    room: BTreeMap<PeerId, usize>,
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

/// What the leader knows of the copies of one pin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// The peers whose daemon was seen to hold it.
    pub confirmed: BTreeSet<PeerId>,
    /// The holders that fail to get it for so long that others are to try.
    pub failing: BTreeSet<PeerId>,
    /// The holders that are still getting it.
    pub pending: BTreeSet<PeerId>,
    /// The peers that failed to get it lately: no copy moves to them.
    pub failed: BTreeSet<PeerId>,
    /// All peers with a copy that can be heard have reported. Until then no copy is given up.
    pub is_complete: bool,
}

/// A copy that another peer takes over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The holder.
    pub from: PeerId,
    /// Peers that can take the copy, best first; never empty.
    pub to: Vec<PeerId>,
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
    /// Holders that are to give their copy to another peer.
    pub moves: Vec<Move>,
    /// Leaving peers that are to stay, since they hold the content and others do not.
    pub stay: Vec<PeerId>,
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
            gone: BTreeSet::new(),
            room: BTreeMap::new(),
        }
    }

    /// The same fleet, in which these members are gone for long, and members receive at most so many
    /// copies from others.
    #[must_use]
    pub fn with_moves(self, gone: BTreeSet<PeerId>, room: BTreeMap<PeerId, usize>) -> Self {
        Self { gone, room, ..self }
    }

    /// The number of members that stay, whether they can take content or not.
    #[must_use]
    pub fn members(&self) -> usize {
        self.members
    }

    /// Counts the copies of a plan that is about to be proposed, so that the pins of one batch spread.
    pub fn reserve(&mut self, plan: &Plan) {
        for peer in plan.added() {
            for taker in self.takers.iter_mut().filter(|taker| taker.peer == peer) {
                taker.allocations += 1;
            }
        }
        for peer in plan.receivers() {
            if let Some(room) = self.room.get_mut(&peer) {
                *room = room.saturating_sub(1);
            }
        }
    }

    /// Whether a holder is to give its copies to others.
    #[must_use]
    pub fn gives_away(&self, peer: PeerId) -> bool {
        self.departing.contains(&peer) || self.gone.contains(&peer)
    }

    fn has_room(&self, peer: &PeerId) -> bool {
        self.room.get(peer).is_some_and(|room| *room > 0)
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

    /// Whether it has just the wanted holders, and none that leaves or gives its copies away. Its plan is
    /// empty then, unless a holder fails.
    #[must_use]
    pub fn is_met(&self, fleet: &Fleet) -> bool {
        self.allocations.len() == self.replication.wanted(fleet.members)
            && self.leaving().next().is_none()
            && self.holders().all(|holder| !fleet.gives_away(holder.peer))
    }
}

impl Plan {
    /// The peers that get a copy if the plan is applied now.
    pub fn added(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.add.iter().take(self.missing).copied().chain(self.receivers())
    }

    /// Those of them that take a copy over.
    fn receivers(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.moves.iter().filter_map(|moved| moved.to.first().copied())
    }
}

/// Plans for one pin.
#[must_use]
pub fn plan(need: &Need<'_>, fleet: &Fleet, sight: &Sight) -> Plan {
    let holders: Vec<PeerId> = need.holders().map(|holder| holder.peer).collect();
    let wanted = need.replication.wanted(fleet.members);
    let mut plan = Plan::default();
    if holders.len() < wanted {
        plan.missing = wanted - holders.len();
        plan.add = fleet.best(need.cid, &holders);
    }
    if sight.is_complete {
        plan.stay = staying(need, fleet, sight, &holders, wanted);
        if plan.stay.is_empty() {
            plan.leave = leaving(fleet, sight, &holders, wanted);
        }
        plan.moves = moves(need, fleet, sight, &holders, &plan.leave);
        (plan.let_go, plan.confirmed) = let_go(need, fleet, sight);
    }
    plan
}

/// Leaving peers that hold the content, as many as there are holders that do not.
fn staying(
    need: &Need<'_>,
    fleet: &Fleet,
    sight: &Sight,
    holders: &[PeerId],
    wanted: usize,
) -> Vec<PeerId> {
    let confirmed = holders.iter().filter(|holder| sight.confirmed.contains(holder)).count();
    let short = if holders.len() < wanted { 0 } else { wanted.saturating_sub(confirmed) };
    let holds = |peer: &PeerId| sight.confirmed.contains(peer) && !fleet.gives_away(*peer);
    need.leaving().filter(holds).take(short).collect()
}

/// Holders that leave without a successor: those beyond the wanted number, and those of departing members if
/// every other member has a copy already.
fn leaving(fleet: &Fleet, sight: &Sight, holders: &[PeerId], wanted: usize) -> Vec<PeerId> {
    // Those of members that give theirs away first, then unconfirmed ones, then those allocated last.
    let mut last_first: Vec<PeerId> = holders.iter().rev().copied().collect();
    last_first.sort_by_key(|peer| (!fleet.gives_away(*peer), sight.confirmed.contains(peer)));
    last_first.truncate(holders.len().saturating_sub(wanted));
    let departs = |peer: &&PeerId| fleet.departing.contains(peer);
    let staying = holders.iter().filter(|peer| !departs(peer)).count();
    if staying >= wanted.min(fleet.members) {
        for peer in holders.iter().filter(departs) {
            if !last_first.contains(peer) {
                last_first.push(*peer);
            }
        }
    }
    last_first
}

/// Copies of holders that give theirs away or fail, to members with room. A peer gets one copy at most.
fn moves(
    need: &Need<'_>,
    fleet: &Fleet,
    sight: &Sight,
    holders: &[PeerId],
    leave: &[PeerId],
) -> Vec<Move> {
    let goes = |peer: &&PeerId| {
        (fleet.gives_away(**peer) || sight.failing.contains(peer)) && !leave.contains(peer)
    };
    // A leaving peer gave its copy away before.
    let mut taken: Vec<PeerId> = need.allocations.iter().map(|copy| copy.peer).collect();
    let mut moves = Vec::new();
    for from in holders.iter().filter(goes) {
        let others: Vec<PeerId> = holders.iter().filter(|peer| *peer != from).copied().collect();
        let mut to = fleet.best(need.cid, &others);
        to.retain(|peer| {
            fleet.has_room(peer) && !taken.contains(peer) && !sight.failed.contains(peer)
        });
        let Some(first) = to.first() else { continue };
        taken.push(*first);
        moves.push(Move { from: *from, to });
    }
    moves
}

/// Leaving peers that may let go, and the holders that this relies on. While a holder still gets the
/// content, they wait even if enough others have it: a copy is not given up for one that is to come.
fn let_go(need: &Need<'_>, fleet: &Fleet, sight: &Sight) -> (Vec<PeerId>, Vec<Allocation>) {
    let confirmed: Vec<Allocation> =
        need.holders().filter(|holder| sight.confirmed.contains(&holder.peer)).copied().collect();
    let all_have_ended =
        sight.pending.is_empty() || confirmed.len() >= need.replication.wanted(fleet.members);
    let may_go = |peer: &PeerId| {
        let departs = fleet.departing.contains(peer);
        all_have_ended && confirmed.len() >= need.replication.needed_beside(fleet.members, departs)
    };
    let let_go: Vec<PeerId> = need.leaving().filter(may_go).collect();
    let confirmed = if let_go.is_empty() { Vec::new() } else { confirmed };
    (let_go, confirmed)
}

#[cfg(test)]
mod tests;
