//! Decides when a changed status is written. Pure.
//!
//! - A settled status is written at once.
//! - An unsettled one is written after it has differed for [`LINGER`].
//! - A change of messages alone is written every [`WORDS_EVERY`].
//! - An object has one write at a time. Events during a write are handled after it.

use std::time::Duration;

use tokio::time::Instant;

use super::difference::Difference;
use crate::controller::queue::Priority;

/// An unsettled status is written after it has differed for this long.
pub const LINGER: Duration = Duration::from_millis(500);
/// Shortest time between two writes of messages alone.
pub(super) const WORDS_EVERY: Duration = Duration::from_secs(30);

/// Result of a check of an object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Difference from the status on the object.
    pub(super) difference: Difference,
    /// No further change is expected soon.
    pub(super) settled: bool,
    /// When the verdict may change by time alone.
    pub(super) recheck: Option<Instant>,
}

/// What to do after a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// Write the status now.
    pub(super) write: bool,
    /// Check again at this time.
    pub(super) again: Option<(Instant, Priority)>,
}

/// Write pace of one object.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pace {
    /// Since when an unsettled status has differed.
    noticed: Option<Instant>,
    /// When an unsettled status was last written.
    written: Option<Instant>,
    under_way: bool,
    /// An event arrived during the write.
    again: bool,
}

impl Pace {
    /// Whether the object may be checked now. If a write is in flight, it is checked after it.
    pub(super) fn may_look(&mut self) -> bool {
        self.again |= self.under_way;
        !self.under_way
    }

    /// Decides what to do after a check of the object, which was queued with `priority`.
    pub(super) fn due(&mut self, look: Look, priority: Priority, now: Instant) -> Due {
        let recheck = look.recheck.map(|at| (at, Priority::Later));
        let (due, priority) = match look.difference {
            Difference::None => {
                self.noticed = None;
                return Due { write: false, again: recheck };
            }
            Difference::Facts if look.settled => (now, priority),
            Difference::Facts => (*self.noticed.get_or_insert(now) + LINGER, priority),
            Difference::Words => (*self.written.get_or_insert(now) + WORDS_EVERY, Priority::Later),
        };
        let write = now >= due;
        let wait = (!write).then_some((due, priority));
        Due { write, again: recheck.into_iter().chain(wait).min_by_key(|(at, _)| *at) }
    }

    /// A write begins.
    pub(super) fn begin(&mut self, settled: bool, now: Instant) {
        self.noticed = None;
        self.written = (!settled).then_some(now);
        self.under_way = true;
    }

    /// A write ended; returns whether an event arrived meanwhile.
    pub(super) fn end(&mut self) -> bool {
        self.under_way = false;
        std::mem::take(&mut self.again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(1);

    /// An arbitrary start, the same throughout a test.
    fn start() -> Instant {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *START.get_or_init(Instant::now)
    }

    fn look(difference: Difference, settled: bool) -> Look {
        Look { difference, settled, recheck: None }
    }

    #[test]
    fn what_is_settled_is_written_at_once_and_the_rest_when_it_stays_so() {
        use Difference::{Facts, None, Words};
        const ZERO: Duration = Duration::ZERO;
        /// Checks of one object: time since the first, difference, settled, and whether it is
        /// written.
        type Looks<'a> = &'a [(Duration, Difference, bool, bool)];
        let cases: [(&str, Looks<'_>); 7] = [
            ("settled", &[(ZERO, Facts, true, true)]),
            ("no difference", &[(ZERO, None, true, false), (LINGER, None, false, false)]),
            (
                "unsettled",
                &[
                    (ZERO, Facts, false, false),
                    (Duration::from_millis(499), Facts, false, false),
                    (LINGER, Facts, false, true),
                ],
            ),
            ("settled meanwhile", &[(ZERO, Facts, false, false), (TICK, Facts, true, true)]),
            (
                "taken back and noticed anew",
                &[
                    (ZERO, Facts, false, false),
                    (TICK, None, false, false),
                    (LINGER, Facts, false, false),
                    (Duration::from_millis(999), Facts, false, false),
                    (Duration::from_secs(1), Facts, false, true),
                ],
            ),
            (
                "words, also of what is settled",
                &[
                    (ZERO, Words, true, false),
                    (LINGER, Words, false, false),
                    (Duration::from_millis(29_999), Words, true, false),
                    (WORDS_EVERY, Words, true, true),
                ],
            ),
            ("words hold no facts up", &[(ZERO, Words, false, false), (TICK, Facts, true, true)]),
        ];
        for (what, looks) in cases {
            let mut pace = Pace::default();
            for (at, difference, settled, written) in looks {
                let now = start() + *at;
                let due = pace.due(look(*difference, *settled), Priority::Fresh, now);
                assert_eq!(due.write, *written, "{what}, after {at:?}");
                let waits = !written && *difference != None;
                let later = due.again.is_some_and(|(again, _)| again > now);
                assert_eq!((due.again.is_some(), later), (waits, waits), "{what}, after {at:?}");
            }
        }
    }

    #[test]
    fn what_waits_or_may_change_by_time_alone_is_looked_at_again_then() {
        use Difference::{Facts, None, Words};
        let now = start();
        let (soon, late) = (now + TICK, now + WORDS_EVERY * 2);
        let linger = Some((now + LINGER, Priority::Fresh));
        let words = Some((now + WORDS_EVERY, Priority::Later));
        let recheck = |at| Some((at, Priority::Later));
        let cases = [
            (None, true, Option::None, Option::None),
            (None, false, Some(late), recheck(late)),
            (Facts, true, Option::None, Option::None),
            (Facts, true, Some(late), recheck(late)),
            (Facts, false, Option::None, linger),
            (Facts, false, Some(soon), recheck(soon)),
            (Facts, false, Some(late), linger),
            (Words, false, Option::None, words),
            (Words, true, Some(soon), recheck(soon)),
            (Words, true, Some(late), words),
        ];
        for (difference, settled, recheck, again) in cases {
            let mut pace = Pace::default();
            let look = Look { difference, settled, recheck };
            let due = pace.due(look, Priority::Fresh, now);
            assert_eq!(due, Due { write: difference == Facts && settled, again }, "{look:?}");
        }
        let due = Pace::default().due(look(Facts, false), Priority::Later, now);
        assert_eq!(due.again, Some((now + LINGER, Priority::Later)));
    }

    #[test]
    fn waits_are_counted_from_the_last_write_and_from_what_was_first_noticed() {
        use Difference::{Facts, Words};
        let (start, later) = (start(), start() + LINGER * 3);
        let again = |pace: &mut Pace, difference| {
            let due = pace.due(look(difference, false), Priority::Fresh, later);
            due.again.map(|(at, _)| at)
        };
        // An unsettled status was written.
        let mut pace = Pace::default();
        pace.begin(false, start);
        assert_eq!(again(&mut pace, Words), Some(start + WORDS_EVERY));
        // After a settled write, or for a new object, the wait starts over.
        for settled in [true, false] {
            let mut pace = Pace::default();
            pace.begin(false, start);
            if settled {
                pace.begin(true, start);
            } else {
                pace = Pace::default();
            }
            assert_eq!(again(&mut pace, Words), Some(later + WORDS_EVERY), "{settled}");
        }
        // So does an unsettled status after a write, or for a new object.
        for written in [true, false] {
            let mut pace = Pace::default();
            pace.due(look(Facts, false), Priority::Fresh, start);
            if written {
                pace.begin(false, start + LINGER);
            } else {
                pace = Pace::default();
            }
            assert_eq!(again(&mut pace, Facts), Some(later + LINGER), "{written}");
        }
    }

    #[test]
    fn what_happens_during_a_write_is_looked_at_after_it() {
        let (now, mut pace) = (start(), Pace::default());
        assert!(pace.may_look());
        pace.begin(true, now);
        assert!(!pace.may_look(), "one write at a time");
        assert!(!pace.may_look());
        assert!(pace.end(), "something happened");
        assert!(pace.may_look());
        pace.begin(true, now);
        assert!(!pace.end(), "nothing happened this time");
    }
}
