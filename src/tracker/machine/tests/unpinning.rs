//! Barriers and unpins.

use super::*;

#[test]
fn what_came_of_an_unpin_without_an_answer_is_asked_a_little_later() {
    let mut bench = Bench::new(config());
    bench.want(1);
    bench.answer_no();
    bench.feed(Event::PinDone(cid(1), Ok(())));
    bench.feed(Event::Desired(vec![(cid(1), false)]));
    bench.feed(Event::Confirmed(vec![(cid(1), false)]));
    assert!(bench.take().contains(&Action::Unpin(cid(1))));
    bench.want(1);
    bench.feed(Event::UnpinDone(cid(1), Err(IpfsError::Slow("no answer".to_owned()))));
    let asks = |bench: &mut Bench| bench.take().contains(&Action::Ask(vec![cid(1)]));
    assert!(!asks(&mut bench), "it may still be at it");
    bench.advance(2);
    assert!(asks(&mut bench));
}

/// Ours by the ledger, wanted by nobody, and covered by a barrier under way.
fn confirming(count: u16) -> Bench {
    let entry = ledger::LedgerEntry { origin: Origin::Ours, since: Timestamp(0) };
    let ledger = (1..=count).map(|n| (cid(n), entry)).collect();
    let mut bench = Bench::with_ledger(config(), ledger);
    bench.feed(Event::DesiredRange { after: None, until: None, wanted: vec![] });
    assert!(bench.take().contains(&Action::Confirm((1..=count).map(cid).collect())));
    bench
}

#[test]
fn a_barrier_says_nothing_of_what_changed_since_it_was_asked_for() {
    let again = [Action::Confirm(vec![cid(1)])];
    // In both cases it may have been wanted for a moment unseen here.
    for event in [Event::Desired(vec![(cid(1), false)]), Event::ChangesMissed] {
        let mut bench = confirming(1);
        bench.feed(event);
        bench.feed(Event::Confirmed(vec![(cid(1), false)]));
        assert_eq!(bench.take(), again);
        bench.feed(Event::Confirmed(vec![(cid(1), false)]));
        assert_eq!(bench.take(), [Action::Unpin(cid(1))]);
    }
    let mut bench = confirming(1);
    bench.feed(Event::Desired(vec![(cid(1), true)]));
    bench.feed(Event::Desired(vec![(cid(1), false)]));
    bench.feed(Event::Confirmed(vec![(cid(1), false)]));
    assert_eq!(bench.take(), [Action::Ask(vec![cid(1)])]);
    bench.feed(Event::Asked(vec![cid(1)], Ok(vec![Held::Recursive])));
    assert_eq!(bench.take(), again);
}

#[test]
fn a_barrier_long_ago_is_passed_again_before_the_unpin() {
    let mut bench = confirming(3);
    bench.feed(Event::Confirmed((1..=3).map(|n| (cid(n), false)).collect()));
    assert_eq!(bench.take(), [Action::Unpin(cid(1)), Action::Unpin(cid(2))]);
    bench.advance(6);
    bench.take();
    bench.feed(Event::UnpinDone(cid(1), Ok(())));
    let actions = bench.take();
    assert!(actions.contains(&Action::Confirm(vec![cid(3)])), "{actions:?}");
    assert!(!actions.contains(&Action::Unpin(cid(3))), "{actions:?}");
}

#[test]
fn what_a_barrier_says_is_wanted_stays() {
    let mut bench = confirming(2);
    bench.feed(Event::Confirmed(vec![(cid(1), true), (cid(2), false)]));
    let actions = bench.take();
    assert_eq!(actions, [Action::Ask(vec![cid(1)]), Action::Unpin(cid(2))]);
    bench.feed(Event::Asked(vec![cid(1)], Ok(vec![Held::Recursive])));
    bench.feed(Event::UnpinDone(cid(2), Ok(())));
    assert_eq!((bench.state(1), bench.state(2)), (Some(PinState::Pinned), None));
    assert_eq!(bench.written_of(2), Some(None));
}

#[test]
fn without_a_barrier_nothing_is_unpinned_and_it_is_asked_for_ever_more_rarely() {
    let mut bench = confirming(1);
    let again = Action::Confirm(vec![cid(1)]);
    let mut waits = Vec::new();
    for _ in 0..7 {
        bench.feed(Event::ConfirmFailed("no leader".to_owned()));
        let state = (bench.state(1), bench.message(1));
        let waits_for = "waits until the leader confirms that it is no longer wanted".to_owned();
        assert_eq!(state, (Some(PinState::Unpinning), waits_for));
        bench.actions.retain(|action| !matches!(action, Action::List));
        assert_eq!(bench.take(), []);
        waits.push(bench.advance_until(&again));
        bench.take();
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
    bench.feed(Event::Confirmed(vec![(cid(1), false)]));
    assert!(bench.take().contains(&Action::Unpin(cid(1))));
    assert_eq!(bench.message(1), "");
}

/// It waits for its turn behind two others.
#[test]
fn what_changes_after_the_barrier_is_confirmed_again_before_the_unpin() {
    for event in [Event::Desired(vec![(cid(3), false)]), Event::ChangesMissed] {
        let mut bench = confirming(3);
        bench.feed(Event::Confirmed((1..=3).map(|n| (cid(n), false)).collect()));
        assert_eq!(bench.take(), [Action::Unpin(cid(1)), Action::Unpin(cid(2))]);
        bench.feed(event);
        assert_eq!(bench.take(), [Action::Confirm(vec![cid(3)])]);
        bench.feed(Event::UnpinDone(cid(1), Ok(())));
        assert_eq!(bench.take(), []);
        bench.feed(Event::Confirmed(vec![(cid(3), true)]));
        assert_eq!(bench.take(), [Action::Ask(vec![cid(3)])]);
    }
}

#[test]
fn a_barrier_is_good_for_five_seconds() {
    for (age, old) in [(5000, false), (5001, true)] {
        let mut bench = confirming(3);
        bench.feed(Event::Confirmed((1..=3).map(|n| (cid(n), false)).collect()));
        bench.advance_by(Duration::from_millis(age));
        bench.take();
        bench.feed(Event::UnpinDone(cid(1), Ok(())));
        let expected = if old { Action::Confirm(vec![cid(3)]) } else { Action::Unpin(cid(3)) };
        assert_eq!(bench.take(), [expected], "after {age} ms");
    }
}

#[test]
fn unpins_at_once_and_behind_one_barrier_are_bounded() {
    let mut bench = Bench::with_ledger(config(), ledger_of(&[Origin::Ours; 200]));
    bench.take();
    bench.feed(Event::DesiredRange { after: None, until: None, wanted: vec![] });
    let mut unpinned = 0;
    let mut under_way: Vec<Cid> = Vec::new();
    for _ in 0..1000 {
        for action in bench.take() {
            match action {
                Action::Confirm(cids) => {
                    assert!(cids.len() <= 64);
                    let answers = cids.into_iter().map(|cid| (cid, false)).collect();
                    bench.feed(Event::Confirmed(answers));
                }
                Action::Unpin(cid) => under_way.push(cid),
                _ => {}
            }
        }
        assert!(under_way.len() <= 2);
        if bench.actions.is_empty() {
            let Some(cid) = under_way.pop() else { break };
            unpinned += 1;
            bench.feed(Event::UnpinDone(cid, Ok(())));
        }
    }
    assert_eq!(unpinned, 200);
    assert!(bench.machine.statuses(None, 10).0.is_empty());
}

/// It is unknown whether it will still take effect.
#[test]
fn an_unpin_that_failed_is_confirmed_again_and_told() {
    for error in [failed(), slow(), refused()] {
        let mut bench = confirming(1);
        bench.feed(Event::Confirmed(vec![(cid(1), false)]));
        bench.take();
        let mut waits = Vec::new();
        for attempts in 1..=8 {
            bench.feed(Event::UnpinDone(cid(1), Err(error.clone())));
            let status = bench.machine.status(&cid(1)).unwrap();
            assert_eq!((status.state, status.attempts), (PinState::UnpinFailed, attempts));
            assert!(status.message.contains(&error.to_string()), "{}", status.message);
            assert!(bench.written.is_empty(), "it is ours as before");
            bench.take();
            waits.push(bench.advance_until(&Action::Confirm(vec![cid(1)])));
            bench.feed(Event::Confirmed(vec![(cid(1), false)]));
            assert!(bench.take().contains(&Action::Unpin(cid(1))));
        }
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300]);
        bench.feed(Event::UnpinDone(cid(1), Ok(())));
        assert_eq!((bench.written_of(1), bench.state(1)), (Some(None), None));
    }
}

/// CIDs that are wanted again during their unpin, by how the unpin ends.
#[test]
fn what_is_wanted_again_during_its_unpin_is_looked_for() {
    // How it ends, seconds until it is asked about, and whether a list follows soon.
    let ends = [
        (Ok(()), 0, false),
        (Err(failed()), 1, false),
        (Err(refused()), 1, false),
        (Err(slow()), 1, true),
        (Err(down()), 1, true),
    ];
    for (end, seconds, listed) in ends {
        let mut bench = Bench::holding(1);
        bench.release(1);
        bench.feed(Event::Confirmed(vec![(cid(1), false)]));
        bench.want(1);
        assert!(bench.take().contains(&Action::Unpin(cid(1))));
        bench.feed(Event::UnpinDone(cid(1), end.clone()));
        assert_ne!(bench.state(1), Some(PinState::Pinned), "{end:?}");
        assert_eq!(bench.advance_until(&Action::Ask(vec![cid(1)])), seconds, "{end:?}");
        if end == Err(down()) {
            bench.feed(Event::ListEnded(Ok(())));
        }
        bench.answer(1, Held::Recursive);
        assert_eq!(bench.state(1), Some(PinState::Pinned));
        let whose = if end.is_ok() { Origin::Foreign } else { Origin::Ours };
        assert_eq!(bench.written_of(1), Some(Some(whose)), "{end:?}");
        bench.take();
        bench.advance(10);
        assert_eq!(bench.take().contains(&Action::List), listed, "{end:?}");
    }
}

/// A list that began before an unpin ended may name what is gone since.
#[test]
fn a_list_from_before_an_unpin_ended_says_nothing_of_what_is_wanted_again() {
    for (end, lists_after_the_end) in
        [(Ok(()), false), (Err(failed()), false), (Err(failed()), true)]
    {
        let mut bench = Bench::holding(1);
        bench.release(1);
        bench.feed(Event::Confirmed(vec![(cid(1), false)]));
        bench.want(1);
        // All questions are taken, so it waits for its own.
        for n in 101..105 {
            bench.want(n);
        }
        assert!(bench.take().contains(&Action::Unpin(cid(1))));
        if !lists_after_the_end {
            bench.begin_list();
        }
        bench.feed(Event::UnpinDone(cid(1), end.clone()));
        if lists_after_the_end {
            bench.begin_list();
        }
        bench.advance(1);
        bench.feed(Event::Listed(vec![cid(1)]));
        assert_eq!(bench.state(1), Some(PinState::Queued), "{end:?}");
        bench.take();
        bench.feed(Event::Asked(vec![cid(101)], Ok(vec![Held::No])));
        assert!(bench.take().contains(&Action::Ask(vec![cid(1)])), "{end:?}");
    }
}

/// A wait that ended before the CID was wanted again does not count.
#[test]
fn each_wait_for_another_attempt_to_unpin_is_a_whole_one() {
    let mut bench = Bench::holding(1);
    for _ in 0..2 {
        bench.release(1);
        bench.feed(Event::Confirmed(vec![(cid(1), false)]));
        bench.take();
        bench.feed(Event::UnpinDone(cid(1), Err(failed())));
        bench.want(1);
        bench.advance(1);
        bench.answer(1, Held::Recursive);
        assert_eq!(bench.state(1), Some(PinState::Pinned));
    }
    bench.release(1);
    bench.feed(Event::Confirmed(vec![(cid(1), false)]));
    bench.take();
    bench.feed(Event::UnpinDone(cid(1), Err(failed())));
    assert_eq!(bench.advance_until(&Action::Confirm(vec![cid(1)])), 5);
}
