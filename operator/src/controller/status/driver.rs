//! Decides when statuses are written, and writes them.
//!
//! One task checks objects after each possible change (a new version, the state, reports of peers,
//! time). It has at most [`WRITES_MAX`] writes in flight, and at most one per object.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use pinkeeper::{
    state::{Changed, PinSet},
    types::PeerId,
};
use tokio::{
    sync::{broadcast::error::RecvError, mpsc},
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    difference::difference,
    failures::Failures,
    graces::{Held, Moment},
    judge::{Verdict, View, judge},
    memory::Memories,
    news::{News, cids_on, is_on_another, lane_of, moved},
    note::note,
    pace::Look,
    presence::{Facts, Presence},
    writer::{Write, Written, reference, write},
};
use crate::{
    controller::{
        bucket::Bucket,
        events::Told,
        leading::Leading,
        objects::{ObjectKey, PinObject},
        queue::Priority,
    },
    kubernetes::Backoff,
};

/// Concurrent status writes: what an API server handles for one client without queueing.
const WRITES_MAX: usize = 32;
/// Rate and burst of writes with low priority.
const LATER_PER_SECOND: u32 = 100;
const LATER_BURST: u32 = 100;
/// Objects checked before other events get their turn.
const LOOKS_MAX: usize = 256;
/// Waits while the API server does not accept writes.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How often peers are checked.
const TICK: Duration = Duration::from_secs(1);

type Finished = (ObjectKey, Write, Written);

struct Driver {
    lead: Arc<Leading>,
    notes: mpsc::Sender<Told>,
    /// When this leadership's graces began.
    began: Instant,
    /// Log length of this peer's state at that time.
    entries_at_start: u64,
    presence: Presence,
    /// From the last check of the peers.
    facts: BTreeMap<PeerId, Facts>,
    memories: Memories,
    writes: FuturesUnordered<BoxFuture<'static, Finished>>,
    later: Bucket,
    failures: Failures,
    paused_until: Option<Instant>,
    pause: Backoff,
}

/// Runs until the leadership ends; then drops writes in flight.
pub(in crate::controller) async fn run(lead: Arc<Leading>, notes: mpsc::Sender<Told>) {
    let mut state = lead.context.cluster.state().subscribe();
    // Held: those of the next term are others.
    let of_this_term = lead.context.cluster.reports();
    let mut reports = of_this_term.subscribe();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut driver = Driver::new(lead.clone(), notes);
    loop {
        driver.start_due();
        let wake = driver.wake_at();
        let room = driver.has_room();
        tokio::select! {
            biased;
            () = lead.token.cancelled() => return,
            Some(finished) = driver.writes.next() => driver.finish(finished),
            changed = state.recv() => if driver.changed(changed).is_break() { return },
            changed = reports.recv() => if driver.changed(changed).is_break() { return },
            _ = tick.tick() => driver.look_at_peers(),
            () = lead.statuses.pushed(), if room => {}
            () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
        }
    }
}

impl Driver {
    fn new(lead: Arc<Leading>, notes: mpsc::Sender<Told>) -> Self {
        let now = Moment { at: Duration::ZERO, wall: lead.context.clock.now() };
        let presence = Presence::default().look(&lead.context.cluster, now);
        let entries_at_start = lead.context.cluster.state().entries();
        Self {
            lead,
            notes,
            began: Instant::now(),
            entries_at_start,
            facts: presence.facts(now),
            presence,
            memories: Memories::default(),
            writes: FuturesUnordered::new(),
            later: Bucket::new(LATER_BURST, LATER_PER_SECOND, Instant::now()),
            failures: Failures::default(),
            paused_until: None,
            pause: Backoff::new(PAUSE.0, PAUSE.1),
        }
    }

    fn now(&self) -> Moment {
        Moment { at: self.began.elapsed(), wall: self.lead.context.clock.now() }
    }

    fn has_room(&self) -> bool {
        let paused = self.paused_until.is_some_and(|until| until > Instant::now());
        !paused && self.writes.len() < WRITES_MAX
    }

    /// When to check again without an event.
    fn wake_at(&mut self) -> Option<Instant> {
        let now = Instant::now();
        if let Some(until) = self.paused_until.filter(|until| *until > now) {
            return Some(until);
        }
        if self.writes.len() >= WRITES_MAX {
            return None;
        }
        // Items left in the queue now wait for the rate limit.
        let queued = (!self.lead.statuses.is_empty()).then(|| now + self.later.wait(now));
        queued.into_iter().chain(self.memories.next_timer()).min()
    }

    /// Checks queued objects while more writes may start.
    fn start_due(&mut self) {
        let now = Instant::now();
        while let Some((priority, key)) = self.memories.pop_timer(now) {
            self.lead.statuses.push(priority, key);
        }
        for _ in 0..LOOKS_MAX {
            if !self.has_room() {
                return;
            }
            let later = self.later.wait(now).is_zero();
            let Some((priority, key)) = self.lead.statuses.pop(later) else { return };
            if self.memories.change(&key, |memory| memory.pace.may_look()) {
                self.look(priority, &key);
            }
        }
    }

    /// Checks one object, and starts its write or sets a timer for the next check.
    fn look(&mut self, priority: Priority, key: &ObjectKey) {
        let now = Instant::now();
        let object = self.lead.objects().get(key).cloned();
        let Some(object) = object else { return self.memories.forget(key) };
        let failing = self.memories.get(key).and_then(|memory| memory.failing);
        if let Some(failing) = failing.filter(|failing| failing.waits(now)) {
            return self.memories.set_timer(key, failing.until, priority);
        }
        let Some(verdict) = self.judge(&object) else { return };
        let look = Look {
            difference: difference(object.status.as_ref(), &verdict.status),
            settled: verdict.settled,
            recheck: verdict.recheck.map(|recheck| self.began + recheck),
        };
        let due = self.memories.change(key, |memory| memory.pace.due(look, priority, now));
        if let Some((at, priority)) = due.again {
            self.memories.set_timer(key, at, priority);
        }
        if due.write {
            self.start(priority, object, verdict);
        }
    }

    fn judge(&mut self, object: &PinObject) -> Option<Verdict> {
        let cluster = self.lead.context.cluster.clone();
        let cid = object.cid.as_ref().ok();
        let known = &self.presence.peers;
        let is_new = |pins: &PinSet| {
            cid.and_then(|cid| pins.get(cid)).is_some_and(|pin| is_on_another(pin, known))
        };
        // A peer that joined since the last check may have a copy already.
        if cluster.state().read(is_new) {
            self.presence = self.presence.look(&cluster, self.now());
        }
        let now = self.now();
        let reports = cid.map(|cid| cluster.reports().of_pin(cid)).unwrap_or_default();
        let state = cluster.state();
        let (lead, peers) = (&self.lead, &self.presence.peers);
        let entries_at_start = self.entries_at_start;
        let look = |held: &Held| {
            state.read(|pins| {
                let pin = cid.and_then(|cid| pins.get(cid));
                let reports = reports.of(pin);
                let view = View {
                    pin,
                    entries: state.entries(),
                    refused: lead.refusal(&object.uid, object.generation),
                    reports: &reports,
                    peers,
                    entries_at_start,
                    default_replicas: lead.context.settings.default_replicas,
                    held,
                    now,
                };
                judge(object, view)
            })
        };
        self.memories.judge(&object.key, look)
    }

    fn start(&mut self, priority: Priority, object: Arc<PinObject>, verdict: Verdict) {
        let now = Instant::now();
        let key = object.key.clone();
        if priority == Priority::Later {
            self.later.take(now);
        }
        self.memories.change(&key, |memory| memory.pace.begin(verdict.settled, now));
        let note = note(object.status.as_ref(), &verdict.status, verdict.reason);
        let job = Write { object, status: verdict.status, note };
        let lead = self.lead.clone();
        self.writes.push(Box::pin(async move {
            let written = write(&lead, &job).await;
            (key, job, written)
        }));
    }

    fn finish(&mut self, (key, job, written): Finished) {
        let counters = &self.lead.context.counters;
        if self.memories.change(&key, |memory| memory.pace.end()) {
            self.lead.statuses.push(Priority::Fresh, key.clone());
        }
        if written.is_answer() {
            self.memories.change(&key, |memory| memory.failing = None);
            self.failures.answered();
            self.pause.reset();
        }
        if let Some(wait) = written.again() {
            self.memories.set_timer(&key, Instant::now() + wait, Priority::Later);
        }
        match written {
            Written::Done(object) => {
                counters.status_writes.inc();
                if let Some(object) = object {
                    self.lead.objects_mut().refresh(*object);
                }
                let note = job.note.map(|note| (reference(&job.object), note));
                if note.is_some_and(|note| self.notes.try_send(note).is_err()) {
                    counters.events_left_out.inc();
                }
            }
            Written::Stale => {
                counters.status_conflicts.inc();
            }
            Written::Refused(reason) => {
                counters.status_failures.inc();
                tracing::error!(pin = %key, reason, "the API server rejected a status");
            }
            Written::Later(after, reason) => {
                counters.status_failures.inc();
                self.failed(&key, after, lane_of(&job.object));
                if after.is_some() || self.failures.is_down() {
                    self.wait_for_server(after, &reason);
                } else {
                    tracing::warn!(pin = %key, reason, "cannot write a status; trying again");
                }
            }
            // The leadership is over, so this task ends soon.
            Written::Deposed => {}
        }
    }

    /// Schedules another attempt for an object, no earlier than the server `asked` for.
    fn failed(&mut self, key: &ObjectKey, asked: Option<Duration>, priority: Priority) {
        let now = Instant::now();
        let before = self.memories.get(key).and_then(|memory| memory.failing);
        let failing = self.failures.failed(before, asked, now);
        self.memories.change(key, |memory| memory.failing = Some(failing));
        self.memories.set_timer(key, failing.until, priority);
    }

    /// Pauses new writes. Writes in flight fail together, which counts as one failure.
    fn wait_for_server(&mut self, after: Option<Duration>, reason: &str) {
        let now = Instant::now();
        if self.paused_until.is_some_and(|until| until > now) {
            return;
        }
        let wait = after.unwrap_or_else(|| self.pause.wait()).min(PAUSE.1);
        tracing::warn!(reason, ?wait, "cannot write statuses; waiting for the API server");
        self.paused_until = Some(now + wait);
    }

    /// Queues the objects that a change of the state or of the reports concerns.
    fn changed(&self, news: Result<Changed, RecvError>) -> std::ops::ControlFlow<()> {
        match News::of(news) {
            News::Of(cids) => {
                let objects = self.lead.objects();
                for key in cids.iter().flat_map(|cid| objects.of(cid)) {
                    self.lead.statuses.push(Priority::Fresh, key.clone());
                }
            }
            News::OfAnything => self.look_at_all(|_| true),
            News::Ended => return std::ops::ControlFlow::Break(()),
        }
        std::ops::ControlFlow::Continue(())
    }

    fn look_at_all(&self, wanted: impl Fn(&PinObject) -> bool) {
        let objects = self.lead.objects();
        for object in objects.iter().filter(|object| wanted(object)) {
            self.lead.statuses.push(lane_of(object), object.key.clone());
        }
    }

    /// Queues the Pins of peers that left, came back or reported.
    fn look_at_peers(&mut self) {
        let now = self.now();
        let context = &self.lead.context;
        self.presence = self.presence.look(&context.cluster, now);
        // Statuses change only when a silence lasts longer than the grace.
        let facts = self.presence.facts(now);
        let moved = moved(&self.facts, &facts);
        self.facts = facts;
        if moved.is_empty() {
            return;
        }
        let touched = context.cluster.state().read(|pins| cids_on(pins.iter(), &moved));
        self.look_at_all(|object| object.cid.as_ref().is_ok_and(|cid| touched.contains(cid)));
    }
}
