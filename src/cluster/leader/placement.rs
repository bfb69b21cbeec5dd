//! Which members can take content, as the leader knows them from their metrics.

use std::{collections::BTreeMap, sync::PoisonError, time::Duration};

use tokio::time::Instant;

use crate::cluster::{Cluster, MemberView};
use crate::{
    allocate::{self, Candidate, Obstacle},
    types::{Cid, Metrics, PeerId, Replication},
};

/// How long proposed allocations count beside the applied ones.
const PROPOSED_TTL: Duration = Duration::from_secs(1);

/// The members that can take content at one moment: gathered once for many pins.
#[derive(Debug)]
pub(in crate::cluster) struct Placement {
    /// How many members there are, whether they can take content or not.
    pub(in crate::cluster) members: usize,
    /// Without their allocations, which differ from pin to pin.
    takers: Vec<Candidate>,
    zones: BTreeMap<PeerId, String>,
}

/// Allocations proposed lately, by peer, and since when.
#[derive(Debug)]
pub(in crate::cluster) struct Proposed {
    counts: BTreeMap<PeerId, u64>,
    since: Instant,
}

impl Default for Proposed {
    fn default() -> Self {
        Self { counts: BTreeMap::new(), since: Instant::now() }
    }
}

impl Cluster {
    /// On the leader: members that do not hold a CID and can take it, best first. At most the wanted
    /// number is counted as proposed, so that pins proposed together spread.
    #[must_use]
    pub fn candidates(&self, cid: &Cid, replication: Replication) -> Vec<PeerId> {
        self.candidates_in(&self.placement(), cid, replication)
    }

    /// On the leader: the members that can take no content now, and why.
    #[must_use]
    pub fn obstacles(&self) -> BTreeMap<PeerId, Obstacle> {
        obstacles(self.members().into_keys(), &self.peer_metrics())
    }

    pub(in crate::cluster) fn placement(&self) -> Placement {
        Placement::of(&self.members(), &self.peer_metrics())
    }

    /// [`Self::candidates`], for many pins in a row.
    pub(in crate::cluster) fn candidates_in(
        &self,
        placement: &Placement,
        cid: &Cid,
        replication: Replication,
    ) -> Vec<PeerId> {
        let (candidates, holders) = self.state().read(|pins| {
            let holders: Vec<PeerId> =
                pins.get(cid).map(|pin| pin.holders().collect()).unwrap_or_default();
            (placement.free(&holders, pins.allocations_by_peer()), holders)
        });
        let zones = placement.zones_of(&holders);
        let leader = self.leader();
        let mut proposed = leader.proposed.lock().unwrap_or_else(PoisonError::into_inner);
        proposed.order(cid, &zones, candidates, replication.max.of(placement.members))
    }
}

fn obstacles(
    members: impl Iterator<Item = PeerId>,
    metrics: &BTreeMap<PeerId, Metrics>,
) -> BTreeMap<PeerId, Obstacle> {
    let obstacle = |peer| match metrics.get(&peer) {
        Some(metrics) => Some((peer, Obstacle::of(metrics)?)),
        None => Some((peer, Obstacle::Silent)),
    };
    members.filter_map(obstacle).collect()
}

impl Placement {
    fn of(members: &BTreeMap<PeerId, MemberView>, metrics: &BTreeMap<PeerId, Metrics>) -> Self {
        let takers = metrics
            .iter()
            .filter(|(peer, _)| members.contains_key(peer))
            .filter_map(|(peer, metrics)| Candidate::judge(*peer, metrics, 0))
            .collect();
        let zone = |(peer, metrics): (&PeerId, &Metrics)| {
            Some((*peer, metrics.tags.get(allocate::ZONE_TAG)?.clone()))
        };
        let zones = metrics.iter().filter_map(zone).collect();
        Self { members: members.len(), takers, zones }
    }

    /// Takers that do not hold it, with what is on them.
    fn free(&self, holders: &[PeerId], on: &BTreeMap<PeerId, u64>) -> Vec<Candidate> {
        let free = self.takers.iter().filter(|taker| !holders.contains(&taker.peer));
        let with = |taker: &Candidate| {
            let allocations = on.get(&taker.peer).copied().unwrap_or(0);
            Candidate { allocations, ..taker.clone() }
        };
        free.map(with).collect()
    }

    /// The zones of holders, also of those that can take nothing more.
    fn zones_of(&self, holders: &[PeerId]) -> Vec<String> {
        holders.iter().filter_map(|holder| self.zones.get(holder).cloned()).collect()
    }
}

impl Proposed {
    /// Orders candidates and counts the first `wanted` as proposed.
    fn order(
        &mut self,
        cid: &Cid,
        zones: &[String],
        mut candidates: Vec<Candidate>,
        wanted: usize,
    ) -> Vec<PeerId> {
        if self.since.elapsed() > PROPOSED_TTL {
            *self = Self::default();
        }
        for candidate in &mut candidates {
            candidate.allocations += self.counts.get(&candidate.peer).copied().unwrap_or(0);
        }
        let order = allocate::order(cid, zones, &candidates);
        for peer in order.iter().take(wanted) {
            *self.counts.entry(*peer).or_default() += 1;
        }
        order
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::types::{DaemonInfo, Member};

    fn peer(n: u8) -> PeerId {
        PeerId([n; 32])
    }

    fn metrics(zone: &str, free_space: u64) -> Metrics {
        let daemon = DaemonInfo { id: "d".into(), agent: "kubo".into(), addresses: vec![] };
        let tags = [(allocate::ZONE_TAG.to_owned(), zone.to_owned())].into();
        Metrics { daemon: Some(daemon), free_space: Some(free_space), tags, ..Metrics::default() }
    }

    #[test]
    fn content_is_placed_on_members_with_space_that_do_not_hold_it() {
        let view = || MemberView { member: Member::default(), voter: true };
        let members = (1..5).map(|n| (peer(n), view())).collect();
        // The second is full, nothing is heard of the fourth, the ninth is no member.
        let heard = [(1, "a", u64::MAX), (2, "b", 0), (3, "c", u64::MAX), (9, "d", u64::MAX)];
        let heard = heard.map(|(n, zone, free)| (peer(n), metrics(zone, free))).into();
        let placement = Placement::of(&members, &heard);
        assert_eq!(placement.members, 4, "whether they can take content or not");
        let on = [(peer(3), 7), (peer(1), 5)].into();
        let free = |holders: &[PeerId]| -> Vec<(PeerId, u64)> {
            let free = placement.free(holders, &on);
            free.into_iter().map(|candidate| (candidate.peer, candidate.allocations)).collect()
        };
        assert_eq!(free(&[]), [(peer(1), 5), (peer(3), 7)]);
        assert_eq!(free(&[peer(1), peer(2)]), [(peer(3), 7)]);
        assert_eq!(placement.zones_of(&[peer(2), peer(4), peer(3)]), ["b", "c"]);
    }

    #[test]
    fn each_member_that_can_take_nothing_says_why() {
        use crate::types::SpaceLimit::{StorageMax, Volume};
        let full = |limit| Metrics { space_limit: Some(limit), ..metrics("a", 0) };
        let down = Metrics { daemon: None, ..metrics("a", u64::MAX) };
        let unknown = Metrics { free_space: None, ..metrics("a", u64::MAX) };
        let heard = [
            (peer(1), metrics("a", u64::MAX)),
            (peer(2), full(Volume)),
            (peer(3), full(StorageMax)),
            (peer(4), down.clone()),
            (peer(5), unknown),
            (peer(9), down),
        ];
        let obstacles = obstacles((1..=6).map(peer), &heard.into());
        let expected = [
            (peer(2), Obstacle::Full(Volume)),
            (peer(3), Obstacle::Full(StorageMax)),
            (peer(4), Obstacle::DaemonDown),
            (peer(5), Obstacle::SpaceUnknown),
            (peer(6), Obstacle::Silent),
        ];
        assert_eq!(obstacles, expected.into());
    }

    #[tokio::test(start_paused = true)]
    async fn pins_that_are_proposed_together_spread() {
        let cid: Cid = "QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR".parse().unwrap();
        let candidate = |n, allocations| {
            let (zone, free_steps) = (None, 10);
            Candidate { peer: peer(n), zone, free_steps, allocations }
        };
        let mut proposed = Proposed::default();
        let mut first = |wanted| {
            let order = proposed.order(&cid, &[], vec![candidate(1, 1), candidate(2, 0)], wanted);
            assert_eq!(order.len(), 2);
            order[0]
        };
        assert_eq!([first(0), first(2), first(2)], [peer(2); 3], "both got as many");
        assert_eq!([first(1), first(1)], [peer(2); 2], "of equals it is the first by its hash");
        assert_eq!(first(0), peer(1));
        tokio::time::advance(PROPOSED_TTL + Duration::from_millis(1)).await;
        assert_eq!(first(0), peer(2), "what was proposed is applied by now");
    }
}
