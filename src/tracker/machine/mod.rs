//! The tracker's decisions: what is desired × what was observed → actions.
//!
//! Pure: time comes in as data, actions go out as data, nothing here does I/O. Invariants:
//! - a CID is `Pinned` only after the daemon said so, and asked again after the daemon was away;
//! - `pin/ls` is asked before each `pin/add`, and what is pinned is never added;
//! - the ledger says `Ours` on disk before `pin/add`, and `Foreign` before foreign content counts;
//!   an intent that nothing came of is taken back, so that what others pin later is theirs;
//! - an unpin is sent only for what the ledger says is ours, after a read barrier behind which the
//!   state did not want it here;
//! - a pin without progress gives way: it never keeps another from its turn;
//! - nothing is pinned or unpinned while the daemon collects garbage, which always ends;
//! - everything in flight is bounded, and an entry is in one queue at most.

mod daemon;
mod desired;
mod gc;
mod pinning;
mod pump;
mod status;
mod tracked;
mod unpinning;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use self::{
    gc::{Gc, Memory},
    pinning::FailureLog,
    pump::Pace,
    tracked::{Failure, Flight, Phase, Tracked, Turn},
};
use super::ledger::{self, Change, Origin};
use crate::{
    ipfs::{Held, IpfsError},
    types::{Cid, CidMap, GcReport, GcResult, PackedCid, PinState, Progress, Timestamp},
};

/// Limits and times of the tracker.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Pins that make progress at once.
    pub pins_max: usize,
    /// Further pins kept open although they make no progress at the moment.
    pub idle_pins_max: usize,
    /// Unpins at once.
    pub unpins_max: usize,
    /// Without progress for that long, a pin is stopped.
    pub stall_time: Duration,
    /// Without progress for that long, a pin no longer counts among `pins_max` and may have to give
    /// way.
    pub patience: Duration,
    /// Wait after the first failure; doubles with each.
    pub retry_min: Duration,
    /// Longest wait after a failure.
    pub retry_max: Duration,
    /// Time between two full comparisons with the daemon's list.
    pub compare_period: Duration,
    /// Time between two questions whether the daemon is there.
    pub probe_period: Duration,
    /// The same while it is not there.
    pub down_probe_period: Duration,
    /// A daemon silent for less changes no status: it may just restart.
    pub down_grace: Duration,
    /// Time that pins in flight have before the daemon collects garbage.
    pub drain_time: Duration,
    /// Time that the daemon has to collect garbage.
    pub collect_time: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pins_max: 8,
            idle_pins_max: 32,
            unpins_max: 2,
            stall_time: Duration::from_secs(60),
            patience: Duration::from_secs(2),
            retry_min: Duration::from_secs(5),
            retry_max: Duration::from_secs(300),
            compare_period: Duration::from_secs(300),
            probe_period: Duration::from_secs(2),
            down_probe_period: Duration::from_millis(500),
            down_grace: Duration::from_secs(5),
            drain_time: Duration::from_secs(10),
            collect_time: Duration::from_secs(30 * 60),
        }
    }
}

/// The time of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since the machine was made; never goes back.
    pub at: Duration,
    /// For people.
    pub wall: Timestamp,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Of the CIDs after `after` up to and including `until` (absent: no bound), exactly these are
    /// wanted on this peer; sorted.
    DesiredRange {
        /// Lower bound, excluded.
        after: Option<Cid>,
        /// Upper bound, included.
        until: Option<Cid>,
        /// The wanted ones.
        wanted: Vec<Cid>,
    },
    /// What is wanted of each of these CIDs may have changed; now it is wanted here or not.
    Desired(Vec<(Cid, bool)>),
    /// More may have changed than was told; what is wanted will be told.
    ChangesMissed,
    /// Answer to [`Action::Probe`]: the daemon's ID.
    Probed(Result<String, IpfsError>),
    /// Answer to [`Action::Bind`]: whether the entries were void.
    Bound(Result<bool, String>),
    /// Answer to [`Action::Ask`].
    Asked(Vec<Cid>, Result<Vec<Held>, IpfsError>),
    /// A piece of the daemon's list after [`Action::List`].
    Listed(Vec<Cid>),
    /// The end of that list.
    ListEnded(Result<(), IpfsError>),
    /// Answer to [`Action::Write`].
    Written(Result<(), String>),
    /// A pin's progress so far.
    Progress(Cid, Progress),
    /// Answer to [`Action::Pin`].
    PinDone(Cid, Result<(), IpfsError>),
    /// Answer to [`Action::Confirm`] after the barrier: whether each is wanted here. What changed
    /// until then was told before.
    Confirmed(Vec<(Cid, bool)>),
    /// [`Action::Confirm`] failed.
    ConfirmFailed(String),
    /// Answer to [`Action::Unpin`].
    UnpinDone(Cid, Result<(), IpfsError>),
    /// Somebody wants the daemon's garbage collected; never while that is under way.
    RunGc,
    /// Answer to [`Action::RunGc`].
    GcReport(Result<GcReport, IpfsError>),
    /// Time has passed. Progress made until then was told before.
    Tick,
}

/// What is to be done. Each action with an answer is answered once, unless it is cancelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the daemon who it is.
    Probe,
    /// Bind the ledger to this daemon; never while a write is under way.
    Bind(String),
    /// Ask which of these are pinned.
    Ask(Vec<Cid>),
    /// List all pins.
    List,
    /// Write these to the ledger in one transaction; one write at a time.
    Write(Vec<Change>),
    /// Pin.
    Pin(Cid),
    /// Break off a pin; no answer to it is wanted any more.
    CancelPin(Cid),
    /// Break off everything under way with the daemon (probes excepted); no answers wanted.
    CancelDaemon,
    /// Pass a read barrier, then look whether these are wanted here.
    Confirm(Vec<Cid>),
    /// Unpin.
    Unpin(Cid),
    /// Collect the daemon's garbage.
    RunGc,
    /// Break that off; no answer to it is wanted any more.
    CancelGc,
    /// What came of [`Event::RunGc`]; once for each.
    EndGc(GcResult),
}

/// CIDs whose status may read differently now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// These, perhaps with repetitions.
    pub cids: Vec<Cid>,
    /// All of them.
    pub everything: bool,
}

/// Numbers for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Wanted here and held by the daemon when last asked.
    pub pinned: usize,
    /// Wanted here and not there yet, in whatever state.
    pub queued: usize,
    /// Of these, pins in flight.
    pub pinning: usize,
    /// Of these, waiting after a failure (not found included).
    pub failing: usize,
    /// To be unpinned.
    pub unpinning: usize,
    /// How many are in each state, of those that are in one.
    pub states: BTreeMap<PinState, usize>,
    /// Attempts to pin that failed since the start, by how: as the state that is shown then.
    pub failures: BTreeMap<PinState, u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Daemon {
    Down { reason: Arc<str> },
    Binding { id: String },
    Up { id: String },
}

/// The machine. One [`Machine::handle`] call per event.
#[derive(Debug)]
pub struct Machine {
    config: Config,
    entries: CidMap<Tracked>,
    /// Numbers queue places and timers.
    sequence: u64,

    queue: BTreeMap<(Turn, u64), PackedCid>,
    /// To be asked about one by one, since a question with others failed.
    alone: BTreeSet<Cid>,
    asking: usize,
    asks: usize,
    /// Not pinned when asked, intent on disk: may start.
    ready: BTreeMap<(Turn, u64), Cid>,
    /// Of fresh ones the newest is the next to be asked about, and to start.
    newest_is_asked: bool,
    newest_starts: bool,
    pace: Pace,
    flights: BTreeMap<Cid, Flight>,
    /// When the flights were looked at last.
    looked_at: Duration,
    failures: BTreeMap<Cid, Failure>,
    timers: BTreeMap<(Duration, u64), Cid>,

    unpin_queue: BTreeMap<u64, Cid>,
    /// Behind the barrier that is under way; empty when none is.
    confirming: Vec<Cid>,
    confirm_at: Duration,
    confirm_failures: u32,
    confirmed: BTreeMap<u64, Cid>,
    unpinning: usize,

    to_write: BTreeMap<Cid, Option<Origin>>,
    writing: Vec<Change>,
    write_retry_at: Option<Duration>,
    write_error: Option<Arc<str>>,

    daemon: Daemon,
    /// What was answered before that number was answered by an earlier life of the daemon.
    up_sequence: u64,
    /// The daemon the ledger is bound to.
    bound: Option<String>,
    /// It has to be bound anew, since it was a former peer's.
    former: bool,
    /// The daemon it is being bound to.
    binding: Option<String>,
    /// When it said last who it is.
    heard: Now,
    away_since: Now,
    away_shown: bool,
    probing: bool,
    probe_at: Duration,

    listing: bool,
    list_number: u32,
    list_at: Duration,
    list_failures: u32,
    /// When an unpin of what is wanted again was last given up without an answer.
    unpin_lost_at: Option<Duration>,
    /// The daemon was away since the last complete list.
    list_owed: bool,
    settled: bool,

    gc: Gc,
    memory: Memory,

    counts: BTreeMap<PinState, usize>,
    failed_attempts: BTreeMap<PinState, u64>,
    failure_log: FailureLog,
    changes: Changes,
    actions: Vec<Action>,
    now: Now,
}

/// Changes kept one by one before they are told as "everything".
const CHANGES_MAX: usize = 16 * 1024;

impl Machine {
    /// A machine that knows the ledger and nothing else. Entries of the ledger do nothing until an
    /// event says whether they are wanted.
    #[must_use]
    pub fn new(
        config: Config,
        now: Now,
        bound: Option<String>,
        ledger: Vec<(Cid, ledger::LedgerEntry)>,
    ) -> Self {
        let entries = ledger.into_iter().map(|(cid, known)| {
            let (origin, attempted) = (Some(known.origin), known.origin == Origin::Ours);
            (cid, Tracked { origin, attempted, ..Tracked::new(Phase::Unknown, now) })
        });
        Self {
            config,
            entries: entries.collect(),
            sequence: 0,
            queue: BTreeMap::new(),
            alone: BTreeSet::new(),
            asking: 0,
            asks: 0,
            ready: BTreeMap::new(),
            newest_is_asked: false,
            newest_starts: false,
            pace: Pace::default(),
            flights: BTreeMap::new(),
            looked_at: now.at,
            failures: BTreeMap::new(),
            timers: BTreeMap::new(),
            unpin_queue: BTreeMap::new(),
            confirming: Vec::new(),
            confirm_at: Duration::ZERO,
            confirm_failures: 0,
            confirmed: BTreeMap::new(),
            unpinning: 0,
            to_write: BTreeMap::new(),
            writing: Vec::new(),
            write_retry_at: None,
            write_error: None,
            up_sequence: 0,
            daemon: Daemon::Down { reason: "it was not asked yet".into() },
            bound,
            former: false,
            binding: None,
            heard: now,
            away_since: now,
            away_shown: false,
            probing: false,
            probe_at: now.at,
            listing: false,
            list_number: 0,
            list_at: now.at,
            list_failures: 0,
            unpin_lost_at: None,
            list_owed: true,
            settled: false,
            gc: Gc::None,
            memory: Memory::default(),
            counts: BTreeMap::new(),
            failed_attempts: BTreeMap::new(),
            failure_log: FailureLog::default(),
            changes: Changes::default(),
            actions: Vec::new(),
            now,
        }
    }

    /// The same with the ledger of a former peer, which is bound anew before it is used.
    #[must_use]
    pub fn with_former_ledger(self) -> Self {
        Self { former: true, ..self }
    }

    /// Takes one event and says what is to be done.
    pub fn handle(&mut self, now: Now, event: Event) -> Vec<Action> {
        self.now = now;
        match event {
            Event::DesiredRange { after, until, wanted } => {
                self.desired_range(after, until, &wanted);
            }
            Event::Desired(cids) => {
                for (cid, wanted) in cids {
                    let known = self.phase(&cid).is_some();
                    self.desired(cid, wanted);
                    if !known {
                        continue;
                    }
                    self.doubt(cid);
                    // It may have been taken away and given back at once: then what the leader was told
                    // before counts no more.
                    if wanted {
                        self.touch(cid);
                    }
                }
            }
            Event::ChangesMissed => self.doubt_all(),
            Event::Probed(result) => self.probed(result),
            Event::Bound(result) => self.was_bound(result),
            Event::Asked(cids, result) => self.asked(&cids, result),
            Event::Listed(cids) => self.listed(&cids),
            Event::ListEnded(result) => self.list_ended(result),
            Event::Written(result) => self.written(result),
            Event::Progress(cid, progress) => self.progressed(cid, progress),
            Event::PinDone(cid, result) => self.pin_done(cid, result),
            Event::Confirmed(answers) => self.were_confirmed(answers),
            Event::ConfirmFailed(reason) => self.confirm_failed(&reason),
            Event::UnpinDone(cid, result) => self.unpin_done(cid, result),
            Event::RunGc => self.begin_gc(),
            Event::GcReport(result) => self.collected(result),
            Event::Tick => self.looked_at = now.at,
        }
        self.pump();
        std::mem::take(&mut self.actions)
    }

    /// Whether the first list of the daemon has ended, or the daemon is known to be away. Before,
    /// "not pinned yet" only means "not asked yet".
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// What changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Changes an entry, keeping the counts and the time of its visible state right.
    fn update(&mut self, cid: &Cid, change: impl FnOnce(&mut Tracked)) {
        let Some(entry) = self.entries.get_mut(cid) else { return };
        let before = entry.state();
        change(entry);
        let after = entry.state();
        if before == after {
            return;
        }
        entry.since = self.now.wall;
        self.count(before, after);
        self.touch(*cid);
    }

    fn insert(&mut self, cid: Cid, entry: Tracked) {
        self.count(None, entry.state());
        // A pin nobody was told of is taken for one that waits for its turn: most are told once.
        let expected = self
            .status_of(&cid, &entry)
            .is_some_and(|status| status.state == PinState::Queued && status.message.is_empty());
        self.entries.insert(&cid, entry);
        if !expected {
            self.touch(cid);
        }
    }

    fn remove(&mut self, cid: &Cid) {
        if let Some(entry) = self.entries.remove(cid) {
            self.count(entry.state(), None);
            self.touch(*cid);
        }
        self.failures.remove(cid);
        self.alone.remove(cid);
    }

    fn count(&mut self, before: Option<PinState>, after: Option<PinState>) {
        if let Some(before) = before
            && let Some(count) = self.counts.get_mut(&before)
        {
            *count = count.saturating_sub(1);
        }
        if let Some(after) = after {
            *self.counts.entry(after).or_default() += 1;
        }
    }

    /// The status of this CID reads differently now.
    fn touch(&mut self, cid: Cid) {
        if self.changes.cids.len() < CHANGES_MAX {
            self.changes.cids.push(cid);
        } else {
            self.touch_all();
        }
    }

    fn touch_all(&mut self) {
        self.changes.cids.clear();
        self.changes.everything = true;
    }

    fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    fn phase(&self, cid: &Cid) -> Option<Phase> {
        self.entries.get(cid).map(|entry| entry.phase)
    }
}

/// `first` doubled `failures - 1` times, at most `max`.
fn growing(first: Duration, failures: u32, max: Duration) -> Duration {
    first.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(max)
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
