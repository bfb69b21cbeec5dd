//! Tables of single decisions; random sequences are in `model`.
#![allow(clippy::unwrap_used)]

use super::*;

fn cid(n: u16) -> Cid {
    let [a, b] = n.to_be_bytes();
    Cid::from_bytes(&[1, 0x55, 0, 2, a, b]).unwrap()
}

/// A machine with its clock; answers the ledger and the probes itself.
struct Bench {
    machine: Machine,
    at: Duration,
    /// Actions not yet looked at.
    actions: Vec<Action>,
    written: Vec<Change>,
    /// Whoever feeds it answers writes, too.
    holds_writes: bool,
}

impl Bench {
    fn new(config: Config) -> Self {
        Self::with_ledger(config, Vec::new())
    }

    fn with_ledger(config: Config, ledger: Vec<(Cid, ledger::Entry)>) -> Self {
        let bound = (!ledger.is_empty()).then(|| "d".to_owned());
        let now = Now { at: Duration::ZERO, wall: Timestamp(0) };
        let machine = Machine::new(config, now, bound, ledger);
        let mut bench = Self {
            machine,
            at: Duration::ZERO,
            actions: Vec::new(),
            written: Vec::new(),
            holds_writes: false,
        };
        bench.feed(Event::Tick);
        bench.feed(Event::ListEnded(Ok(())));
        bench
    }

    fn feed(&mut self, event: Event) {
        let wall = Timestamp(u64::try_from(self.at.as_millis()).unwrap());
        let actions = self.machine.handle(Now { at: self.at, wall }, event);
        for action in actions {
            match action {
                Action::Probe => self.feed(Event::Probed(Ok("d".to_owned()))),
                Action::Bind(_) => self.feed(Event::Bound(Ok(false))),
                Action::Write(changes) if !self.holds_writes => {
                    self.written.extend(changes);
                    self.feed(Event::Written(Ok(())));
                }
                other => self.actions.push(other),
            }
        }
    }

    fn want(&mut self, n: u16) {
        self.feed(Event::Desired(vec![(cid(n), true)]));
    }

    /// Answers all questions with "not pinned".
    fn answer_no(&mut self) {
        while let Some(at) = self.actions.iter().position(|a| matches!(a, Action::Ask(_))) {
            let Action::Ask(cids) = self.actions.remove(at) else { unreachable!() };
            let answers = vec![Held::No; cids.len()];
            self.feed(Event::Asked(cids, Ok(answers)));
        }
    }

    fn advance(&mut self, seconds: u64) {
        let until = self.at + Duration::from_secs(seconds);
        while self.at < until {
            self.at = self.machine.deadline().min(until);
            self.feed(Event::Tick);
        }
    }

    fn take(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    fn state(&self, n: u16) -> Option<PinState> {
        self.machine.status(&cid(n)).map(|status| status.state)
    }

    fn message(&self, n: u16) -> String {
        self.machine.status(&cid(n)).unwrap().message
    }
}

fn config() -> Config {
    Config { pins_max: 2, idle_pins_max: 1, ..Config::default() }
}

fn progress(blocks: u64, bytes: u64) -> Progress {
    Progress { blocks, bytes }
}

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
        assert_eq!(bench.state(1), Some(PinState::Pinning));
        bench.advance(1);
        assert!(bench.take().contains(&Action::CancelPin(cid(1))));
        assert_eq!(
            (bench.state(1), bench.message(1).as_str()),
            (Some(PinState::NotFound), message)
        );
        // The next attempt does not hide what is known until it comes further.
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
    }
}

#[test]
fn waits_grow_to_a_bound() {
    let mut bench = Bench::new(config());
    bench.want(1);
    bench.answer_no();
    let mut waits = Vec::new();
    for _ in 0..9 {
        let error = IpfsError::Failed("disk full".to_owned());
        bench.feed(Event::PinDone(cid(1), Err(error)));
        let began = bench.at;
        bench.take();
        while !bench.take().contains(&Action::Pin(cid(1))) {
            bench.advance(1);
            bench.answer_no();
            bench.actions.retain(|a| !matches!(a, Action::List));
            bench.feed(Event::ListEnded(Ok(())));
        }
        waits.push((bench.at - began).as_secs());
    }
    // A second more each: what came of the attempt is asked first.
    assert_eq!(waits, [6, 11, 21, 41, 81, 161, 301, 301, 301]);
    assert_eq!(bench.machine.status(&cid(1)).unwrap().attempts, 9);
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
    // After the patience of 2 s one idle pin may stay open, and the longest one gives way.
    bench.advance(3);
    let actions = bench.take();
    assert!(actions.contains(&Action::CancelPin(cid(0))), "{actions:?}");
    assert!(actions.contains(&Action::Pin(cid(2))), "{actions:?}");
    assert!(bench.machine.flights.len() <= 3);
    // One that makes progress does not give way.
    bench.feed(Event::Progress(cid(2), progress(1, 1)));
    bench.advance(1);
    assert!(!bench.take().contains(&Action::CancelPin(cid(2))));
}

#[test]
fn a_question_that_fails_for_many_is_asked_for_each() {
    let mut bench = Bench::new(config());
    bench.actions.clear();
    let many: Vec<u16> = (0..10).collect();
    let wanted = many.iter().map(|n| cid(*n)).collect();
    bench.feed(Event::DesiredRange { after: None, until: None, wanted });
    // All questions but the first wait for room, so that the others come together.
    let mut single = BTreeSet::new();
    for _ in 0..40 {
        let Some(at) = bench.actions.iter().position(|a| matches!(a, Action::Ask(_))) else {
            break;
        };
        let Action::Ask(cids) = bench.actions.remove(at) else { unreachable!() };
        if let [one] = cids[..]
            && one != cid(3)
        {
            single.insert(one);
            bench.feed(Event::Asked(cids, Ok(vec![Held::Recursive])));
        } else {
            let error = IpfsError::Refused("invalid cid".to_owned());
            bench.feed(Event::Asked(cids, Err(error)));
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
    let refused = || Err(IpfsError::Failed("not found".to_owned()));
    let mut bench = Bench::new(config());
    bench.want(1);
    bench.answer_no();
    bench.feed(Event::PinDone(cid(1), refused()));
    bench.advance(2);
    bench.answer_no();
    assert_eq!(bench.written.last().unwrap(), &(cid(1), None));
    assert_eq!(bench.state(1), Some(PinState::Failed));
    bench.advance(6);
    bench.feed(Event::Asked(vec![cid(1)], Ok(vec![Held::Recursive])));
    assert_eq!(bench.state(1), Some(PinState::Pinned));
    assert_eq!(bench.written.last().unwrap().1.unwrap().origin, Origin::Foreign);

    // Ours: the attempt that seemed to fail was finished by the daemon.
    let mut bench = Bench::new(config());
    bench.want(1);
    bench.answer_no();
    bench.feed(Event::PinDone(cid(1), refused()));
    bench.advance(2);
    bench.feed(Event::Asked(vec![cid(1)], Ok(vec![Held::Recursive])));
    assert_eq!(bench.state(1), Some(PinState::Pinned));
    assert_eq!(bench.written.last().unwrap().1.unwrap().origin, Origin::Ours);
}

#[test]
fn an_intent_without_an_attempt_makes_nothing_ours() {
    let mut bench = Bench::new(config());
    for n in 1..4 {
        bench.want(n);
    }
    bench.answer_no();
    // Two pins fill the daemon; the third waits until its answer is old.
    let mut at = 0;
    let waits = loop {
        at += 1;
        bench.advance(1);
        for n in 1..3 {
            bench.feed(Event::Progress(cid(n), progress(at, at)));
        }
        if let Some(Action::Ask(cids)) =
            bench.take().into_iter().find(|action| matches!(action, Action::Ask(_)))
        {
            break cids;
        }
    };
    assert_eq!(waits, [cid(3)]);
    bench.feed(Event::Asked(waits, Ok(vec![Held::Recursive])));
    assert_eq!(bench.state(3), Some(PinState::Pinned));
    let (written, change) = bench.written.last().unwrap();
    assert_eq!((written, change.unwrap().origin), (&cid(3), Origin::Foreign));
}

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
    let entry = |origin| ledger::Entry { origin, since: Timestamp(0) };
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
    let entry = ledger::Entry { origin: Origin::Former, since: Timestamp(0) };
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
    let entry = ledger::Entry { origin: Origin::Ours, since: Timestamp(0) };
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
fn an_item_of_a_list_is_old_news_of_what_was_learnt_since() {
    let mut bench = Bench::new(config());
    bench.want(1);
    bench.advance(301);
    bench.actions.retain(|action| *action != Action::List);
    // The list began before the answer "no"; it names the CID all the same.
    bench.answer_no();
    bench.feed(Event::Listed(vec![cid(1)]));
    assert_eq!(bench.state(1), Some(PinState::Pinning));
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

#[test]
fn a_collection_waits_a_little_for_pins_then_they_wait_for_it() {
    let mut bench = Bench::new(config());
    for n in 0..4 {
        bench.want(n);
    }
    bench.answer_no();
    bench.take();
    bench.feed(Event::CollectGarbage);
    // The place that gets free is not taken.
    bench.feed(Event::PinDone(cid(0), Ok(())));
    bench.advance(1);
    bench.feed(Event::Progress(cid(1), progress(1, 1)));
    assert!(!bench.take().iter().any(|a| matches!(a, Action::Pin(_) | Action::CollectGarbage)));
    assert!(bench.machine.garbage().collecting);
    bench.advance(9);
    let begun = [Action::CancelPin(cid(1)), Action::CollectGarbage];
    bench.actions.retain(|action| begun.contains(action));
    assert_eq!(bench.take(), begun);
    // It goes back to the queue as it was, and says why it waits.
    let status = bench.machine.status(&cid(1)).unwrap();
    assert_eq!((status.state, status.attempts), (PinState::Queued, 0));
    assert_eq!(bench.message(2), "waits until the daemon has collected garbage");
    bench.advance(60);
    bench.answer_no();
    assert!(!bench.take().iter().any(|a| matches!(a, Action::Pin(_))));
    let done = Collected { removed: 3, errors: vec![] };
    bench.feed(Event::Collected(Ok(done.clone())));
    bench.answer_no();
    let actions = bench.take();
    assert!(actions.contains(&Action::EndCollection(Ok(done))), "{actions:?}");
    assert!(actions.iter().any(|a| matches!(a, Action::Pin(_))), "{actions:?}");
    assert_eq!(bench.message(1), "");
    let collections = bench.machine.collections();
    assert_eq!((collections.running, collections.done, collections.removed), (false, 1, 3));
}

#[test]
fn a_collection_ends_in_any_case_and_pins_go_on() {
    let reason = |actions: Vec<Action>| {
        let mut ends = actions.into_iter().filter_map(|action| match action {
            Action::EndCollection(result) => Some(result.unwrap_err()),
            _ => None,
        });
        (ends.next(), ends.next())
    };
    let mut bench = Bench::new(config());
    bench.actions.clear();
    bench.feed(Event::CollectGarbage);
    // Nothing was in flight.
    assert_eq!(bench.take(), [Action::CollectGarbage]);
    bench.want(1);
    bench.advance(30 * 60);
    bench.answer_no();
    let actions = bench.take();
    for action in [Action::CancelCollection, Action::Pin(cid(1))] {
        assert!(actions.contains(&action), "{actions:?}");
    }
    assert_eq!(reason(actions), (Some("it did not end within 1800 s".to_owned()), None));

    bench.feed(Event::CollectGarbage);
    bench.take();
    bench.feed(Event::PinDone(cid(1), Err(IpfsError::Down("reset".to_owned()))));
    let away = "the daemon is away: reset".to_owned();
    assert_eq!(reason(bench.take()), (Some(away), None));
    assert!(!bench.machine.garbage().collecting);

    let now = Now { at: Duration::ZERO, wall: Timestamp(0) };
    let mut machine = Machine::new(config(), now, None, Vec::new());
    let (first, second) = reason(machine.handle(now, Event::CollectGarbage));
    assert_eq!(
        (first.as_deref(), second),
        (Some("the daemon is away: it was not asked yet"), None)
    );
    assert_eq!(machine.collections().failed, 1);
}

#[test]
fn no_collection_begins_beside_an_unpin_that_does_not_end() {
    let entry = ledger::Entry { origin: Origin::Ours, since: Timestamp(0) };
    let mut bench = Bench::with_ledger(config(), vec![(cid(1), entry)]);
    bench.feed(Event::DesiredRange { after: None, until: None, wanted: vec![] });
    bench.feed(Event::Confirmed(vec![(cid(1), false)]));
    assert!(bench.take().contains(&Action::Unpin(cid(1))));
    bench.feed(Event::CollectGarbage);
    bench.advance(60);
    let actions = bench.take();
    assert!(!actions.contains(&Action::CollectGarbage), "{actions:?}");
    let failed = Action::EndCollection(Err("an unpin does not end".to_owned()));
    assert!(actions.contains(&failed), "{actions:?}");
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

/// Ours by the ledger, wanted by nobody, and behind a barrier that is under way.
fn confirming(count: u16) -> Bench {
    let entry = ledger::Entry { origin: Origin::Ours, since: Timestamp(0) };
    let ledger = (1..=count).map(|n| (cid(n), entry)).collect();
    let mut bench = Bench::with_ledger(config(), ledger);
    bench.feed(Event::DesiredRange { after: None, until: None, wanted: vec![] });
    assert!(bench.take().contains(&Action::Confirm((1..=count).map(cid).collect())));
    bench
}

#[test]
fn a_barrier_says_nothing_of_what_changed_since_it_was_asked_for() {
    let again = [Action::Confirm(vec![cid(1)])];
    // In both cases it may have been wanted for a moment that was not seen here.
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
fn what_may_be_unpinned_is_confirmed_again_after_a_collection() {
    let entry = ledger::Entry { origin: Origin::Ours, since: Timestamp(0) };
    let mut bench = Bench::with_ledger(config(), vec![(cid(1), entry)]);
    bench.feed(Event::DesiredRange { after: None, until: None, wanted: vec![] });
    bench.feed(Event::CollectGarbage);
    bench.take();
    bench.feed(Event::Confirmed(vec![(cid(1), false)]));
    bench.advance(60);
    assert!(!bench.take().contains(&Action::Unpin(cid(1))));
    let unpinned = |bench: &Bench| bench.machine.garbage().unpinned;
    assert!(unpinned(&bench), "nobody knows what was before");
    bench.feed(Event::Collected(Ok(Collected::default())));
    assert!(!unpinned(&bench));
    let actions = bench.take();
    assert!(actions.contains(&Action::Confirm(vec![cid(1)])), "{actions:?}");
    bench.feed(Event::Confirmed(vec![(cid(1), false)]));
    assert!(bench.take().contains(&Action::Unpin(cid(1))));
    bench.feed(Event::UnpinDone(cid(1), Ok(())));
    assert!(unpinned(&bench));
    bench.advance(150);
    assert_eq!(bench.machine.garbage().idle_minutes, Some(2));
}

#[test]
fn a_slow_answer_fails_its_question_and_nothing_else() {
    let mut bench = Bench::new(config());
    bench.want(0);
    bench.answer_no();
    assert!(bench.take().contains(&Action::Pin(cid(0))));
    let slow = || IpfsError::Slow("no answer to pin/ls within 60 s".to_owned());
    let wanted = (0..10).map(cid).collect();
    bench.feed(Event::DesiredRange { after: None, until: None, wanted });
    while let Some(at) = bench.actions.iter().position(|a| matches!(a, Action::Ask(_))) {
        let Action::Ask(cids) = bench.actions.remove(at) else { unreachable!() };
        bench.feed(Event::Asked(cids, Err(slow())));
    }
    // Each says so, after few questions and not one for each; the pin in flight goes on.
    for n in 1..10 {
        assert_eq!(bench.state(n), Some(PinState::Failed), "{n}");
        assert!(bench.message(n).contains("no answer to pin/ls"), "{}", bench.message(n));
    }
    assert_eq!(bench.state(0), Some(PinState::Pinning));
    assert!(!bench.take().contains(&Action::CancelDaemon));
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
