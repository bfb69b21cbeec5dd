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

use tokio::{task::yield_now, time::sleep};

use super::{
    Leader,
    membership::{Change, Seats, live_namesake, next_membership, seats, successors},
};
use crate::{
    allocate,
    cluster::{Cluster, FatalError, SubmitError},
    state::{Op, Outcome},
    types::{Cid, PeerId},
};

/// Time between two checks.
const LOOK: Duration = Duration::from_millis(500);
/// Pins of one page, so that applying it takes milliseconds.
const PAGE_LEN: usize = 2_000;
/// A learner may be this many entries behind when it becomes a voter, and a voter this many behind the
/// best one when it takes leadership over. It receives the missing entries first.
pub(in crate::cluster) const LAG_MAX: u64 = 100;

impl Cluster {
    pub(super) async fn keep_members(
        self,
        leader: Arc<Leader>,
        term: u64,
    ) -> Result<(), FatalError> {
        loop {
            sleep(LOOK).await;
            if !self.0.leadership.borrow().local {
                continue;
            }
            let seats = self.seats(&leader);
            match next_membership(&seats, self.consensus().joint()) {
                Some(change) => self.change_members(change, &seats).await,
                None => {
                    if let Err(error) = self.succeed(&seats, term).await {
                        tracing::debug!(%error, "the copies of a lost peer were not handed over");
                    }
                }
            }
        }
    }

    /// Another member that is live and has this name.
    pub(in crate::cluster) fn live_namesake(&self, of: PeerId, name: &str) -> Option<PeerId> {
        let seats = self.seats(&self.leader());
        live_namesake(&seats, of, name)
    }

    fn seats(&self, leader: &Leader) -> Seats {
        let (members, metrics) = (self.members(), leader.metrics.valid());
        let zones = metrics.into_iter().filter_map(|(peer, mut metrics)| {
            Some((peer, metrics.tags.remove(allocate::ZONE_TAG)?))
        });
        let answered = self.consensus().answered();
        let silent = |peer| match answered.get(&peer) {
            _ if peer == self.id() => Duration::ZERO,
            Some(silent) => *silent,
            None => leader.since.elapsed(),
        };
        let lags = members.keys().filter_map(|peer| Some((*peer, self.consensus().lag(*peer)?)));
        let caught_up = caught_up(self.id(), lags.collect());
        let removed = |peer| self.state().read(|pins| pins.is_removed(peer));
        seats(&members, &zones.collect(), silent, &caught_up, removed)
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
            let outcomes = self.submit(term, vec![Op::Remove { peer: lost, term }]).await?;
            if outcomes == [Outcome::Changed] {
                let name = &seats[&lost].name;
                tracing::info!(%lost, %successor, name, "a lost peer has a successor");
            }
        }
        Ok(())
    }

    async fn transfer(&self, from: PeerId, to: PeerId, term: u64) -> Result<(), SubmitError> {
        let mut after: Option<Cid> = None;
        while self.state().read(|pins| pins.allocations_by_peer().contains_key(&from)) {
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

/// The peers that have nearly all of the log, and the leader itself. A peer that was never reached has
/// no lag.
fn caught_up(leader: PeerId, mut lags: BTreeMap<PeerId, u64>) -> BTreeSet<PeerId> {
    lags.retain(|_, lag| *lag <= LAG_MAX);
    lags.into_keys().chain([leader]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> PeerId {
        PeerId([n; 32])
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
