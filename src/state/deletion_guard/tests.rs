//! The two rules by tables, and random losses against the limits.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::types::encoding;

const fn lost(watched: u64, compared: u64) -> Lost {
    Lost { watched, compared }
}

fn minutes(minutes: u64) -> Timestamp {
    Timestamp(minutes * MINUTE_MS)
}

fn count_all(window: &mut Window, at: Timestamp, lost: Lost, waits: bool) {
    (0..lost.watched).for_each(|_| window.count(at, Found::Watched, waits));
    (0..lost.compared).for_each(|_| window.count(at, Found::Compared, waits));
}

fn holds(window: &Window, at: Timestamp, cids: u64, waiting: u64, lost: Lost) -> (bool, bool) {
    let limits = Limits::default();
    let Holds { watched, compared } = window.holds(lost, AtStake { cids, waiting }, at, &limits);
    (watched, compared)
}

#[test]
fn losses_up_to_the_limits_pass_and_larger_ones_wait() {
    // CIDs left, taken before, about to be lost; whether watched ones and compared ones wait.
    let cases = [
        (1, lost(0, 0), lost(0, 1), (false, false)), // fewer than 2
        (2, lost(0, 0), lost(0, 2), (false, true)),
        (2, lost(0, 0), lost(0, 1), (false, false)),
        (1, lost(0, 1), lost(0, 1), (false, true)), // the last, one after the other
        (1, lost(9, 0), lost(0, 1), (false, false)), // watched deletions do not count for rule 1
        (1, lost(0, 2), lost(1, 0), (false, false)), // rule 1 does not apply to watched ones
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
        // Both ways count for the second rule.
        (800, lost(150, 50), lost(51, 0), (true, true)),
        (800, lost(200, 0), lost(0, 60), (true, true)),
        (800, lost(200, 0), lost(30, 30), (true, true)),
        // The first rule does not make watched deletions wait.
        (1000, lost(0, 0), lost(1, 500), (false, true)),
    ];
    for (cids, taken, about, expected) in cases {
        let mut window = Window::default();
        count_all(&mut window, minutes(5), taken, false);
        assert_eq!(
            holds(&window, minutes(6), cids, 0, about),
            expected,
            "{cids} CIDs, {taken:?} taken, {about:?}"
        );
    }
}

#[test]
fn waiting_claims_count_for_an_hour_for_the_rule_that_made_them_wait() {
    let mut window = Window::default();
    count_all(&mut window, minutes(5), lost(0, 50), true);
    assert_eq!(holds(&window, minutes(6), 400, 50, lost(0, 1)), (false, true));
    assert_eq!(holds(&window, minutes(6), 400, 50, lost(90, 0)), (false, true));
    // Two CIDs are left, and would be the last; then three.
    assert_eq!(holds(&window, minutes(70), 52, 50, lost(0, 2)), (false, true));
    assert_eq!(holds(&window, minutes(70), 53, 50, lost(0, 2)), (false, false));
    count_all(&mut window, minutes(7), lost(150, 0), true);
    assert_eq!(holds(&window, minutes(8), 400, 200, lost(1, 0)), (true, true));
    assert_eq!(holds(&window, minutes(70), 400, 200, lost(1, 0)), (false, false));
    // Percentages are not of claims that have waited for longer than an hour.
    assert_eq!(holds(&window, minutes(70), 10_000, 8_000, lost(500, 0)), (false, false));
    assert_eq!(holds(&window, minutes(70), 10_000, 8_000, lost(501, 0)), (true, true));
}

#[test]
fn counts_last_an_hour_though_the_clock_jumps() {
    let (about, cids) = (lost(60, 0), 40);
    let at = |window: &Window, minute| holds(window, minutes(minute), cids, 0, about).0;
    let mut window = Window::default();
    count_all(&mut window, minutes(1000), lost(60, 0), false);
    assert!(at(&window, 1000) && at(&window, 1060));
    assert!(!at(&window, 1061));
    // Set back: time stays at the last count.
    assert!(at(&window, 3));
    assert_eq!(window.latest(), minutes(1000));
    count_all(&mut window, minutes(3), lost(1, 0), false);
    assert_eq!(window.latest(), minutes(1000));
    // Set forward: the window is empty. Set back again: the later counts still count.
    count_all(&mut window, minutes(9000), lost(60, 0), false);
    assert!(at(&window, 1001) && at(&window, 9001));
    assert_eq!(window.minutes.len(), 1, "older minutes are dropped");
    // An approval.
    window.begin_anew();
    assert!(!at(&window, 9001));
}

#[test]
fn a_new_count_drops_only_minutes_older_than_an_hour() {
    let cids = 40;
    for (later, counts) in [(0, true), (59, true), (60, true), (61, false), (90, false)] {
        let mut window = Window::default();
        count_all(&mut window, minutes(1000), lost(100, 0), false);
        count_all(&mut window, minutes(1000 + later), lost(0, 1), true);
        let holds = holds(&window, minutes(1000 + later), cids, 1, lost(1, 0));
        assert_eq!(holds.0, counts, "{later} minutes later");
        let kept = if later > 0 && counts { 2 } else { 1 };
        assert_eq!(window.minutes.len(), kept, "{later} minutes later");
    }
}

#[test]
fn percentages_are_also_of_cids_that_began_to_wait_within_the_hour() {
    // CIDs, waiting ones included; those that began to wait within the hour; all that wait; those about
    // to be lost; whether watched ones and compared ones wait.
    let cases = [
        (510, lost(0, 50), 50, lost(0, 1), (false, false)), // 51 of 510
        (509, lost(0, 50), 50, lost(0, 1), (false, true)),
        (604, lost(200, 0), 200, lost(1, 0), (true, true)), // 201 of 604
        (804, lost(200, 0), 200, lost(1, 0), (false, false)),
        (803, lost(200, 0), 200, lost(1, 0), (true, true)),
        // Others have waited for longer.
        (580, lost(0, 50), 120, lost(0, 1), (false, false)),
        (579, lost(0, 50), 120, lost(0, 1), (false, true)),
    ];
    for (cids, waited, waiting, about, expected) in cases {
        let mut window = Window::default();
        count_all(&mut window, minutes(5), waited, true);
        let found = holds(&window, minutes(6), cids, waiting, about);
        assert_eq!(found, expected, "{cids} CIDs, {waited:?} waited, {waiting} wait, {about:?}");
    }
}

#[test]
fn a_ruling_depends_on_how_the_deletion_was_found() {
    for (watched, compared) in [(false, false), (false, true), (true, true)] {
        let holds = Holds { watched, compared };
        for (found, waits) in [(Found::Watched, watched), (Found::Compared, compared)] {
            let expected = if waits { Ruling::Wait(found) } else { Ruling::Take(found) };
            assert_eq!(holds.ruling(found), expected, "{holds:?}");
        }
    }
}

#[test]
fn a_digest_is_parsed_from_its_text() {
    let digest = WaitingDigest([0, 1, 0xab, 0xcd, 0xef, 0xff]);
    assert_eq!(digest.to_string(), "0001abcdefff");
    assert_eq!("0001abcdefff".parse(), Ok(digest));
    for wrong in ["", "yes", "0001abcdeff", "0001abcdefff0", " 0001abcdefff"] {
        assert_eq!(wrong.parse::<WaitingDigest>(), Err(NoDigest), "{wrong:?}");
    }
}

const fn plus(a: Lost, b: Lost) -> Lost {
    lost(a.watched + b.watched, a.compared + b.compared)
}

/// For two hours, makes and deletes `each` CIDs a minute, one after the other or all of a minute at once.
/// Returns how often deletions had to wait.
fn churn(window: &mut Window, living: u64, each: u64, at_once: bool) -> u64 {
    let mut held = 0;
    for minute in 0..120 {
        let rounds = if at_once { 1 } else { each };
        for _ in 0..rounds {
            let part = each / rounds;
            (0..part).for_each(|_| window.gain());
            let about = lost(part, 0);
            let (waits, _) = holds(window, minutes(minute), living + part, 0, about);
            held += u64::from(waits);
            count_all(window, minutes(minute), about, waits);
        }
    }
    held
}

#[test]
fn steady_churn_passes_and_a_mass_deletion_during_it_waits() {
    for (living, each, at_once) in
        [(30, 2, true), (30, 2, false), (30, 60, false), (1000, 20, true), (1000, 200, true)]
    {
        let mut window = Window::default();
        let case = format!("{each} a minute of {living}");
        assert_eq!(churn(&mut window, living, each, at_once), 0, "{case}");
        let about = |count| holds(&window, minutes(119), living, 0, lost(count, 0)).0;
        let last = if at_once { each } else { 1 };
        let limit = 100.max((living + last) / 4) - last;
        assert!(!about(limit.min(living)), "{case}: {limit}");
        assert!(living < limit || about(limit + 1), "{case}: {limit}");
    }
}

#[test]
fn a_new_cid_makes_up_only_for_earlier_losses() {
    // Numbers of new or lost CIDs; then whether 60 more of 300 must wait.
    enum Step {
        New(u64),
        Lost(u64),
    }
    use Step::{Lost as Gone, New};
    let table: [(&[Step], bool); 7] = [
        (&[], false),
        (&[Gone(80)], true),
        (&[Gone(80), New(80)], false),
        (&[Gone(80), New(30)], true),
        (&[New(1000), Gone(80)], true),
        (&[Gone(80), New(1000), Gone(60)], true),
        (&[New(30), Gone(30), New(30), Gone(30)], false),
    ];
    for (n, (steps, waits)) in table.iter().enumerate() {
        // All within one minute, or one step a minute.
        for pause in [0, 1] {
            let mut window = Window::default();
            let mut now = 7;
            for step in *steps {
                now += pause;
                match step {
                    New(count) => (0..*count).for_each(|_| window.gain()),
                    Gone(count) => count_all(&mut window, minutes(now), lost(*count, 0), false),
                }
            }
            let found = holds(&window, minutes(now), 300, 0, lost(60, 0)).0;
            assert_eq!(found, *waits, "{n}, {pause} minutes between");
        }
    }
}

#[test]
fn the_limits_are_settings() {
    let limits =
        Limits { compared: Limit { cids: 1, percent: 5 }, total: Limit { cids: 3, percent: 50 } };
    let at_stake = AtStake { cids: 8, waiting: 0 };
    let found = |about| Window::default().holds(about, at_stake, minutes(1), &limits);
    let holds = |watched, compared| Holds { watched, compared };
    assert_eq!(found(lost(4, 0)), holds(false, false));
    assert_eq!(found(lost(5, 0)), holds(true, true));
    assert_eq!(found(lost(0, 1)), holds(false, false));
    assert_eq!(found(lost(0, 2)), holds(false, true));
}

proptest! {
    /// Random losses, with a restart after each: whenever a claim ends without a person, the number of
    /// CIDs has fallen by no more than the limits since any moment of the hour.
    #[test]
    fn no_sequence_of_losses_exceeds_the_limits(
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
            (0..created).for_each(|_| window.gain());
            let holds = window.holds(about, stake, minutes(now), &Limits::default());
            let mut taken = Lost::default();
            let parts = [
                (holds.watched, lost(about.watched, 0)),
                (holds.compared, lost(0, about.compared)),
            ];
            for (waits, part) in parts {
                count_all(&mut window, minutes(now), part, waits);
                if waits {
                    waiting += part.watched + part.compared;
                } else {
                    taken = plus(taken, part);
                    cids -= part.watched + part.compared;
                }
            }
            window = encoding::from_slice(&encoding::to_vec(&window)).unwrap();
            prop_assert!(window.minutes.len() <= 61);
            history.push((now, before, created, taken));
            if taken == Lost::default() {
                continue;
            }

            // The fall from the highest number of CIDs within the hour to now.
            let hour: Vec<_> = history.iter().filter(|(at, ..)| at + WINDOW_MINUTES >= now).collect();
            let mut compared = 0;
            let (mut fallen, mut lost_since) = (0_u64, 0_u64);
            for (_, _, created, taken) in &hour {
                let lost = taken.watched + taken.compared;
                fallen = fallen.saturating_sub(*created) + lost;
                lost_since = lost_since.saturating_sub(*created) + lost;
                compared += taken.compared;
            }
            let there = cids - waiting + lost_since + waiting;
            prop_assert!(fallen <= 100.max(there / 4), "{fallen} of {there}");
            if taken.compared > 0 {
                prop_assert!(compared <= 10.max(there / 10), "{compared} of {there}");
                prop_assert!(compared < 2 || cids > waiting, "the last ones");
            }
        }
    }
}
