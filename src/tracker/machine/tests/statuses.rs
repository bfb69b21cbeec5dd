//! Statuses for others.

use super::*;
use crate::tracker::machine::entries::CHANGES_MAX;

#[test]
fn while_the_daemon_is_away_only_what_is_wanted_says_so_after_a_while() {
    let mut bench = Bench::with_ledger(config(), ledger_of(&[Origin::Ours; 2]));
    bench.holds_probes = true;
    bench.feed(Event::DesiredRange { after: None, until: None, wanted: vec![cid(1)] });
    bench.feed(Event::Listed(vec![cid(1)]));
    bench.advance(3);
    bench.away("reset");
    let states = |bench: &Bench| (bench.state(1), bench.state(2));
    let before = (Some(PinState::Pinned), Some(PinState::Unpinning));
    bench.advance_by(Duration::from_millis(1999));
    assert_eq!(states(&bench), before, "it may just restart");
    bench.advance_by(Duration::from_millis(1));
    assert_eq!(states(&bench), (Some(PinState::DaemonDown), before.1));
    // It last answered at the start.
    let status = bench.machine.status(&cid(1)).unwrap();
    assert_eq!((status.since, status.attempts), (Timestamp(0), 0));
    assert_eq!(status.message, "the daemon is away: reset");
    // New CIDs as well; these are reported.
    bench.want(3);
    assert_eq!(bench.state(3), Some(PinState::DaemonDown));
    // Also while the ledger is being bound to the daemon's replacement.
    bench.feed(Event::Probed(Ok("e".to_owned())));
    assert_eq!(bench.message(1), "the ledger is being bound to the daemon");
    bench.feed(Event::Bound(Ok(true)));
    assert_eq!(states(&bench), (Some(PinState::Queued), None));
}

#[test]
fn pages_bring_every_status_once() {
    let mut bench = Bench::with_ledger(config(), ledger_of(&[Origin::Ours; 3]));
    // Two of them have no status.
    bench.feed(Event::Desired([2, 4, 5, 6].map(|n| (cid(n), true)).to_vec()));
    let expected: Vec<Cid> = [2, 4, 5, 6].map(cid).to_vec();
    for len in 1..8 {
        let (mut all, mut after) = (Vec::new(), None);
        for pages in 0.. {
            assert!(pages < 10, "it never ends");
            let (page, next) = bench.machine.statuses(after.as_ref(), len);
            assert!(page.len() <= len);
            all.extend(page.into_iter().map(|(cid, _)| cid));
            after = next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(all, expected, "in pages of {len}");
    }
    let known = [bench.machine.known_after(None, 2), bench.machine.known_after(Some(&cid(3)), 9)];
    assert_eq!(known, [vec![cid(1), cid(2)], [4, 5, 6].map(cid).to_vec()]);
}

#[test]
fn amounts_are_told_in_short() {
    let table = [
        (progress(0, 0), ""),
        (progress(1, 0), "1 block, 0 B"),
        (progress(2, 999), "2 blocks, 999 B"),
        (progress(2, 1000), "2 blocks, 1.0 kB"),
        (progress(2, 999_999), "2 blocks, 999.9 kB"),
        (progress(2, 1_000_000), "2 blocks, 1.0 MB"),
        (progress(2, 310_049_000), "2 blocks, 310.0 MB"),
        (progress(2, u64::MAX), "2 blocks, 18.4 EB"),
    ];
    for (reached, text) in table {
        let mut bench = Bench::new(config());
        bench.want(1);
        bench.answer_no();
        bench.feed(Event::Progress(cid(1), reached));
        let status = bench.machine.status(&cid(1)).unwrap();
        assert_eq!((status.state, status.message.as_str()), (PinState::Pinning, text));
    }
}

#[test]
fn numbers_say_how_many_are_in_which_state() {
    let mut bench = Bench::holding(1);
    for n in 2..7 {
        bench.want(n);
    }
    bench.answer_no();
    bench.release(1);
    bench.feed(Event::PinDone(cid(2), Err(failed())));
    bench.feed(Event::Progress(cid(3), progress(1, 1)));
    let counters = bench.machine.counters();
    let states = [
        (PinState::Queued, 2),
        (PinState::Pinning, 2),
        (PinState::Failed, 1),
        (PinState::Unpinning, 1),
    ];
    let expected = Counters {
        pinned: 0,
        queued: 5,
        pinning: 2,
        failing: 1,
        unpinning: 1,
        states: states.into(),
        failures: [(PinState::Failed, 1)].into(),
    };
    assert_eq!(counters, expected);
}

/// A wish that is withdrawn and renewed leaves the same status, which must be reported anew.
#[test]
fn what_is_wanted_again_is_told_again() {
    let mut bench = Bench::holding(1);
    let now = Now { at: bench.at, wall: Timestamp(0) };
    bench.machine.handle(now, Event::Desired(vec![(cid(1), true)]));
    let told = Changes { cids: vec![cid(1)], everything: false };
    assert_eq!(bench.machine.take_changes(), told);
}

#[test]
fn more_changes_than_are_worth_naming_are_told_as_everything() {
    let mut bench = Bench::holding(1);
    let now = Now { at: bench.at, wall: Timestamp(0) };
    let again = vec![(cid(1), true); CHANGES_MAX];
    bench.machine.handle(now, Event::Desired(again));
    let changes = bench.machine.take_changes();
    assert_eq!((changes.cids.len(), changes.everything), (CHANGES_MAX, false));
    bench.machine.handle(now, Event::Desired(vec![(cid(1), true); CHANGES_MAX + 1]));
    assert!(bench.machine.take_changes().everything);
}
