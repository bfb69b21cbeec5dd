//! Runs the machine's actions and feeds it events.
//!
//! One task owns everything in flight, so that a cancelled operation can never answer afterwards.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{
        broadcast::{
            self,
            error::{RecvError, TryRecvError},
        },
        mpsc, oneshot, watch,
    },
    time::{Instant, error::Elapsed, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    BarrierError, CHANGES_MAX, LedgerError, PAGE_LEN, Ports, Shared,
    machine::{Action, Changes, Config, Event, Machine, Now},
};
use crate::{
    ipfs::{IpfsError, SharedIpfs},
    state::{Changed, PinSet},
    types::{Cid, DaemonInfo, GcResult, PeerId, Progress},
};

/// Longest wait for a barrier.
const BARRIER_DEADLINE: Duration = Duration::from_secs(60);
/// CIDs of the daemon's list handed over at once.
const LIST_LEN: usize = 1024;
/// Pieces of a list that may be buffered.
const LIST_PIECES_MAX: usize = 2;
/// Events handled before subscribers are notified, so that notifications come in batches.
const EVENTS_PER_TURN: usize = 64;

/// Receives the result of a collection.
pub(super) type Collector = oneshot::Sender<GcResult>;

enum ListPiece {
    Cids(Vec<Cid>),
    End(Result<(), IpfsError>),
}

struct Flight {
    token: CancellationToken,
    progress: watch::Receiver<Progress>,
}

pub(super) struct Driver {
    ports: Ports,
    shared: Arc<Shared>,
    origin: Instant,
    /// Everything under way; a cancelled operation yields none.
    running: FuturesUnordered<BoxFuture<'static, Option<Event>>>,
    /// Changes of the state, subscribed to before the state is first read.
    state_changes: broadcast::Receiver<Changed>,
    /// Cancels everything under way with the daemon.
    daemon_token: CancellationToken,
    flights: BTreeMap<Cid, Flight>,
    list: Option<mpsc::Receiver<ListPiece>>,
    /// Requests for a collection.
    collectors: mpsc::Receiver<Collector>,
    /// CIDs that another question found missing.
    misses: mpsc::Receiver<Vec<Cid>>,
    /// The request whose collection is under way.
    collector: Option<Collector>,
    /// Cancels that collection.
    gc_token: CancellationToken,
    /// Progress of a comparison with the whole state: continue after that CID.
    comparison: Option<Option<Cid>>,
    /// Changes were missed; the comparison under way brings them.
    missed: bool,
    /// That comparison has ended; subscribers must read everything again.
    retell: bool,
    comparison_at: Instant,
    comparison_period: Duration,
    /// Whether the daemon answered the last probe; `None` before the first one.
    was_up: Option<bool>,
}

impl Driver {
    pub(super) fn new(
        config: Config,
        ports: Ports,
        collectors: mpsc::Receiver<Collector>,
        misses: mpsc::Receiver<Vec<Cid>>,
    ) -> Result<Self, LedgerError> {
        let ledger = ports.ledger.ledger();
        let (bound, entries) = (ledger.daemon()?, ledger.entries(ports.me)?);
        let is_former = ledger.peer()? != Some(ports.me);
        let origin = Instant::now();
        // Before the first read of the state, so that no change after it is missed.
        let state_changes = ports.state.subscribe();
        let now = Now { at: Duration::ZERO, wall: ports.clock.now() };
        let mut machine = Machine::new(config, now, bound, entries);
        if is_former {
            machine = machine.with_former_ledger();
        }
        let shared = Shared {
            machine: machine.into(),
            daemon: watch::Sender::new(None),
            compared: false.into(),
            seen: 0.into(),
            changes: broadcast::channel(CHANGES_MAX).0,
        };
        Ok(Self {
            ports,
            shared: Arc::new(shared),
            origin,
            state_changes,
            running: FuturesUnordered::new(),
            daemon_token: CancellationToken::new(),
            flights: BTreeMap::new(),
            list: None,
            collectors,
            misses,
            collector: None,
            gc_token: CancellationToken::new(),
            comparison: Some(None),
            missed: true,
            retell: false,
            comparison_at: origin + config.compare_period,
            comparison_period: config.compare_period,
            was_up: None,
        })
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    pub(super) async fn run(mut self, token: CancellationToken) {
        while !token.is_cancelled() {
            self.compare_page();
            self.tell();
            let wake = self.wake_at();
            tokio::select! { biased;
                () = token.cancelled() => break,
                changed = self.state_changes.recv() => self.state_changed(changed),
                () = sleep_until(wake) => {}
                piece = next_piece(&mut self.list) => self.list_piece(piece),
                Some(collector) = self.collectors.recv(), if self.collector.is_none() => {
                    self.collector = Some(collector);
                    self.feed(Event::RunGc);
                }
                Some(cids) = self.misses.recv() => self.feed(Event::Missing(cids)),
                Some(event) = self.running.next() => self.finished(event),
            }
            self.drain();
            // Also if other events happened: only a tick reads the progress of pins.
            if wake <= Instant::now() {
                self.tick();
            }
        }
    }

    /// When to act even if nothing happens.
    fn wake_at(&self) -> Instant {
        if self.comparison.is_some() {
            return Instant::now();
        }
        let deadline = self.origin + self.shared.machine().deadline();
        deadline.min(self.comparison_at)
    }

    fn tick(&mut self) {
        if self.comparison_at <= Instant::now() {
            self.comparison = Some(None);
            self.comparison_at = Instant::now() + self.comparison_period;
        }
        let news: Vec<(Cid, Progress)> = self
            .flights
            .iter_mut()
            .filter(|(_, flight)| flight.progress.has_changed().unwrap_or(false))
            .map(|(cid, flight)| (*cid, *flight.progress.borrow_and_update()))
            .collect();
        for (cid, progress) in news {
            self.feed(Event::Progress(cid, progress));
        }
        self.feed(Event::Tick);
    }

    /// Handles other operations that have finished by now.
    fn drain(&mut self) {
        for _ in 0..EVENTS_PER_TURN {
            match self.running.next().now_or_never() {
                Some(Some(event)) => self.finished(event),
                _ => break,
            }
        }
    }

    fn finished(&mut self, event: Option<Event>) {
        let Some(event) = event else { return };
        match &event {
            Event::PinDone(cid, _) => {
                self.flights.remove(cid);
            }
            Event::Confirmed(_) => self.catch_up(),
            Event::Probed(answer) => log_change(&mut self.was_up, answer),
            _ => {}
        }
        self.feed(event);
    }

    fn feed(&mut self, event: Event) {
        let now = Now { at: self.origin.elapsed(), wall: self.ports.clock.now() };
        let actions = self.shared.machine().handle(now, event);
        for action in actions {
            self.start(action);
        }
    }

    /// Notifies subscribers of what changed, and publishes how far the state was seen.
    fn tell(&mut self) {
        let entries = self.ports.state.entries_notified();
        self.catch_up();
        if !self.missed {
            self.shared.seen.store(entries, Ordering::Release);
        }
        let retell = !self.missed && std::mem::take(&mut self.retell);
        let changes = self.shared.machine().take_changes();
        if let Some(changed) = told(changes, retell) {
            // Fails only if there are no subscribers.
            let _ = self.shared.changes.send(changed);
        }
    }

    /// Handles the changes of the state received by now.
    fn catch_up(&mut self) {
        loop {
            match self.state_changes.try_recv() {
                Ok(changed) => self.state_changed(Ok(changed)),
                Err(TryRecvError::Lagged(missed)) => {
                    self.state_changed(Err(RecvError::Lagged(missed)));
                }
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    fn state_changed(&mut self, changed: Result<Changed, RecvError>) {
        match changed {
            Ok(Changed::Cids(cids)) => {
                let me = self.ports.me;
                let look = |pins: &PinSet| {
                    cids.iter().map(|cid| (*cid, is_wanted(pins, cid, me))).collect()
                };
                let wanted = self.ports.state.read(look);
                self.feed(Event::Desired(wanted));
            }
            // The channel cannot be closed: the state's handle in `ports` holds a sender.
            Ok(Changed::Everything) | Err(RecvError::Lagged(_) | RecvError::Closed) => {
                self.feed(Event::ChangesMissed);
                self.comparison = Some(None);
                self.missed = true;
            }
        }
    }

    /// Compares the next page of the state if a comparison is under way.
    fn compare_page(&mut self) {
        let Some(after) = self.comparison.take() else { return };
        let me = self.ports.me;
        let page = |pins: &PinSet| wanted_page(pins, after.as_ref(), PAGE_LEN, me);
        let (until, wanted) = self.ports.state.read(page);
        self.comparison = until.map(Some);
        self.feed(Event::DesiredRange { after, until, wanted });
        if self.comparison.is_none() {
            // As after each change: earlier reports to the leader no longer count.
            self.retell |= std::mem::take(&mut self.missed);
            self.shared.compared.store(true, Ordering::Release);
        }
    }

    fn list_piece(&mut self, piece: ListPiece) {
        match piece {
            ListPiece::Cids(cids) => self.feed(Event::Listed(cids)),
            ListPiece::End(result) => {
                self.list = None;
                self.feed(Event::ListEnded(result));
            }
        }
    }

    fn start(&mut self, action: Action) {
        let ipfs = Arc::clone(&self.ports.ipfs);
        match action {
            Action::Probe => self.probe(ipfs),
            Action::Bind(id) => {
                let (ledger, me) = (self.ports.ledger.clone(), self.ports.me);
                self.push(async move { Event::Bound(ledger.bind(id, me).await) });
            }
            Action::Write(changes) => {
                let ledger = self.ports.ledger.clone();
                self.push(async move { Event::Written(ledger.write(changes).await) });
            }
            Action::Ask(cids) => {
                let token = self.daemon_token.clone();
                self.push_until(token, async move {
                    let answer = ipfs.pinned(cids.clone()).await;
                    Event::Asked(cids, answer)
                });
            }
            Action::List => self.start_list(ipfs),
            Action::Pin(cid) => self.start_pin(ipfs, cid),
            Action::CancelPin(cid) => {
                if let Some(flight) = self.flights.remove(&cid) {
                    flight.token.cancel();
                }
            }
            Action::CancelDaemon => {
                self.daemon_token.cancel();
                self.daemon_token = CancellationToken::new();
                self.flights.clear();
                self.list = None;
            }
            Action::Confirm(cids) => self.confirm(cids),
            Action::Unpin(cid) => {
                let token = self.daemon_token.clone();
                self.push_until(token, async move {
                    let result = ipfs.unpin(cid).await;
                    Event::UnpinDone(cid, result)
                });
            }
            Action::RunGc => {
                tracing::info!("garbage is being collected; pins wait");
                self.gc_token = self.daemon_token.child_token();
                self.push_until(self.gc_token.clone(), async move {
                    Event::GcReport(ipfs.run_gc().await)
                });
            }
            Action::CancelGc => self.gc_token.cancel(),
            Action::EndGc(result) => self.end_gc(result),
        }
    }

    fn end_gc(&mut self, result: GcResult) {
        match &result {
            Ok(done) => {
                let (removed, errors) = (done.removed, done.errors.len());
                tracing::info!(removed, errors, "garbage was collected");
            }
            Err(reason) => tracing::warn!(reason, "garbage was not collected"),
        }
        if let Some(collector) = self.collector.take() {
            // The requester may be gone.
            let _ = collector.send(result);
        }
    }

    fn probe(&mut self, ipfs: SharedIpfs) {
        let shared = self.shared();
        self.push(async move {
            let info = ipfs.id().await;
            // The machine's status of the daemon also follows from failed calls; this one only from probes.
            let mut known = info.as_ref().ok().cloned();
            known.iter_mut().for_each(DaemonInfo::shorten);
            shared
                .daemon
                .send_if_modified(|daemon| std::mem::replace(daemon, known.clone()) != known);
            Event::Probed(info.map(|info| info.id))
        });
    }

    fn start_pin(&mut self, ipfs: SharedIpfs, cid: Cid) {
        let token = self.daemon_token.child_token();
        let (sender, progress) = watch::channel(Progress::default());
        self.flights.insert(cid, Flight { token: token.clone(), progress });
        self.push_until(token, async move {
            let result = ipfs.pin(cid, sender).await;
            Event::PinDone(cid, result)
        });
    }

    fn start_list(&mut self, ipfs: SharedIpfs) {
        let (sender, receiver) = mpsc::channel(LIST_PIECES_MAX);
        self.list = Some(receiver);
        let token = self.daemon_token.clone();
        let listing = async move {
            let mut pins = ipfs.pins().ready_chunks(LIST_LEN);
            let mut result = Ok(());
            while let Some(items) = pins.next().await {
                let (cids, end) = until_error(items);
                // The receiver is gone: the list is no longer wanted.
                if sender.send(ListPiece::Cids(cids)).await.is_err() {
                    return;
                }
                if end.is_err() {
                    result = end;
                    break;
                }
            }
            let _ = sender.send(ListPiece::End(result)).await;
        };
        let until = async move {
            tokio::select! { biased;
                () = token.cancelled() => {}
                () = listing => {}
            }
            None
        };
        self.running.push(until.boxed());
    }

    fn confirm(&mut self, cids: Vec<Cid>) {
        let barrier = Arc::clone(&self.ports.barrier);
        let state = self.ports.state.clone();
        let me = self.ports.me;
        self.push(async move {
            let passed = timeout(BARRIER_DEADLINE, barrier()).await;
            match barrier_passed(passed) {
                Ok(()) => Event::Confirmed(state.read(|pins| {
                    cids.into_iter().map(|cid| (cid, is_wanted(pins, &cid, me))).collect()
                })),
                Err(reason) => Event::ConfirmFailed(reason),
            }
        });
    }

    fn push(&self, event: impl Future<Output = Event> + Send + 'static) {
        self.running.push(event.map(Some).boxed());
    }

    fn push_until(
        &self,
        token: CancellationToken,
        event: impl Future<Output = Event> + Send + 'static,
    ) {
        let until = async move {
            tokio::select! { biased;
                () = token.cancelled() => None,
                event = event => Some(event),
            }
        };
        self.running.push(until.boxed());
    }
}

/// The CIDs wanted here among the next `len` CIDs of the state, and the last of these to continue after
/// (none at the end).
fn wanted_page(
    pins: &PinSet,
    after: Option<&Cid>,
    len: usize,
    me: PeerId,
) -> (Option<Cid>, Vec<Cid>) {
    let page: Vec<_> = pins.after(after).take(len).collect();
    let last = page.last().filter(|_| page.len() == len).map(|(cid, _)| *cid);
    let wanted = page.into_iter().filter(|(_, pin)| pin.is_on(me)).map(|(cid, _)| cid).collect();
    (last, wanted)
}

/// The items before the first error, and that error.
fn until_error(items: Vec<Result<Cid, IpfsError>>) -> (Vec<Cid>, Result<(), IpfsError>) {
    let mut cids = Vec::with_capacity(items.len());
    for item in items {
        match item {
            Ok(cid) => cids.push(cid),
            Err(error) => return (cids, Err(error)),
        }
    }
    (cids, Ok(()))
}

/// The notification for subscribers; none without changes. `retell`: everything must be read again.
fn told(changes: Changes, retell: bool) -> Option<Changed> {
    if changes.everything || retell {
        return Some(Changed::Everything);
    }
    let mut cids = changes.cids;
    cids.sort_unstable();
    cids.dedup();
    (!cids.is_empty()).then(|| Changed::Cids(cids.into()))
}

/// Whether the barrier was passed; if not, the reason, for people.
/// Logs that the daemon came up or went down.
fn log_change(was_up: &mut Option<bool>, answer: &Result<String, IpfsError>) {
    match (was_up.replace(answer.is_ok()), answer) {
        (None, Err(error)) => {
            tracing::warn!(%error, "the daemon was not reached yet (ipfs_api says where it is)");
        }
        (Some(true), Err(error)) => tracing::warn!(%error, "the daemon is down"),
        (Some(false), Ok(_)) => tracing::info!("the daemon is back"),
        (None | Some(true), Ok(_)) | (Some(false), Err(_)) => {}
    }
}

fn barrier_passed(answer: Result<Result<(), BarrierError>, Elapsed>) -> Result<(), String> {
    match answer {
        Ok(passed) => passed.map_err(|BarrierError(reason)| reason),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

fn is_wanted(pins: &PinSet, cid: &Cid, me: PeerId) -> bool {
    pins.get(cid).is_some_and(|pin| pin.is_on(me))
}

async fn next_piece(list: &mut Option<mpsc::Receiver<ListPiece>>) -> ListPiece {
    match list {
        Some(receiver) => receiver
            .recv()
            .await
            .unwrap_or_else(|| ListPiece::End(Err(IpfsError::Failed("it broke off".to_owned())))),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
