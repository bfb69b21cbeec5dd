//! Allocation: which peers keep a pin. Pure.
//!
//! [`plan`] decides for one pin. Copies are spread over zones first (the tag `zone`), then placed by free
//! space.
//!
//! Invariant: the order depends on the set of candidates, not on their order in the input.

mod plan;

use std::{cmp::Reverse, fmt};

pub use plan::{Fleet, Move, Need, Plan, Sight, plan};
use sha2::{Digest, Sha256};

use crate::types::{Cid, Metrics, PeerId, SpaceLimit};

/// A peer with less free space takes no new content: the daemon needs room for its own work.
pub const FREE_SPACE_MIN: u64 = 64 * 1024 * 1024;

/// The tag with a peer's zone.
pub const ZONE_TAG: &str = "zone";

/// Free space counts in steps, so that two nearly equal disks share the load.
const FREE_SPACE_STEPS: u128 = 20;

/// A peer that may take a pin.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    peer: PeerId,
    /// Its tag `zone`; each peer without one is its own zone.
    zone: Option<String>,
    /// Free space in steps of 5 % of the whole.
    free_steps: u8,
    /// Pins allocated to it, including those just proposed.
    allocations: u64,
}

/// Why a peer can currently take no content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The leader has no peer metrics of it.
    Silent,
    /// Its daemon does not answer.
    DaemonDown,
    /// Its daemon has not reported its space yet.
    SpaceUnknown,
    /// Less than [`FREE_SPACE_MIN`] is left.
    Full(SpaceLimit),
}

impl Obstacle {
    /// The obstacle shown by a peer's metrics, if any.
    #[must_use]
    pub fn of(metrics: &Metrics) -> Option<Self> {
        if metrics.daemon.is_none() {
            return Some(Self::DaemonDown);
        }
        let Some(free) = metrics.free_space else { return Some(Self::SpaceUnknown) };
        let limit = metrics.space_limit.unwrap_or(SpaceLimit::Volume);
        (free < FREE_SPACE_MIN).then_some(Self::Full(limit))
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = FREE_SPACE_MIN >> 20;
        match self {
            Self::Silent => f.write_str("the leader hears nothing of it"),
            Self::DaemonDown => f.write_str("its daemon does not answer"),
            Self::SpaceUnknown => f.write_str("its free space is not known yet"),
            Self::Full(SpaceLimit::Volume) => {
                write!(f, "less than {mebibytes} MiB are free on its volume")
            }
            Self::Full(SpaceLimit::StorageMax) => write!(
                f,
                "less than {mebibytes} MiB are left of what its daemon may take \
                 (Datastore.StorageMax)"
            ),
        }
    }
}

impl Candidate {
    /// The candidate for a peer's metrics; `None` if there is an [`Obstacle`].
    fn judge(peer: PeerId, metrics: &Metrics, allocations: u64) -> Option<Self> {
        if Obstacle::of(metrics).is_some() {
            return None;
        }
        let free = metrics.free_space?;
        let whole = u128::from(free) + u128::from(metrics.repository_size.unwrap_or_default());
        let steps = u128::from(free) * FREE_SPACE_STEPS / whole;
        let zone = metrics.tags.get(ZONE_TAG).cloned();
        Some(Self { peer, zone, free_steps: u8::try_from(steps).unwrap_or(u8::MAX), allocations })
    }
}

/// Best first; fields in order of priority.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    free_steps: Reverse<u8>,
    allocations: u64,
    hash: [u8; 32],
    peer: PeerId,
}

/// Orders candidates for a CID, best first. `zones` has the zone of each existing copy.
fn order(cid: &Cid, zones: &[String], candidates: &[Candidate]) -> Vec<PeerId> {
    let mut ranks: Vec<(Rank, Option<&String>)> = candidates
        .iter()
        .map(|candidate| (rank(cid, candidate), candidate.zone.as_ref()))
        .collect();
    ranks.sort_unstable();
    let mut used: Vec<&String> = zones.iter().collect();
    let mut ordered = Vec::with_capacity(ranks.len());
    while !ranks.is_empty() {
        let copies = |zone: &Option<&String>| used.iter().filter(|u| Some(**u) == *zone).count();
        // The first candidate of the least used zones; `min_by_key` returns the first of equals.
        let Some(next) = (0..ranks.len()).min_by_key(|n| copies(&ranks[*n].1)) else { break };
        let (rank, zone) = ranks.remove(next);
        used.extend(zone);
        ordered.push(rank.peer);
    }
    ordered
}

fn rank(cid: &Cid, candidate: &Candidate) -> Rank {
    Rank {
        free_steps: Reverse(candidate.free_steps),
        allocations: candidate.allocations,
        hash: Sha256::new()
            .chain_update(cid.as_bytes())
            .chain_update(candidate.peer.0)
            .finalize()
            .into(),
        peer: candidate.peer,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::types::DaemonInfo;

    const CID: &str = "QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR";

    fn peer(n: u8) -> PeerId {
        PeerId([n; 32])
    }

    fn candidate(n: u8, free_steps: u8, allocations: u64) -> Candidate {
        Candidate { peer: peer(n), zone: None, free_steps, allocations }
    }

    fn metrics(free_space: Option<u64>, up: bool) -> Metrics {
        let daemon = DaemonInfo { id: "d".into(), agent: "kubo".into(), addresses: vec![] };
        Metrics {
            daemon: up.then_some(daemon),
            free_space,
            repository_size: Some(1 << 30),
            ..Metrics::default()
        }
    }

    #[test]
    fn free_space_goes_before_few_allocations() {
        let order = order(
            &CID.parse().unwrap(),
            &[],
            &[candidate(1, 5, 0), candidate(2, 19, 9), candidate(3, 19, 3)],
        );
        assert_eq!(order, [peer(3), peer(2), peer(1)]);
    }

    #[test]
    fn a_peer_without_daemon_space_or_report_takes_nothing() {
        assert!(Candidate::judge(peer(1), &metrics(Some(1 << 40), false), 0).is_none());
        assert!(Candidate::judge(peer(1), &metrics(Some(FREE_SPACE_MIN - 1), true), 0).is_none());
        assert!(Candidate::judge(peer(1), &metrics(None, true), 0).is_none());
        let least = Candidate::judge(peer(1), &metrics(Some(FREE_SPACE_MIN), true), 0);
        assert!(least.is_some(), "that much is enough");
        let half = Candidate::judge(peer(1), &metrics(Some(1 << 30), true), 0).unwrap();
        assert_eq!(half.free_steps, 10);
    }

    #[test]
    fn copies_go_to_zones_without_one_first() {
        let zoned = |n, zone: &str, free| Candidate {
            zone: Some(zone.to_owned()),
            ..candidate(n, free, 0)
        };
        let candidates = [zoned(1, "a", 19), zoned(2, "a", 18), zoned(3, "b", 3), zoned(4, "c", 1)];
        let cid = CID.parse().unwrap();
        assert_eq!(order(&cid, &[], &candidates), [peer(1), peer(3), peer(4), peer(2)]);
        let held = ["a".to_owned()];
        assert_eq!(order(&cid, &held, &candidates)[..2], [peer(3), peer(4)]);
        // Two copies are more than one, and each peer without a zone is its own zone.
        let held = ["a", "b", "b", "c"].map(str::to_owned);
        let mut candidates = candidates.to_vec();
        assert_eq!(order(&cid, &held, &candidates)[..2], [peer(1), peer(4)]);
        candidates.extend([candidate(5, 1, 0), candidate(6, 0, 0)]);
        assert_eq!(order(&cid, &held, &candidates)[..3], [peer(5), peer(6), peer(1)]);
    }

    #[test]
    fn equal_peers_share_content_evenly() {
        let equal: Vec<Candidate> = (0..4).map(|n| candidate(n, 10, 0)).collect();
        let mut first = BTreeMap::<PeerId, usize>::new();
        for n in 0..400_u32 {
            let hash = cid::multihash::Multihash::wrap(0, &n.to_be_bytes()).unwrap();
            let cid = Cid::from(cid::Cid::new_v1(0x55, hash));
            *first.entry(order(&cid, &[], &equal)[0]).or_default() += 1;
        }
        assert!(first.len() == 4 && first.values().all(|count| (60..140).contains(count)));
    }

    proptest! {
        #[test]
        fn the_order_is_total_and_does_not_depend_on_the_input(
            facts in proptest::collection::btree_map(any::<u8>(), (0..20_u8, 0..5_u64), 0..12),
        ) {
            let cid: Cid = CID.parse().unwrap();
            let forward: Vec<Candidate> =
                facts.iter().map(|(n, (free, held))| candidate(*n, *free, *held)).collect();
            let backward: Vec<Candidate> = forward.iter().rev().cloned().collect();
            let ordered = order(&cid, &[], &forward);
            prop_assert_eq!(&ordered, &order(&cid, &[], &backward));
            prop_assert_eq!(ordered.len(), forward.len());
        }
    }
}
