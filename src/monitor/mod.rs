//! Peer metrics at the leader: the latest of each peer, until they expire.
//!
//! Invariant: metrics older than their time to live are never returned. A peer whose metrics have
//! expired is down.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::types::{GcState, Metrics, PeerId};

pub mod informer;

/// The latest metrics of each peer.
#[derive(Debug)]
pub struct Monitor {
    latest: Mutex<BTreeMap<PeerId, (Metrics, Instant)>>,
    /// When this leader began to take metrics.
    since: Instant,
}

impl Default for Monitor {
    fn default() -> Self {
        Self { latest: Mutex::default(), since: Instant::now() }
    }
}

/// Metrics are refused because another peer, named here, uses the same daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("peer {0} already uses the same daemon")]
pub struct DaemonTaken(pub PeerId);

impl Monitor {
    /// Takes a peer's metrics.
    ///
    /// # Errors
    /// When another peer that is not down has reported the same daemon. Two peers on one daemon would
    /// unpin each other's content.
    pub fn take(&self, from: PeerId, metrics: Metrics) -> Result<(), DaemonTaken> {
        let now = Instant::now();
        let mut latest = self.latest.lock();
        if let Some(daemon) = &metrics.daemon
            && let Some(peer) = user_of(&latest, &daemon.id, from, now)
        {
            return Err(DaemonTaken(peer));
        }
        let expiry = now + Duration::from_millis(metrics.ttl_ms);
        latest.insert(from, (metrics, expiry));
        Ok(())
    }

    /// The peer other than `from` that has reported a daemon and is not down.
    #[must_use]
    pub fn user_of(&self, daemon: &str, from: PeerId) -> Option<PeerId> {
        let latest = self.latest.lock();
        user_of(&latest, daemon, from, Instant::now())
    }

    /// Metrics that have not expired.
    #[must_use]
    pub fn valid(&self) -> BTreeMap<PeerId, Metrics> {
        let now = Instant::now();
        let latest = self.latest.lock();
        latest
            .iter()
            .filter(|(_, (_, expiry))| *expiry > now)
            .map(|(peer, (metrics, _))| (*peer, metrics.clone()))
            .collect()
    }

    /// The last known value of a tag, by peer, also of peers that are down.
    #[must_use]
    pub fn last_tags(&self, tag: &str) -> BTreeMap<PeerId, String> {
        let latest = self.latest.lock();
        let value = |(peer, (metrics, _)): (&PeerId, &(Metrics, Instant))| {
            Some((*peer, metrics.tags.get(tag)?.clone()))
        };
        latest.iter().filter_map(value).collect()
    }

    /// Notes that a peer has just collected garbage, which its latest metrics do not show yet.
    pub fn collected(&self, peer: &PeerId) {
        let mut latest = self.latest.lock();
        if let Some((metrics, _)) = latest.get_mut(peer) {
            metrics.gc = GcState { running: false, unpinned: false, idle_minutes: Some(0) };
        }
    }

    /// Whether every peer has had time to report to this new leader. Until then a peer without metrics may
    /// be up.
    #[must_use]
    pub fn all_could_report(&self) -> bool {
        self.since.elapsed() > informer::TTL
    }
}

fn user_of(
    latest: &BTreeMap<PeerId, (Metrics, Instant)>,
    daemon: &str,
    from: PeerId,
    now: Instant,
) -> Option<PeerId> {
    let uses = |metrics: &Metrics| metrics.daemon.as_ref().is_some_and(|used| used.id == daemon);
    let mut users = latest
        .iter()
        .filter(|(peer, (metrics, expiry))| **peer != from && *expiry > now && uses(metrics));
    users.next().map(|(peer, _)| *peer)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::types::DaemonInfo;

    fn metrics(daemon: &str) -> Metrics {
        Metrics {
            daemon: Some(DaemonInfo { id: daemon.into(), agent: String::new(), addresses: vec![] }),
            ttl_ms: 1000,
            ..Metrics::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn metrics_expire_and_a_daemon_has_one_peer() {
        let (a, b) = (PeerId([1; 32]), PeerId([2; 32]));
        let monitor = Monitor::default();
        monitor.take(a, metrics("x")).unwrap();
        assert_eq!(monitor.take(b, metrics("x")), Err(DaemonTaken(a)));
        monitor.take(b, metrics("y")).unwrap();
        assert_eq!(monitor.valid().len(), 2);
        tokio::time::advance(Duration::from_millis(999)).await;
        assert_eq!(monitor.valid().len(), 2);
        assert_eq!(monitor.take(b, metrics("x")), Err(DaemonTaken(a)));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(monitor.valid().is_empty());
        assert_eq!(monitor.user_of("x", b), None);
        monitor.take(b, metrics("x")).unwrap();
        assert_eq!(monitor.valid().into_keys().collect::<Vec<_>>(), [b]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_is_used_by_the_peer_that_last_reported_it() {
        let (a, b) = (PeerId([1; 32]), PeerId([2; 32]));
        let monitor = Monitor::default();
        monitor.take(a, metrics("x")).unwrap();
        assert_eq!((monitor.user_of("x", b), monitor.user_of("y", b)), (Some(a), None));
        assert_eq!(monitor.user_of("x", a), None, "its own");
        // Metrics that are sent again live as long again.
        tokio::time::advance(Duration::from_millis(600)).await;
        monitor.take(a, metrics("x")).unwrap();
        tokio::time::advance(Duration::from_millis(600)).await;
        assert_eq!(monitor.user_of("x", b), Some(a));
        // A peer whose daemon is down uses no daemon, but is not down itself.
        monitor.take(a, Metrics { daemon: None, ..metrics("x") }).unwrap();
        assert_eq!((monitor.user_of("x", b), monitor.valid().len()), (None, 1));
        // Refused metrics change nothing.
        monitor.take(a, metrics("x")).unwrap();
        monitor.take(b, metrics("y")).unwrap();
        assert_eq!(monitor.take(b, metrics("x")), Err(DaemonTaken(a)));
        assert_eq!(monitor.user_of("y", a), Some(b));
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_leader_knows_which_peers_are_down_once_all_had_time_to_report() {
        let monitor = Monitor::default();
        let instant = Duration::from_millis(1);
        tokio::time::advance(informer::TTL).await;
        assert!(!monitor.all_could_report());
        tokio::time::advance(instant).await;
        assert!(monitor.all_could_report());
    }

    #[tokio::test(start_paused = true)]
    async fn a_collection_replaces_what_its_peer_reported_before() {
        let (a, b) = (PeerId([1; 32]), PeerId([2; 32]));
        let monitor = Monitor::default();
        let reported = GcState { running: true, unpinned: true, idle_minutes: None };
        for (peer, daemon) in [(a, "x"), (b, "y")] {
            monitor.take(peer, Metrics { gc: reported, ..metrics(daemon) }).unwrap();
        }
        monitor.collected(&a);
        let collected = GcState { running: false, unpinned: false, idle_minutes: Some(0) };
        let valid = monitor.valid();
        assert_eq!((valid[&a].gc, valid[&b].gc), (collected, reported));
    }
}
