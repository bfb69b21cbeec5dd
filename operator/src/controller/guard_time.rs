//! The clock of the deletion guard.
//!
//! It starts with a leadership and then follows the monotonic clock, whatever the wall clock does.
//! Invariant: it never goes back, not even behind times that earlier leaderships counted. Otherwise
//! a jump of the wall clock could open the deletion guard.

use pinkeeper::types::{Timestamp, millis};
use tokio::time::Instant;

/// A leadership's time.
#[derive(Clone, Copy, Debug)]
pub(super) struct GuardTime {
    from: Timestamp,
    since: Instant,
}

impl GuardTime {
    /// Starts at the wall clock's time, or at the last counted time if that is later.
    pub(super) fn begin(wall: Timestamp, counted: Timestamp) -> Self {
        Self { from: wall.max(counted), since: Instant::now() }
    }

    /// Now.
    pub(super) fn now(self) -> Timestamp {
        Timestamp(self.from.0.saturating_add(millis(self.since.elapsed())))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use pinkeeper::{
        state::{Fence, Found, Limits, Lost, Op, Outcome, PinSet, Ruling},
        types::{Cid, ClaimName, ClaimOptions, Factor, LogPosition, Owner, Replication, Uid},
    };

    use super::*;
    use crate::controller::objects::tests::DOCS;

    const HOUR: Duration = Duration::from_secs(3600);
    /// A day into the epoch.
    const WALL: Timestamp = Timestamp(24 * 3_600_000);

    /// Unpins one CID that the comparison found.
    fn take_one(pins: &mut PinSet, at: Timestamp) {
        let (cid, uid): (Cid, _) = (DOCS.parse().unwrap(), Uid("a".into()));
        let replication = Replication { min: Factor::Count(1), max: Factor::Count(1) };
        let options = ClaimOptions { replication, retain: false, name: ClaimName::default() };
        let (owner, candidates) = (Owner::Object(uid.clone()), Vec::new());
        let fence = Fence { term: 1, generation: 1 };
        let fenced = Some(fence);
        let ruling = Ruling::Take(Found::Compared);
        for op in [
            Op::Claim { cid, owner, options, candidates, at, fence: fenced },
            Op::Gone { cid, uid, ruling, at, fence },
        ] {
            assert_eq!(pins.apply(LogPosition { term: 1, index: 0 }, &op), Outcome::Changed);
        }
    }

    /// Whether the last CID would wait if the comparison found it deleted.
    fn holds(pins: &PinSet, at: Timestamp) -> bool {
        pins.guard(Lost { watched: 0, compared: 1 }, at, &Limits::default()).compared
    }

    fn begin(pins: &PinSet, wall: Timestamp) -> GuardTime {
        GuardTime::begin(wall, pins.window().latest())
    }

    #[tokio::test(start_paused = true)]
    async fn clocks_that_jump_neither_open_the_deletion_guard_nor_jam_it() {
        // The next leader's clock is right, nearly a day behind, or at the epoch.
        for wall in [WALL, Timestamp(WALL.0 / 24), Timestamp(0)] {
            let mut pins = PinSet::default();
            let first = begin(&pins, WALL);
            take_one(&mut pins, first.now());
            let next = begin(&pins, wall);
            assert!(holds(&pins, next.now()), "{wall}");
            tokio::time::advance(HOUR - Duration::from_secs(60)).await;
            assert!(holds(&pins, next.now()), "{wall}");
            tokio::time::advance(Duration::from_secs(180)).await;
            assert!(!holds(&pins, next.now()), "{wall}");
        }

        // A leader with a clock a year ahead finds an empty window once. What it unpins then counts
        // for an hour of leadership, for itself and for its successors.
        let mut pins = PinSet::default();
        let first = begin(&pins, WALL);
        take_one(&mut pins, first.now());
        let ahead = Timestamp(WALL.0 * 365);
        let wrong = begin(&pins, ahead);
        assert!(!holds(&pins, wrong.now()));
        take_one(&mut pins, wrong.now());
        for wall in [WALL, ahead] {
            assert!(holds(&pins, begin(&pins, wall).now()));
        }
        let right = begin(&pins, WALL);
        tokio::time::advance(HOUR + Duration::from_secs(120)).await;
        assert!(!holds(&pins, right.now()));
    }
}
