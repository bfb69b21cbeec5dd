//! Decides which daemon collects its garbage without a request. Pure.

use std::{cmp::Reverse, collections::BTreeMap};

use crate::types::{Metrics, PeerId};

/// When the leader begins a collection without a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GcPolicy {
    /// A daemon is due when its space is this full, in per cent.
    pub watermark_percent: u8,
    /// Least minutes between two collections of one daemon.
    pub pause_minutes: u32,
}

/// The peer that collects next: the one with the fullest daemon that is due. `None` while any peer
/// collects.
pub(in crate::cluster) fn next(
    policy: GcPolicy,
    metrics: &BTreeMap<PeerId, Metrics>,
) -> Option<PeerId> {
    if metrics.values().any(|metrics| metrics.gc.running) {
        return None;
    }
    let due = metrics.iter().filter(|(_, metrics)| is_due(policy, metrics));
    due.max_by_key(|(peer, metrics)| (metrics.full_percent, Reverse(**peer))).map(|(peer, _)| *peer)
}

fn is_due(policy: GcPolicy, metrics: &Metrics) -> bool {
    metrics.daemon.is_some()
        && metrics.full_percent.is_some_and(|full| full >= policy.watermark_percent)
        && metrics.gc.unpinned
        && metrics.gc.idle_minutes.is_none_or(|idle| idle >= policy.pause_minutes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::{DaemonInfo, GcState};

    const POLICY: GcPolicy = GcPolicy { watermark_percent: 80, pause_minutes: 60 };

    fn peer(n: u8) -> PeerId {
        PeerId([n; 32])
    }

    fn metrics(full: u8, unpinned: bool, idle_minutes: Option<u32>) -> Metrics {
        let daemon = DaemonInfo { id: "d".into(), agent: "kubo".into(), addresses: vec![] };
        Metrics {
            daemon: Some(daemon),
            full_percent: Some(full),
            gc: GcState { running: false, unpinned, idle_minutes },
            ..Metrics::default()
        }
    }

    fn chosen(all: &[Metrics]) -> Option<PeerId> {
        let all = all.iter().zip(1..).map(|(metrics, n)| (peer(n), metrics.clone())).collect();
        next(POLICY, &all)
    }

    #[test]
    fn the_fullest_daemon_that_is_due_collects_first() {
        let due = |full| metrics(full, true, Some(60));
        let collecting = |mut metrics: Metrics| {
            metrics.gc.running = true;
            metrics
        };
        let away = |metrics| Metrics { daemon: None, ..metrics };
        let unknown = |metrics| Metrics { full_percent: None, ..metrics };
        let table = [
            (vec![], None),
            (vec![due(79)], None),
            (vec![due(80)], Some(1)),
            (vec![metrics(80, true, None)], Some(1)),
            (vec![metrics(99, false, None)], None),
            (vec![metrics(99, true, Some(59))], None),
            (vec![due(85), due(90), due(90)], Some(2)),
            (vec![due(85), metrics(90, true, Some(0))], Some(1)),
            (vec![due(85), collecting(due(10))], None),
            (vec![due(85), collecting(away(due(10)))], None),
            (vec![away(due(99)), due(80)], Some(2)),
            (vec![unknown(due(99)), due(80)], Some(2)),
        ];
        for (all, expected) in table {
            assert_eq!(chosen(&all), expected.map(peer), "{all:?}");
        }
    }

    proptest! {
        #[test]
        fn no_collection_begins_beside_another_or_without_need(
            all in proptest::collection::vec(
                (any::<bool>(), proptest::option::of(0_u8..=100), any::<bool>(), any::<bool>(),
                    proptest::option::of(0_u32..200)),
                0..6,
            ),
        ) {
            let all: BTreeMap<PeerId, Metrics> = all.into_iter().zip(1..).map(
                |((up, full_percent, collecting, unpinned, idle_minutes), n)| {
                    let mut metrics = metrics(0, unpinned, idle_minutes);
                    metrics.gc.running = collecting;
                    metrics.full_percent = full_percent;
                    if !up {
                        metrics.daemon = None;
                    }
                    (peer(n), metrics)
                },
            ).collect();
            let busy = all.values().any(|metrics| metrics.gc.running);
            let due = |metrics: &Metrics| {
                metrics.daemon.is_some() && metrics.gc.unpinned
                    && metrics.full_percent >= Some(80)
                    && metrics.gc.idle_minutes.unwrap_or(60) >= 60
            };
            match next(POLICY, &all) {
                Some(chosen) => prop_assert!(!busy && due(&all[&chosen])),
                None => prop_assert!(busy || !all.values().any(due)),
            }
        }
    }
}
