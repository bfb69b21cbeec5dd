//! The two rules by tables, and what no order of events may get past them.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const fn lost(watched: u64, compared: u64) -> Lost {
    Lost { watched, compared }
}

fn minutes(minutes: u64) -> Timestamp {
    Timestamp(minutes * MINUTE_MS)
}

fn counted(window: &mut Window, at: Timestamp, lost: Lost, waits: bool) {
    (0..lost.watched).for_each(|_| window.count(at, Found::Watched, waits));
    (0..lost.compared).for_each(|_| window.count(at, Found::Compared, waits));
}

fn holds(window: &Window, at: Timestamp, cids: u64, waiting: u64, lost: Lost) -> (bool, bool) {
    let Holds { watched, compared } = window.holds(lost, AtStake { cids, waiting }, at);
    (watched, compared)
}

#[test]
fn the_limits_are_where_they_are_said_to_be() {
    // CIDs left, taken before, about to be lost: whether watched ones and compared ones wait.
    let cases = [
        (1, lost(0, 0), lost(0, 1), (false, false)), // one is not "all"
        (2, lost(0, 0), lost(0, 2), (false, true)),
        (2, lost(0, 0), lost(0, 1), (false, false)),
        (1, lost(0, 1), lost(0, 1), (false, true)), // all, one after the other
        (1, lost(9, 0), lost(0, 1), (false, false)), // the others were deleted as people do
        (1, lost(0, 2), lost(1, 0), (false, false)), // nothing that the comparison missed
        (2, lost(0, 0), lost(1, 1), (false, false)),
        (3, lost(0, 0), lost(1, 2), (false, true)),
        (100, lost(0, 0), lost(0, 10), (false, false)),
        (100, lost(0, 0), lost(0, 11), (false, true)),
        (200, lost(0, 0), lost(0, 20), (false, false)),
        (200, lost(0, 0), lost(0, 21), (false, true)),
        (195, lost(0, 5), lost(0, 15), (false, false)),
        (195, lost(0, 5), lost(0, 16), (false, true)),
        (100, lost(0, 0), lost(100, 0), (false, false)),
        (101, lost(0, 0), lost(101, 0), (true, true)),
        (400, lost(0, 0), lost(100, 0), (false, false)),
        (404, lost(0, 0), lost(101, 0), (false, false)),
        (403, lost(0, 0), lost(101, 0), (true, true)),
        (1000, lost(0, 0), lost(250, 0), (false, false)),
        (1000, lost(0, 0), lost(251, 0), (true, true)),
        (800, lost(200, 0), lost(50, 0), (false, false)),
        (800, lost(200, 0), lost(51, 0), (true, true)),
        // Neither way makes room for the other.
        (800, lost(150, 50), lost(51, 0), (true, true)),
        (800, lost(200, 0), lost(0, 60), (true, true)),
        (800, lost(200, 0), lost(30, 30), (true, true)),
        // What the comparison alone keeps back is nothing to watched deletions.
        (1000, lost(0, 0), lost(1, 500), (false, true)),
    ];
    for (cids, taken, about, expected) in cases {
        let mut window = Window::default();
        counted(&mut window, minutes(5), taken, false);
        assert_eq!(
            holds(&window, minutes(6), cids, 0, about),
            expected,
            "{cids} CIDs, {taken:?} taken, {about:?}"
        );
    }
}

#[test]
fn what_waits_counts_for_its_own_rule_within_the_hour() {
    let mut window = Window::default();
    counted(&mut window, minutes(5), lost(0, 50), true);
    assert_eq!(holds(&window, minutes(6), 400, 50, lost(0, 1)), (false, true));
    assert_eq!(holds(&window, minutes(6), 400, 50, lost(90, 0)), (false, true));
    // Only what does not wait yet is left to lose.
    assert_eq!(holds(&window, minutes(70), 52, 50, lost(0, 2)), (false, true));
    assert_eq!(holds(&window, minutes(70), 53, 50, lost(0, 2)), (false, false));
    counted(&mut window, minutes(7), lost(150, 0), true);
    assert_eq!(holds(&window, minutes(8), 400, 200, lost(1, 0)), (true, true));
    assert_eq!(holds(&window, minutes(70), 400, 200, lost(1, 0)), (false, false));
    // What waits for longer is not there to make the rest look small.
    assert_eq!(holds(&window, minutes(70), 10_000, 8_000, lost(500, 0)), (false, false));
    assert_eq!(holds(&window, minutes(70), 10_000, 8_000, lost(501, 0)), (true, true));
}

#[test]
fn an_hour_is_over_after_an_hour_whatever_the_clock_does() {
    let (about, cids) = (lost(60, 0), 40);
    let at = |window: &Window, minute| holds(window, minutes(minute), cids, 0, about).0;
    let mut window = Window::default();
    counted(&mut window, minutes(1000), lost(60, 0), false);
    assert!(at(&window, 1000) && at(&window, 1060));
    assert!(!at(&window, 1061));
    // Set back: as if no time had passed; the leader's time goes on from what is counted.
    assert!(at(&window, 3));
    assert_eq!(window.latest(), minutes(1000));
    counted(&mut window, minutes(3), lost(1, 0), false);
    assert_eq!(window.latest(), minutes(1000));
    // Set forward once: empty, and back again: what was counted then still counts.
    counted(&mut window, minutes(9000), lost(60, 0), false);
    assert!(at(&window, 1001) && at(&window, 9001));
    assert_eq!(window.minutes.len(), 1, "what is over is not kept");
    // A person's word.
    window.begin_anew();
    assert!(!at(&window, 9001));
}

#[test]
fn what_is_an_hour_old_is_kept_when_something_more_is_counted() {
    let cids = 40;
    for (later, counts) in [(0, true), (59, true), (60, true), (61, false), (90, false)] {
        let mut window = Window::default();
        counted(&mut window, minutes(1000), lost(100, 0), false);
        counted(&mut window, minutes(1000 + later), lost(0, 1), true);
        let holds = holds(&window, minutes(1000 + later), cids, 1, lost(1, 0));
        assert_eq!(holds.0, counts, "{later} minutes later");
        let kept = if later > 0 && counts { 2 } else { 1 };
        assert_eq!(window.minutes.len(), kept, "{later} minutes later");
    }
}

#[test]
fn what_began_to_wait_within_the_hour_is_still_one_of_the_cids() {
    // CIDs, waiting ones included; those that began to wait within the hour; all that wait; about to
    // be lost.
    let cases = [
        (510, lost(0, 50), 50, lost(0, 1), (false, false)), // 51 of 510
        (509, lost(0, 50), 50, lost(0, 1), (false, true)),
        (604, lost(200, 0), 200, lost(1, 0), (true, true)), // 201 of 604
        (804, lost(200, 0), 200, lost(1, 0), (false, false)),
        (803, lost(200, 0), 200, lost(1, 0), (true, true)),
        // Some of them were allowed or taken up again: they are not there any more.
        (510, lost(0, 50), 30, lost(0, 1), (false, false)),
        (509, lost(0, 50), 30, lost(0, 1), (false, true)),
        // Others wait for longer.
        (580, lost(0, 50), 120, lost(0, 1), (false, false)),
        (579, lost(0, 50), 120, lost(0, 1), (false, true)),
    ];
    for (cids, waited, waiting, about, expected) in cases {
        let mut window = Window::default();
        counted(&mut window, minutes(5), waited, true);
        let found = holds(&window, minutes(6), cids, waiting, about);
        assert_eq!(found, expected, "{cids} CIDs, {waited:?} waited, {waiting} wait, {about:?}");
    }
}

#[test]
fn a_ruling_is_of_the_way_in_which_it_was_found() {
    for (watched, compared) in [(false, false), (false, true), (true, true)] {
        let holds = Holds { watched, compared };
        for (found, waits) in [(Found::Watched, watched), (Found::Compared, compared)] {
            let expected = if waits { Ruling::Wait(found) } else { Ruling::Take(found) };
            assert_eq!(holds.ruling(found), expected, "{holds:?}");
        }
    }
}

#[test]
fn a_digest_is_read_as_it_is_written() {
    let digest = WaitingDigest([0, 1, 0xab, 0xcd, 0xef, 0xff]);
    assert_eq!(digest.to_string(), "0001abcdefff");
    assert_eq!("0001abcdefff".parse(), Ok(digest));
    for wrong in ["", "yes", "0001abcdeff", "0001abcdefff0", " 0001abcdefff"] {
        assert_eq!(wrong.parse::<WaitingDigest>(), Err(NoDigest), "{wrong:?}");
    }
}

proptest! {
    /// Whatever is lost when and how, in small parts or at once, with restarts in between: whenever
    /// something is taken without a person, what was taken within the hour is within the limits, of
    /// the CIDs at its beginning and those made since.
    #[test]
    fn nothing_gets_past_the_limits(
        first in 0_u64..600,
        steps in prop::collection::vec((0_u64..40, 0_u64..30, 0_u64..80, 0_u64..80), 1..40),
    ) {
        let (mut cids, mut waiting, mut now) = (first, 0, 0);
        let mut window = Window::default();
        // Minute, CIDs before it, created in it, taken in it.
        let mut history: Vec<(u64, u64, u64, Lost)> = Vec::new();
        for (pause, created, watched, compared) in steps {
            now += pause;
            let before = cids;
            cids += created;
            let free = cids - waiting;
            let about = lost(watched.min(free), compared.min(free - watched.min(free)));
            let stake = AtStake { cids, waiting };
            let holds = window.holds(about, stake, minutes(now));
            let mut taken = Lost::default();
            let parts = [
                (holds.watched, lost(about.watched, 0)),
                (holds.compared, lost(0, about.compared)),
            ];
            for (waits, part) in parts {
                counted(&mut window, minutes(now), part, waits);
                if waits {
                    waiting += part.total();
                } else {
                    taken = taken.plus(part);
                    cids -= part.total();
                }
            }
            window = postcard::from_bytes(&postcard::to_stdvec(&window).unwrap()).unwrap();
            prop_assert!(window.minutes.len() <= 61);
            history.push((now, before, created, taken));
            if taken.total() == 0 {
                continue;
            }

            let hour: Vec<_> = history.iter().filter(|(at, ..)| at + WINDOW_MINUTES >= now).collect();
            let there = hour[0].1 + hour.iter().map(|(_, _, created, _)| created).sum::<u64>();
            let sum = hour.iter().fold(Lost::default(), |sum, (.., taken)| sum.plus(*taken));
            prop_assert!(sum.total() <= 100.max(there / 4), "{sum:?} of {there}");
            if taken.compared > 0 {
                prop_assert!(sum.compared <= 10.max(there / 10), "{sum:?} of {there}");
                prop_assert!(sum.compared < 2 || cids > waiting, "the last ones");
            }
        }
    }
}
