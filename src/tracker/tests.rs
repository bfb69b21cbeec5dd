//! The whole tracker with a stand-in daemon and a paused clock.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, time::Duration};

use redb::backends::InMemoryBackend;
use tokio::time::{Instant, timeout};

use super::*;
use crate::{
    clock::SimulatedClock,
    ipfs::fake::{Request, StandInDaemon},
    state::{Op, PinSet},
    types::{
        ClaimName, ClaimOptions, Factor, LogPosition, Owner, PinState, Replication, Timestamp,
    },
};

const ME: PeerId = PeerId([1; 32]);

fn cid(n: u16) -> Cid {
    let [a, b] = n.to_be_bytes();
    Cid::from_bytes(&[1, 0x55, 0, 2, a, b]).unwrap()
}

fn test_config() -> Config {
    Config { stall_time: Duration::from_secs(10), ..Config::default() }
}

struct World {
    daemon: StandInDaemon,
    ledger: Ledger,
    state: SharedState,
    barrier_open: Arc<Mutex<bool>>,
    handle: TrackerHandle,
    token: CancellationToken,
    task: JoinHandle<()>,
}

impl World {
    fn new(daemon: &StandInDaemon) -> Self {
        let ledger = Ledger::with_backend(InMemoryBackend::new).unwrap();
        Self::on(daemon, ledger, SharedState::new(PinSet::default()))
    }

    fn on(daemon: &StandInDaemon, ledger: Ledger, state: SharedState) -> Self {
        let barrier_open = Arc::new(Mutex::new(true));
        let open = Arc::clone(&barrier_open);
        let barrier: Barrier = Arc::new(move || {
            let open = *open.lock();
            let closed = || BarrierError("no leader".to_owned());
            Box::pin(async move { open.then_some(()).ok_or_else(closed) })
        });
        let ports = Ports {
            ipfs: Arc::new(daemon.client()),
            ledger: LedgerPort::Inline(ledger.clone()),
            state: state.clone(),
            me: ME,
            barrier,
            clock: Clock::Simulated(SimulatedClock::new(Timestamp(0))),
        };
        let token = CancellationToken::new();
        let (handle, task) = Tracker::spawn(test_config(), ports, token.clone()).unwrap();
        Self { daemon: daemon.clone(), ledger, state, barrier_open, handle, token, task }
    }

    /// Ends this life; the daemon, the ledger and the state stay.
    async fn stop(self) -> (Ledger, SharedState) {
        self.token.cancel();
        timeout(Duration::from_secs(1), self.task).await.unwrap().unwrap();
        (self.ledger, self.state)
    }

    fn want(&self, n: u16) {
        write(&self.state, &claim(cid(n)));
    }

    fn release(&self, n: u16) {
        write(&self.state, &release(cid(n)));
    }

    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(1000);
        while !condition(self) {
            assert!(Instant::now() < deadline, "never: {what}; {:?}", self.handle.statuses());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn until_state(&self, n: u16, state: PinState) {
        let what = format!("{n} {state:?}");
        self.until(&what, |w| w.state_of(n) == Some(state)).await;
    }

    fn state_of(&self, n: u16) -> Option<PinState> {
        self.handle.status(&cid(n)).map(|status| status.state)
    }
}

/// Fails if the future takes longer than any test needs.
async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let hours = Duration::from_secs(4 * 3600);
    timeout(hours, future).await.unwrap_or_else(|_| panic!("never: {what}"))
}

fn write(state: &SharedState, op: &Op) {
    let (Op::Claim { cid, .. } | Op::Release { cid, .. }) = op else { panic!() };
    let changed = Changed::Cids([*cid].into());
    state.write(0, |pins| (pins.apply(LogPosition::default(), op), changed));
}

fn claim(cid: Cid) -> Op {
    let replication = Replication { min: Factor::Count(1), max: Factor::Count(1) };
    let options = ClaimOptions { replication, retain: false, name: ClaimName::default() };
    let (owner, at) = (Owner::Rest, Timestamp(1));
    Op::Claim { cid, owner, options, candidates: vec![ME], at, fence: None }
}

fn release(cid: Cid) -> Op {
    Op::Release { cid, owner: Owner::Rest, at: Timestamp(2), fence: None }
}

fn daemon() -> StandInDaemon {
    StandInDaemon::new("daemon-1", Duration::from_millis(50))
}

#[tokio::test(start_paused = true)]
async fn what_is_wanted_is_pinned_and_what_is_not_wanted_is_unpinned() {
    let world = World::new(&daemon());
    for n in 0..300 {
        world.want(n);
    }
    world.until("all pinned", |w| w.handle.counters().pinned == 300).await;
    assert!(world.daemon.in_flight_max() <= 8 + 32, "{}", world.daemon.in_flight_max());
    let requests = world.daemon.take_requests();
    let asked = |c| requests.iter().position(|r| *r == Request::Ask(c)).unwrap();
    for n in 0..300 {
        let pinned = requests.iter().position(|r| *r == Request::Pin(cid(n))).unwrap();
        assert!(asked(cid(n)) < pinned);
    }
    for n in 0..300 {
        world.release(n);
    }
    world
        .until("nothing left", |w| w.daemon.held().is_empty() && w.handle.statuses().is_empty())
        .await;
    assert!(world.ledger.entries(ME).unwrap().is_empty());
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn foreign_pins_count_and_stay() {
    let daemon = daemon();
    daemon.pin_foreign(cid(1));
    daemon.pin_direct(cid(2));
    let world = World::new(&daemon);
    world.want(1);
    world.want(2);
    world.until_state(1, PinState::Pinned).await;
    world.until_state(2, PinState::Pinned).await;
    assert!(!daemon.take_requests().contains(&Request::Pin(cid(1))));
    world.release(1);
    world.release(2);
    world
        .until("forgotten", |w| w.state_of(1).is_none() && w.ledger.entries(ME).unwrap().is_empty())
        .await;
    tokio::time::sleep(Duration::from_secs(700)).await;
    assert!(daemon.holds(&cid(1)) && daemon.holds(&cid(2)));
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn missing_content_stalls_says_so_and_holds_nobody_up() {
    let daemon = daemon();
    let world = World::new(&daemon);
    for n in 0..60 {
        daemon.set_missing(cid(n), true);
        world.want(n);
    }
    world.until_state(0, PinState::NotFound).await;
    let before = Instant::now();
    for n in 100..300 {
        world.want(n);
    }
    world.until("the others", |w| w.handle.counters().pinned == 200).await;
    assert!(before.elapsed() < Duration::from_secs(30), "{:?}", before.elapsed());
    world.until("all told", |w| w.handle.counters().failing == 60).await;
    let message = world.handle.status(&cid(5)).unwrap().message;
    assert!(message.contains("no connected daemon provides it"), "{message}");
    for n in 0..60 {
        daemon.set_missing(cid(n), false);
    }
    world.until("all pinned", |w| w.handle.counters().pinned == 260).await;
    assert_eq!(world.handle.counters().failing, 0);
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_is_away_is_told_and_asked_again() {
    let daemon = daemon();
    let world = World::new(&daemon);
    world.want(1);
    world.want(2);
    world.until("pinned", |w| w.handle.counters().pinned == 2).await;
    let mut changes = world.handle.subscribe();
    daemon.set_down(true);
    world.until_state(1, PinState::DaemonDown).await;
    assert!(world.handle.daemon().borrow().is_none());
    assert!(changes.try_recv().is_ok());
    // One of the pins is lost.
    daemon.lose_pin(&cid(2));
    daemon.set_down(false);
    world.until_state(1, PinState::Pinned).await;
    world.until_state(2, PinState::Pinned).await;
    assert!(daemon.holds(&cid(2)));
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn another_daemon_voids_what_was_known() {
    let daemon = daemon();
    let world = World::new(&daemon);
    world.want(1);
    world.until_state(1, PinState::Pinned).await;
    daemon.replace("daemon-2");
    daemon.pin_foreign(cid(2));
    world.want(2);
    world
        .until("pinned anew", |w| w.daemon.holds(&cid(1)) && w.handle.counters().pinned == 2)
        .await;
    assert_eq!(world.ledger.daemon().unwrap().as_deref(), Some("daemon-2"));
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_deleted_while_the_peer_was_away_is_unpinned_behind_a_barrier() {
    let daemon = daemon();
    daemon.pin_foreign(cid(9));
    let world = World::new(&daemon);
    for n in [1, 2, 9] {
        world.want(n);
    }
    world.until("pinned", |w| w.handle.counters().pinned == 3).await;
    let (ledger, state) = world.stop().await;
    write(&state, &release(cid(1)));
    write(&state, &release(cid(9)));
    daemon.take_requests();
    let world = World::on(&daemon, ledger, state);
    *world.barrier_open.lock() = false;
    world.until("settled", |w| w.handle.is_settled()).await;
    assert_eq!(world.state_of(2), Some(PinState::Pinned));
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!(daemon.holds(&cid(1)), "unpinned without a barrier");
    *world.barrier_open.lock() = true;
    world.until("unpinned", |w| !w.daemon.holds(&cid(1))).await;
    world.until("forgotten", |w| w.ledger.entries(ME).unwrap().len() == 1).await;
    assert!(daemon.holds(&cid(2)) && daemon.holds(&cid(9)));
    let pins = daemon.take_requests();
    assert!(!pins.iter().any(|r| matches!(r, Request::Pin(_))), "{pins:?}");
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_list_corrects_what_changed_behind_our_back() {
    let daemon = daemon();
    daemon.pin_foreign(cid(2));
    let world = World::new(&daemon);
    world.want(1);
    world.want(2);
    world.until("pinned", |w| w.handle.counters().pinned == 2).await;
    daemon.lose_pin(&cid(1));
    daemon.lose_pin(&cid(2));
    world
        .until("pinned again", |w| w.daemon.held().len() == 2 && w.handle.counters().pinned == 2)
        .await;
    // The foreign pin is ours since we pinned it again.
    world.release(2);
    world.until("unpinned", |w| !w.daemon.holds(&cid(2))).await;
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_list_that_breaks_off_takes_nothing_for_lost() {
    let daemon = daemon();
    let world = World::new(&daemon);
    for n in 0..20 {
        world.want(n);
    }
    world.until("pinned", |w| w.handle.counters().pinned == 20).await;
    daemon.set_listing_limit(Some(3));
    daemon.set_down(true);
    world.until_state(1, PinState::DaemonDown).await;
    daemon.take_requests();
    daemon.set_down(false);
    let pinned = |w: &World, n| w.state_of(n) == Some(PinState::Pinned);
    world.until("all confirmed", |w| (0..20).all(|n| pinned(w, n))).await;
    let requests: BTreeSet<_> = daemon.take_requests().into_iter().collect();
    assert!(requests.contains(&Request::Ask(cid(19))));
    assert!(!requests.iter().any(|r| matches!(r, Request::Pin(_))), "{requests:?}");
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn failures_are_told_and_tried_again() {
    let daemon = daemon();
    let world = World::new(&daemon);
    daemon.set_failing(cid(1), Some("no space left on device"));
    daemon.set_failing(cid(2), Some("potentially insecure hash functions not allowed"));
    world.want(1);
    world.want(2);
    world.until_state(1, PinState::Failed).await;
    world.until_state(2, PinState::Unpinnable).await;
    let status = world.handle.status(&cid(1)).unwrap();
    assert!(status.message.contains("no space left on device"), "{status:?}");
    daemon.set_failing(cid(1), None);
    daemon.set_failing(cid(2), None);
    world.until("pinned", |w| w.handle.counters().pinned == 2).await;
    assert_eq!(world.handle.status(&cid(1)).unwrap().attempts, 0);
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_brings_and_takes_pins() {
    let daemon = daemon();
    let world = World::new(&daemon);
    world.want(1);
    world.until_state(1, PinState::Pinned).await;
    world.state.write(0, |pins| {
        let mut other = PinSet::default();
        for n in 2000..4500 {
            other.apply(LogPosition::default(), &claim(cid(n)));
        }
        *pins = other;
        ((), Changed::Everything)
    });
    let before = Instant::now();
    world
        .until("replaced", |w| !w.daemon.holds(&cid(1)) && w.handle.counters().pinned == 2500)
        .await;
    assert!(before.elapsed() < Duration::from_secs(60), "{:?}", before.elapsed());
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_collection_frees_what_is_unpinned_and_is_not_held_up_by_missing_content() {
    let daemon = daemon();
    daemon.pin_foreign(cid(9));
    daemon.set_missing(cid(3), true);
    let world = World::new(&daemon);
    for n in [1, 2, 3] {
        world.want(n);
    }
    world.until("pinned", |w| w.handle.counters().pinned == 2).await;
    world.release(2);
    world.until("unpinned", |w| !w.daemon.holds(&cid(2))).await;
    assert!(daemon.stores(&cid(2)));
    world.until_state(3, PinState::Pinning).await;
    let before = Instant::now();
    let done = within("an end", world.handle.run_gc()).await.unwrap();
    assert!(before.elapsed() < Duration::from_secs(15), "{:?}", before.elapsed());
    assert_eq!(done.removed, 1);
    assert!(!daemon.stores(&cid(2)) && daemon.stores(&cid(1)) && daemon.stores(&cid(9)));
    // Pins continue, including those that waited.
    daemon.set_missing(cid(3), false);
    world.want(4);
    world.until("pinned", |w| w.handle.counters().pinned == 3).await;
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn pins_asked_for_during_a_collection_are_made_after_it() {
    let daemon = daemon();
    let world = World::new(&daemon);
    world.want(0);
    world.until_state(0, PinState::Pinned).await;
    daemon.set_pin_time(Duration::from_secs(20));
    let handle = world.handle.clone();
    let collecting = tokio::spawn(async move { handle.run_gc().await });
    world.until("it collects", |_| daemon.take_requests().contains(&Request::Collect)).await;
    for n in 1..50 {
        world.want(n);
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!daemon.take_requests().iter().any(|r| matches!(r, Request::Pin(_))));
    assert_eq!(world.state_of(1), Some(PinState::Queued));
    daemon.set_pin_time(Duration::from_millis(50));
    within("an end", collecting).await.unwrap().unwrap();
    world.until("pinned", |w| w.handle.counters().pinned == 50).await;
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_collection_on_a_daemon_that_goes_away_says_so() {
    let daemon = daemon();
    daemon.set_pin_time(Duration::from_secs(20));
    let world = World::new(&daemon);
    world.until("settled", |w| w.handle.is_settled()).await;
    let handle = world.handle.clone();
    let collecting = tokio::spawn(async move { handle.run_gc().await });
    world.until("it collects", |_| daemon.take_requests().contains(&Request::Collect)).await;
    daemon.set_down(true);
    let reason = within("an end", collecting).await.unwrap().unwrap_err();
    assert!(reason.contains("the daemon is away"), "{reason}");
    let reason = within("an end", world.handle.run_gc()).await.unwrap_err();
    assert!(reason.contains("the daemon is away"), "{reason}");
    daemon.set_down(false);
    daemon.set_pin_time(Duration::ZERO);
    world.want(1);
    world.until_state(1, PinState::Pinned).await;
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_is_given_up_when_the_daemon_hangs() {
    let daemon = daemon();
    daemon.set_missing(cid(1), true);
    let world = World::new(&daemon);
    world.want(1);
    world.until("it is being pinned", |w| w.daemon.in_flight() == 1).await;
    daemon.set_hanging(true);
    world.until("it is given up", |w| w.daemon.in_flight() == 0).await;
    daemon.set_hanging(false);
    daemon.set_missing(cid(1), false);
    world.until_state(1, PinState::Pinned).await;
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_released_is_not_pinned_on() {
    let daemon = daemon();
    daemon.set_missing(cid(1), true);
    let world = World::new(&daemon);
    world.want(1);
    world.until("it is being pinned", |w| w.daemon.in_flight() == 1).await;
    world.release(1);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(daemon.in_flight(), 0);
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn progress_is_told_as_it_is_made() {
    let daemon = daemon();
    daemon.set_pin_time(Duration::from_secs(8));
    let world = World::new(&daemon);
    world.want(1);
    let message = |w: &World| w.handle.status(&cid(1)).map(|status| status.message);
    let told = "1 block, 100 B".to_owned();
    world.until("progress", |w| message(w) == Some(told.clone())).await;
    assert_eq!(world.state_of(1), Some(PinState::Pinning));
    world.until_state(1, PinState::Pinned).await;
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_collection_without_an_end_is_broken_off() {
    let daemon = daemon();
    daemon.set_pin_time(Duration::from_secs(3 * 3600));
    let world = World::new(&daemon);
    world.until("settled", |w| w.handle.is_settled()).await;
    let reason = within("an end", world.handle.run_gc()).await.unwrap_err();
    assert_eq!(reason, "it did not end within 1800 s");
    // The daemon's lock is free again.
    daemon.set_pin_time(Duration::ZERO);
    world.want(1);
    world.until_state(1, PinState::Pinned).await;
    world.stop().await;
}
