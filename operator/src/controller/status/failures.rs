//! Retries of failed status writes: when an object is tried again, and when all writes pause. Pure.
//!
//! If the server accepts no status at all, attempts stay at most [`ALL_MAX`] apart, so that it is
//! noticed soon when it is back. If it accepts other statuses but not this one, for example because
//! of an admission webhook, the wait of this object grows to [`ONE_MAX`], so that it does not take
//! the place of others.

use std::time::Duration;

use tokio::time::Instant;

/// First wait; doubles with each failure.
const LEAST: Duration = Duration::from_millis(200);
/// Longest wait while no status is accepted.
const ALL_MAX: Duration = Duration::from_secs(10);
/// Longest wait while other statuses are accepted.
const ONE_MAX: Duration = Duration::from_secs(300);
/// Consecutive failures after which all writes pause.
const IN_A_ROW: usize = 32;

/// An object whose last status write failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failing {
    wait: Duration,
    /// Earliest time of the next attempt.
    pub(super) until: Instant,
    /// [`Failures::answers`] at the time of the failure.
    answers: u64,
}

impl Failing {
    /// Whether it still waits.
    pub(super) fn waits(&self, now: Instant) -> bool {
        now < self.until
    }
}

/// Results of the status writes of all objects.
#[derive(Debug, Default)]
pub(super) struct Failures {
    /// Number of conclusive answers of the server.
    answers: u64,
    /// Failures since the last conclusive answer.
    in_a_row: usize,
}

impl Failures {
    /// Counts a conclusive answer about an object.
    pub(super) fn answered(&mut self) {
        self.answers += 1;
        self.in_a_row = 0;
    }

    /// Counts a failure, and computes the next attempt from the failure `before`, no earlier than
    /// the server `asked` for.
    pub(super) fn failed(
        &mut self,
        before: Option<Failing>,
        asked: Option<Duration>,
        now: Instant,
    ) -> Failing {
        self.in_a_row += 1;
        let others = before.is_some_and(|failing| failing.answers != self.answers);
        let most = if others { ONE_MAX } else { ALL_MAX };
        let next = before.map_or(LEAST, |failing| failing.wait * 2);
        let wait = next.max(asked.unwrap_or_default()).min(most);
        Failing { wait, until: now + wait, answers: self.answers }
    }

    /// Whether the server seems to accept no writes.
    pub(super) fn is_down(&self) -> bool {
        self.in_a_row >= IN_A_ROW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The waits of an object that always fails.
    fn waits(
        failures: &mut Failures,
        failing: &mut Option<Failing>,
        count: usize,
        others: bool,
    ) -> Vec<Duration> {
        let now = Instant::now();
        let wait = |_| {
            let failed = failures.failed(*failing, None, now);
            *failing = Some(failed);
            assert_eq!(failed.until, now + failed.wait);
            assert!(failed.waits(now) && !failed.waits(failed.until));
            if others {
                failures.answered();
            }
            failed.wait
        };
        (0..count).map(wait).collect()
    }

    #[test]
    fn one_that_always_fails_is_tried_ever_more_rarely_unless_all_do() {
        let (mut failures, mut failing) = (Failures::default(), None);
        let mut waits = |count, others| waits(&mut failures, &mut failing, count, others);
        let all = waits(12, false);
        assert_eq!((all[0], all[1], all[11]), (LEAST, LEAST * 2, ALL_MAX));
        assert_eq!(waits(12, true).last(), Some(&ONE_MAX));
        // Short waits again when no other object is answered any more.
        assert_eq!(waits(2, false).last(), Some(&ALL_MAX));
        // An answer about the object itself.
        failures.answered();
        let mut failing = None;
        assert_eq!(self::waits(&mut failures, &mut failing, 1, false), [LEAST]);
        let (now, asked) = (Instant::now(), Duration::from_secs(3));
        assert_eq!(failures.failed(None, Some(asked), now).until, now + asked);
    }

    #[test]
    fn the_server_is_down_when_it_takes_nothing_of_many() {
        let mut failures = Failures::default();
        let fail = |failures: &mut Failures| failures.failed(None, None, Instant::now());
        (0..IN_A_ROW - 1).for_each(|_| {
            fail(&mut failures);
        });
        assert!(!failures.is_down());
        fail(&mut failures);
        assert!(failures.is_down());
        failures.answered();
        assert!(!failures.is_down());
    }
}
