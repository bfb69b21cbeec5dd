//! The members as allocation sees them: their metrics, their pins, and the copies proposed lately.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::{
    allocate::{Fleet, Obstacle, Plan},
    cluster::Cluster,
    types::{Metrics, PeerId},
};

/// How long proposed allocations count in addition to the applied ones.
const PROPOSED_TTL: Duration = Duration::from_secs(1);

/// Allocations proposed lately, by peer, and since when.
#[derive(Debug)]
pub(in crate::cluster) struct Proposed {
    /// Number of allocations by peer.
    counts: BTreeMap<PeerId, u64>,
    /// When counting began.
    since: Instant,
}

impl Default for Proposed {
    fn default() -> Self {
        Self { counts: BTreeMap::new(), since: Instant::now() }
    }
}

impl Cluster {
    /// On the leader: the members, with their pins and those proposed lately.
    #[must_use]
    pub fn fleet(&self) -> Fleet {
        let (mut allocations, departing) = self
            .state()
            .read(|pins| (pins.allocations_by_peer().clone(), pins.departing().clone()));
        self.proposed(|proposed| proposed.add_to(&mut allocations));
        let members = self.members().into_keys().collect();
        Fleet::new(&members, &departing, &self.peer_metrics(), &allocations)
    }

    /// On the leader: counts the copies of a plan that is about to be proposed, in this fleet and in
    /// those of the next second.
    pub fn reserve(&self, fleet: &mut Fleet, plan: &Plan) {
        fleet.reserve(plan);
        self.proposed(|proposed| proposed.reserve(plan.added()));
    }

    /// On the leader: the members that cannot take content now, with the reason.
    #[must_use]
    pub fn obstacles(&self) -> BTreeMap<PeerId, Obstacle> {
        obstacles(self.members().into_keys(), &self.peer_metrics())
    }

    fn proposed(&self, act: impl FnOnce(&mut Proposed)) {
        let leader = self.leader();
        act(&mut leader.proposed.lock());
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

impl Proposed {
    fn reserve(&mut self, peers: impl IntoIterator<Item = PeerId>) {
        self.expire();
        for peer in peers {
            *self.counts.entry(peer).or_default() += 1;
        }
    }

    fn add_to(&mut self, allocations: &mut BTreeMap<PeerId, u64>) {
        self.expire();
        for (peer, count) in &self.counts {
            *allocations.entry(*peer).or_default() += count;
        }
    }

    fn expire(&mut self) {
        if self.since.elapsed() > PROPOSED_TTL {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::types::DaemonInfo;

    fn peer(n: u8) -> PeerId {
        PeerId([n; 32])
    }

    fn metrics(free_space: u64) -> Metrics {
        let daemon = DaemonInfo { id: "d".into(), agent: "kubo".into(), addresses: vec![] };
        Metrics { daemon: Some(daemon), free_space: Some(free_space), ..Metrics::default() }
    }

    #[test]
    fn each_member_that_cannot_take_content_has_a_reason() {
        use crate::types::SpaceLimit::{StorageMax, Volume};
        let full = |limit| Metrics { space_limit: Some(limit), ..metrics(0) };
        let down = Metrics { daemon: None, ..metrics(u64::MAX) };
        let unknown = Metrics { free_space: None, ..metrics(u64::MAX) };
        let heard = [
            (peer(1), metrics(u64::MAX)),
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
    async fn reserved_copies_count_for_a_second() {
        let mut proposed = Proposed::default();
        let now = |proposed: &mut Proposed| {
            let mut allocations = BTreeMap::from([(peer(1), 5)]);
            proposed.add_to(&mut allocations);
            allocations
        };
        proposed.reserve([peer(1), peer(2)]);
        proposed.reserve([peer(2)]);
        assert_eq!(now(&mut proposed), [(peer(1), 6), (peer(2), 2)].into());
        tokio::time::advance(PROPOSED_TTL + Duration::from_millis(1)).await;
        assert_eq!(now(&mut proposed), [(peer(1), 5)].into(), "the proposal is applied by now");
        proposed.reserve([peer(2)]);
        assert_eq!(now(&mut proposed), [(peer(1), 5), (peer(2), 1)].into());
    }
}
