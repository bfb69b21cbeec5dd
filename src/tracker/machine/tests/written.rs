//! What follows once a change of the ledger is on disk.

use super::*;

/// Which change is being written.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Writing {
    Ours,
    Direct,
    Foreign,
    TakingOver,
}

const ALL: [Writing; 4] = [Writing::Ours, Writing::Direct, Writing::Foreign, Writing::TakingOver];

/// Just asked about, with the change being written.
fn writing(which: Writing) -> Bench {
    let mut bench = match which {
        Writing::TakingOver => Bench::asking(&[Origin::Former]),
        _ => Bench::new(config()),
    };
    bench.holds_writes = true;
    bench.want(1);
    bench.answer(
        1,
        match which {
            Writing::Ours => Held::No,
            Writing::Direct => Held::Direct,
            Writing::Foreign | Writing::TakingOver => Held::Recursive,
        },
    );
    assert!(bench.take().iter().any(|action| matches!(action, Action::Write(_))));
    assert_eq!(bench.state(1), Some(PinState::Queued), "not before it is on disk");
    bench
}

fn asks(bench: &mut Bench) -> bool {
    bench.take().contains(&Action::Ask(vec![cid(1)]))
}

#[test]
fn it_leads_on_while_the_answer_is_fresh() {
    for which in ALL {
        let mut bench = writing(which);
        bench.feed(Event::Written(Ok(())));
        let pins = bench.take().contains(&Action::Pin(cid(1)));
        assert_eq!(pins, matches!(which, Writing::Ours | Writing::Direct), "{which:?}");
        assert_eq!(bench.state(1) == Some(PinState::Pinned), !pins, "{which:?}");
    }
}

/// Answers from before the daemon was away do not count: no action or status relies on them.
#[test]
fn an_answer_of_an_earlier_life_of_the_daemon_is_asked_for_again() {
    for which in ALL {
        let mut bench = writing(which);
        bench.away("reset");
        bench.feed(Event::Probed(Ok("d".to_owned())));
        bench.take();
        bench.feed(Event::Written(Ok(())));
        assert_eq!(bench.state(1), Some(PinState::Queued), "{which:?}");
        assert!(asks(&mut bench), "{which:?}");
    }
}

#[test]
fn an_answer_is_asked_for_again_when_the_daemon_is_away_as_it_is_written() {
    for which in ALL {
        let mut bench = writing(which);
        bench.holds_probes = true;
        bench.away("reset");
        bench.feed(Event::Written(Ok(())));
        assert_eq!(bench.state(1), Some(PinState::Queued), "{which:?}");
        bench.take();
        bench.feed(Event::Probed(Ok("d".to_owned())));
        assert_eq!(bench.state(1), Some(PinState::Queued), "{which:?}");
        assert!(asks(&mut bench), "{which:?}");
    }
}

#[test]
fn an_answer_is_asked_for_again_when_all_was_listed_since() {
    for which in ALL {
        for names_it in [false, true] {
            let mut bench = writing(which);
            bench.advance_until(&Action::List);
            bench.take();
            if names_it {
                bench.feed(Event::Listed(vec![cid(1)]));
            }
            bench.feed(Event::ListEnded(Ok(())));
            bench.feed(Event::Written(Ok(())));
            let confirmed = names_it && matches!(which, Writing::Foreign | Writing::TakingOver);
            assert_eq!(bench.state(1) == Some(PinState::Pinned), confirmed, "{which:?}");
            assert_eq!(asks(&mut bench), !confirmed, "{which:?} {names_it}");
        }
    }
}

/// A list that began after the answer "no" names it: somebody else pinned it first.
#[test]
fn what_a_list_names_while_the_intent_is_written_is_not_pinned_over() {
    for which in [Writing::Ours, Writing::Direct] {
        let mut bench = writing(which);
        bench.begin_list();
        bench.feed(Event::Listed(vec![cid(1)]));
        bench.take();
        bench.feed(Event::Written(Ok(())));
        assert!(asks(&mut bench), "{which:?}");
        bench.feed(Event::Asked(vec![cid(1)], Ok(vec![Held::Recursive])));
        bench.feed(Event::Written(Ok(())));
        assert_eq!(bench.state(1), Some(PinState::Pinned));
        bench.take();
        bench.release(1);
        assert!(!bench.take().iter().any(|action| matches!(action, Action::Confirm(_))));
    }
}

#[test]
fn what_is_released_meanwhile_is_forgotten_or_unpinned_by_whose_it_is() {
    for which in ALL {
        let mut bench = writing(which);
        bench.release(1);
        bench.take();
        bench.feed(Event::Written(Ok(())));
        let actions = bench.take();
        let expected = match which {
            Writing::TakingOver => Action::Confirm(vec![cid(1)]),
            _ => Action::Write(vec![(cid(1), None)]),
        };
        assert_eq!(actions, [expected], "{which:?}");
        if which != Writing::TakingOver {
            bench.feed(Event::Written(Ok(())));
            assert!(bench.machine.known_after(None, 1).is_empty(), "{which:?}");
        }
    }
}

/// Released, and being removed from the ledger.
fn forgetting() -> Bench {
    let mut bench = writing(Writing::Foreign);
    bench.feed(Event::Written(Ok(())));
    bench.release(1);
    assert!(bench.take().contains(&Action::Write(vec![(cid(1), None)])));
    bench
}

#[test]
fn what_is_wanted_again_while_it_is_forgotten_is_asked_about_as_new() {
    let mut bench = forgetting();
    bench.want(1);
    assert!(!asks(&mut bench), "one after the other");
    bench.feed(Event::Written(Ok(())));
    bench.answer(1, Held::No);
    let write = bench.take();
    assert!(matches!(&write[..], [Action::Write(changes)] if changes[0].1.is_some()), "{write:?}");
}

#[test]
fn an_intent_is_taken_back_and_the_next_attempt_waits() {
    for wanted in [true, false] {
        let mut bench = Bench::new(config());
        bench.want(1);
        bench.answer(1, Held::No);
        bench.feed(Event::PinDone(cid(1), Err(failed())));
        bench.advance(1);
        bench.holds_writes = true;
        bench.answer(1, Held::No);
        assert!(bench.take().contains(&Action::Write(vec![(cid(1), None)])));
        if !wanted {
            bench.release(1);
        }
        bench.feed(Event::Written(Ok(())));
        assert!(!asks(&mut bench));
        if wanted {
            assert_eq!(bench.advance_until(&Action::Ask(vec![cid(1)])), 5);
        } else {
            assert!(bench.machine.known_after(None, 1).is_empty());
        }
    }
}

/// One write at a time, so that the changes of a CID reach the disk in order; after a failure the write
/// is repeated.
#[test]
fn a_write_waits_for_the_one_before_also_when_that_fails() {
    let writes = |bench: &mut Bench| {
        let actions = bench.take();
        let writes = actions.into_iter().filter(|action| matches!(action, Action::Write(_)));
        writes.collect::<Vec<_>>()
    };
    let mut bench = forgetting();
    bench.want(2);
    bench.answer(2, Held::Recursive);
    assert_eq!(writes(&mut bench), []);
    bench.feed(Event::Written(Err("disk full".to_owned())));
    bench.advance_by(Duration::from_millis(999));
    assert_eq!(writes(&mut bench), []);
    bench.advance_by(Duration::from_millis(1));
    assert_eq!(writes(&mut bench), [Action::Write(vec![(cid(1), None)])]);
    assert!(bench.state(2) != Some(PinState::Pinned));
    assert_eq!(bench.message(2), "disk full");
    bench.feed(Event::Written(Ok(())));
    assert_eq!(bench.message(2), "");
    assert!(matches!(&writes(&mut bench)[..], [Action::Write(changes)] if changes[0].0 == cid(2)));
    bench.feed(Event::Written(Ok(())));
    assert_eq!(bench.state(2), Some(PinState::Pinned));
}

#[test]
fn a_write_is_of_4096_changes_at_most() {
    let origins = vec![Origin::Foreign; 5000];
    let mut bench = Bench::with_ledger(config(), ledger_of(&origins));
    bench.feed(Event::DesiredRange { after: None, until: None, wanted: vec![] });
    assert_eq!(bench.written.len(), 5000);
    bench.holds_writes = true;
    let mut bench = Bench::with_ledger(config(), ledger_of(&origins));
    bench.holds_writes = true;
    bench.take();
    bench.feed(Event::DesiredRange { after: None, until: None, wanted: vec![] });
    let lens = [4096, 904].map(|_| {
        let len = bench.take().into_iter().find_map(|action| match action {
            Action::Write(changes) => Some(changes.len()),
            _ => None,
        });
        bench.feed(Event::Written(Ok(())));
        len
    });
    assert_eq!(lens, [Some(4096), Some(904)]);
}
