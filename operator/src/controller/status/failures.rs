//! When objects whose status the API server did not take are tried again, and when nothing is written for
//! a while: pure.
//!
//! A server that takes no status at all is asked rarely, and soon after it is back. One that takes those
//! of others and not this one, as an admission webhook may have it, hears of this one ever more rarely, so
//! that no object can take the places of others.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::controller::objects::ObjectKey;

/// The first wait; doubles with each failure.
const LEAST: Duration = Duration::from_millis(200);
/// Longest wait while no status is taken at all.
const ALL_MAX: Duration = Duration::from_secs(10);
/// Longest wait while those of others are.
const ONE_MAX: Duration = Duration::from_secs(300);
/// Failures without an answer in between after which nothing is written for a while.
const IN_A_ROW: usize = 32;

/// Bounded by the number of objects.
#[derive(Debug, Default)]
pub(super) struct Failures {
    of: BTreeMap<ObjectKey, Failing>,
    /// How often the server has given an answer to the point.
    answers: u64,
    /// Failures since the last one.
    in_a_row: usize,
}

#[derive(Debug)]
struct Failing {
    wait: Duration,
    until: Instant,
    /// Answers by the time of the failure.
    answers: u64,
}

impl Failures {
    /// The server gave an answer to the point about this object.
    pub(super) fn answered(&mut self, key: &ObjectKey) {
        self.answers += 1;
        self.in_a_row = 0;
        self.forget(key);
    }

    /// It did not; when to try again, not before what it `asked` for.
    pub(super) fn failed(
        &mut self,
        key: &ObjectKey,
        asked: Option<Duration>,
        now: Instant,
    ) -> Instant {
        self.in_a_row += 1;
        let (before, others) = match self.of.get(key) {
            Some(failing) => (Some(failing.wait), failing.answers != self.answers),
            None => (None, false),
        };
        let most = if others { ONE_MAX } else { ALL_MAX };
        let wait = before.map_or(LEAST, |wait| wait * 2).max(asked.unwrap_or_default()).min(most);
        let until = now + wait;
        self.of.insert(key.clone(), Failing { wait, until, answers: self.answers });
        until
    }

    /// Whether nothing is taken at the moment, as far as can be told.
    pub(super) fn is_down(&self) -> bool {
        self.in_a_row >= IN_A_ROW
    }

    /// Until when this object is not tried.
    pub(super) fn until(&self, key: &ObjectKey, now: Instant) -> Option<Instant> {
        self.of.get(key).map(|failing| failing.until).filter(|until| *until > now)
    }

    /// It is not there any more, or has nothing to write.
    pub(super) fn forget(&mut self, key: &ObjectKey) {
        self.of.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> ObjectKey {
        ObjectKey { namespace: "web".into(), name: n.to_string() }
    }

    /// The waits of an object that always fails.
    fn waits(failures: &mut Failures, count: usize, others: bool) -> Vec<Duration> {
        let now = Instant::now();
        let wait = |_| {
            let until = failures.failed(&key(0), None, now);
            assert_eq!(failures.until(&key(0), now), Some(until));
            assert_eq!(failures.until(&key(0), until), None);
            if others {
                failures.answered(&key(1));
            }
            until - now
        };
        (0..count).map(wait).collect()
    }

    #[test]
    fn one_that_always_fails_is_tried_ever_more_rarely_unless_all_do() {
        let mut failures = Failures::default();
        let all = waits(&mut failures, 12, false);
        assert_eq!((all[0], all[1], all[11]), (LEAST, LEAST * 2, ALL_MAX));
        assert_eq!(waits(&mut failures, 12, true).last(), Some(&ONE_MAX));
        // Back to the short waits when no other is answered any more.
        assert_eq!(waits(&mut failures, 2, false).last(), Some(&ALL_MAX));
        failures.answered(&key(0));
        assert_eq!(waits(&mut failures, 1, false), [LEAST]);
        let (now, asked) = (Instant::now(), Duration::from_secs(3));
        assert_eq!(failures.failed(&key(2), Some(asked), now) - now, asked);
    }

    #[test]
    fn the_server_is_down_when_it_takes_nothing_of_many() {
        let mut failures = Failures::default();
        let fail = |failures: &mut Failures, n| failures.failed(&key(n), None, Instant::now());
        (0..IN_A_ROW - 1).for_each(|n| {
            fail(&mut failures, n);
        });
        assert!(!failures.is_down());
        fail(&mut failures, IN_A_ROW);
        assert!(failures.is_down());
        failures.answered(&key(0));
        assert!(!failures.is_down());
    }
}
