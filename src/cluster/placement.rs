//! Which members can take content, as the leader knows them from their metrics.

use std::{
    collections::BTreeMap,
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::Cluster;
use crate::{
    allocate::{self, Candidate},
    types::{Cid, PeerId, Replication},
};

/// How long proposed allocations count beside the applied ones.
const PROPOSED_TTL: Duration = Duration::from_secs(1);

/// The members that can take content at one moment: gathered once for many pins.
#[derive(Debug)]
pub(super) struct Placement {
    /// How many members there are, whether they can take content or not.
    pub(super) members: usize,
    /// Without their allocations, which differ from pin to pin.
    takers: Vec<Candidate>,
    zones: BTreeMap<PeerId, String>,
}

/// Allocations proposed lately, by peer, and since when.
#[derive(Debug)]
pub(super) struct Proposed {
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

    pub(super) fn placement(&self) -> Placement {
        let members = self.members();
        let metrics = self.peer_metrics();
        let takers = metrics
            .iter()
            .filter(|(peer, _)| members.contains_key(peer))
            .filter_map(|(peer, metrics)| Candidate::judge(*peer, metrics, 0))
            .collect();
        let zone = |(peer, metrics): (PeerId, crate::types::Metrics)| {
            Some((peer, metrics.tags.get(allocate::ZONE_TAG)?.clone()))
        };
        let members = members.len();
        Placement { members, takers, zones: metrics.into_iter().filter_map(zone).collect() }
    }

    /// [`Self::candidates`], for many pins in a row.
    pub(super) fn candidates_in(
        &self,
        placement: &Placement,
        cid: &Cid,
        replication: Replication,
    ) -> Vec<PeerId> {
        let (candidates, holders) = self.state().read(|pins| {
            let holders: Vec<PeerId> =
                pins.get(cid).map(|pin| pin.holders().collect()).unwrap_or_default();
            let free = placement.takers.iter().filter(|taker| !holders.contains(&taker.peer));
            let applied = pins.allocations_by_peer();
            let candidates: Vec<Candidate> = free
                .map(|taker| {
                    let allocations = applied.get(&taker.peer).copied().unwrap_or(0);
                    Candidate { allocations, ..taker.clone() }
                })
                .collect();
            (candidates, holders)
        });
        let zones: Vec<String> =
            holders.iter().filter_map(|holder| placement.zones.get(holder).cloned()).collect();
        self.proposed().order(cid, &zones, candidates, replication.max.of(placement.members))
    }

    fn proposed(&self) -> MutexGuard<'_, Proposed> {
        self.0.proposed.lock().unwrap_or_else(PoisonError::into_inner)
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
