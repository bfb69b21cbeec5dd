//! Tables of the status of each copy.

use super::*;

/// All states that can be written of a copy.
const WRITTEN: [AllocationState; 7] = {
    use AllocationState::*;
    [Queued, Pinning, Pinned, ContentNotFound, PinError, DaemonDown, PeerDown]
};
/// All states that a peer can report, and how they are shown.
const REPORTED: [(PinState, AllocationState); 10] = {
    use AllocationState::{
        ContentNotFound, DaemonDown, PinError, Pinned, Pinning, Queued, Unpinnable,
    };
    [
        (PinState::Queued, Queued),
        (PinState::Rechecking, Queued),
        (PinState::Unpinning, Queued),
        (PinState::UnpinFailed, Queued),
        (PinState::Pinning, Pinning),
        (PinState::Pinned, Pinned),
        (PinState::NotFound, ContentNotFound),
        (PinState::Failed, PinError),
        (PinState::Unpinnable, Unpinnable),
        (PinState::DaemonDown, DaemonDown),
    ]
};
const STEP: Duration = Duration::from_millis(1);

/// States of the copies of a status, by name.
fn states(verdict: &Verdict) -> Vec<AllocationState> {
    verdict.status.allocations.iter().map(|copy| copy.state).collect()
}

/// The copies of a status that leave, by name.
fn leaving(verdict: &Verdict) -> Vec<bool> {
    verdict.status.allocations.iter().map(|copy| copy.leaving).collect()
}

#[test]
fn a_copy_that_leaves_counts_only_as_long_as_it_is_confirmed_and_needed() {
    use PinState::{DaemonDown, NotFound, Pinned, Pinning, Queued};
    // Reports, indexes of leaving copies, replicas, minReplicas, reason, confirmed copies.
    type Case<'a> = (&'a [PinState], &'a [usize], i32, i32, PinReason, &'a str);
    let cases: &[Case<'_>] = &[
        (&[Pinned], &[0], 1, 1, PinReason::Pinned, "1/1"),
        (&[Pinned, Pinned], &[0], 1, 1, PinReason::Pinned, "1/1"),
        (&[Pinned, Pinned], &[1], 2, 1, PinReason::Pinned, "2/2"),
        (&[Pinned, Pinned, Pinned], &[0, 1], 2, 1, PinReason::Pinned, "2/2"),
        (&[Pinned, Queued], &[0], 1, 1, PinReason::Pinned, "1/1"),
        (&[Pinned, Pinned, Pinning], &[0], 2, 2, PinReason::Pinned, "2/2"),
        (&[Pinned, NotFound], &[0], 1, 1, PinReason::Pinned, "1/1"),
        (&[NotFound, Pinned], &[0], 1, 1, PinReason::Pinned, "1/1"),
        (&[DaemonDown, Pinned], &[0], 1, 1, PinReason::Pinned, "1/1"),
        (&[DaemonDown, Pinned], &[0], 2, 2, PinReason::NotEnoughPeers, "1/2"),
        (&[Pinning, Queued], &[0], 1, 1, PinReason::Queued, "0/1"),
        (&[NotFound, Queued], &[0], 1, 1, PinReason::Queued, "0/1"),
        (&[DaemonDown, Pinning], &[0], 1, 1, PinReason::Pinning, "0/1"),
    ];
    for (reports, leaves, replicas, min, reason, confirmed) in cases {
        let what = format!("{reports:?} {leaves:?} {min}/{replicas}");
        let mut world = World::new(3, reports);
        leaves.iter().for_each(|n| world.pin.allocations[*n].leaving = true);
        let verdict = world.judge(&object(*replicas, *min), NOW);
        assert_eq!(verdict.reason, *reason, "{what}");
        let shown: Vec<bool> = (0..reports.len()).map(|n| leaves.contains(&n)).collect();
        assert_eq!(leaving(&verdict), shown, "{what}");
        assert_eq!(verdict.status.copies.as_deref(), Some(*confirmed), "{what}");
        let staying = i32::try_from(reports.len() - leaves.len()).ok();
        assert_eq!(verdict.status.replicas, staying, "{what}");
        assert!(!verdict.settled, "{what}: the leaving copy will go");
        let text = message(&verdict.status);
        assert!(!text.contains("on p-1: "), "who leaves is no trouble: {text}");
    }
}

#[test]
fn a_leaving_copy_has_the_state_that_another_one_would_have() {
    for before in WRITTEN {
        for silent in [None, Some(NOW)] {
            for report in [None, Some(report(PinState::Pinned, 0))] {
                let mut world = World::new(1, &[PinState::Pinned]);
                let object = object(1, 1);
                let mut object = written(&object, world.judge(&object, NOW));
                object.status.as_mut().unwrap().allocations[0].state = before;
                world.reports = report.clone().map(|report| (id(1), report)).into_iter().collect();
                let peer = world.peers.get_mut(&id(1)).unwrap();
                (peer.silent, peer.reported) = (silent, report.is_some());
                for at in [after(STEP), after(GRACE * 2)] {
                    world.pin.allocations[0].leaving = false;
                    let stays = states(&world.judge(&object, at));
                    world.pin.allocations[0].leaving = true;
                    let verdict = world.judge(&object, at);
                    assert_eq!((states(&verdict), leaving(&verdict)), (stays, vec![true]));
                }
            }
        }
    }
}

#[test]
fn a_copy_that_stays_after_all_is_said_to_leave_no_more() {
    let mut world = World::new(2, &[PinState::Pinned; 2]);
    let object = object(2, 2);
    world.pin.allocations[0].leaving = true;
    let object = written(&object, world.judge(&object, NOW));
    world.pin.allocations[0].leaving = false;
    // Its peer has not reported to this leader yet.
    world.reports.remove(&id(1));
    world.peers.get_mut(&id(1)).unwrap().reported = false;
    let verdict = world.judge(&object, NOW);
    assert_eq!(states(&verdict), [AllocationState::Pinned; 2]);
    assert_eq!((leaving(&verdict), verdict.reason), (vec![false; 2], PinReason::Pinned));
}

#[test]
fn each_report_is_called_by_its_name() {
    for (reported, called) in REPORTED {
        let mut world = World::new(1, &[reported]);
        world.reports.get_mut(&id(1)).unwrap().message = "why".into();
        let verdict = world.judge(&object(1, 1), NOW);
        let [copy] = &verdict.status.allocations[..] else { panic!("{verdict:?}") };
        assert_eq!((copy.state, copy.message.as_str()), (called, "why"), "{reported:?}");
        assert_eq!(copy.peer, "p-1");
        let since = copy.since.as_ref().unwrap().0.as_millisecond();
        assert_eq!(u64::try_from(since), Ok(WALL.0));
    }
}

/// How long a written state stays. This is the whole table; all others change at once.
fn stays_for(before: AllocationState, reported: PinState, attempts: u32) -> Duration {
    use AllocationState::{ContentNotFound, DaemonDown, PeerDown, PinError, Pinned};
    let waits = REPORTED.contains(&(reported, AllocationState::Queued));
    let retried = attempts > 0;
    match before {
        Pinned if reported == PinState::DaemonDown => GRACE,
        Pinned if reported == PinState::Rechecking => ASKING,
        ContentNotFound | PinError | DaemonDown if retried && waits => Duration::MAX,
        ContentNotFound | PinError | DaemonDown if retried && reported == PinState::Pinning => {
            Duration::from_secs(120)
        }
        PeerDown if !retried && waits => ASKING,
        _ => Duration::ZERO,
    }
}

#[test]
fn what_was_written_stays_for_its_grace_and_no_longer() {
    for before in WRITTEN {
        for (reported, called) in REPORTED {
            for attempts in [0, 1, 2] {
                let mut world = World::new(1, &[PinState::Pinned]);
                let object = object(1, 1);
                let mut object = written(&object, world.judge(&object, NOW));
                let copy = &mut object.status.as_mut().unwrap().allocations[0];
                (copy.state, copy.message) = (before, "before".into());
                let told = Report { message: "now".into(), ..report(reported, attempts) };
                world.reports.insert(id(1), told);
                let stays = stays_for(before, reported, attempts);
                let looks = [
                    (Duration::ZERO, !stays.is_zero()),
                    (stays.saturating_sub(STEP).min(GRACE * 9), !stays.is_zero()),
                    (stays.min(GRACE * 9), stays == Duration::MAX),
                ];
                for (at, stays) in looks {
                    let verdict = world.judge(&object, after(at));
                    let copy = &verdict.status.allocations[0];
                    let expected = if stays { (before, "before") } else { (called, "now") };
                    let what = format!("{before:?}, {reported:?} {attempts}, after {at:?}");
                    assert_eq!((copy.state, copy.message.as_str()), expected, "{what}");
                    // A state keeps its time, and another state has its own.
                    let kept = stays || before == called;
                    let since = copy.since.as_ref().unwrap().0.as_millisecond();
                    assert_eq!(u64::try_from(since), Ok(WALL.0), "{what} {kept}");
                }
            }
        }
    }
}

#[test]
fn a_state_has_the_time_when_it_was_first_written() {
    let at = |verdict: &Verdict| {
        verdict.status.allocations[0].since.as_ref().unwrap().0.as_millisecond()
    };
    let mut world = World::new(1, &[PinState::Pinned]);
    let object = object(1, 1);
    let object = written(&object, world.judge(&object, NOW));
    let later = Timestamp(WALL.0 + 7_999);
    for (state, expected) in [(PinState::Pinned, 0), (PinState::Failed, 7_000)] {
        world.reports.insert(id(1), Report { since: later, ..report(state, 0) });
        let verdict = world.judge(&object, after(Duration::from_secs(60)));
        assert_eq!(at(&verdict), i64::try_from(WALL.0).unwrap() + expected, "{state:?}");
    }
}

#[test]
fn a_silent_peer_is_down_from_the_end_of_its_grace_on_whatever_it_said_last() {
    for (span, state) in [
        (Duration::ZERO, AllocationState::Pinned),
        (GRACE - STEP, AllocationState::Pinned),
        (GRACE, AllocationState::PeerDown),
        (GRACE * 2, AllocationState::PeerDown),
    ] {
        for (reported, before) in [(true, false), (true, true), (false, true)] {
            let mut world = World::new(1, &[PinState::Pinned]);
            let mut object = object(1, 1);
            if before {
                object = written(&object, world.judge(&object, NOW));
            }
            world.peers.get_mut(&id(1)).unwrap().silent = Some(NOW);
            if !reported {
                world.reports.clear();
                world.peers.get_mut(&id(1)).unwrap().reported = false;
            }
            let verdict = world.judge(&object, after(span));
            assert_eq!(states(&verdict), [state], "{reported} {before} after {span:?}");
            if state == AllocationState::PeerDown {
                let since = verdict.status.allocations[0].since.as_ref().unwrap();
                assert_eq!(since.0.as_millisecond(), i64::try_from(WALL.0).unwrap());
            }
            let recheck = (span < GRACE).then_some(after(GRACE).at);
            assert_eq!(verdict.recheck, recheck, "{reported} {before} after {span:?}");
        }
    }
    // A peer that is not a member is down at once, and shown by its ID.
    let mut world = World::new(1, &[PinState::Pinned]);
    world.peers.clear();
    let verdict = world.judge(&object(1, 1), NOW);
    assert_eq!(states(&verdict), [AllocationState::PeerDown]);
    assert_eq!(verdict.status.allocations[0].peer, id(1).to_string());
}

#[test]
fn what_another_cluster_has_written_is_not_said_of_this_ones_copies() {
    // Log length of the status, entry of the allocation, log length when this leader began; whether
    // the peer has reported; and whether the written state counts.
    let cases = [
        (Some(900), 3, 1, false, false),
        (Some(900), 3, 2, false, false),
        (Some(900), 3, 3, false, true),
        (Some(900), 3, 4, false, true),
        (Some(900), 3, 1, true, true),
        (Some(3), 3, 3, false, true),
        (Some(2), 3, 3, false, false),
        (Some(2), 3, 3, true, false),
        (Some(0), 3, 3, true, false),
        (Some(-1), 3, 3, true, false),
        (None, 3, 3, true, false),
    ];
    for (observed, since, began, reported, counts) in cases {
        let mut world = World::new(1, &[PinState::Pinned]);
        let object = object(1, 1);
        let mut object = written(&object, world.judge(&object, NOW));
        object.status.as_mut().unwrap().observed_entries = observed;
        world.pin.allocations[0].at_entry = since;
        world.entries = [5, began];
        world.peers.get_mut(&id(1)).unwrap().reported = reported;
        if reported {
            // The held report shows that a written state counted.
            world.reports.insert(id(1), report(PinState::DaemonDown, 1));
        } else {
            world.reports.clear();
        }
        let verdict = world.judge(&object, NOW);
        let what = format!("{observed:?} {since} {began} {reported}");
        assert_eq!(verdict.reason == PinReason::Pinned, counts, "{what}");
        assert_eq!(verdict.status.observed_entries, Some(5), "{what}");
    }
    // The report of one peer does not count for another.
    let mut world = World::new(2, &[PinState::Pinned; 2]);
    let object = object(2, 2);
    let object = written(&object, world.judge(&object, NOW));
    world.pin.allocations[1].at_entry = 3;
    world.entries = [5, 1];
    world.reports.clear();
    world.peers.values_mut().for_each(|peer| peer.reported = false);
    let verdict = world.judge(&object, NOW);
    assert_eq!(states(&verdict), [AllocationState::Pinned, AllocationState::Queued]);
}

#[test]
fn a_copy_that_nothing_was_told_of_waits() {
    let mut world = World::new(1, &[PinState::Pinned]);
    world.reports.clear();
    for reported in [true, false] {
        world.peers.get_mut(&id(1)).unwrap().reported = reported;
        assert_eq!(states(&world.judge(&object(1, 1), NOW)), [AllocationState::Queued]);
    }
}

#[test]
fn no_more_copies_are_shown_than_the_definition_allows_and_all_count() {
    let mut world = World::new(1, &[PinState::Pinned]);
    // Peers that are not members; their names sort before that of the member.
    let other = |number: u16| {
        let mut peer = [1; 32];
        peer[..2].copy_from_slice(&number.to_be_bytes());
        Allocation { peer: PeerId(peer), leaving: false, at_entry: 1 }
    };
    let most = u16::try_from(crd::ALLOCATIONS_LEN_MAX).unwrap();
    world.pin.allocations.extend((1000..1000 + most).map(other));
    let verdict = world.judge(&object(1, 1), NOW);
    assert_eq!(verdict.status.allocations.len(), crd::ALLOCATIONS_LEN_MAX);
    assert!(verdict.status.allocations.iter().all(|copy| copy.state == AllocationState::PeerDown));
    assert_eq!((verdict.reason, verdict.status.ready_replicas), (PinReason::Pinned, Some(1)));
}

#[test]
fn whoever_has_told_everything_and_nothing_of_a_copy_does_not_hold_it() {
    for before in WRITTEN {
        let mut world = World::new(1, &[PinState::Pinned]);
        let object = object(1, 1);
        let mut object = written(&object, world.judge(&object, NOW));
        object.status.as_mut().unwrap().allocations[0].state = before;
        world.reports.clear();
        assert_eq!(states(&world.judge(&object, NOW)), [AllocationState::Queued], "{before:?}");
        // Until its reports are complete, the written state stays.
        world.peers.get_mut(&id(1)).unwrap().reported = false;
        assert_eq!(states(&world.judge(&object, NOW)), [before], "{before:?}");
    }
}

#[test]
fn two_identities_under_one_name_are_shown_once() {
    use AllocationState as A;
    use PinState::{NotFound, Pinned, Pinning, Queued};
    // Both reports, which copy leaves, and the shown state.
    let cases = [
        (Pinned, Queued, None, A::Pinned),
        (Pinned, Pinned, None, A::Pinned),
        (NotFound, Queued, None, A::ContentNotFound),
        (Queued, Pinning, None, A::Queued),
        // The copy that does not leave is shown.
        (Pinned, Queued, Some(0), A::Queued),
        (Pinned, Pinned, Some(0), A::Pinned),
        (Pinned, Queued, Some(1), A::Pinned),
        (Queued, Pinned, Some(1), A::Queued),
        (NotFound, Pinned, Some(1), A::ContentNotFound),
    ];
    for (first, second, leaving, expected) in cases {
        for back in [false, true] {
            // If neither holds it nor leaves, the first is shown.
            if back && leaving.is_none() && expected != A::Pinned {
                continue;
            }
            let mut world = World::new(2, &[first, second]);
            world.peers.values_mut().for_each(|peer| peer.name = "p-1".into());
            if let Some(leaving) = leaving {
                let of: usize = leaving;
                world.pin.allocations[of].leaving = true;
            }
            if back {
                world.pin.allocations.reverse();
            }
            let verdict = world.judge(&object(1, 1), NOW);
            assert_eq!(states(&verdict), [expected], "{first:?} {second:?} {leaving:?} {back}");
            let confirmed = usize::from(expected == A::Pinned);
            assert_eq!(verdict.status.copies, Some(format!("{confirmed}/1")));
            assert_ne!(verdict.reason, PinReason::NotEnoughPeers);
        }
    }
}
