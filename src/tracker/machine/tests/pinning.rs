//! From question to pin.

use super::*;

#[test]
fn waits_grow_to_a_bound() {
    let mut bench = Bench::new(config());
    bench.want(1);
    bench.answer_no();
    let mut waits = Vec::new();
    for _ in 0..9 {
        bench.feed(Event::PinDone(cid(1), Err(failed())));
        let began = bench.at;
        bench.take();
        while !bench.take().contains(&Action::Pin(cid(1))) {
            assert!(bench.at - began < Duration::from_secs(1000), "it is never tried again");
            bench.advance(1);
            bench.answer_no();
            bench.actions.retain(|a| !matches!(a, Action::List));
            bench.feed(Event::ListEnded(Ok(())));
        }
        waits.push((bench.at - began).as_secs());
    }
    // One second more each: first the attempt is asked about.
    assert_eq!(waits, [6, 11, 21, 41, 81, 161, 301, 301, 301]);
    assert_eq!(bench.machine.status(&cid(1)).unwrap().attempts, 9);
}

#[test]
fn a_question_that_fails_for_many_is_asked_for_each() {
    let mut bench = Bench::new(config());
    bench.actions.clear();
    let many: Vec<u16> = (0..10).collect();
    let wanted = many.iter().map(|n| cid(*n)).collect();
    bench.feed(Event::DesiredRange { after: None, until: None, wanted });
    // All questions but the first wait for room, so the others come together.
    let mut single = BTreeSet::new();
    for _ in 0..40 {
        let Some(cids) = bench.next_ask() else { break };
        if let [one] = cids[..]
            && one != cid(3)
        {
            single.insert(one);
            bench.feed(Event::Asked(cids, Ok(vec![Held::Recursive])));
        } else {
            bench.feed(Event::Asked(cids, Err(refused())));
        }
    }
    assert_eq!(bench.state(3), Some(PinState::Failed));
    for n in many.into_iter().filter(|n| *n != 3) {
        assert_eq!(bench.state(n), Some(PinState::Pinned), "{n}");
    }
}

#[test]
fn a_direct_pin_of_somebody_else_is_widened_and_never_taken_away() {
    let mut bench = Bench::new(config());
    bench.want(1);
    bench.actions.clear();
    bench.feed(Event::Asked(vec![cid(1)], Ok(vec![Held::Direct])));
    assert_eq!(bench.take(), [Action::Pin(cid(1))]);
    assert_eq!(bench.written[0].1.unwrap().origin, Origin::Foreign);
    bench.feed(Event::PinDone(cid(1), Ok(())));
    assert_eq!(bench.state(1), Some(PinState::Pinned));
    bench.feed(Event::Desired(vec![(cid(1), false)]));
    bench.advance(100);
    bench.actions.retain(|action| *action != Action::List);
    assert_eq!((bench.take(), bench.state(1)), (vec![], None));
}

#[test]
fn what_others_pin_after_an_attempt_that_failed_is_theirs() {
    let mut bench = Bench::new(config());
    bench.want(1);
    bench.answer_no();
    bench.feed(Event::PinDone(cid(1), Err(failed())));
    bench.advance(2);
    bench.answer_no();
    assert_eq!(bench.written.last().unwrap(), &(cid(1), None));
    assert_eq!(bench.state(1), Some(PinState::Failed));
    bench.advance(6);
    bench.feed(Event::Asked(vec![cid(1)], Ok(vec![Held::Recursive])));
    assert_eq!(bench.state(1), Some(PinState::Pinned));
    assert_eq!(bench.written.last().unwrap().1.unwrap().origin, Origin::Foreign);

    // Ours: the daemon completed the attempt that seemed to fail.
    let mut bench = Bench::new(config());
    bench.want(1);
    bench.answer_no();
    bench.feed(Event::PinDone(cid(1), Err(failed())));
    bench.advance(2);
    bench.feed(Event::Asked(vec![cid(1)], Ok(vec![Held::Recursive])));
    assert_eq!(bench.state(1), Some(PinState::Pinned));
    assert_eq!(bench.written.last().unwrap().1.unwrap().origin, Origin::Ours);
}

#[test]
fn a_ledger_that_cannot_be_written_is_told_and_nothing_is_pinned() {
    let now = |s| Now { at: Duration::from_secs(s), wall: Timestamp(0) };
    let mut machine = Machine::new(config(), now(0), Some("d".to_owned()), Vec::new());
    machine.handle(now(0), Event::Probed(Ok("d".to_owned())));
    machine.handle(now(0), Event::Desired(vec![(cid(1), true)]));
    let actions = machine.handle(now(0), Event::Asked(vec![cid(1)], Ok(vec![Held::No])));
    assert!(matches!(actions[..], [Action::Write(_)]), "{actions:?}");
    let actions = machine.handle(now(0), Event::Written(Err("the ledger: disk full".to_owned())));
    assert_eq!(actions, []);
    let status = machine.status(&cid(1)).unwrap();
    assert_eq!(
        (status.state, status.message.as_str()),
        (PinState::Queued, "the ledger: disk full")
    );
    assert_eq!(machine.deadline(), Duration::from_secs(1));
    let actions = machine.handle(now(1), Event::Tick);
    assert!(actions.iter().any(|a| matches!(a, Action::Write(_))), "{actions:?}");
    let actions = machine.handle(now(1), Event::Written(Ok(())));
    assert_eq!(actions, [Action::Pin(cid(1))]);
}

#[test]
fn a_foreign_pin_that_a_list_lacks_while_it_is_written_down_is_asked_about_again() {
    let mut bench = Bench::new(config());
    bench.holds_writes = true;
    bench.want(1);
    bench.feed(Event::Asked(vec![cid(1)], Ok(vec![Held::Recursive])));
    assert!(bench.take().iter().any(|action| matches!(action, Action::Write(_))));
    bench.advance(400);
    assert!(bench.take().contains(&Action::List), "the write lasts");
    bench.feed(Event::ListEnded(Ok(())));
    bench.feed(Event::Written(Ok(())));
    assert_eq!(bench.state(1), Some(PinState::Queued));
    assert!(bench.take().contains(&Action::Ask(vec![cid(1)])));
}

#[test]
fn a_slow_answer_fails_its_question_and_nothing_else() {
    let mut bench = Bench::new(config());
    bench.want(0);
    bench.answer_no();
    assert!(bench.take().contains(&Action::Pin(cid(0))));
    let wanted = (0..10).map(cid).collect();
    bench.feed(Event::DesiredRange { after: None, until: None, wanted });
    for _ in 0..3 {
        let Some(cids) = bench.next_ask() else { break };
        bench.feed(Event::Asked(cids, Err(slow())));
    }
    assert_eq!(bench.next_ask(), None);
    // All say so after a few questions, not one each; the pin in flight continues.
    for n in 1..10 {
        assert_eq!(bench.state(n), Some(PinState::Failed), "{n}");
        assert!(bench.message(n).contains("no answer"), "{}", bench.message(n));
    }
    assert_eq!(bench.state(0), Some(PinState::Pinning));
    assert!(!bench.take().contains(&Action::CancelDaemon));
}

/// For each kind of ledger entry: the action for each answer of the daemon, and the action once the CID
/// is no longer wanted.
#[test]
fn an_answer_leads_on_by_what_is_held_and_whose_it_was() {
    use Origin::{Foreign, Former, Ours};
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Then {
        Pin,
        Pinned,
    }
    // Origin, how it is held; what is written, what happens then, whether it is unpinned at the end.
    let table = [
        (None, Held::No, Some(Ours), Then::Pin, true),
        (None, Held::Direct, Some(Foreign), Then::Pin, false),
        (None, Held::Recursive, Some(Foreign), Then::Pinned, false),
        (Some(Ours), Held::No, None, Then::Pin, true),
        (Some(Ours), Held::Direct, Some(Foreign), Then::Pin, false),
        (Some(Ours), Held::Recursive, None, Then::Pinned, true),
        (Some(Foreign), Held::No, Some(Ours), Then::Pin, true),
        (Some(Foreign), Held::Direct, None, Then::Pin, false),
        (Some(Foreign), Held::Recursive, None, Then::Pinned, false),
        (Some(Former), Held::No, Some(Ours), Then::Pin, true),
        (Some(Former), Held::Direct, Some(Foreign), Then::Pin, false),
        (Some(Former), Held::Recursive, Some(Ours), Then::Pinned, true),
    ];
    for row in table {
        let (origin, held, written, then, unpinned) = row;
        let mut bench = match origin {
            Some(origin) => Bench::asking(&[origin]),
            None => Bench::new(config()),
        };
        bench.want(1);
        bench.answer(1, held);
        assert_eq!(bench.written_of(1), written.map(Some), "{row:?}");
        let pins = bench.actions.contains(&Action::Pin(cid(1)));
        assert_eq!(pins, then == Then::Pin, "{row:?}");
        if pins {
            assert_ne!(bench.state(1), Some(PinState::Pinned), "{row:?}");
            bench.feed(Event::PinDone(cid(1), Ok(())));
        }
        assert_eq!(bench.state(1), Some(PinState::Pinned), "{row:?}");
        bench.take();
        bench.release(1);
        let confirms = bench.take().contains(&Action::Confirm(vec![cid(1)]));
        assert_eq!(confirms, unpinned, "{row:?}");
        if !unpinned {
            assert_eq!((bench.written_of(1), bench.state(1)), (Some(None), None), "{row:?}");
        }
    }
}

#[test]
fn what_came_of_an_attempt_is_asked_after_a_second_unless_it_was_never_ours() {
    let begin = |held| {
        let mut bench = Bench::new(config());
        bench.want(1);
        bench.answer(1, held);
        bench.take();
        bench
    };
    let asks = Action::Ask(vec![cid(1)]);
    // However it ends.
    type End = fn(&mut Bench);
    let ends: [End; 5] = [
        |bench| bench.feed(Event::PinDone(cid(1), Err(failed()))),
        |bench| bench.feed(Event::PinDone(cid(1), Err(slow()))),
        |bench| bench.feed(Event::PinDone(cid(1), Err(refused()))),
        |bench| bench.feed(Event::PinDone(cid(1), Err(down()))),
        |bench| bench.release(1),
    ];
    for (n, end) in ends.into_iter().enumerate() {
        let mut bench = begin(Held::No);
        end(&mut bench);
        bench.advance_by(Duration::from_millis(999));
        assert!(!bench.take().contains(&asks), "{n}: it may still be at it");
        bench.advance_by(Duration::from_millis(2));
        assert!(bench.take().contains(&asks), "{n}");
    }
    // A foreign pin stays foreign, whatever the attempt achieved.
    let mut bench = begin(Held::Direct);
    bench.release(1);
    assert!(bench.take().contains(&Action::CancelPin(cid(1))));
    assert_eq!((bench.written_of(1), bench.state(1)), (Some(None), None));
}

#[test]
fn a_refusal_waits_longest() {
    for (error, seconds) in [(failed(), 5), (slow(), 5), (refused(), 300)] {
        let mut bench = Bench::new(config());
        bench.want(1);
        bench.answer(1, Held::No);
        bench.feed(Event::PinDone(cid(1), Err(error.clone())));
        bench.advance(1);
        bench.answer(1, Held::No);
        bench.take();
        bench.holds_probes = true;
        assert_eq!(bench.state(1), Some(PinState::Failed));
        assert_eq!(bench.advance_until(&Action::Ask(vec![cid(1)])), seconds, "{error:?}");
    }
}

#[test]
fn what_a_released_attempt_left_behind_is_unpinned() {
    for (held, unpins) in [(Held::Recursive, true), (Held::No, false), (Held::Direct, false)] {
        let mut bench = Bench::new(config());
        bench.want(1);
        bench.answer(1, Held::No);
        bench.release(1);
        assert!(bench.take().contains(&Action::CancelPin(cid(1))));
        assert_eq!(bench.state(1), Some(PinState::Unpinning));
        bench.advance(1);
        bench.answer(1, held);
        assert_eq!(bench.take().contains(&Action::Confirm(vec![cid(1)])), unpins, "{held:?}");
        if !unpins {
            assert_eq!((bench.written_of(1), bench.state(1)), (Some(None), None));
        }
    }
}

#[test]
fn progress_is_more_blocks_or_more_bytes_than_before() {
    let table = [
        (progress(6, 100), true),
        (progress(5, 101), true),
        (progress(6, 101), true),
        (progress(5, 100), false),
        (progress(4, 99), false),
        (progress(0, 0), false),
    ];
    for (next, is_progress) in table {
        let mut bench = Bench::new(config());
        bench.want(1);
        bench.answer(1, Held::No);
        bench.feed(Event::Progress(cid(1), progress(5, 100)));
        bench.advance(40);
        bench.feed(Event::Progress(cid(1), next));
        bench.take();
        bench.advance(30);
        let stopped = bench.take().contains(&Action::CancelPin(cid(1)));
        assert_eq!(stopped, !is_progress, "{next:?}");
    }
}

#[test]
fn an_answer_of_another_length_is_an_answer_to_none() {
    for answers in [vec![], vec![Held::Recursive; 2]] {
        let mut bench = Bench::new(config());
        bench.want(1);
        let asked = bench.next_ask().unwrap();
        bench.feed(Event::Asked(asked, Ok(answers)));
        assert_eq!(bench.state(1), Some(PinState::Failed));
        assert!(bench.message(1).contains("wrong number of questions"), "{}", bench.message(1));
        assert_eq!(bench.advance_until(&Action::Ask(vec![cid(1)])), 5);
    }
}

#[test]
fn a_question_about_an_attempt_that_fails_is_asked_again_with_the_same_weight() {
    let mut bench = Bench::new(config());
    bench.want(1);
    bench.answer(1, Held::No);
    bench.feed(Event::PinDone(cid(1), Err(failed())));
    bench.advance(1);
    let asked = bench.next_ask().unwrap();
    bench.feed(Event::Asked(asked, Err(slow())));
    assert_eq!(bench.advance_until(&Action::Ask(vec![cid(1)])), 5);
    bench.answer(1, Held::No);
    assert_eq!(bench.written_of(1), Some(None), "the intent is taken back");
}

/// A new wish starts afresh.
#[test]
fn what_is_wanted_again_after_an_attempt_is_pinned_at_once() {
    for fails in [false, true] {
        let mut bench = Bench::new(config());
        bench.want(1);
        bench.answer(1, Held::No);
        if fails {
            bench.feed(Event::PinDone(cid(1), Err(failed())));
            assert_eq!(bench.state(1), Some(PinState::Failed));
        }
        bench.release(1);
        bench.want(1);
        assert_eq!(bench.state(1), Some(PinState::Queued));
        bench.take();
        bench.advance(1);
        bench.answer(1, Held::No);
        assert!(bench.take().contains(&Action::Pin(cid(1))));
        assert_eq!(bench.written_of(1), Some(Some(Origin::Ours)));
    }
}

/// A cancelled operation may have been answered before.
#[test]
fn an_answer_that_nobody_waits_for_changes_nothing() {
    let late = [
        Event::PinDone(cid(1), Ok(())),
        Event::PinDone(cid(1), Err(failed())),
        Event::UnpinDone(cid(1), Ok(())),
        Event::Asked(vec![cid(1)], Ok(vec![Held::Recursive])),
        Event::Asked(vec![cid(1)], Err(failed())),
        Event::Confirmed(vec![(cid(1), false)]),
        Event::ConfirmFailed("no leader".to_owned()),
        Event::ListEnded(Ok(())),
        Event::Progress(cid(1), progress(9, 9)),
    ];
    for event in late {
        // Released and soon to be asked about, or pinned.
        let mut bench = Bench::new(config());
        bench.want(1);
        bench.answer(1, Held::No);
        bench.release(1);
        bench.take();
        bench.feed(event.clone());
        assert_eq!(bench.state(1), Some(PinState::Unpinning), "{event:?}");
        assert_eq!(bench.take(), [], "{event:?}");
        bench.advance(1);
        assert!(bench.take().contains(&Action::Ask(vec![cid(1)])), "{event:?}");
        let mut bench = Bench::holding(1);
        bench.feed(event.clone());
        assert_eq!((bench.state(1), bench.take()), (Some(PinState::Pinned), vec![]), "{event:?}");
        assert_eq!(bench.written_of(1), Some(Some(Origin::Ours)), "{event:?}");
    }
}
