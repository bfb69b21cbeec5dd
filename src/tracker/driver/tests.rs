//! How the driver handles the state, lists and barriers.
#![allow(clippy::unwrap_used)]

use redb::backends::InMemoryBackend;

use super::*;
use crate::{
    clock::{Clock, SimulatedClock},
    ipfs::fake::{Request, StandInDaemon},
    state::{Op, SharedState},
    tracker::{Ledger, LedgerPort, ledger},
    types::{ClaimName, ClaimOptions, Factor, LogPosition, Owner, Replication, Timestamp},
};

const ME: PeerId = PeerId([1; 32]);
const OTHER: PeerId = PeerId([2; 32]);

fn cid(n: u8) -> Cid {
    Cid::from_bytes(&[1, 0x55, 0, 1, n]).unwrap()
}

fn numbered(n: u16) -> Cid {
    let [a, b] = n.to_be_bytes();
    Cid::from_bytes(&[1, 0x55, 0, 2, a, b]).unwrap()
}

fn failed() -> IpfsError {
    IpfsError::Failed("it broke off".to_owned())
}

fn claim(cid: Cid, peer: PeerId) -> Op {
    let replication = Replication { min: Factor::Count(1), max: Factor::Count(1) };
    let options = ClaimOptions { replication, retain: false, name: ClaimName::default() };
    let (owner, at) = (Owner::Rest, Timestamp(1));
    Op::Claim { cid, owner, options, candidates: vec![peer], at, fence: None }
}

/// One pin on the given peer for each.
fn state(pins: &[(u8, PeerId)]) -> PinSet {
    let mut state = PinSet::default();
    for (n, peer) in pins {
        state.apply(LogPosition::default(), &claim(cid(*n), *peer));
    }
    state
}

/// A driver whose loop is run by the test.
struct Bench {
    driver: Driver,
    daemon: StandInDaemon,
    state: SharedState,
}

impl Bench {
    /// With these CIDs in the ledger as that peer's own.
    fn new(pins: PinSet, ours: &[Cid], of: PeerId) -> Self {
        let daemon = StandInDaemon::new("d", Duration::ZERO);
        let ledger = Ledger::with_backend(InMemoryBackend::new).unwrap();
        ledger.bind("d", of).unwrap();
        let entry = ledger::LedgerEntry { origin: ledger::Origin::Ours, since: Timestamp(0) };
        let written: Vec<_> = ours.iter().map(|cid| (*cid, Some(entry))).collect();
        ledger.write(&written).unwrap();
        let state = SharedState::new(pins);
        let ports = Ports {
            ipfs: Arc::new(daemon.client()),
            ledger: LedgerPort::Inline(ledger),
            state: state.clone(),
            me: ME,
            barrier: Arc::new(|| std::future::pending().boxed()),
            clock: Clock::Simulated(SimulatedClock::new(Timestamp(0))),
        };
        let driver =
            Driver::new(Config::default(), ports, mpsc::channel(1).1, mpsc::channel(1).1).unwrap();
        Self { driver, daemon, state }
    }

    /// With one CID of ours that nobody wants, and a barrier under way that confirms it.
    fn confirming() -> Self {
        let mut bench = Self::new(PinSet::default(), &[cid(1)], ME);
        bench.daemon.pin_foreign(cid(1));
        bench.driver.compare_page();
        bench.driver.feed(Event::Probed(Ok("d".to_owned())));
        bench
    }

    /// Answers the barrier and starts what follows; whether that includes an unpin.
    fn unpins_when_confirmed(&mut self) -> bool {
        self.driver.finished(Some(Event::Confirmed(vec![(cid(1), false)])));
        while self.driver.running.next().now_or_never().is_some() {}
        self.daemon.take_requests().contains(&Request::Unpin(cid(1)))
    }
}

/// The CIDs of a list, and its result.
async fn listed(driver: &mut Driver) -> (Vec<Cid>, Result<(), IpfsError>) {
    driver.start(Action::List);
    let mut all = Vec::new();
    loop {
        tokio::select! { biased;
            piece = next_piece(&mut driver.list) => match piece {
                ListPiece::Cids(cids) => all.extend(cids),
                ListPiece::End(end) => return (all, end),
            },
            Some(_) = driver.running.next() => {}
            () = tokio::time::sleep(Duration::from_secs(60)) => panic!("it never ends"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_of_any_length_comes_whole_or_says_that_it_broke_off() {
    let mut bench = Bench::new(PinSet::default(), &[], ME);
    let held: Vec<Cid> = (0..3000).map(numbered).collect();
    held.iter().for_each(|cid| bench.daemon.pin_foreign(*cid));
    assert_eq!(listed(&mut bench.driver).await, (held.clone(), Ok(())));
    for limit in [0, 1, 1024, 2000, 3000] {
        bench.daemon.set_listing_limit(Some(limit));
        let end = Err(IpfsError::Failed("the listing broke off".to_owned()));
        assert_eq!(listed(&mut bench.driver).await, (held[..limit].to_vec(), end));
    }
}

#[tokio::test(start_paused = true)]
async fn what_changed_during_a_barrier_is_heard_before_its_answer() {
    assert!(Bench::confirming().unpins_when_confirmed());
    let told: [Changed; 2] = [Changed::Cids([cid(1)].into()), Changed::Everything];
    for changed in told {
        let mut bench = Bench::confirming();
        bench.state.write(1, |_| ((), changed));
        assert!(!bench.unpins_when_confirmed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_has_another_ones_ledger_binds_it_first() {
    for (of, expected) in [(ME, Action::List), (OTHER, Action::Bind("d".to_owned()))] {
        let bench = Bench::new(PinSet::default(), &[cid(1)], of);
        let now = Now { at: Duration::ZERO, wall: Timestamp(0) };
        let actions = bench.driver.shared.machine().handle(now, Event::Probed(Ok("d".to_owned())));
        assert!(actions.contains(&expected), "{actions:?}");
    }
}

/// More pins than fit on a page, all of them here.
fn two_pages() -> PinSet {
    let mut state = PinSet::default();
    for n in 0..=u16::try_from(PAGE_LEN).unwrap() {
        state.apply(LogPosition::default(), &claim(numbered(n), ME));
    }
    state
}

#[tokio::test(start_paused = true)]
async fn nothing_counts_as_seen_before_the_whole_state_is_compared() {
    let seen = |bench: &Bench| {
        let shared = &bench.driver.shared;
        (shared.seen.load(Ordering::Acquire), shared.compared.load(Ordering::Acquire))
    };
    let mut bench = Bench::new(two_pages(), &[], ME);
    bench.state.set_entries(7);
    let mut told = bench.driver.shared.changes.subscribe();
    bench.driver.compare_page();
    bench.driver.tell();
    assert_eq!(seen(&bench), (0, false));
    bench.driver.compare_page();
    bench.driver.tell();
    assert_eq!(seen(&bench), (7, true));
    let known = bench.driver.shared.machine().known_after(None, 9999).len();
    assert_eq!(known, PAGE_LEN + 1);
    assert_eq!(told.try_recv(), Ok(Changed::Everything));
    // A snapshot: nothing is published until everything is compared again, then everything is.
    bench.state.write(8, |_| ((), Changed::Everything));
    for expected in [7, 7, 8] {
        bench.driver.tell();
        assert_eq!(seen(&bench).0, expected);
        assert!(expected == 8 || told.try_recv().is_err());
        bench.driver.compare_page();
    }
    assert_eq!(told.try_recv(), Ok(Changed::Everything));
}

#[tokio::test(start_paused = true)]
async fn the_whole_state_is_compared_now_and_then() {
    let mut bench = Bench::new(PinSet::default(), &[], ME);
    bench.driver.compare_page();
    bench.driver.tick();
    assert!(bench.driver.comparison.is_none());
    for _ in 0..2 {
        tokio::time::advance(Config::default().compare_period).await;
        bench.driver.tick();
        assert!(bench.driver.comparison.is_some());
        bench.driver.compare_page();
        assert!(bench.driver.comparison.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn as_time_passes_the_machine_is_told() {
    let mut bench = Bench::new(PinSet::default(), &[], ME);
    bench.driver.tick();
    assert_eq!(bench.driver.running.len(), 1, "it asks the daemon who it is");
}

#[test]
fn only_what_is_allocated_to_this_peer_is_wanted_here() {
    let state = state(&[(1, ME), (2, OTHER)]);
    assert!(is_wanted(&state, &cid(1), ME));
    assert!(!is_wanted(&state, &cid(2), ME), "another peer's");
    assert!(!is_wanted(&state, &cid(3), ME), "nobody's");
}

#[test]
fn pages_of_the_state_leave_nothing_out_and_say_where_they_end() {
    let state = state(&[(1, ME), (2, OTHER), (3, ME), (4, ME)]);
    let page = |after: Option<u8>, len| {
        let (last, wanted) = wanted_page(&state, after.map(cid).as_ref(), len, ME);
        (last, wanted)
    };
    let cids = |numbers: &[u8]| numbers.iter().map(|n| cid(*n)).collect::<Vec<_>>();
    assert_eq!(page(None, 2), (Some(cid(2)), cids(&[1])));
    assert_eq!(page(Some(2), 2), (Some(cid(4)), cids(&[3, 4])));
    // A full page may be the last one; only a page that is not full proves it.
    assert_eq!(page(Some(4), 2), (None, vec![]));
    assert_eq!(page(None, 3), (Some(cid(3)), cids(&[1, 3])));
    assert_eq!(page(None, 5), (None, cids(&[1, 3, 4])));
    assert_eq!(page(Some(1), 1), (Some(cid(2)), vec![]));
}

#[test]
fn an_error_within_a_list_ends_it() {
    let table = [
        (vec![], vec![], Ok(())),
        (vec![Ok(cid(1)), Ok(cid(2))], vec![cid(1), cid(2)], Ok(())),
        (vec![Ok(cid(1)), Err(failed())], vec![cid(1)], Err(failed())),
        (vec![Err(failed())], vec![], Err(failed())),
    ];
    for (items, cids, end) in table {
        assert_eq!(until_error(items), (cids, end));
    }
}

#[tokio::test]
async fn a_list_that_ends_without_a_word_broke_off() {
    let (sender, receiver) = mpsc::channel(2);
    let mut list = Some(receiver);
    sender.send(ListPiece::Cids(vec![cid(1)])).await.unwrap();
    sender.send(ListPiece::End(Ok(()))).await.unwrap();
    drop(sender);
    assert!(matches!(next_piece(&mut list).await, ListPiece::Cids(cids) if cids == [cid(1)]));
    assert!(matches!(next_piece(&mut list).await, ListPiece::End(Ok(()))));
    assert!(matches!(next_piece(&mut list).await, ListPiece::End(Err(IpfsError::Failed(_)))));
    assert!(next_piece(&mut None).now_or_never().is_none());
}

#[test]
fn changes_are_told_once_each_or_as_everything() {
    let changes = |numbers: &[u8], everything| {
        let cids = numbers.iter().map(|n| cid(*n)).collect();
        Changes { cids, everything }
    };
    assert_eq!(told(changes(&[], false), false), None);
    let cids = Changed::Cids([cid(1), cid(2)].into());
    assert_eq!(told(changes(&[2, 1, 2], false), false), Some(cids));
    for (numbers, everything, retell) in [(&[][..], true, false), (&[1], false, true)] {
        let told = told(changes(numbers, everything), retell);
        assert_eq!(told, Some(Changed::Everything));
    }
}

#[tokio::test(start_paused = true)]
async fn a_barrier_is_passed_only_when_it_says_so() {
    let deadline = Duration::from_secs(1);
    let passed = timeout(deadline, std::future::ready(Ok(()))).await;
    assert_eq!(barrier_passed(passed), Ok(()));
    let refused = Err(BarrierError("no leader".to_owned()));
    let refused = timeout(deadline, std::future::ready(refused)).await;
    assert_eq!(barrier_passed(refused), Err("no leader".to_owned()));
    let late = timeout(deadline, std::future::pending()).await;
    assert_eq!(barrier_passed(late), Err("no answer in time".to_owned()));
}
