//! The leader's care for the membership: it carries out [`membership`](super::membership)'s changes, and gives
//! what a lost peer had to its successor.
//!
//! A peer whose disk is lost comes back as another peer of the same name. It takes the lost one's vote, then
//! its allocations, page by page; then the lost one is removed. Each step is decided from what is, so a new
//! leader continues with the next one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    task::yield_now,
    time::{Instant, sleep},
};

use super::{
    Leader,
    membership::{Change, Seat, Seats, live_namesake, next_membership, successors},
};
use crate::{
    allocate,
    cluster::{Cluster, FatalError, MemberView, SubmitError, serve::refusal},
    state::{Op, Outcome},
    types::{Cid, Depart, PeerId, Refusal},
};

/// Time between two checks.
const LOOK: Duration = Duration::from_millis(500);
/// Pins of one page, so that applying it takes milliseconds.
const PAGE_LEN: usize = 2_000;
/// A departing peer without copies unpins what it had for at most this time before it is removed: once
/// removed it cannot ask whether a pin is wanted.
const UNPIN_TIME: Duration = Duration::from_secs(60);
/// A learner may be this many entries behind when it becomes a voter, and a voter this many behind the
/// best one when it takes leadership over. It receives the missing entries first.
pub(in crate::cluster) const LAG_MAX: u64 = 100;

impl Cluster {
    pub(super) async fn keep_members(
        self,
        leader: Arc<Leader>,
        term: u64,
    ) -> Result<(), FatalError> {
        let mut empty = BTreeMap::new();
        loop {
            sleep(LOOK).await;
            if !self.0.leadership.borrow().local {
                continue;
            }
            let seats = self.seats(&leader);
            match next_membership(self.id(), &seats, self.consensus().joint()) {
                Some(change) => self.change_members(change, &seats).await,
                None if hands_over(self.id(), &seats) => {
                    tracing::debug!("this peer departs: handing over leadership");
                    self.hand_over().await;
                }
                None => {
                    let succeeded = self.succeed(&seats, term).await;
                    self.note_empty(&leader, &seats, &mut empty);
                    let removed = self.release_departed(&seats, &empty, term).await;
                    if let Err(error) = succeeded.and(removed) {
                        tracing::debug!(%error, "a peer that goes was not removed");
                    }
                }
            }
        }
    }

    /// On the leader: notes that a member leaves or stays; see [`Cluster::depart`].
    pub(in crate::cluster) async fn depart_as_leader(
        &self,
        Depart { peer, departs, scaled_in }: Depart,
    ) -> Result<u64, Refusal> {
        let term = self.0.leadership.borrow().term;
        let leader = self.leader();
        // Two that leave at once are checked one after the other.
        let _one_at_a_time = leader.departures.lock().await;
        if departs && self.state().read(|pins| pins.is_removed(peer)) {
            return Ok(0);
        }
        check_departure(peer, departs, &self.seats(&leader))?;
        let ops = vec![Op::Depart { peer, departs, term, scaled_in }];
        let outcomes = self.submit(term, ops).await.map_err(refusal)?;
        if let [Outcome::Refused(why)] = outcomes[..] {
            return Err(Refusal::Invalid(why.to_string()));
        }
        if outcomes == [Outcome::Changed] {
            tracing::info!(%peer, departs, "a member was asked to leave, or to stay after all");
        }
        Ok(self.copies_of(peer))
    }

    /// Another member that is live and has this name.
    pub(in crate::cluster) fn live_namesake(&self, of: PeerId, name: &str) -> Option<PeerId> {
        let seats = self.seats(&self.leader());
        live_namesake(&seats, of, name)
    }

    fn seats(&self, leader: &Leader) -> Seats {
        let (members, mut metrics) = (self.members(), leader.metrics.valid());
        let mut zone = |peer| metrics.get_mut(&peer)?.tags.remove(allocate::ZONE_TAG);
        let answered = self.consensus().answered();
        let silent = |peer| match answered.get(&peer) {
            _ if peer == self.id() => Duration::ZERO,
            Some(silent) => *silent,
            None => leader.since.elapsed(),
        };
        let lags = members.keys().filter_map(|peer| Some((*peer, self.consensus().lag(*peer)?)));
        let caught_up = caught_up(self.id(), lags.collect());
        self.state().read(|pins| {
            let seat = |(peer, view): (PeerId, MemberView)| {
                let seat = Seat {
                    name: view.member.name,
                    zone: zone(peer),
                    votes: view.voter,
                    silent: silent(peer),
                    caught_up: caught_up.contains(&peer),
                    departs: pins.departing().contains(&peer),
                    removed: pins.is_removed(peer),
                };
                (peer, seat)
            };
            members.into_iter().map(seat).collect()
        })
    }

    pub(super) fn copies_of(&self, peer: PeerId) -> u64 {
        self.state().read(|pins| pins.copies_of(peer))
    }

    async fn change_members(&self, change: Change, seats: &Seats) {
        let changed = match &change {
            Change::Voters(voters) => self.consensus().set_voters(voters.clone()).await,
            Change::Remove(peer) => self.consensus().remove_member(*peer).await,
        };
        match (changed, change) {
            (Ok(()), Change::Voters(voters)) => {
                tracing::info!(voters = voters.len(), "voters changed");
            }
            (Ok(()), Change::Remove(peer)) => {
                tracing::info!(%peer, name = seats[&peer].name, "a member was removed");
            }
            (Err(error), _) => tracing::debug!(%error, "the membership was not changed"),
        }
    }

    /// Gives the copies of lost peers that do not vote any more to their successors, and removes the peers
    /// from the state.
    async fn succeed(&self, seats: &Seats, term: u64) -> Result<(), SubmitError> {
        for (lost, successor) in successors(seats) {
            if seats[&lost].votes || seats[&lost].removed {
                continue;
            }
            self.transfer(lost, successor, term).await?;
            if self.remove_from_state(lost, term).await? {
                let name = &seats[&lost].name;
                tracing::info!(%lost, %successor, name, "a lost peer has a successor");
            }
        }
        Ok(())
    }

    /// Since when departing peers have no copies. Those that have unpinned everything count as empty for
    /// long.
    fn note_empty(
        &self,
        leader: &Leader,
        seats: &Seats,
        empty: &mut BTreeMap<PeerId, Option<Instant>>,
    ) {
        let is_empty = |(peer, seat): &(&PeerId, &Seat)| {
            seat.departs && !seat.votes && !seat.removed && self.copies_of(**peer) == 0
        };
        let now: BTreeSet<PeerId> = seats.iter().filter(is_empty).map(|(peer, _)| *peer).collect();
        empty.retain(|peer, _| now.contains(peer));
        if !leader.metrics.all_could_report() {
            return;
        }
        let metrics = leader.metrics.valid();
        for peer in now {
            let since = empty.entry(peer).or_insert_with(|| Some(Instant::now()));
            let is_heard = metrics.get(&peer).is_some_and(|metrics| metrics.daemon.is_some());
            let is_done = leader.reports.has_full_set(&peer) && leader.reports.tracked(&peer) == 0;
            if !is_heard || is_done {
                *since = None;
            }
        }
    }

    /// Removes the departing peers that neither vote nor have copies any more, once they have unpinned
    /// what they had.
    async fn release_departed(
        &self,
        seats: &Seats,
        empty: &BTreeMap<PeerId, Option<Instant>>,
        term: u64,
    ) -> Result<(), SubmitError> {
        let is_ready = |since: &Option<Instant>| since.is_none_or(|at| at.elapsed() > UNPIN_TIME);
        let mut ready = empty.iter().filter(|(_, since)| is_ready(since));
        let Some((peer, _)) = ready.next() else { return Ok(()) };
        let seat = &seats[peer];
        if self.remove_from_state(*peer, term).await? {
            tracing::info!(%peer, name = seat.name, "a departing peer has given all its copies away");
        }
        Ok(())
    }

    /// Whether this removed it: it may be removed already.
    async fn remove_from_state(&self, peer: PeerId, term: u64) -> Result<bool, SubmitError> {
        Ok(self.submit(term, vec![Op::Remove { peer, term }]).await? == [Outcome::Changed])
    }

    async fn transfer(&self, from: PeerId, to: PeerId, term: u64) -> Result<(), SubmitError> {
        let mut after: Option<Cid> = None;
        while self.copies_of(from) > 0 {
            let page = self.state().read(|pins| {
                let page = pins.page_after(after, PAGE_LEN)?;
                let is_needed = pins.allocated_in(&page, from).next().is_some();
                Some((page, is_needed))
            });
            let Some((page, is_needed)) = page else { break };
            after = Some(page.last);
            match is_needed {
                true => drop(self.submit(term, vec![Op::Transfer { from, to, page, term }]).await?),
                false => yield_now().await,
            }
        }
        Ok(())
    }
}

/// Whether this leader departs, and there is another voter that stays.
fn hands_over(own: PeerId, seats: &Seats) -> bool {
    let departs = seats.get(&own).is_some_and(|own| own.departs);
    departs && seats.iter().any(|(peer, seat)| *peer != own && seat.votes && !seat.departs)
}

/// Whether a member may leave: another one that the leader hears has to stay.
fn check_departure(peer: PeerId, departs: bool, seats: &Seats) -> Result<(), Refusal> {
    if !seats.contains_key(&peer) {
        return Err(Refusal::Invalid(format!("peer {peer} is no member of the cluster")));
    }
    let stays = |(other, seat): (&PeerId, &Seat)| {
        *other != peer && !seat.departs && !seat.removed && seat.is_live()
    };
    if departs && !seats.iter().any(stays) {
        return Err(Refusal::Invalid(format!(
            "peer {peer} is the last one that stays and is up, and cannot leave"
        )));
    }
    Ok(())
}

/// The peers that have nearly all of the log, and the leader itself. A peer that was never reached has
/// no lag.
fn caught_up(leader: PeerId, mut lags: BTreeMap<PeerId, u64>) -> BTreeSet<PeerId> {
    lags.retain(|_, lag| *lag <= LAG_MAX);
    lags.into_keys().chain([leader]).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::membership::LIVE_TIME, *};

    fn peer(n: u8) -> PeerId {
        PeerId([n; 32])
    }

    /// Voters, with those that depart and those that are silent.
    fn voters(all: &[u8], departing: &[u8], silent: &[u8]) -> Seats {
        let seat = |n: &u8| {
            let seat = Seat {
                name: format!("pod-{n}"),
                zone: None,
                votes: true,
                silent: if silent.contains(n) { LIVE_TIME } else { Duration::ZERO },
                caught_up: true,
                departs: departing.contains(n),
                removed: false,
            };
            (peer(*n), seat)
        };
        all.iter().map(seat).collect()
    }

    #[test]
    fn the_last_member_that_stays_cannot_leave() {
        // The peer, whether it departs, the members, the departing and the silent ones; whether that is fine.
        type Row<'a> = (u8, bool, &'a [u8], &'a [u8], &'a [u8], bool);
        let table: &[Row<'_>] = &[
            (1, true, &[1, 2], &[], &[], true),
            (1, true, &[1, 2], &[1], &[], true),
            (1, true, &[1, 2], &[2], &[], false),
            (1, true, &[1, 2], &[], &[2], false),
            (2, true, &[1, 2], &[], &[2], true),
            (1, true, &[1], &[], &[], false),
            (1, false, &[1, 2], &[1, 2], &[], true),
            (9, true, &[1, 2], &[], &[], false),
            (9, false, &[1, 2], &[], &[], false),
        ];
        for (of, departs, members, departing, silent, fine) in table {
            let seats = voters(members, departing, silent);
            let found = check_departure(peer(*of), *departs, &seats);
            assert_eq!(found.is_ok(), *fine, "{of} of {members:?}, {departing:?}: {found:?}");
        }
    }

    #[test]
    fn a_leader_that_departs_hands_over_to_a_voter_that_stays() {
        let hands =
            |all: &[u8], departing: &[u8]| hands_over(peer(1), &voters(all, departing, &[]));
        assert!(hands(&[1, 2], &[1]) && hands(&[1, 2, 3], &[1, 2]));
        assert!(!hands(&[1, 2], &[]) && !hands(&[1], &[1]) && !hands(&[1, 2], &[1, 2]));
    }

    #[test]
    fn a_member_has_caught_up_when_it_lacks_few_entries() {
        let lags = |lags: &[(u8, u64)]| lags.iter().map(|(n, lag)| (peer(*n), *lag)).collect();
        type Row<'a> = (&'a [(u8, u64)], &'a [u8]);
        let table: &[Row<'_>] = &[
            (&[], &[0]),
            (&[(1, 0), (2, LAG_MAX)], &[0, 1, 2]),
            (&[(1, 0), (2, LAG_MAX + 1)], &[0, 1]),
            (&[(0, LAG_MAX + 1)], &[0]),
        ];
        for (behind, expected) in table {
            let expected = expected.iter().map(|n| peer(*n)).collect();
            assert_eq!(caught_up(peer(0), lags(behind)), expected, "{behind:?}");
        }
    }
}
