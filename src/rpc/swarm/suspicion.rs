//! Whether failed handshakes suggest another cluster secret.
//!
//! Invariants: a single or brief failure suggests nothing, since a restarting peer breaks handshakes
//! off; each suspicion is reported once; memory is bounded.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

/// Number of consecutive failures…
const FAILURES_MIN: u32 = 3;
/// …over at least this time for a suspicion: a peer restarts faster.
const TIME_MIN: Duration = Duration::from_secs(3);
/// Failures older than this are forgotten: dials are more frequent.
const MEMORY: Duration = Duration::from_secs(600);
/// Most keys remembered.
const KEYS_MAX: usize = 256;

/// The conclusion from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suspicion {
    /// Nothing yet.
    Early,
    /// Another secret; first reported now.
    Now,
    /// Another secret; reported before.
    Told,
}

/// Consecutive failed handshakes.
#[derive(Debug)]
pub(super) struct Suspicions<K>(BTreeMap<K, Failures>);

#[derive(Debug)]
struct Failures {
    since: Instant,
    last: Instant,
    count: u32,
    is_told: bool,
}

impl<K> Default for Suspicions<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> Suspicions<K> {
    /// Counts a failed handshake.
    pub(super) fn failed(&mut self, with: K, now: Instant) -> Suspicion {
        self.0.retain(|_, failures| now - failures.last < MEMORY);
        if self.0.len() >= KEYS_MAX && !self.0.contains_key(&with) {
            return Suspicion::Early;
        }
        let first = Failures { since: now, last: now, count: 0, is_told: false };
        let failures = self.0.entry(with).or_insert(first);
        failures.count = failures.count.saturating_add(1);
        failures.last = now;
        if failures.count < FAILURES_MIN || now - failures.since < TIME_MIN {
            return Suspicion::Early;
        }
        match std::mem::replace(&mut failures.is_told, true) {
            true => Suspicion::Told,
            false => Suspicion::Now,
        }
    }

    /// A handshake succeeded, or failed for another reason.
    pub(super) fn cleared(&mut self, with: &K) {
        self.0.remove(with);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_handshakes_that_go_on_failing_suggest_another_secret() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut suspicions = Suspicions::default();
        // Many at once, as from a peer that is stopping.
        assert!((0..9).all(|_| suspicions.failed(1, start) == Suspicion::Early));
        assert_eq!(suspicions.failed(1, at(3)), Suspicion::Now);
        assert_eq!(suspicions.failed(1, at(4)), Suspicion::Told);
        assert_eq!(suspicions.failed(2, at(4)), Suspicion::Early, "another one");
        assert_eq!(suspicions.failed(2, at(60)), Suspicion::Early, "twice is no row");
        suspicions.cleared(&1);
        assert_eq!(suspicions.failed(1, at(60)), Suspicion::Early, "it was understood");
        // Callers from ever new addresses are not remembered for ever.
        for key in 0..2 * KEYS_MAX {
            suspicions.failed(key, at(60));
        }
        assert_eq!(suspicions.0.len(), KEYS_MAX);
        suspicions.failed(0, at(60) + MEMORY);
        assert_eq!(suspicions.0.len(), 1);
    }
}
