//! The daemon's connection and its list.

use super::*;

/// The unpin may still take effect.
#[test]
fn after_an_unpin_without_an_answer_the_daemon_is_listed_often_for_a_while() {
    let mut bench = Bench::new(config());
    bench.want(1);
    bench.answer_no();
    bench.feed(Event::PinDone(cid(1), Ok(())));
    bench.feed(Event::Desired(vec![(cid(1), false)]));
    bench.feed(Event::Confirmed(vec![(cid(1), false)]));
    bench.want(1);
    bench.feed(Event::UnpinDone(cid(1), Err(IpfsError::Slow("no answer".to_owned()))));
    bench.advance(1);
    bench.feed(Event::Asked(vec![cid(1)], Ok(vec![Held::Recursive])));
    assert_eq!(bench.state(1), Some(PinState::Pinned));
    let mut lists = 0;
    for _ in 0..60 {
        bench.take();
        bench.advance(10);
        if bench.take().contains(&Action::List) {
            lists += 1;
            bench.feed(Event::Listed(vec![cid(1)]));
            bench.feed(Event::ListEnded(Ok(())));
        }
    }
    assert!((30..=32).contains(&lists), "{lists}");
    assert_eq!(bench.state(1), Some(PinState::Pinned));
}

#[test]
fn what_the_list_has_named_before_it_was_wanted_is_pinned_at_once() {
    let entry = ledger::LedgerEntry { origin: Origin::Ours, since: Timestamp(0) };
    let ledger = vec![(cid(1), entry), (cid(2), entry)];
    let mut bench = Bench::with_ledger(config(), ledger);
    bench.want(1);
    assert!(bench.take().contains(&Action::List));
    bench.feed(Event::Listed(vec![cid(1), cid(2)]));
    bench.want(2);
    assert_eq!(bench.state(2), Some(PinState::Pinned));
    bench.feed(Event::ListEnded(Ok(())));
    assert_eq!(bench.state(2), Some(PinState::Pinned));
}

#[test]
fn an_item_of_a_list_is_old_news_of_what_was_learnt_since() {
    let mut bench = Bench::new(config());
    bench.want(1);
    bench.advance(301);
    bench.actions.retain(|action| *action != Action::List);
    // The list began before the answer "no", and still names the CID.
    bench.answer_no();
    bench.feed(Event::Listed(vec![cid(1)]));
    assert_eq!(bench.state(1), Some(PinState::Pinning));
}

#[test]
fn a_daemon_that_hangs_is_away_since_it_was_heard_last() {
    let now = |s| Now { at: Duration::from_secs(s), wall: Timestamp(s * 1000) };
    let mut machine = Machine::new(config(), now(0), Some("d".to_owned()), Vec::new());
    machine.handle(now(1), Event::Probed(Ok("d".to_owned())));
    machine.handle(now(1), Event::ListEnded(Ok(())));
    machine.handle(now(1), Event::Desired(vec![(cid(1), true)]));
    assert_eq!(machine.handle(now(3), Event::Tick), [Action::Probe]);
    machine.handle(now(7), Event::Probed(Err(IpfsError::Slow("no answer".to_owned()))));
    let status = machine.status(&cid(1)).unwrap();
    assert_eq!((status.state, status.since), (PinState::DaemonDown, Timestamp(1000)));
}

/// How an entry waits for the daemon when the daemon goes away.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Waiting {
    Queued,
    Asking,
    Ready,
    Pinning,
    Confirmed,
    Unpinning,
    UnpinningWanted,
}

fn waiting(which: Waiting) -> Bench {
    let ours = || {
        let mut bench = Bench::with_ledger(config(), ledger_of(&[Origin::Ours; 3]));
        bench.feed(Event::DesiredRange { after: None, until: None, wanted: vec![] });
        bench.feed(Event::Confirmed((1..=3).map(|n| (cid(n), false)).collect()));
        bench
    };
    let mut bench = match which {
        Waiting::Confirmed | Waiting::Unpinning | Waiting::UnpinningWanted => ours(),
        _ => Bench::new(config()),
    };
    match which {
        Waiting::Queued => {
            // Others are asked about first and get no answer.
            for n in 101..105 {
                bench.want(n);
            }
            bench.want(1);
        }
        Waiting::Asking => bench.want(1),
        Waiting::Ready => {
            for n in 101..103 {
                bench.want(n);
            }
            bench.answer_no();
            bench.want(1);
            bench.answer(1, Held::No);
        }
        Waiting::Pinning => {
            bench.want(1);
            bench.answer(1, Held::No);
            assert!(bench.actions.contains(&Action::Pin(cid(1))));
        }
        Waiting::Confirmed => assert!(!bench.actions.contains(&Action::Unpin(cid(3)))),
        Waiting::Unpinning => assert!(bench.actions.contains(&Action::Unpin(cid(1)))),
        Waiting::UnpinningWanted => bench.want(1),
    }
    bench.take();
    bench
}

/// Everything under way is void when the daemon goes away: none of it continues without a new question.
#[test]
fn after_the_daemon_was_away_everything_is_asked_or_confirmed_again() {
    use Waiting::{Asking, Confirmed, Pinning, Queued, Ready, Unpinning, UnpinningWanted};
    // The CID, and the milliseconds until it is asked about or confirmed.
    let table = [
        (Queued, 1, Some(0), None),
        (Asking, 1, Some(0), None),
        (Ready, 1, Some(0), None),
        (Pinning, 1, Some(1000), None),
        (Confirmed, 3, None, Some(0)),
        (Unpinning, 1, None, Some(1000)),
        (UnpinningWanted, 1, Some(1000), None),
    ];
    for (which, n, asked_after, confirmed_after) in table {
        let mut bench = waiting(which);
        bench.away("reset");
        assert_eq!(bench.take(), [Action::CancelDaemon], "{which:?}");
        bench.feed(Event::Probed(Ok("d".to_owned())));
        let (mut asked, mut confirmed) = (None, None);
        for ms in [0, 999, 1000] {
            bench.advance_by(Duration::from_millis(ms).saturating_sub(bench.at));
            for action in bench.take() {
                match action {
                    Action::Ask(cids) if cids.contains(&cid(n)) => asked = Some(ms),
                    Action::Confirm(cids) => {
                        if cids.contains(&cid(n)) {
                            confirmed = Some(ms);
                            continue;
                        }
                        bench.feed(Event::Confirmed(cids.iter().map(|cid| (*cid, true)).collect()));
                    }
                    Action::Pin(_) | Action::Unpin(_) => panic!("{which:?}: {action:?}"),
                    _ => {}
                }
            }
        }
        assert_eq!((asked, confirmed), (asked_after, confirmed_after), "{which:?}");
    }
}

#[test]
fn an_attempt_to_unpin_that_was_broken_off_is_looked_for_when_it_is_wanted() {
    let mut bench = waiting(Waiting::UnpinningWanted);
    bench.away("reset");
    bench.feed(Event::Probed(Ok("d".to_owned())));
    bench.feed(Event::ListEnded(Ok(())));
    bench.take();
    assert!(bench.advance_until(&Action::List) <= 10);
}

#[test]
fn a_daemon_that_says_nothing_of_use_is_away() {
    let said = "it is ill".to_owned();
    for error in [
        IpfsError::Down(said.clone()),
        IpfsError::Slow(said.clone()),
        IpfsError::Failed(said.clone()),
        IpfsError::Refused(said.clone()),
    ] {
        let mut bench = Bench::holding(1);
        bench.holds_probes = true;
        bench.feed(Event::Probed(Err(error)));
        assert_eq!(bench.take(), [Action::CancelDaemon]);
        bench.advance(6);
        assert_eq!(bench.state(1), Some(PinState::DaemonDown));
        assert_eq!(bench.message(1), "the daemon is away: it is ill");
    }
}

/// Whatever was asked, only an error of the connection means that the daemon is away.
#[test]
fn only_a_broken_connection_means_that_the_daemon_is_away() {
    type Question = fn(&mut Bench, IpfsError);
    let questions: [Question; 5] = [
        |bench, error| {
            bench.want(2);
            let asked = bench.next_ask().unwrap();
            bench.feed(Event::Asked(asked, Err(error)));
        },
        |bench, error| {
            bench.want(2);
            bench.answer_no();
            bench.feed(Event::PinDone(cid(2), Err(error)));
        },
        |bench, error| {
            bench.release(1);
            bench.feed(Event::Confirmed(vec![(cid(1), false)]));
            bench.feed(Event::UnpinDone(cid(1), Err(error)));
        },
        |bench, error| {
            bench.advance_until(&Action::List);
            bench.feed(Event::ListEnded(Err(error)));
        },
        |bench, error| {
            bench.feed(Event::RunGc);
            bench.feed(Event::GcReport(Err(error)));
        },
    ];
    for (n, question) in questions.into_iter().enumerate() {
        for (error, away) in
            [(down(), true), (slow(), false), (failed(), false), (refused(), false)]
        {
            let mut bench = Bench::holding(1);
            question(&mut bench, error.clone());
            let cancelled = bench.take().contains(&Action::CancelDaemon);
            assert_eq!(cancelled, away, "question {n}: {error:?}");
        }
    }
}

/// The pins of one daemon say nothing about another, and the ledger belongs to one daemon.
#[test]
fn another_daemon_in_its_place_is_bound_and_asked_about_everything() {
    // The ledger reports that its entries were another daemon's, or did so before a failure.
    for void in [true, false] {
        let mut bench = Bench::with_ledger(config(), ledger_of(&[Origin::Ours; 3]));
        bench.holds_probes = true;
        let wanted = vec![cid(1), cid(2)];
        bench.feed(Event::DesiredRange { after: None, until: None, wanted });
        bench.feed(Event::Listed(vec![cid(1)]));
        assert_eq!(bench.state(1), Some(PinState::Pinned));
        assert_eq!(bench.state(3), Some(PinState::Unpinning));
        bench.take();
        bench.feed(Event::Probed(Ok("e".to_owned())));
        assert_eq!(bench.take(), [Action::CancelDaemon, Action::Bind("e".to_owned())]);
        bench.feed(Event::Bound(Ok(void)));
        for n in 1..3 {
            assert_eq!(bench.state(n), Some(PinState::Queued), "{n}");
        }
        assert_eq!(bench.state(3), None);
        let mut asked = BTreeSet::new();
        for action in bench.take() {
            match action {
                Action::Ask(cids) => asked.extend(cids),
                action => assert_eq!(action, Action::List),
            }
        }
        assert_eq!(asked, BTreeSet::from([cid(1), cid(2)]));
        // Pins that are there now were there before.
        bench.feed(Event::Listed(vec![cid(1)]));
        for cid in asked {
            bench.feed(Event::Asked(vec![cid], Ok(vec![Held::Recursive])));
        }
        for n in 1..3 {
            assert_eq!(bench.written_of(n), Some(Some(Origin::Foreign)), "{n}");
        }
    }
}

#[test]
fn a_change_meant_for_one_daemons_ledger_never_reaches_anothers() {
    let mut bench = Bench::new(config());
    bench.holds_writes = true;
    bench.holds_probes = true;
    for n in 1..3 {
        bench.want(n);
        bench.answer(n, Held::No);
    }
    let is_write = |action: &Action| matches!(action, Action::Write(_));
    assert_eq!(bench.take().iter().filter(|action| is_write(action)).count(), 1);
    bench.feed(Event::Probed(Ok("e".to_owned())));
    assert_eq!(bench.take(), [Action::CancelDaemon], "the write under way comes first");
    bench.feed(Event::Written(Ok(())));
    assert_eq!(bench.take(), [Action::Bind("e".to_owned())]);
    bench.feed(Event::Bound(Ok(true)));
    assert!(!bench.take().iter().any(is_write));

    // Nor while it is unknown which daemon will be there.
    let mut bench = Bench::new(config());
    bench.holds_writes = true;
    bench.holds_probes = true;
    for n in 1..3 {
        bench.want(n);
        bench.answer(n, Held::No);
    }
    bench.away("reset");
    bench.take();
    bench.feed(Event::Written(Ok(())));
    bench.advance(3);
    assert!(!bench.take().iter().any(is_write));
    bench.feed(Event::Probed(Ok("d".to_owned())));
    assert_eq!(bench.take().iter().filter(|action| is_write(action)).count(), 1);
}

#[test]
fn a_ledger_that_is_being_bound_to_another_daemon_is_bound_back_before_it_is_used() {
    let mut bench = Bench::holding(1);
    bench.holds_probes = true;
    let probed = |id: &str| Event::Probed(Ok(id.to_owned()));
    bench.feed(probed("e"));
    assert_eq!(bench.take(), [Action::CancelDaemon, Action::Bind("e".to_owned())]);
    bench.feed(probed("d"));
    assert_eq!(bench.take(), [Action::CancelDaemon]);
    bench.feed(Event::Bound(Ok(true)));
    assert_eq!(bench.take(), [Action::Bind("d".to_owned())]);
    bench.feed(Event::Bound(Ok(true)));
    assert!(bench.take().contains(&Action::Ask(vec![cid(1)])));
}

#[test]
fn a_ledger_that_cannot_be_bound_is_tried_again_and_its_entries_are_void_all_the_same() {
    let mut bench = Bench::holding(1);
    bench.holds_probes = true;
    bench.feed(Event::Probed(Ok("e".to_owned())));
    bench.feed(Event::Bound(Err("disk full".to_owned())));
    bench.take();
    bench.advance(5);
    assert_eq!(bench.state(1), Some(PinState::DaemonDown));
    assert_eq!(bench.message(1), "the ledger cannot be bound to the daemon: disk full");
    assert!(bench.take().contains(&Action::Bind("e".to_owned())));
    // The failed attempt may have succeeded on disk: the ledger is new by now.
    bench.feed(Event::Bound(Ok(false)));
    assert_eq!(bench.state(1), Some(PinState::Queued));
    bench.answer(1, Held::Recursive);
    assert_eq!(bench.written_of(1), Some(Some(Origin::Foreign)));
}

#[test]
fn after_a_short_absence_pins_read_as_before_and_after_a_long_one_the_list_says() {
    for (seconds, state) in [(4, PinState::Pinned), (6, PinState::Rechecking)] {
        let mut bench = Bench::holding(1);
        bench.holds_probes = true;
        bench.away("reset");
        bench.advance(seconds);
        bench.take();
        bench.feed(Event::Probed(Ok("d".to_owned())));
        assert_eq!((bench.state(1), bench.take()), (Some(state), vec![Action::List]));
        // The daemon lost its repository.
        bench.feed(Event::ListEnded(Ok(())));
        assert_eq!(bench.state(1), Some(PinState::Queued));
        bench.answer(1, Held::No);
        assert!(bench.take().contains(&Action::Pin(cid(1))));
    }
}

#[test]
fn what_a_list_names_is_pinned_unless_something_of_it_is_under_way() {
    let table = [
        (Waiting::Queued, true),
        (Waiting::Asking, false),
        (Waiting::Ready, true),
        (Waiting::Pinning, false),
    ];
    for (which, pinned) in table {
        let mut bench = waiting(which);
        bench.begin_list();
        bench.feed(Event::Listed(vec![cid(1)]));
        assert_eq!(bench.state(1) == Some(PinState::Pinned), pinned, "{which:?}");
    }
}

/// The answer came after the list began, so pins that the list names may be gone.
#[test]
fn what_was_answered_since_a_list_began_is_fresher_than_the_list() {
    // Denied, and waiting for its turn.
    let mut bench = Bench::new(Config { idle_pins_max: 0, ..config() });
    for n in 101..103 {
        bench.want(n);
    }
    bench.answer_no();
    bench.want(1);
    assert_eq!(bench.next_ask(), Some(vec![cid(1)]));
    bench.begin_list();
    bench.feed(Event::Asked(vec![cid(1)], Ok(vec![Held::No])));
    bench.feed(Event::Listed(vec![cid(1)]));
    assert_eq!(bench.state(1), Some(PinState::Queued));
    assert_eq!(bench.written_of(1), Some(Some(Origin::Ours)));

    // Failed, and waiting for the next attempt.
    let mut bench = Bench::new(config());
    bench.want(1);
    bench.answer(1, Held::Direct);
    bench.begin_list();
    bench.feed(Event::PinDone(cid(1), Err(failed())));
    bench.feed(Event::Listed(vec![cid(1)]));
    assert_eq!(bench.state(1), Some(PinState::Failed));

    // Pinned since the list began, and not in the list.
    let mut bench = Bench::new(config());
    bench.want(1);
    bench.answer(1, Held::No);
    bench.begin_list();
    bench.feed(Event::PinDone(cid(1), Ok(())));
    bench.feed(Event::ListEnded(Ok(())));
    assert_eq!(bench.state(1), Some(PinState::Pinned));
    assert_eq!(bench.next_ask(), None);
    // The next list must name it.
    bench.begin_list();
    bench.feed(Event::ListEnded(Ok(())));
    assert_eq!(bench.state(1), Some(PinState::Queued));
}

/// Released while its attempt is asked about, it must not count as pinned.
#[test]
fn what_is_not_wanted_is_not_pinned_because_a_list_names_it() {
    let mut bench = Bench::new(config());
    bench.want(1);
    bench.answer(1, Held::No);
    bench.release(1);
    // All questions are taken.
    for n in 101..105 {
        bench.want(n);
    }
    bench.advance(1);
    bench.begin_list();
    bench.feed(Event::Listed(vec![cid(1)]));
    assert_eq!(bench.state(1), Some(PinState::Unpinning));
    bench.feed(Event::Asked(vec![cid(101)], Ok(vec![Held::No])));
    let asked = Action::Ask(vec![cid(1)]);
    assert!(bench.actions.contains(&asked));
    bench.feed(Event::Asked(vec![cid(1)], Ok(vec![Held::Recursive])));
    assert!(bench.take().contains(&Action::Confirm(vec![cid(1)])));
}

#[test]
fn a_list_that_broke_off_says_nothing_of_what_it_lacks() {
    let table = [
        (Ok(()), true),
        (Err(failed()), false),
        (Err(slow()), false),
        (Err(refused()), false),
        (Err(down()), false),
    ];
    for (end, lost) in table {
        let mut bench = Bench::holding(1);
        bench.advance_until(&Action::List);
        bench.feed(Event::ListEnded(end.clone()));
        let expected = if lost { PinState::Queued } else { PinState::Pinned };
        assert_eq!(bench.state(1), Some(expected), "{end:?}");
        assert_eq!(bench.next_ask().is_some(), lost, "{end:?}");
    }
    // After an absence all pins are confirmed, one by one if there is no list.
    let mut bench = Bench::holding(1);
    bench.want(2);
    bench.answer(2, Held::Recursive);
    bench.away("reset");
    bench.feed(Event::Probed(Ok("d".to_owned())));
    bench.feed(Event::Listed(vec![cid(2)]));
    bench.feed(Event::ListEnded(Err(failed())));
    let states = (bench.state(1), bench.state(2));
    assert_eq!(states, (Some(PinState::Queued), Some(PinState::Pinned)));
    assert_eq!((bench.next_ask(), bench.next_ask()), (Some(vec![cid(1)]), None));
}

#[test]
fn the_first_list_that_ends_settles_what_is_told_and_an_absence_does_too() {
    for (end, settled) in [(Ok(()), true), (Err(failed()), true), (Err(down()), false)] {
        let mut bench = Bench::unlisted(config(), Vec::new());
        bench.holds_probes = true;
        assert!(!bench.machine.is_settled());
        bench.feed(Event::ListEnded(end.clone()));
        assert_eq!(bench.machine.is_settled(), settled, "{end:?}");
        bench.advance(6);
        assert!(bench.machine.is_settled());
    }
}

#[test]
fn lists_that_break_off_are_asked_for_ever_more_rarely() {
    let mut bench = Bench::new(config());
    bench.take();
    let mut waits = vec![bench.advance_until(&Action::List)];
    for _ in 0..7 {
        bench.feed(Event::ListEnded(Err(failed())));
        bench.take();
        waits.push(bench.advance_until(&Action::List));
    }
    bench.feed(Event::ListEnded(Ok(())));
    bench.take();
    waits.push(bench.advance_until(&Action::List));
    assert_eq!(waits, [300, 10, 20, 40, 80, 160, 300, 300, 300]);
    // The end of an abandoned list has no effect.
    bench.feed(Event::ListEnded(Ok(())));
    bench.take();
    bench.advance(200);
    for end in [Ok(()), Err(failed())] {
        bench.feed(Event::ListEnded(end));
    }
    assert_eq!(bench.advance_until(&Action::List), 100);
}

#[test]
fn a_list_that_was_under_way_is_begun_anew_when_the_daemon_is_back() {
    let mut bench = Bench::unlisted(config(), ledger_of(&[Origin::Ours]));
    bench.want(1);
    bench.take();
    bench.away("reset");
    bench.feed(Event::Probed(Ok("d".to_owned())));
    assert_eq!(bench.take(), [Action::CancelDaemon, Action::List]);
    bench.feed(Event::ListEnded(Ok(())));
    assert!(bench.take().contains(&Action::Ask(vec![cid(1)])));
}

/// Nothing known of the first daemon applies to the second.
#[test]
fn another_daemon_is_given_an_intent_of_its_own_and_no_old_failure() {
    let mut bench = Bench::new(config());
    bench.want(1);
    bench.answer(1, Held::No);
    bench.feed(Event::PinDone(cid(1), Err(failed())));
    bench.want(2);
    bench.answer(2, Held::No);
    assert_eq!(bench.state(1), Some(PinState::Failed));
    bench.holds_probes = true;
    bench.feed(Event::Probed(Ok("e".to_owned())));
    bench.take();
    bench.feed(Event::Bound(Ok(true)));
    let status = bench.machine.status(&cid(1)).unwrap();
    assert_eq!((status.state, status.attempts), (PinState::Queued, 0));
    bench.holds_writes = true;
    bench.answer_no();
    let actions = bench.take();
    assert!(!actions.iter().any(|action| matches!(action, Action::Pin(_))), "{actions:?}");
    assert!(actions.iter().any(|action| matches!(action, Action::Write(_))), "{actions:?}");
}
