//! Tables of a Pin's conditions and messages.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::*;
use crate::controller::status::{
    conditions::conditions as conditions_of,
    graces::Graces,
    memory::Memories,
    words::{bounded, whole_seconds},
};

const REASONS: [PinReason; 10] = {
    use PinReason::*;
    [
        Pinned,
        Queued,
        Pinning,
        NotEnoughPeers,
        ContentNotFound,
        PinError,
        DaemonDown,
        InvalidCID,
        Unallocatable,
        Unpinnable,
    ]
};
const STEP: Duration = Duration::from_millis(1);

/// Conditions as `type=status`, with the seconds after [`WALL`] of their transition.
fn told(all: &[Condition]) -> Vec<(String, i64)> {
    let start = i64::try_from(WALL.0 / 1000).unwrap();
    let one = |c: &Condition| {
        (format!("{}={}", c.type_, c.status), c.last_transition_time.0.as_second() - start)
    };
    all.iter().map(one).collect()
}

fn wall(second: u64) -> Timestamp {
    Timestamp(WALL.0 + second * 1000 + 999)
}

#[test]
fn each_reason_has_its_conditions() {
    for reason in REASONS {
        for full in [false, true] {
            let (ready, stalled) = (reason == PinReason::Pinned, {
                use PinReason::{InvalidCID, Unallocatable, Unpinnable};
                matches!(reason, InvalidCID | Unallocatable | Unpinnable)
            });
            let text = |value| if value { "True" } else { "False" };
            let all = conditions_of(&object(1, 1), reason, full, "why", wall(3));
            let expected = [
                ("Ready", ready),
                ("Reconciling", !stalled && !ready),
                ("Stalled", stalled),
                ("FullyReplicated", full),
            ]
            .map(|(kind, value)| (format!("{kind}={}", text(value)), 3));
            assert_eq!(told(&all), expected, "{reason} {full}");
            for one in &all {
                assert_eq!((one.reason.as_str(), one.message.as_str()), (reason.as_str(), "why"));
                assert_eq!(one.observed_generation, Some(1));
            }
        }
    }
}

#[test]
fn a_condition_is_since_its_own_status_changed() {
    let mut object = object(1, 1);
    let mut see = |reason, full, second| {
        let all = conditions_of(&object, reason, full, "", wall(second));
        let status = crd::PinStatus { conditions: all.clone(), ..crd::PinStatus::default() };
        object.status = Some(status);
        told(&all).into_iter().map(|(_, second)| second).collect::<Vec<_>>()
    };
    // Ready, Reconciling, Stalled, FullyReplicated.
    assert_eq!(see(PinReason::Queued, false, 1), [1, 1, 1, 1]);
    assert_eq!(see(PinReason::Pinning, false, 2), [1, 1, 1, 1], "another reason");
    assert_eq!(see(PinReason::Pinned, false, 3), [3, 3, 1, 1]);
    assert_eq!(see(PinReason::Pinned, true, 4), [3, 3, 1, 4]);
    assert_eq!(see(PinReason::Unallocatable, false, 5), [5, 3, 5, 5]);
    assert_eq!(see(PinReason::Pinned, true, 6), [6, 3, 6, 6]);
    assert_eq!(see(PinReason::DaemonDown, false, 7), [7, 7, 6, 7]);
}

#[test]
fn reasons_go_by_what_decides_first() {
    use PinReason as R;
    use PinState::{DaemonDown, Failed, NotFound, Pinned, Pinning, Queued};
    let cases: &[(&[PinState], i32, i32, R)] = &[
        (&[Pinned, Queued], 2, 2, R::Pinning),
        (&[Pinned, Queued, NotFound], 3, 2, R::Pinning),
        (&[Pinned, Queued, NotFound], 3, 3, R::ContentNotFound),
        (&[Queued, NotFound, NotFound], 3, 1, R::Queued),
        (&[Queued, NotFound, NotFound], 3, 2, R::ContentNotFound),
        (&[Queued, Failed, DaemonDown], 3, 2, R::PinError),
        (&[NotFound, Failed, DaemonDown], 3, 1, R::ContentNotFound),
        (&[Failed, DaemonDown, DaemonDown], 3, 1, R::PinError),
        (&[DaemonDown; 3], 3, 1, R::DaemonDown),
        (&[Pinned, Pinned, DaemonDown], 3, 3, R::DaemonDown),
        (&[Pinned, Pinned, DaemonDown], 3, 2, R::Pinned),
        (&[NotFound, NotFound], 3, 2, R::ContentNotFound),
        (&[NotFound, NotFound], 3, 3, R::NotEnoughPeers),
        (&[Pinned, Pinned], 3, 3, R::NotEnoughPeers),
        (&[Pinning], 1, 1, R::Pinning),
    ];
    for (states, replicas, min, reason) in cases {
        let verdict = World::new(3, states).judge(&object(*replicas, *min), NOW);
        assert_eq!(verdict.reason, *reason, "{states:?} {min}/{replicas}");
    }
    // Without `replicas` the default applies.
    for (default, expected) in [(1, R::Pinned), (2, R::Pinned), (3, R::NotEnoughPeers)] {
        let world = World::new(3, &[Pinned, Pinned]);
        let object = pin("docs", "u", 5, DOCS);
        let verdict =
            judge(&object, View { default_replicas: default, ..world.view(NOW) }).unwrap();
        assert_eq!(verdict.reason, expected, "{default}");
        assert_eq!(verdict.status.copies, Some(format!("2/{default}")));
        assert_eq!(verdict.settled, expected == R::Pinned);
    }
}

#[test]
fn what_stops_a_pin_is_told_before_what_is_known_of_it() {
    let world = World::new(1, &[PinState::Pinned]);
    let refused = View { refused: Some(Refused::TooManyClaims), ..world.view(NOW) };
    let reason = |object: &PinObject, view| judge(object, view).map(|verdict| verdict.reason);
    let mut wrong = object(1, 1);
    wrong.cid = "x".parse();
    assert_eq!(reason(&object(1, 1), refused), Some(PinReason::Unallocatable));
    assert_eq!(reason(&wrong, refused), Some(PinReason::InvalidCID));
    assert_eq!(reason(&wrong, world.view(NOW)), Some(PinReason::InvalidCID));
    // Both are reported at once, for this generation, and without copies.
    for object in [&wrong, &object(1, 1)] {
        let verdict = judge(object, refused).unwrap();
        assert!(verdict.settled && verdict.recheck.is_none() && verdict.held.is_empty());
        assert_eq!(verdict.status.observed_generation, Some(1));
        assert_eq!((verdict.status.replicas, verdict.status.ready_replicas), (None, None));
        assert!(verdict.status.allocations.is_empty());
    }
    // An object that cannot be parsed gets no status.
    let unread = PinObject { spec: None, ..wrong };
    assert_eq!(reason(&unread, refused), None);
}

#[test]
fn only_a_claim_of_this_generation_or_a_later_one_counts() {
    let mut world = World::new(1, &[PinState::Pinned]);
    for (claimed, generation, said) in
        [(1, 1, true), (2, 1, true), (1, 2, false), (0, 1, false), (7, 8, false), (8, 8, true)]
    {
        let object = PinObject { generation, ..object(1, 1) };
        let owner = Owner::Object(object.uid.clone());
        let mut claim = world.pin.claims.get(&owner).unwrap().clone();
        claim.generation = claimed;
        world.pin.claims = [(owner, claim)].into_iter().collect();
        let verdict = judge(&object, world.view(NOW));
        assert_eq!(verdict.is_some(), said, "{claimed} {generation}");
        let observed = verdict.and_then(|verdict| verdict.status.observed_generation);
        assert_eq!(observed, said.then_some(generation));
        // The claim of another object does not count.
        let other = PinObject { uid: pinkeeper::types::Uid("another".into()), ..object };
        assert!(judge(&other, world.view(NOW)).is_none());
    }
}

#[test]
fn peers_are_missed_only_after_all_could_have_been_heard_of() {
    let world = World::new(3, &[PinState::Pinned]);
    for (at, reason, recheck) in [
        (Duration::ZERO, PinReason::Queued, Some(GATHERING)),
        (GATHERING - STEP, PinReason::Queued, Some(GATHERING)),
        (GATHERING, PinReason::NotEnoughPeers, None),
    ] {
        let verdict = judge(&object(2, 2), world.view(Moment { at, ..NOW })).unwrap();
        assert_eq!((verdict.reason, verdict.recheck), (reason, recheck), "{at:?}");
        // All other reasons are reported at once.
        let verdict = judge(&object(1, 1), world.view(Moment { at, ..NOW })).unwrap();
        assert_eq!((verdict.reason, verdict.recheck), (PinReason::Pinned, None), "{at:?}");
    }
}

#[test]
fn messages_are_true() {
    use PinState::{DaemonDown, Failed, NotFound, Pinned, Pinning, Queued};
    let cases: &[(&[PinState], i32, i32, &str)] = &[
        (&[Pinned, Pinned], 2, 2, "2 of 2 copies are confirmed"),
        (&[Pinned, Pinning], 2, 1, "1 of 2 copies are confirmed, 1 are needed"),
        (
            &[Pinned, NotFound],
            2,
            1,
            "1 of 2 copies are confirmed, 1 are needed; on p-2: content not found",
        ),
        (
            &[Pinned, Failed, NotFound],
            3,
            1,
            "1 of 3 copies are confirmed, 1 are needed; on p-3, p-2: content not found",
        ),
        (
            &[Pinned, Pinned],
            3,
            2,
            "2 of 3 copies are confirmed; the cluster has 4 peers, 2 can take it",
        ),
        (&[Pinned, Queued], 3, 1, "1 of 3 copies are confirmed, 1 are needed"),
        (&[Queued, Queued], 2, 2, "0 of 2 copies are confirmed, 2 are needed"),
        (
            &[Pinning, Failed],
            2,
            1,
            "0 of 2 copies are confirmed, 1 are needed; on p-2: the daemon failed",
        ),
        (
            &[Pinned],
            3,
            2,
            "2 copies are needed, but of the cluster's 4 peers only 1 can take one; 1 of 3 copies \
             are confirmed. Add peers, or ask for fewer copies",
        ),
        (
            &[NotFound, Failed, NotFound],
            3,
            1,
            "nobody seems to provide the content: on p-1, p-3: content not found. Add it to one of \
             the cluster's daemons, or start a node with it that they can reach; it is tried again \
             by itself",
        ),
        (
            &[Failed, DaemonDown],
            2,
            1,
            "0 of 2 copies are confirmed, 1 are needed; on p-1: the daemon failed. It is tried \
             again by itself",
        ),
        (
            &[DaemonDown; 4],
            4,
            1,
            "0 of 4 copies are confirmed, 1 are needed; on p-1, p-2, p-3 and 1 more: the daemon \
             does not answer. It goes on when they are back",
        ),
    ];
    for (states, replicas, min, expected) in cases {
        let verdict = World::new(4, states).judge(&object(*replicas, *min), NOW);
        assert_eq!(message(&verdict.status), *expected, "{states:?} {min}/{replicas}");
    }
    let mut world = World::new(1, &[Failed]);
    world.reports.get_mut(&id(1)).unwrap().message = "disk full; trying again".into();
    let verdict = world.judge(&object(1, 1), NOW);
    assert!(message(&verdict.status).ends_with("on p-1: disk full. It is tried again by itself"));
    world.peers.get_mut(&id(1)).unwrap().silent = Some(NOW);
    let verdict = world.judge(&object(1, 1), after(GRACE));
    let text = message(&verdict.status);
    assert!(text.contains("on p-1: the leader hears nothing of the peer. It goes on"), "{text}");
}

#[test]
fn too_few_peers_say_what_keeps_the_others_from_taking_a_copy() {
    use pinkeeper::{cluster::Obstacle, types::SpaceLimit};
    let mut world = World::new(6, &[PinState::Pinned]);
    let said = |world: &mut World| message(&world.judge(&object(2, 2), NOW).status).to_owned();
    assert!(said(&mut world).contains("only 1 can take one; 1 of 2"));
    let mut hinder = |n, obstacle| world.peers.get_mut(&id(n)).unwrap().obstacle = Some(obstacle);
    hinder(1, Obstacle::DaemonDown); // has its copy
    hinder(2, Obstacle::Full(SpaceLimit::StorageMax));
    hinder(3, Obstacle::Full(SpaceLimit::Volume));
    hinder(4, Obstacle::DaemonDown);
    hinder(5, Obstacle::Silent);
    let expected = "only 1 can take one (p-2: less than 64 MiB are left of what its daemon may take \
                    (Datastore.StorageMax), p-3: less than 64 MiB are free on its volume, p-4: its \
                    daemon does not answer, and 1 more); 1 of 2";
    let text = said(&mut world);
    assert!(text.contains(expected), "{text}");
}

#[test]
fn a_pin_is_stalled_when_too_few_daemons_are_left_that_can_pin_it() {
    use PinState::{NotFound, Pinned, Pinning, Unpinnable};
    // Two copies are needed.
    let table: [(&[PinState], PinReason); 6] = [
        (&[Unpinnable, Unpinnable], PinReason::Unpinnable),
        (&[Pinned, Unpinnable], PinReason::Unpinnable),
        (&[NotFound, Unpinnable, Unpinnable], PinReason::Unpinnable),
        (&[Pinned, Pinned, Unpinnable], PinReason::Pinned),
        (&[Pinned, Pinning, Unpinnable], PinReason::Pinning),
        (&[Pinned, NotFound, Unpinnable], PinReason::ContentNotFound),
    ];
    for (states, expected) in table {
        let mut world = World::new(3, states);
        let verdict = world.judge(&object(3, 2), NOW);
        assert_eq!(verdict.reason, expected, "{states:?}");
        let stalled = verdict.status.conditions.iter().find(|c| c.type_ == "Stalled").unwrap();
        assert_eq!(stalled.status == "True", expected == PinReason::Unpinnable, "{states:?}");
    }
}

#[test]
fn a_status_differs_in_facts_in_words_or_not_at_all() {
    use Difference::{Facts, None, Words};
    let mut world = World::new(2, &[PinState::Pinned, PinState::Failed]);
    let status = world.judge(&object(2, 1), NOW).status;
    let other = Time(jiff::Timestamp::UNIX_EPOCH);
    let foreign = Condition { type_: "Foreign".into(), ..status.conditions[0].clone() };
    type Change<'a> = &'a dyn Fn(&mut crd::PinStatus);
    let cases: [(&str, Change<'_>, Difference); 21] = [
        ("nothing", &|_| {}, None),
        ("entries", &|s| s.observed_entries = Some(77), None),
        ("no entries", &|s| s.observed_entries = Option::None, None),
        ("another's condition", &|s| s.conditions.insert(0, foreign.clone()), None),
        ("order of conditions", &|s| s.conditions.reverse(), None),
        ("order of copies", &|s| s.allocations.reverse(), None),
        ("message", &|s| s.conditions[0].message = "x".into(), Words),
        ("message of a copy", &|s| s.allocations[1].message = "x".into(), Words),
        ("generation", &|s| s.observed_generation = Some(9), Facts),
        ("copies", &|s| s.copies = Some("2/2".into()), Facts),
        ("replicas", &|s| s.replicas = Some(7), Facts),
        ("desired", &|s| s.desired_replicas = Some(7), Facts),
        ("ready", &|s| s.ready_replicas = Some(2), Facts),
        ("status", &|s| s.conditions[1].status = "Unknown".into(), Facts),
        ("reason", &|s| s.conditions[2].reason = "Other".into(), Facts),
        ("time", &|s| s.conditions[0].last_transition_time = other.clone(), Facts),
        ("a condition's generation", &|s| s.conditions[0].observed_generation = Some(9), Facts),
        ("no condition", &|s| drop(s.conditions.pop()), Facts),
        ("state of a copy", &|s| s.allocations[0].state = AllocationState::Queued, Facts),
        ("time of a copy", &|s| s.allocations[0].since = Some(other.clone()), Facts),
        ("a copy less", &|s| drop(s.allocations.pop()), Facts),
    ];
    for (what, change, expected) in cases {
        let mut before = status.clone();
        change(&mut before);
        assert_eq!(difference(Some(&before), &status), expected, "{what}");
        // Different messages do not hide other differences.
        before.conditions.iter_mut().for_each(|c| c.message = "other words".into());
        assert_eq!(difference(Some(&before), &status), expected.max(Words), "{what} and words");
    }
    assert_eq!(difference(Option::None, &status), Facts);
}

#[test]
fn texts_and_times_are_cut() {
    let most = crd::MESSAGE_LEN_MAX;
    let text = |letter: &str, length| letter.repeat(length);
    let cut = |letter| format!("{}…", text(letter, most - 1));
    for letter in ["a", "ü"] {
        assert_eq!(bounded(&text(letter, most - 1)), text(letter, most - 1));
        assert_eq!(bounded(&text(letter, most + 1)), cut(letter));
    }
    assert_eq!(bounded(&text("a", most)), text("a", most));
    for (time, expected) in [(0, 0), (999, 0), (1000, 1), (1_700_000_000_999, 1_700_000_000)] {
        assert_eq!(whole_seconds(Timestamp(time)).0.as_second(), expected);
    }
    assert_eq!(whole_seconds(Timestamp(u64::MAX)).0, jiff::Timestamp::MAX);
}

#[test]
fn a_grace_ends_when_it_ends_and_the_first_end_is_told() {
    let held = Held::new();
    let now = Duration::from_secs(100);
    let mut graces = Graces::new(now, &held);
    let seconds = Duration::from_secs;
    let cases = [
        (seconds(90), seconds(10), false, None),
        (seconds(90), seconds(10) - STEP, false, None),
        (seconds(90), seconds(40), true, Some(seconds(130))),
        (seconds(90), seconds(10) + STEP, true, Some(now + STEP)),
        (seconds(90), seconds(20), true, Some(now + STEP)),
        (seconds(0), seconds(5), false, Some(now + STEP)),
        (seconds(1), Duration::MAX, true, Some(now + STEP)),
    ];
    for (since, grace, lasts, ends) in cases {
        assert_eq!((graces.last(since, grace), graces.ends), (lasts, ends), "{since:?} {grace:?}");
    }
}

#[test]
fn what_is_held_back_is_so_from_when_that_very_report_was_first_seen() {
    let seconds = Duration::from_secs;
    let first = report(PinState::DaemonDown, 1);
    let known = Held::from([(id(1), (first.state, first.since, seconds(40)))]);
    let later = Report { since: Timestamp(1), ..first.clone() };
    let other = Report { state: PinState::Rechecking, ..first.clone() };
    // The peer, its report at 100 s, the grace; whether the report is held back, and since when.
    let cases = [
        (1, &first, 60, false, 40),
        (1, &first, 61, true, 40),
        (1, &later, 60, true, 100),
        (1, &other, 60, true, 100),
        (2, &first, 60, true, 100),
    ];
    for (peer, report, grace, lasts, since) in cases {
        let mut graces = Graces::new(seconds(100), &known);
        assert_eq!(graces.hold(id(peer), report, seconds(grace)), lasts, "{peer} {report:?}");
        let expected = (report.state, report.since, seconds(since));
        assert_eq!(graces.held, Held::from([(id(peer), expected)]), "{peer} {report:?}");
    }
}

#[test]
fn a_grace_goes_on_from_look_to_look_and_ends_with_its_object() {
    let mut world = World::new(1, &[PinState::Pinned]);
    let object = object(1, 1);
    let object = written(&object, world.judge(&object, NOW));
    world.reports.insert(id(1), report(PinState::DaemonDown, 1));
    let other = pin("other", "v", 5, DOCS);
    let mut memories = Memories::default();
    let mut reason = |key, span, forget| {
        if forget {
            memories.forget(key);
        }
        let look = |held: &Held| judge(&object, View { held, ..world.view(after(span)) });
        memories.judge(key, look).unwrap().reason
    };
    let looks = [
        (&object.key, Duration::ZERO, false, PinReason::Pinned),
        (&object.key, GRACE - STEP, false, PinReason::Pinned),
        (&other.key, GRACE - STEP, false, PinReason::Pinned),
        (&object.key, GRACE, false, PinReason::DaemonDown),
        // Not written yet.
        (&object.key, GRACE + STEP, false, PinReason::DaemonDown),
        (&other.key, GRACE + STEP, false, PinReason::Pinned),
        (&object.key, GRACE + STEP, true, PinReason::Pinned),
    ];
    for (key, span, forget, expected) in looks {
        assert_eq!(reason(key, span, forget), expected, "{key} after {span:?}, {forget}");
    }
    // Without a verdict it stays; a verdict that holds nothing back ends it.
    assert!(memories.judge(&object.key, |_| None).is_none());
    for expected in [true, false] {
        let verdict = memories.judge(&object.key, |held| {
            assert_eq!(!held.is_empty(), expected);
            world.reports.insert(id(1), report(PinState::Pinned, 0));
            judge(&object, world.view(NOW))
        });
        assert_eq!(verdict.unwrap().reason, PinReason::Pinned);
    }
}
