//! Turns: which CIDs wait for a place among the pins in flight, and which give way.

use super::*;

#[test]
fn a_stalled_pin_is_stopped_and_says_how_far_it_came() {
    let table = [
        (progress(0, 0), "no progress: no connected daemon provides it; trying again"),
        (
            progress(5, 12_239),
            "no progress after 5 blocks, 12.2 kB: no connected daemon provides the rest; trying again",
        ),
    ];
    for (reached, message) in table {
        let mut bench = Bench::new(config());
        bench.want(1);
        bench.answer_no();
        assert!(bench.take().contains(&Action::Pin(cid(1))));
        bench.feed(Event::Progress(cid(1), reached));
        bench.advance(59);
        assert!(!bench.take().contains(&Action::CancelPin(cid(1))));
        bench.advance(1);
        assert!(bench.take().contains(&Action::CancelPin(cid(1))));
        assert_eq!(
            (bench.state(1), bench.message(1).as_str()),
            (Some(PinState::NotFound), message)
        );
        // The next attempt does not hide the known reason until it gets further.
        for _ in 0..2 {
            bench.advance(6);
            bench.answer_no();
        }
        assert!(bench.take().contains(&Action::Pin(cid(1))));
        bench.feed(Event::Progress(cid(1), reached));
        assert_eq!(bench.state(1), Some(PinState::NotFound));
        bench.feed(Event::Progress(cid(1), progress(reached.blocks + 1, reached.bytes + 1)));
        assert_eq!(bench.state(1), Some(PinState::Pinning));
        bench.feed(Event::PinDone(cid(1), Ok(())));
        assert_eq!((bench.state(1), bench.message(1).as_str()), (Some(PinState::Pinned), ""));
        assert_eq!(bench.machine.status(&cid(1)).unwrap().attempts, 0);
    }
}

/// Reported long before it is stopped, and only while it lasts.
#[test]
fn a_pin_without_progress_is_told_of_while_it_goes_on() {
    let mut bench = Bench::new(config());
    bench.want(1);
    bench.answer_no();
    bench.advance(19);
    assert_eq!(bench.state(1), Some(PinState::Pinning));
    bench.advance(1);
    assert_eq!(bench.state(1), Some(PinState::NotFound));
    let message = "no progress: no connected daemon provides it; trying again";
    assert_eq!(bench.message(1), message);
    bench.feed(Event::Progress(cid(1), progress(1, 1)));
    assert_eq!(bench.state(1), Some(PinState::Pinning));
    bench.advance(20);
    assert_eq!(bench.state(1), Some(PinState::NotFound));
    assert!(!bench.take().contains(&Action::CancelPin(cid(1))), "it goes on");
    bench.feed(Event::PinDone(cid(1), Ok(())));
    assert_eq!((bench.state(1), bench.message(1).as_str()), (Some(PinState::Pinned), ""));
}

#[test]
fn pins_that_get_nowhere_give_way_to_fresh_ones() {
    let mut bench = Bench::new(config());
    for n in 0..5 {
        bench.want(n);
    }
    bench.answer_no();
    let pins = |actions: &[Action]| actions.iter().filter(|a| matches!(a, Action::Pin(_))).count();
    assert_eq!(pins(&bench.take()), 2);
    // After the patience of 2 s, one idle pin may stay open, and the longest one gives way.
    bench.advance(3);
    let actions = bench.take();
    assert!(actions.contains(&Action::CancelPin(cid(0))), "{actions:?}");
    assert!(actions.contains(&Action::Pin(cid(2))), "{actions:?}");
    assert!(bench.machine.pins.in_flight().len() <= 3);
    // A pin that makes progress does not give way.
    bench.feed(Event::Progress(cid(2), progress(1, 1)));
    bench.advance(1);
    assert!(!bench.take().contains(&Action::CancelPin(cid(2))));
}

/// Each of them keeps a place for the patience, so those before it would take minutes.
#[test]
fn new_work_does_not_wait_behind_much_that_gets_nowhere() {
    const MANY: u16 = 600;
    // While most were never tried, and after all have failed.
    for waits in [10, 300] {
        let mut bench = Bench::new(Config { retry_min: Duration::from_secs(200), ..config() });
        let wanted = (0..MANY).map(|n| (cid(n), true)).collect();
        bench.feed(Event::Desired(wanted));
        bench.answer_no();
        for _ in 0..waits * 2 {
            bench.advance_by(Duration::from_millis(500));
            bench.answer_no();
        }
        bench.take();
        bench.want(1000);
        let waited = (0..1000).find(|_| {
            bench.answer_no();
            let started = bench.take().contains(&Action::Pin(cid(1000)));
            if !started {
                bench.advance_by(Duration::from_millis(500));
            }
            started
        });
        assert!(waited.is_some_and(|halves| halves < 40), "after {waits} s: {waited:?}");
    }
}

/// The oldest get their turn although new work arrives all the time.
#[test]
fn old_work_comes_nearer_however_much_is_new() {
    let mut bench = Bench::new(Config { pins_max: 1, idle_pins_max: 0, ..config() });
    bench.feed(Event::Desired((0..20).map(|n| (cid(n), true)).collect()));
    let mut started = Vec::new();
    for n in 0..60 {
        bench.want(100 + n);
        bench.answer_no();
        for action in bench.take() {
            if let Action::Pin(cid) = action {
                started.push(cid);
                bench.feed(Event::PinDone(cid, Ok(())));
            }
        }
    }
    let old = (0..20).filter(|n| started.contains(&cid(*n))).count();
    assert!(old >= 19, "{old} of 20 old ones were started");
    assert!([158, 159].iter().any(|n| started.contains(&cid(*n))), "and so was the newest");
}

#[test]
fn an_intent_without_an_attempt_makes_nothing_ours() {
    let mut bench = Bench::new(config());
    for n in 1..4 {
        bench.want(n);
    }
    bench.answer_no();
    // Two pins fill the daemon; the third waits until its answer is old.
    let asked = (1..60).find_map(|at| {
        bench.advance(1);
        for n in 1..3 {
            bench.feed(Event::Progress(cid(n), progress(at, at)));
        }
        bench.next_ask()
    });
    assert_eq!(asked, Some(vec![cid(3)]), "it is asked about again while it waits");
    bench.feed(Event::Asked(vec![cid(3)], Ok(vec![Held::Recursive])));
    assert_eq!(bench.state(3), Some(PinState::Pinned));
    let (written, change) = bench.written.last().unwrap();
    assert_eq!((written, change.unwrap().origin), (&cid(3), Origin::Foreign));
}

#[test]
fn an_answer_that_is_old_when_the_ledger_is_written_is_asked_for_again() {
    let mut bench = Bench::new(config());
    bench.holds_writes = true;
    bench.want(1);
    bench.take();
    bench.feed(Event::Asked(vec![cid(1)], Ok(vec![Held::No])));
    bench.advance(6);
    bench.take();
    bench.feed(Event::Written(Ok(())));
    assert_eq!(bench.take(), [Action::Ask(vec![cid(1)])]);
}

/// With both places taken by others that make progress, so that an answer gets old.
fn with_busy_places() -> Bench {
    let mut bench = Bench::new(Config { idle_pins_max: 0, ..config() });
    for n in 101..103 {
        bench.want(n);
    }
    bench.answer_no();
    bench.take();
    bench
}

/// Lets time pass while they make progress.
fn pass(bench: &mut Bench, seconds: u64) {
    for _ in 0..seconds {
        bench.advance(1);
        for n in 101..103 {
            let made = bench.at.as_secs();
            bench.feed(Event::Progress(cid(n), progress(made, made)));
        }
    }
}

/// Its attempt was stopped without effect: once the daemon denies the pin, a later pin is not ours.
#[test]
fn what_others_pin_after_the_daemon_denied_an_attempt_is_theirs() {
    let mut bench = Bench::new(Config { pins_max: 1, idle_pins_max: 0, ..config() });
    bench.want(1);
    bench.answer_no();
    assert!(bench.take().contains(&Action::Pin(cid(1))));
    bench.away("reset");
    bench.feed(Event::Probed(Ok("d".to_owned())));
    // Meanwhile another CID takes the place.
    bench.want(2);
    bench.answer(2, Held::No);
    assert!(bench.take().contains(&Action::Pin(cid(2))));
    let asked = (0..60).find_map(|at| {
        bench.advance(1);
        bench.feed(Event::Progress(cid(2), progress(at + 1, at + 1)));
        if at == 0 {
            bench.answer(1, Held::No);
        }
        bench.next_ask()
    });
    assert_eq!(asked, Some(vec![cid(1)]), "it is asked about again while it waits");
    bench.feed(Event::Asked(vec![cid(1)], Ok(vec![Held::Recursive])));
    assert_eq!(bench.state(1), Some(PinState::Pinned));
    assert_eq!(bench.written_of(1), Some(Some(Origin::Foreign)));
    bench.take();
    bench.release(1);
    bench.advance(20);
    assert!(!bench.take().iter().any(|a| matches!(a, Action::Confirm(_) | Action::Unpin(_))));
}

#[test]
fn what_was_only_intended_is_forgotten_and_not_unpinned() {
    let mut bench = with_busy_places();
    bench.want(1);
    bench.answer(1, Held::No);
    assert_eq!(bench.written_of(1), Some(Some(Origin::Ours)));
    bench.release(1);
    assert_eq!((bench.written_of(1), bench.state(1)), (Some(None), None));
    pass(&mut bench, 20);
    assert!(!bench.take().iter().any(|a| matches!(a, Action::Confirm(_) | Action::Unpin(_))));
}

#[test]
fn a_pin_starts_on_an_answer_of_the_last_five_seconds() {
    for (age, old) in [(5000, false), (5001, true)] {
        let mut bench = Bench::new(config());
        bench.holds_writes = true;
        bench.want(1);
        bench.answer(1, Held::No);
        bench.advance_by(Duration::from_millis(age));
        bench.take();
        bench.feed(Event::Written(Ok(())));
        let expected = if old { Action::Ask(vec![cid(1)]) } else { Action::Pin(cid(1)) };
        assert_eq!(bench.take(), [expected], "after {age} ms");
    }
}

#[test]
fn what_is_under_way_at_once_is_bounded() {
    let mut bench = Bench::new(Config::default());
    bench.holds_writes = true;
    bench.take();
    let wanted = (0..3000).map(cid).collect();
    bench.feed(Event::DesiredRange { after: None, until: None, wanted });
    let (mut pins, mut asks): (usize, Vec<Vec<Cid>>) = (0, Vec::new());
    for _ in 0..200 {
        let (mut is_written, mut is_asked) = (false, false);
        for action in bench.take() {
            match action {
                Action::Ask(cids) => {
                    asks.push(cids);
                    is_asked = true;
                }
                Action::Write(changes) => is_written |= !changes.is_empty(),
                Action::Pin(_) => pins += 1,
                _ => {}
            }
        }
        assert!(asks.len() <= 4 && asks.iter().all(|cids| cids.len() <= 64));
        // CIDs that wait with an answer, and those being asked about.
        let waiting = bench.machine.pins.ready.len() + asks.iter().map(Vec::len).sum::<usize>();
        assert!(!is_asked || waiting <= 192, "{waiting}");
        assert!(pins <= 8, "{pins} pins at once");
        if is_written {
            bench.feed(Event::Written(Ok(())));
        } else if let Some(cids) = asks.pop() {
            bench.feed(Event::Asked(cids.clone(), Ok(vec![Held::No; cids.len()])));
        }
    }
    assert_eq!(pins, 8);
    // Far fewer CIDs than are wanted wait with an answer.
    assert!(
        (8..=192).contains(&bench.machine.pins.ready.len()),
        "{}",
        bench.machine.pins.ready.len()
    );
}

#[test]
fn a_pin_gives_way_to_fresh_ones_soon_and_to_one_that_is_tried_again_later() {
    let mut bench = Bench::new(Config { pins_max: 1, idle_pins_max: 0, ..config() });
    bench.want(1);
    bench.answer(1, Held::No);
    bench.feed(Event::PinDone(cid(1), Err(failed())));
    bench.advance(1);
    bench.answer(1, Held::No);
    bench.want(2);
    bench.answer(2, Held::No);
    assert!(bench.take().contains(&Action::Pin(cid(2))));
    let gives_way = (1..30).find(|_| {
        bench.advance(1);
        bench.answer_no();
        bench.take().contains(&Action::CancelPin(cid(2)))
    });
    assert_eq!(gives_way, Some(10));
    assert_eq!(bench.state(1), Some(PinState::Failed), "it is tried again");

    let mut bench = Bench::new(Config { pins_max: 1, idle_pins_max: 0, ..config() });
    for n in 1..3 {
        bench.want(n);
        bench.answer(n, Held::No);
    }
    bench.take();
    let gives_way = (1..30).find(|_| {
        bench.advance(1);
        bench.take().contains(&Action::CancelPin(cid(1)))
    });
    assert_eq!(gives_way, Some(2));
}

/// The freed place is not for it.
#[test]
fn what_is_released_while_it_waits_for_a_place_is_not_pinned() {
    let mut bench = with_busy_places();
    bench.want(1);
    bench.answer(1, Held::No);
    bench.release(1);
    bench.take();
    bench.feed(Event::PinDone(cid(101), Ok(())));
    assert!(!bench.take().contains(&Action::Pin(cid(1))));
}
