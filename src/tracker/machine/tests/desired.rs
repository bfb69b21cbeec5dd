//! What is wanted, and its origin.

use super::*;

#[test]
fn ranges_say_what_is_wanted_and_nothing_beyond() {
    let mut bench = Bench::new(config());
    for n in [1, 3, 5, 7] {
        bench.want(n);
    }
    let wanted = vec![cid(4), cid(5)];
    let range = Event::DesiredRange { after: Some(cid(1)), until: Some(cid(5)), wanted };
    bench.feed(range);
    bench.answer_no();
    let known: Vec<u16> = (0..10).filter(|n| bench.state(*n).is_some()).collect();
    assert_eq!(known, [1, 4, 5, 7]);
}

#[test]
fn the_ledger_at_start_is_checked_against_what_is_wanted() {
    let entry = |origin| ledger::LedgerEntry { origin, since: Timestamp(0) };
    let ledger = vec![
        (cid(1), entry(Origin::Ours)),
        (cid(2), entry(Origin::Ours)),
        (cid(3), entry(Origin::Foreign)),
    ];
    let mut bench = Bench::with_ledger(config(), ledger);
    bench.actions.clear();
    assert!(bench.machine.statuses(None, 10).0.is_empty());
    let wanted = vec![cid(1)];
    bench.feed(Event::DesiredRange { after: None, until: None, wanted });
    assert_eq!(bench.state(1), Some(PinState::Rechecking));
    assert_eq!((bench.state(2), bench.state(3)), (Some(PinState::Unpinning), None));
    assert_eq!(bench.take(), [Action::List, Action::Confirm(vec![cid(2)])]);
    bench.feed(Event::Listed(vec![cid(1), cid(2), cid(3)]));
    assert_eq!(bench.state(1), Some(PinState::Pinned));
    bench.feed(Event::Confirmed(vec![(cid(2), false)]));
    assert_eq!(bench.take(), [Action::Unpin(cid(2))]);
    bench.feed(Event::UnpinDone(cid(2), Ok(())));
    assert_eq!(bench.state(2), None);
}

#[test]
fn what_a_former_peer_pinned_stays_until_it_was_wanted_and_released() {
    let entry = ledger::LedgerEntry { origin: Origin::Former, since: Timestamp(0) };
    let now = Now { at: Duration::ZERO, wall: Timestamp(0) };
    let mut bench = Bench::new(config());
    let ledger = vec![(cid(1), entry), (cid(2), entry)];
    let machine = Machine::new(config(), now, Some("d".to_owned()), ledger);
    bench.machine = machine.with_former_ledger();
    bench.feed(Event::DesiredRange { after: None, until: None, wanted: Vec::new() });
    assert_eq!((bench.state(1), bench.state(2)), (None, None));
    assert_eq!(bench.take().last(), Some(&Action::List));
    bench.feed(Event::Listed(vec![cid(1)]));
    bench.feed(Event::ListEnded(Ok(())));
    assert_eq!(bench.written, [(cid(2), None)], "the daemon does not hold it: forgotten");

    bench.want(1);
    assert_eq!(bench.take(), [Action::List]);
    bench.feed(Event::Listed(vec![cid(1)]));
    bench.feed(Event::ListEnded(Ok(())));
    assert_eq!(bench.state(1), Some(PinState::Pinned));
    assert_eq!(bench.written[1].1.unwrap().origin, Origin::Ours);
    bench.feed(Event::Desired(vec![(cid(1), false)]));
    bench.feed(Event::Confirmed(vec![(cid(1), false)]));
    assert!(bench.take().contains(&Action::Unpin(cid(1))));
}

#[test]
fn deadlines_are_never_in_the_past() {
    let mut bench = Bench::new(config());
    for n in 0..100 {
        bench.want(n);
        assert!(bench.machine.deadline() > bench.at);
        if n % 3 == 0 {
            bench.answer_no();
        }
        bench.advance(1);
        assert!(bench.machine.deadline() > bench.at);
    }
}

/// Ledger entries stay untouched until it is known whether they are wanted, whatever a list says.
#[test]
fn before_it_is_known_what_is_wanted_nothing_of_the_ledger_is_given_up() {
    let origins = [Origin::Ours, Origin::Foreign, Origin::Former];
    let mut bench = Bench::unlisted(config(), ledger_of(&origins));
    bench.feed(Event::Listed(vec![cid(1), cid(2), cid(3)]));
    bench.feed(Event::ListEnded(Ok(())));
    assert!(bench.written.is_empty());
    bench.take();
    bench.advance_until(&Action::List);
    bench.feed(Event::ListEnded(Ok(())));
    // Only a former peer's entry certainly has nobody here waiting for it.
    assert_eq!(bench.written, [(cid(3), None)]);
    assert!(!bench.take().iter().any(|a| matches!(a, Action::Confirm(_) | Action::Unpin(_))));
}

#[test]
fn a_former_peers_ledger_is_bound_before_anything_else() {
    let now = Now { at: Duration::ZERO, wall: Timestamp(0) };
    let ledger = ledger_of(&[Origin::Former]);
    for (former, first) in [(false, Action::List), (true, Action::Bind("d".to_owned()))] {
        let mut machine = Machine::new(config(), now, Some("d".to_owned()), ledger.clone());
        if former {
            machine = machine.with_former_ledger();
        }
        assert_eq!(machine.handle(now, Event::Tick), [Action::Probe]);
        assert_eq!(machine.handle(now, Event::Probed(Ok("d".to_owned()))), [first]);
        if former {
            assert_eq!(machine.handle(now, Event::Bound(Ok(false))), [Action::List]);
            // Once.
            machine.handle(now, Event::Probed(Err(down())));
            assert_eq!(machine.handle(now, Event::Probed(Ok("d".to_owned()))), [Action::List]);
        }
    }
}

/// With a failed unpin that waits for a retry.
fn with_failed_unpin(error: IpfsError) -> Bench {
    let mut bench = Bench::holding(1);
    bench.release(1);
    bench.feed(Event::Confirmed(vec![(cid(1), false)]));
    assert!(bench.take().contains(&Action::Unpin(cid(1))));
    bench.feed(Event::UnpinDone(cid(1), Err(error)));
    assert_eq!(bench.state(1), Some(PinState::UnpinFailed));
    bench.take();
    bench
}

/// The unpin may still take effect, even after the question.
#[test]
fn what_is_wanted_again_after_an_unpin_without_an_answer_is_looked_for_soon_and_often() {
    let mut bench = with_failed_unpin(slow());
    bench.want(1);
    assert_eq!(bench.state(1), Some(PinState::Queued));
    assert!(!bench.take().contains(&Action::Ask(vec![cid(1)])), "it may still be at it");
    bench.advance(1);
    bench.answer(1, Held::Recursive);
    assert_eq!(bench.state(1), Some(PinState::Pinned));
    let mut lists = 0;
    for _ in 0..3 {
        bench.take();
        lists += bench.advance_until(&Action::List);
        bench.feed(Event::Listed(vec![cid(1)]));
        bench.feed(Event::ListEnded(Ok(())));
    }
    assert!((27..=31).contains(&lists), "three lists within {lists} s");
    assert_eq!(bench.state(1), Some(PinState::Pinned));
    bench.take();
    bench.advance_until(&Action::List);
    // The unpin has finally taken effect.
    bench.feed(Event::ListEnded(Ok(())));
    assert_eq!(bench.state(1), Some(PinState::Queued));
    bench.answer(1, Held::No);
    assert!(bench.take().contains(&Action::Pin(cid(1))));
}

/// A CID that is wanted again before its unpin is asked about, and the unpin is not sent.
#[test]
fn what_is_wanted_again_before_its_unpin_stays() {
    type Step = fn(&mut Bench);
    let steps: [Step; 2] = [
        // Covered by the barrier under way.
        |_| {},
        // Confirmed, while two others are being unpinned.
        |bench| bench.feed(Event::Confirmed((1..=4).map(|n| (cid(n), false)).collect())),
    ];
    for step in steps {
        let mut bench = Bench::with_ledger(config(), ledger_of(&[Origin::Ours; 4]));
        bench.feed(Event::DesiredRange { after: None, until: None, wanted: vec![] });
        step(&mut bench);
        bench.take();
        bench.want(4);
        assert_eq!(bench.state(4), Some(PinState::Queued));
        bench.answer(4, Held::Recursive);
        assert_eq!(bench.state(4), Some(PinState::Pinned));
        bench.feed(Event::Confirmed((1..=4).map(|n| (cid(n), false)).collect()));
        for n in 1..4 {
            bench.feed(Event::UnpinDone(cid(n), Ok(())));
        }
        bench.advance(2);
        assert!(!bench.take().contains(&Action::Unpin(cid(4))));
        assert_eq!(bench.state(4), Some(PinState::Pinned));
    }
    // One that waits for a barrier that keeps failing.
    let mut bench = Bench::with_ledger(config(), ledger_of(&[Origin::Ours]));
    bench.feed(Event::DesiredRange { after: None, until: None, wanted: vec![] });
    bench.feed(Event::ConfirmFailed("no leader".to_owned()));
    bench.take();
    bench.want(1);
    bench.answer(1, Held::Recursive);
    bench.advance(5);
    assert!(!bench.take().iter().any(|action| matches!(action, Action::Confirm(_))));
    assert_eq!(bench.state(1), Some(PinState::Pinned));
}

#[test]
fn what_is_released_while_it_is_asked_about_is_let_go_by_whose_it_is() {
    for (origin, held, unpins) in [
        (Origin::Ours, Held::Recursive, true),
        (Origin::Ours, Held::No, false),
        (Origin::Foreign, Held::Recursive, false),
    ] {
        let mut bench = Bench::asking(&[origin]);
        bench.release(1);
        bench.answer(1, held);
        let confirms = bench.take().contains(&Action::Confirm(vec![cid(1)]));
        assert_eq!(confirms, unpins, "{origin:?} {held:?}");
        assert!(unpins || bench.written_of(1) == Some(None));
    }
    // Whatever the answer is.
    let mut bench = Bench::asking(&[Origin::Ours]);
    bench.release(1);
    bench.feed(Event::Asked(vec![cid(1)], Err(slow())));
    assert!(bench.take().contains(&Action::Confirm(vec![cid(1)])));
    assert_eq!(bench.state(1), Some(PinState::Unpinning));
    // A former peer's pin stays as it is.
    let mut bench = Bench::asking(&[Origin::Former]);
    bench.release(1);
    bench.answer(1, Held::Recursive);
    assert!(bench.written.is_empty() && bench.state(1).is_none());
}
