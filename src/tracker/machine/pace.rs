//! How many pins started recently.

use std::time::Duration;

use super::pinning::ANSWER_AGE_MAX;

/// Counts by periods of the time after which an answer is old.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    since: Duration,
    now: usize,
    before: usize,
}

impl Pace {
    pub(super) fn count(&mut self, at: Duration) {
        *self = self.at(at);
        self.now += 1;
    }

    /// Roughly within the time after which an answer is old.
    pub(super) fn recent(self, at: Duration) -> usize {
        let pace = self.at(at);
        pace.now.max(pace.before)
    }

    fn at(self, at: Duration) -> Self {
        match at.saturating_sub(self.since) {
            passed if passed < ANSWER_AGE_MAX => self,
            passed if passed < 2 * ANSWER_AGE_MAX => {
                Self { since: self.since + ANSWER_AGE_MAX, now: 0, before: self.now }
            }
            _ => Self { since: at, now: 0, before: 0 },
        }
    }
}
