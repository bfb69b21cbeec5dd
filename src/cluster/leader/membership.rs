//! The membership that there should be: who votes, and who is removed. The decision is pure; the leader
//! looks at it twice a second and makes one change at a time.
//!
//! Invariants:
//! - Nothing changes without a live majority of the old voters and of the new ones.
//! - A dead voter is replaced: without a live learner to replace it, it stays, unless its successor votes
//!   already or the number would be even.
//! - The number of voters is odd, unless the leader departs and needs another voter.
//! - A departing voter loses its vote before it is removed. The leader hands over first, and the last voter
//!   stays.
//! - Only a peer that does not vote and has been removed from the state leaves the membership.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::types::PeerId;

/// Most voters: more of them slow each write down and survive hardly more failures.
const VOTERS_MAX: usize = 5;
/// A member that the leader has heard within this time is live.
pub(super) const LIVE_TIME: Duration = Duration::from_secs(3);
/// A voter that the leader has not heard for this time is dead. A restart takes less.
const DEAD_TIME: Duration = Duration::from_secs(60);
/// A member that the leader has not heard for this time is succeeded by a live member of the same name.
/// That one was taken in while this one was silent already.
const SUCCEEDED_TIME: Duration = Duration::from_secs(6);

/// A member as the leader knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) name: String,
    pub(super) zone: Option<String>,
    pub(super) votes: bool,
    /// Time since the leader heard it last, in this term.
    pub(super) silent: Duration,
    /// It lacks only few entries of the log.
    pub(super) caught_up: bool,
    /// It gives its copies away, and is removed then.
    pub(super) departs: bool,
    /// The state has removed it.
    pub(super) removed: bool,
}

/// One change of the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Exactly these members vote; the others only follow.
    Voters(BTreeSet<PeerId>),
    /// This member leaves the membership.
    Remove(PeerId),
}

pub(super) type Seats = BTreeMap<PeerId, Seat>;

impl Seat {
    pub(super) fn is_live(&self) -> bool {
        self.silent < LIVE_TIME
    }
}

/// The live members that take the place of dead ones with their names, by the dead one. Members without a
/// name have no successors.
pub(super) fn successors(seats: &Seats) -> BTreeMap<PeerId, PeerId> {
    let live: BTreeMap<&str, PeerId> = seats
        .iter()
        .filter(|(_, seat)| seat.is_live() && !seat.removed && !seat.name.is_empty())
        .map(|(peer, seat)| (seat.name.as_str(), *peer))
        .collect();
    let silent = seats.iter().filter(|(_, seat)| seat.silent >= SUCCEEDED_TIME);
    silent.filter_map(|(peer, seat)| Some((*peer, *live.get(seat.name.as_str())?))).collect()
}

/// A member other than `of` that has this name and is not silent for so long that it can be succeeded.
pub(super) fn live_namesake(seats: &Seats, of: PeerId, name: &str) -> Option<PeerId> {
    let bears = |(peer, seat): &(&PeerId, &Seat)| {
        **peer != of && seat.name == name && !seat.removed && seat.silent < SUCCEEDED_TIME
    };
    if name.is_empty() { None } else { seats.iter().find(bears).map(|(peer, _)| *peer) }
}

/// The next change, if one is due. `joint` has the voters of an unfinished change, as it was proposed
/// last: it is finished before anything else.
pub(super) fn next_membership(
    own: PeerId,
    seats: &Seats,
    joint: Option<BTreeSet<PeerId>>,
) -> Option<Change> {
    if joint.is_some() {
        return joint.map(Change::Voters);
    }
    let now: BTreeSet<PeerId> = voters(seats);
    let next = next_voters(own, seats, &now);
    if next != now && has_live_majority(seats, &now) && has_live_majority(seats, &next) {
        return Some(Change::Voters(next));
    }
    let gone = seats.iter().find(|(_, seat)| seat.removed && !seat.votes);
    gone.map(|(peer, _)| Change::Remove(*peer))
}

/// The present voters with dead and departing ones replaced, and more of them up to the largest odd number
/// that the live members allow. A departing one goes without a replacement, too; if the number is even
/// then, another one stops voting.
fn next_voters(own: PeerId, seats: &Seats, now: &BTreeSet<PeerId>) -> BTreeSet<PeerId> {
    let succeeded = successors(seats);
    let is_dead = |peer: &PeerId| {
        let seat = &seats[peer];
        seat.removed || seat.silent >= DEAD_TIME || succeeded.contains_key(peer)
    };
    let departs = |peer: &PeerId| seats[peer].departs && *peer != own;
    let mut next = now.clone();
    let mut gone: Vec<PeerId> =
        now.iter().filter(|peer| is_dead(peer) || departs(peer)).copied().collect();
    let mut free: BTreeSet<PeerId> = seats
        .iter()
        .filter(|(_, seat)| !seat.votes && seat.is_live() && seat.caught_up)
        .filter(|(_, seat)| !seat.removed && !seat.departs)
        .map(|(peer, _)| *peer)
        .collect();
    // A successor takes no other seat than that of its own predecessor.
    gone.sort_by_key(|peer| !succeeded.get(peer).is_some_and(|by| free.contains(by)));
    for peer in gone {
        next.remove(&peer);
        let successor = succeeded.get(&peer).copied();
        if successor.is_some_and(|by| next.contains(&by)) {
            continue;
        }
        let successor = successor.filter(|by| free.contains(by));
        let by = successor.or_else(|| best(seats, &next, &free));
        let stays = !departs(&peer) || next.is_empty();
        let Some(by) = by.or_else(|| stays.then_some(peer)) else { continue };
        free.remove(&by);
        next.insert(by);
    }
    // A leader that departs needs another voter to hand over to.
    if seats.get(&own).is_some_and(|seat| seat.departs) && next.iter().all(|peer| *peer == own) {
        next.extend(best(seats, &next, &free));
        return next;
    }
    let most = (next.len() + free.len()).min(VOTERS_MAX);
    let wanted = if most.is_multiple_of(2) { most.saturating_sub(1) } else { most };
    while next.len() < wanted {
        let Some(by) = best(seats, &next, &free) else { break };
        free.remove(&by);
        next.insert(by);
    }
    // An even number survives no more losses than one less, and of two each one is needed. But a leader that
    // departs hands over to one of them.
    if !seats.get(&own).is_some_and(|seat| seat.departs)
        && next.len().is_multiple_of(2)
        && let Some(least) = least_useful(own, seats, &next)
    {
        next.remove(&least);
    }
    next
}

/// The voter that is heard least; of live ones, one of the zone with the most voters. Not the leader.
fn least_useful(own: PeerId, seats: &Seats, voters: &BTreeSet<PeerId>) -> Option<PeerId> {
    let in_zone = |peer: &PeerId| match &seats[peer].zone {
        None => 1,
        zone => voters.iter().filter(|voter| seats[*voter].zone == *zone).count(),
    };
    let rank = |peer: &&PeerId| (!seats[*peer].is_live(), in_zone(peer), **peer);
    voters.iter().filter(|peer| **peer != own).max_by_key(rank).copied()
}

/// The free member whose zone has the fewest of these voters. A member without a zone is its own zone.
fn best(seats: &Seats, voters: &BTreeSet<PeerId>, free: &BTreeSet<PeerId>) -> Option<PeerId> {
    let in_zone = |peer: &PeerId| match &seats[peer].zone {
        None => 0,
        zone => voters.iter().filter(|voter| seats[*voter].zone == *zone).count(),
    };
    free.iter().min_by_key(|peer| in_zone(peer)).copied()
}

fn voters(seats: &Seats) -> BTreeSet<PeerId> {
    seats.iter().filter(|(_, seat)| seat.votes).map(|(peer, _)| *peer).collect()
}

fn has_live_majority(seats: &Seats, voters: &BTreeSet<PeerId>) -> bool {
    let live = voters.iter().filter(|peer| seats[*peer].is_live()).count();
    live * 2 > voters.len()
}

#[cfg(test)]
mod tests;
