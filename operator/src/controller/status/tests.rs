//! The table of reasons, what stays without reports, and that statuses settle.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, time::Duration};

use pinkeeper::{
    state::Refused,
    types::{
        Allocation, Claim, ClaimName, ClaimOptions, Factor, Owner, PeerId, Pin, PinState,
        PinStatus as Report, Replication, Timestamp,
    },
};
use proptest::prelude::*;

mod copies;
mod said;

use super::{
    Difference, GRACE, Held, Moment, PeerView, Verdict, View, difference,
    graces::{ASKING, GATHERING},
    judge,
};
use crate::{
    controller::objects::{
        PinObject,
        tests::{DOCS, pin},
    },
    crd::{self, AllocationState, PinReason},
};

/// Initial time of all clocks.
const WALL: Timestamp = Timestamp(1_700_000_000_000);
/// Long after the leadership began.
const NOW: Moment = Moment { at: Duration::from_secs(3_600), wall: WALL };
/// A year.
const YEAR_MS: u64 = 365 * 86_400_000;

fn id(number: u8) -> PeerId {
    PeerId([number; 32])
}

fn object(replicas: i32, min: i32) -> PinObject {
    let mut object = pin("docs", "u", 5, DOCS);
    let spec = object.spec.as_mut().unwrap();
    (spec.replicas, spec.min_replicas) = (Some(replicas), Some(min));
    object
}

fn report(state: PinState, attempts: u32) -> Report {
    Report { state, since: WALL, message: String::new(), attempts }
}

/// A cluster of `members` peers, with the pin on the first of them, as many as reports.
struct World {
    pin: Pin,
    reports: BTreeMap<PeerId, Report>,
    peers: BTreeMap<PeerId, PeerView>,
    /// Log length now and when this leader began.
    entries: [u64; 2],
    /// Held back by the last check.
    held: Held,
}

impl World {
    fn new(members: u8, states: &[PinState]) -> Self {
        let replication = Replication { min: Factor::Count(1), max: Factor::Count(1) };
        let options = ClaimOptions { replication, retain: false, name: ClaimName::default() };
        let claim = Claim { options, generation: 1, since: WALL };
        let uid = object(1, 1).uid;
        let holders = (1..).zip(states);
        Self {
            pin: Pin {
                claims: [(Owner::Object(uid), claim)].into_iter().collect(),
                allocations: holders
                    .clone()
                    .map(|(number, _)| Allocation { peer: id(number), leaving: false, at_entry: 1 })
                    .collect(),
                created: WALL,
            },
            reports: holders.map(|(number, state)| (id(number), report(*state, 0))).collect(),
            peers: (1..=members)
                .map(|number| {
                    let name = format!("p-{number}");
                    (id(number), PeerView { name, reported: true, silent: None, obstacle: None })
                })
                .collect(),
            entries: [1, 1],
            held: Held::new(),
        }
    }

    fn view(&self, now: Moment) -> View<'_> {
        View {
            pin: Some(&self.pin),
            refused: None,
            reports: &self.reports,
            peers: &self.peers,
            entries: self.entries[0],
            entries_at_start: self.entries[1],
            default_replicas: 2,
            held: &self.held,
            now,
        }
    }

    fn judge(&mut self, object: &PinObject, now: Moment) -> Verdict {
        let verdict = judge(object, self.view(now)).unwrap();
        self.held.clone_from(&verdict.held);
        verdict
    }
}

fn conditions(status: &crd::PinStatus) -> [&str; 4] {
    let status = |kind| {
        let found = status.conditions.iter().find(|c| c.type_ == kind).unwrap();
        found.status.as_str()
    };
    ["Ready", "Reconciling", "Stalled", "FullyReplicated"].map(status)
}

fn message(status: &crd::PinStatus) -> &str {
    &status.conditions[0].message
}

fn after(span: Duration) -> Moment {
    let wall = Timestamp(WALL.0 + u64::try_from(span.as_millis()).unwrap());
    Moment { at: NOW.at + span, wall }
}

/// The result of kstatus (<https://github.com/kubernetes-sigs/cli-utils>, pkg/kstatus).
fn kstatus(object: &PinObject, status: &crd::PinStatus) -> &'static str {
    if status.observed_generation != Some(object.generation) {
        return "InProgress";
    }
    match conditions(status) {
        [_, "True", ..] => "InProgress",
        [_, _, "True", _] => "Failed",
        ["True", ..] => "Current",
        _ => "InProgress",
    }
}

#[test]
fn the_table_of_reasons() {
    use PinReason as R;
    use PinState::{DaemonDown, Failed, NotFound, Pinned, Pinning, Queued};
    let working = ["False", "True", "False", "False"];
    let (full, ready) = (["True", "False", "False", "True"], ["True", "False", "False", "False"]);
    type Case<'a> = (&'a [PinState], i32, i32, R, [&'a str; 4], &'a str);
    let cases: &[Case<'_>] = &[
        (&[Pinned, Pinned], 2, 2, R::Pinned, full, "Current"),
        (&[Pinned, Pinning], 2, 1, R::Pinned, ready, "Current"),
        (&[Pinned, NotFound], 2, 1, R::Pinned, ready, "Current"),
        (&[Pinned, Pinning], 2, 2, R::Pinning, working, "InProgress"),
        (&[Queued, Queued], 2, 2, R::Queued, working, "InProgress"),
        (&[Queued, Pinning], 2, 2, R::Pinning, working, "InProgress"),
        (&[NotFound, Pinning], 2, 1, R::Pinning, working, "InProgress"),
        (&[NotFound, Pinning], 2, 2, R::ContentNotFound, working, "InProgress"),
        (&[NotFound, Failed], 2, 1, R::ContentNotFound, working, "InProgress"),
        (&[DaemonDown, Failed], 2, 1, R::PinError, working, "InProgress"),
        (&[DaemonDown, Pinned], 2, 2, R::DaemonDown, working, "InProgress"),
        (&[Pinned, Pinned], 5, 5, R::NotEnoughPeers, working, "InProgress"),
        (&[Pinned, Pinned], 5, 2, R::Pinned, ready, "Current"),
        (&[], 1, 1, R::NotEnoughPeers, working, "InProgress"),
    ];
    for (states, replicas, min, reason, expected, seen) in cases {
        let object = object(*replicas, *min);
        let verdict = World::new(3, states).judge(&object, NOW);
        assert_eq!(verdict.reason, *reason, "{states:?} {min}/{replicas}");
        assert_eq!(conditions(&verdict.status), *expected, "{states:?}");
        assert_eq!(kstatus(&object, &verdict.status), *seen, "{states:?}");
        let own = verdict.status.conditions.iter();
        assert!(
            own.clone().all(|c| c.reason == reason.as_str() && c.observed_generation == Some(1))
        );
        assert_eq!(verdict.settled, *expected == full, "{states:?}");
    }
}

#[test]
fn bad_input_is_stalled() {
    let cid = pin("x", "u", 1, "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdz");
    let world = World::new(3, &[]);
    let verdict = judge(&cid, View { pin: None, ..world.view(NOW) }).unwrap();
    assert_eq!(verdict.reason, PinReason::InvalidCID);
    assert_eq!(conditions(&verdict.status), ["False", "False", "True", "False"]);
    assert_eq!(kstatus(&cid, &verdict.status), "Failed");
    assert!(verdict.settled && message(&verdict.status).contains("is not a CID"));

    let refused = View { refused: Some(Refused::TooManyClaims), ..world.view(NOW) };
    let verdict = judge(&object(1, 1), refused).unwrap();
    assert_eq!(verdict.reason, PinReason::Unallocatable);
    assert_eq!(conditions(&verdict.status), ["False", "False", "True", "False"]);
}

#[test]
fn nothing_is_said_about_a_generation_that_is_not_claimed() {
    let world = World::new(1, &[PinState::Pinned]);
    let mut object = object(1, 1);
    assert!(judge(&object, View { pin: None, ..world.view(NOW) }).is_none());
    object.generation = 2;
    assert!(judge(&object, world.view(NOW)).is_none());
    object.uid = pinkeeper::types::Uid("another".into());
    assert!(judge(&object, world.view(NOW)).is_none());
}

#[test]
fn messages_name_numbers_and_the_next_step() {
    let verdict = World::new(3, &[PinState::Pinned; 3]).judge(&object(5, 5), NOW);
    let text = message(&verdict.status);
    assert!(text.contains('5') && text.contains('3') && text.contains("Add peers"), "{text}");

    let mut world = World::new(3, &[PinState::NotFound; 2]);
    world.reports.get_mut(&id(1)).unwrap().message = "no block bafkrei… within 60 s".into();
    let verdict = world.judge(&object(2, 2), NOW);
    let text = message(&verdict.status);
    assert!(text.contains("p-1, p-2: no block bafkrei… within 60 s. Add it"), "{text}");
}

#[test]
fn a_new_leader_does_not_call_peers_missing_before_it_has_heard_of_them() {
    let world = World::new(3, &[]);
    let at = |at| world.view(Moment { at, ..NOW });
    let verdict = judge(&object(1, 1), at(Duration::ZERO)).unwrap();
    assert_eq!((verdict.reason, verdict.recheck), (PinReason::Queued, Some(GATHERING)));
    let verdict = judge(&object(1, 1), at(GATHERING)).unwrap();
    assert_eq!(verdict.reason, PinReason::NotEnoughPeers);
}

#[test]
fn each_object_is_judged_by_its_own_spec() {
    let mut world = World::new(3, &[PinState::Pinned, PinState::Pinning]);
    assert_eq!(world.judge(&object(1, 1), NOW).reason, PinReason::Pinned);
    assert_eq!(world.judge(&object(2, 2), NOW).reason, PinReason::Pinning);
}

fn written(object: &PinObject, verdict: Verdict) -> PinObject {
    PinObject { status: Some(verdict.status), ..object.clone() }
}

#[test]
fn a_silent_peer_keeps_its_state_for_the_grace() {
    let mut world = World::new(2, &[PinState::Pinned; 2]);
    let object = object(2, 2);
    let object = written(&object, world.judge(&object, NOW));
    world.reports.clear();
    for peer in world.peers.values_mut() {
        (peer.reported, peer.silent) = (false, Some(NOW));
    }
    let soon = world.judge(&object, after(GRACE / 2));
    assert_eq!(difference(object.status.as_ref(), &soon.status), Difference::None);
    assert_eq!(soon.recheck, Some(after(GRACE).at));
    let late = world.judge(&object, after(GRACE));
    assert_eq!(late.reason, PinReason::DaemonDown);
    assert_eq!(late.status.allocations[0].state, AllocationState::PeerDown);
    assert_eq!(late.status.copies.as_deref(), Some("0/2"));
}

#[test]
fn a_daemon_that_is_away_shortly_changes_nothing() {
    let mut world = World::new(1, &[PinState::Pinned]);
    let object = object(1, 1);
    let object = written(&object, world.judge(&object, NOW));
    world.reports.insert(id(1), report(PinState::DaemonDown, 1));
    for soon in [Duration::ZERO, GRACE / 2] {
        let soon = world.judge(&object, after(soon));
        assert_eq!(difference(object.status.as_ref(), &soon.status), Difference::None);
        assert_eq!(soon.recheck, Some(after(GRACE).at));
    }
    assert_eq!(world.judge(&object, after(GRACE)).reason, PinReason::DaemonDown);
}

#[test]
fn clocks_of_others_and_clocks_that_jump_decide_nothing() {
    let away = |state, since: u64| Report { since: Timestamp(since), ..report(state, 0) };
    for (state, grace) in [(PinState::DaemonDown, GRACE), (PinState::Rechecking, ASKING)] {
        for since in [0, WALL.0 - YEAR_MS, WALL.0, WALL.0 + YEAR_MS, u64::MAX] {
            let mut world = World::new(1, &[PinState::Pinned]);
            let object = object(1, 1);
            let object = written(&object, world.judge(&object, NOW));
            world.reports.insert(id(1), away(state, since));
            let mut look = |span, wall| {
                let now = Moment { wall: Timestamp(wall), ..after(span) };
                let verdict = world.judge(&object, now);
                (difference(object.status.as_ref(), &verdict.status), verdict.recheck)
            };
            let (stays, end) =
                ((Difference::None, Some(after(grace).at)), (Difference::Facts, None));
            let step = Duration::from_millis(1);
            assert_eq!(look(Duration::ZERO, WALL.0), stays, "{state:?} since {since}");
            assert_eq!(look(step, WALL.0 + YEAR_MS), stays, "{state:?} since {since}");
            assert_eq!(look(grace - step, 0), stays, "{state:?} since {since}");
            assert_eq!(look(grace, 0), end, "{state:?} since {since}");
            // Without a write the grace does not start again.
            assert_eq!(look(grace + step, WALL.0), end, "{state:?} since {since}");
        }
    }
}

#[test]
fn what_was_written_of_a_copy_that_was_let_go_is_not_said_of_a_new_one() {
    let mut world = World::new(1, &[PinState::Pinned]);
    let object = object(1, 1);
    let object = written(&object, world.judge(&object, NOW));
    world.reports.insert(id(1), report(PinState::Queued, 0));
    assert_eq!(world.judge(&object, NOW).reason, PinReason::Queued, "it was given anew");
    world.reports.clear();
    world.peers.get_mut(&id(1)).unwrap().reported = false;
    assert_eq!(
        world.judge(&object, NOW).reason,
        PinReason::Pinned,
        "given before this leader began"
    );
    world.pin.allocations[0].at_entry = 2;
    for (entries_at_start, by) in [(1, "this leader"), (2, "an earlier one that wrote nothing")] {
        world.entries = [2, entries_at_start];
        assert_eq!(world.judge(&object, NOW).reason, PinReason::Queued, "given by {by}");
    }
    world.peers.get_mut(&id(1)).unwrap().reported = true;
    world.reports.insert(id(1), report(PinState::DaemonDown, 1));
    assert_eq!(
        world.judge(&object, NOW).reason,
        PinReason::DaemonDown,
        "it never held the new one"
    );
}

#[test]
fn how_far_the_log_is_changes_no_status() {
    let mut world = World::new(1, &[PinState::Pinned]);
    let object = object(1, 1);
    let object = written(&object, world.judge(&object, NOW));
    world.entries = [9, 1];
    let verdict = world.judge(&object, NOW);
    assert_eq!(verdict.status.observed_entries, Some(9));
    assert_eq!(difference(object.status.as_ref(), &verdict.status), Difference::None);
}

#[test]
fn a_grace_is_for_one_report() {
    let mut world = World::new(1, &[PinState::Pinned]);
    let object = object(1, 1);
    let object = written(&object, world.judge(&object, NOW));
    for (number, span) in (1..).zip([Duration::ZERO, GRACE, GRACE * 2]) {
        // It came back and went away again between two checks.
        let since = Timestamp(number);
        world.reports.insert(id(1), Report { since, ..report(PinState::DaemonDown, 1) });
        let verdict = world.judge(&object, after(span));
        assert_eq!(difference(object.status.as_ref(), &verdict.status), Difference::None);
    }
    world.reports.insert(id(1), report(PinState::Pinned, 0));
    assert!(world.judge(&object, after(GRACE * 2)).held.is_empty());
}

#[test]
fn a_retry_does_not_hide_why_the_last_attempt_failed() {
    let mut world = World::new(1, &[PinState::NotFound]);
    let object = object(1, 1);
    let object = written(&object, world.judge(&object, NOW));
    for state in [PinState::Queued, PinState::Pinning] {
        world.reports.insert(id(1), report(state, 1));
        for soon in [Duration::ZERO, GRACE] {
            let retry = world.judge(&object, after(soon));
            assert_eq!(difference(object.status.as_ref(), &retry.status), Difference::None);
        }
    }
    assert_eq!(world.judge(&object, after(GRACE * 3)).reason, PinReason::Pinning);
    world.reports.insert(id(1), report(PinState::Pinned, 0));
    assert_eq!(world.judge(&object, NOW).reason, PinReason::Pinned);
}

#[test]
fn words_are_told_from_facts() {
    let mut world = World::new(1, &[PinState::Pinning]);
    let object = object(1, 1);
    let object = written(&object, world.judge(&object, NOW));
    world.reports.get_mut(&id(1)).unwrap().message = "1204 blocks, 310 MB".into();
    let progress = world.judge(&object, after(GRACE));
    assert_eq!(difference(object.status.as_ref(), &progress.status), Difference::Words);
    assert_eq!(progress.status.allocations[0].message, "1204 blocks, 310 MB");
    world.reports.insert(id(1), report(PinState::Pinned, 0));
    let done = world.judge(&object, after(GRACE));
    assert_eq!(difference(object.status.as_ref(), &done.status), Difference::Facts);
}

fn any_state() -> impl Strategy<Value = PinState> {
    use PinState::{DaemonDown, Failed, NotFound, Pinned, Pinning, Queued, UnpinFailed, Unpinning};
    prop::sample::select(vec![
        Queued,
        Pinning,
        Pinned,
        NotFound,
        Failed,
        DaemonDown,
        Unpinning,
        UnpinFailed,
    ])
}

proptest! {
    /// A written status is not written again if nothing changes, also after a round trip through
    /// JSON and at any later time within the graces. Its counts are correct.
    #[test]
    fn statuses_settle(
        states in prop::collection::vec(any_state(), 0..5),
        replicas in 1i32..6,
        min in 1i32..6,
        text in ".{0,2000}",
        minutes in 0u64..1000,
    ) {
        let mut world = World::new(5, &states);
        world.reports.values_mut().for_each(|report| report.message.clone_from(&text));
        let object = object(replicas, min.min(replicas));
        let verdict = world.judge(&object, NOW);
        let pinned = states.iter().filter(|state| **state == PinState::Pinned).count();
        prop_assert_eq!(verdict.status.ready_replicas, i32::try_from(pinned).ok());
        let ready = i32::try_from(pinned).unwrap() >= min.min(replicas);
        prop_assert_eq!(verdict.reason.is_ready(), ready);
        for text in verdict.status.conditions.iter().map(|c| &c.message) {
            prop_assert!(text.chars().count() <= crd::MESSAGE_LEN_MAX);
        }
        for text in verdict.status.allocations.iter().map(|a| &a.message) {
            prop_assert!(text.chars().count() <= crd::MESSAGE_LEN_MAX);
        }
        let stored = serde_json::to_value(&verdict.status).unwrap();
        let object = PinObject { status: serde_json::from_value(stored).unwrap(), ..object };
        let again = world.judge(&object, after(Duration::from_secs(minutes * 60)));
        prop_assert_eq!(difference(object.status.as_ref(), &again.status), Difference::None);
    }
}
