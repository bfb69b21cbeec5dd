//! Garbage collection.

use super::*;

#[test]
fn a_collection_waits_a_little_for_pins_then_they_wait_for_it() {
    let mut bench = Bench::new(config());
    for n in 0..4 {
        bench.want(n);
    }
    bench.answer_no();
    bench.take();
    bench.feed(Event::RunGc);
    // The freed place is not taken.
    bench.feed(Event::PinDone(cid(0), Ok(())));
    bench.advance(1);
    bench.feed(Event::Progress(cid(1), progress(1, 1)));
    assert!(!bench.take().iter().any(|a| matches!(a, Action::Pin(_) | Action::RunGc)));
    assert!(bench.machine.gc().running);
    bench.advance(9);
    let begun = [Action::CancelPin(cid(1)), Action::RunGc];
    // The attempt is asked about a little later.
    assert!(!bench.actions.contains(&Action::Ask(vec![cid(1)])));
    bench.actions.retain(|action| begun.contains(action));
    assert_eq!(bench.take(), begun);
    // It returns to the queue unchanged and shows why it waits.
    let status = bench.machine.status(&cid(1)).unwrap();
    assert_eq!((status.state, status.attempts), (PinState::Queued, 0));
    assert_eq!(bench.message(2), "waits until the daemon has collected garbage");
    bench.advance(60);
    bench.answer_no();
    assert!(!bench.take().iter().any(|a| matches!(a, Action::Pin(_))));
    let done = GcReport { removed: 3, errors: vec![] };
    bench.feed(Event::GcReport(Ok(done.clone())));
    bench.answer_no();
    let actions = bench.take();
    assert!(actions.contains(&Action::EndGc(Ok(done))), "{actions:?}");
    assert!(actions.iter().any(|a| matches!(a, Action::Pin(_))), "{actions:?}");
    assert_eq!(bench.message(1), "");
    let collections = bench.machine.collections();
    assert_eq!((collections.running, collections.done, collections.removed), (false, 1, 3));
}

#[test]
fn a_collection_ends_in_any_case_and_pins_go_on() {
    let reason = |actions: Vec<Action>| {
        let mut ends = actions.into_iter().filter_map(|action| match action {
            Action::EndGc(result) => Some(result.unwrap_err()),
            _ => None,
        });
        (ends.next(), ends.next())
    };
    let mut bench = Bench::new(config());
    bench.actions.clear();
    bench.feed(Event::RunGc);
    // Nothing was in flight.
    assert_eq!(bench.take(), [Action::RunGc]);
    bench.want(1);
    bench.advance(30 * 60);
    bench.answer_no();
    let actions = bench.take();
    for action in [Action::CancelGc, Action::Pin(cid(1))] {
        assert!(actions.contains(&action), "{actions:?}");
    }
    assert_eq!(reason(actions), (Some("it did not end within 1800 s".to_owned()), None));

    bench.feed(Event::RunGc);
    bench.take();
    bench.feed(Event::PinDone(cid(1), Err(IpfsError::Down("reset".to_owned()))));
    let away = "the daemon is away: reset".to_owned();
    assert_eq!(reason(bench.take()), (Some(away), None));
    assert!(!bench.machine.gc().running);

    let now = Now { at: Duration::ZERO, wall: Timestamp(0) };
    let mut machine = Machine::new(config(), now, None, Vec::new());
    let (first, second) = reason(machine.handle(now, Event::RunGc));
    assert_eq!((first.as_deref(), second), (Some("the daemon is away: not asked yet"), None));
    assert_eq!(machine.collections().failed, 1);
}

#[test]
fn no_collection_begins_beside_an_unpin_that_does_not_end() {
    let mut bench = Bench::with_ledger(config(), ledger_of(&[Origin::Ours]));
    bench.feed(Event::DesiredRange { after: None, until: None, wanted: vec![] });
    bench.feed(Event::Confirmed(vec![(cid(1), false)]));
    assert!(bench.take().contains(&Action::Unpin(cid(1))));
    bench.feed(Event::RunGc);
    bench.advance(60);
    let actions = bench.take();
    assert!(!actions.contains(&Action::RunGc), "{actions:?}");
    let failed = Action::EndGc(Err("an unpin did not end".to_owned()));
    assert!(actions.contains(&failed), "{actions:?}");
}

#[test]
fn what_may_be_unpinned_is_confirmed_again_after_a_collection() {
    let mut bench = Bench::with_ledger(config(), ledger_of(&[Origin::Ours]));
    bench.feed(Event::DesiredRange { after: None, until: None, wanted: vec![] });
    bench.feed(Event::RunGc);
    bench.take();
    bench.feed(Event::Confirmed(vec![(cid(1), false)]));
    // So short that the barrier would still be valid without a collection.
    bench.advance(1);
    assert!(!bench.take().contains(&Action::Unpin(cid(1))));
    let unpinned = |bench: &Bench| bench.machine.gc().unpinned;
    assert!(unpinned(&bench), "nobody knows what was before");
    bench.feed(Event::GcReport(Ok(GcReport::default())));
    assert!(!unpinned(&bench));
    let actions = bench.take();
    assert!(actions.contains(&Action::Confirm(vec![cid(1)])), "{actions:?}");
    assert!(!actions.contains(&Action::Unpin(cid(1))), "{actions:?}");
    bench.feed(Event::Confirmed(vec![(cid(1), false)]));
    assert!(bench.take().contains(&Action::Unpin(cid(1))));
    bench.feed(Event::UnpinDone(cid(1), Ok(())));
    assert!(unpinned(&bench));
    bench.advance(150);
    assert_eq!(bench.machine.gc().idle_minutes, Some(2));
}

#[test]
fn a_collection_begins_as_soon_as_nothing_is_in_flight() {
    let mut bench = Bench::with_ledger(config(), ledger_of(&[Origin::Ours]));
    bench.feed(Event::DesiredRange { after: None, until: None, wanted: vec![] });
    bench.feed(Event::Confirmed(vec![(cid(1), false)]));
    bench.want(2);
    bench.answer(2, Held::No);
    bench.feed(Event::RunGc);
    let begins = |bench: &mut Bench| bench.take().contains(&Action::RunGc);
    assert!(!begins(&mut bench), "a pin and an unpin are in flight");
    bench.feed(Event::PinDone(cid(2), Ok(())));
    assert!(!begins(&mut bench), "an unpin is in flight");
    bench.feed(Event::UnpinDone(cid(1), Ok(())));
    assert!(begins(&mut bench));
    bench.advance(60);
    assert!(!begins(&mut bench), "once");
}

#[test]
fn nothing_is_pinned_unpinned_or_confirmed_while_it_runs() {
    let mut bench = Bench::with_ledger(config(), ledger_of(&[Origin::Ours; 2]));
    bench.feed(Event::RunGc);
    bench.take();
    bench.feed(Event::DesiredRange { after: None, until: None, wanted: vec![cid(3)] });
    bench.answer_no();
    bench.advance(20);
    let changes = |a: &Action| matches!(a, Action::Pin(_) | Action::Unpin(_) | Action::Confirm(_));
    assert!(!bench.take().iter().any(changes));
    bench.feed(Event::GcReport(Ok(GcReport::default())));
    bench.answer_no();
    let actions = bench.take();
    assert!(actions.contains(&Action::Pin(cid(3))), "{actions:?}");
    assert!(actions.contains(&Action::Confirm(vec![cid(1), cid(2)])), "{actions:?}");
}

#[test]
fn a_collection_that_failed_leaves_what_was_unpinned_to_the_next() {
    let results = [
        (Ok(GcReport { removed: 2, errors: vec![] }), false),
        (Err(failed()), true),
        (Err(slow()), true),
        (Err(down()), true),
    ];
    for (result, unpinned) in results {
        let mut bench = Bench::new(config());
        bench.feed(Event::RunGc);
        bench.take();
        bench.feed(Event::GcReport(result.clone()));
        let ends = bench.take().into_iter().filter(|a| matches!(a, Action::EndGc(_)));
        assert_eq!(ends.count(), 1, "{result:?}");
        assert_eq!(bench.machine.gc().unpinned, unpinned, "{result:?}");
        let collections = bench.machine.collections();
        let expected = if unpinned { (0, 1, 0) } else { (1, 0, 2) };
        let counted = (collections.done, collections.failed, collections.removed);
        assert_eq!((counted, collections.running), (expected, false), "{result:?}");
    }
}

#[test]
fn no_collection_begins_while_the_ledger_is_being_bound() {
    let mut bench = Bench::new(config());
    bench.holds_probes = true;
    bench.feed(Event::Probed(Ok("e".to_owned())));
    bench.take();
    bench.feed(Event::RunGc);
    let reason = "the ledger is being bound to the daemon".to_owned();
    assert_eq!(bench.take(), [Action::EndGc(Err(reason))]);
}
