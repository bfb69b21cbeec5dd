//! Peer metrics at the leader: the latest of each peer, until they expire.
//!
//! Invariant: metrics older than their time to live are never given out. "Down" means expired.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::types::{GcState, Metrics, PeerId};

pub mod informer;

/// The latest peer metrics.
#[derive(Debug)]
pub struct Monitor {
    latest: Mutex<BTreeMap<PeerId, (Metrics, Instant)>>,
    /// When it began to listen.
    since: Instant,
}

impl Default for Monitor {
    fn default() -> Self {
        Self { latest: Mutex::default(), since: Instant::now() }
    }
}

/// Why metrics are not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("peer {0} already uses the same daemon")]
pub struct DaemonTaken(pub PeerId);

impl Monitor {
    /// Takes a peer's metrics.
    ///
    /// # Errors
    /// When another peer that is not down reports the same daemon: two peers on one daemon would
    /// unpin each other's content.
    pub fn take(&self, from: PeerId, metrics: Metrics) -> Result<(), DaemonTaken> {
        let now = Instant::now();
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(daemon) = &metrics.daemon
            && let Some(peer) = user_of(&latest, &daemon.id, from, now)
        {
            return Err(DaemonTaken(peer));
        }
        let expiry = now + Duration::from_millis(metrics.ttl_ms);
        latest.insert(from, (metrics, expiry));
        Ok(())
    }

    /// Who reports a daemon, other than `from`, and is not down.
    #[must_use]
    pub fn user_of(&self, daemon: &str, from: PeerId) -> Option<PeerId> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        user_of(&latest, daemon, from, Instant::now())
    }

    /// Metrics that have not expired.
    #[must_use]
    pub fn valid(&self) -> BTreeMap<PeerId, Metrics> {
        let now = Instant::now();
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest
            .iter()
            .filter(|(_, (_, expiry))| *expiry > now)
            .map(|(peer, (metrics, _))| (*peer, metrics.clone()))
            .collect()
    }

    /// A peer's garbage was collected: what it told before that is old.
    pub fn collected(&self, peer: &PeerId) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((metrics, _)) = latest.get_mut(peer) {
            metrics.gc = GcState { running: false, unpinned: false, idle_minutes: Some(0) };
        }
    }

    /// Whether a peer without metrics is down: a new leader has to give each the time to report.
    #[must_use]
    pub fn has_heard(&self) -> bool {
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
    async fn a_daemon_is_used_by_whoever_told_of_it_last() {
        let (a, b) = (PeerId([1; 32]), PeerId([2; 32]));
        let monitor = Monitor::default();
        monitor.take(a, metrics("x")).unwrap();
        assert_eq!((monitor.user_of("x", b), monitor.user_of("y", b)), (Some(a), None));
        assert_eq!(monitor.user_of("x", a), None, "its own");
        // Pushed again, it is good for as long again.
        tokio::time::advance(Duration::from_millis(600)).await;
        monitor.take(a, metrics("x")).unwrap();
        tokio::time::advance(Duration::from_millis(600)).await;
        assert_eq!(monitor.user_of("x", b), Some(a));
        // One whose daemon is down uses none, and is there all the same.
        monitor.take(a, Metrics { daemon: None, ..metrics("x") }).unwrap();
        assert_eq!((monitor.user_of("x", b), monitor.valid().len()), (None, 1));
        // What is refused changes nothing.
        monitor.take(a, metrics("x")).unwrap();
        monitor.take(b, metrics("y")).unwrap();
        assert_eq!(monitor.take(b, metrics("x")), Err(DaemonTaken(a)));
        assert_eq!(monitor.user_of("y", a), Some(b));
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_leader_knows_who_is_down_when_all_have_had_time_to_report() {
        let monitor = Monitor::default();
        let instant = Duration::from_millis(1);
        tokio::time::advance(informer::TTL).await;
        assert!(!monitor.has_heard());
        tokio::time::advance(instant).await;
        assert!(monitor.has_heard());
    }

    #[tokio::test(start_paused = true)]
    async fn garbage_that_was_collected_is_not_collected_again_for_old_news() {
        let (a, b) = (PeerId([1; 32]), PeerId([2; 32]));
        let monitor = Monitor::default();
        let told = GcState { running: true, unpinned: true, idle_minutes: None };
        for (peer, daemon) in [(a, "x"), (b, "y")] {
            monitor.take(peer, Metrics { gc: told, ..metrics(daemon) }).unwrap();
        }
        monitor.collected(&a);
        let collected = GcState { running: false, unpinned: false, idle_minutes: Some(0) };
        let valid = monitor.valid();
        assert_eq!((valid[&a].gc, valid[&b].gc), (collected, told));
    }
}
