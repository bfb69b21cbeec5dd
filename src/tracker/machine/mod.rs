//! The tracker's decisions: desired state × observations → actions.
//!
//! Pure: time comes in as data, actions go out as data, and nothing here does I/O. Invariants:
//! - a CID is `Pinned` only after the daemon confirmed it, and is asked about again after the daemon
//!   was away;
//! - `pin/ls` precedes each `pin/add`, and a pinned CID is never added;
//! - the ledger has `Ours` on disk before `pin/add`, and `Foreign` before foreign content counts; an
//!   intent without effect is withdrawn, so that a later pin by somebody else is foreign;
//! - an unpin is sent only if the ledger says `Ours` and, after a read barrier, the state does not want
//!   the CID here;
//! - a pin without progress gives way and never blocks another;
//! - nothing is pinned or unpinned while the daemon collects garbage, and a collection always ends;
//! - everything in flight is bounded, and an entry is in at most one queue.

mod config;
mod daemon;
mod desired;
mod events;
mod gc;
mod listing;
mod pinning;
mod pump;
mod status;
mod tracked;
mod unpinning;
mod writing;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

pub use self::{
    config::Config,
    events::{Action, Changes, Counters, Event, Now},
};
use self::{
    daemon::Watch,
    gc::Collection,
    listing::Listing,
    pinning::FailureLog,
    pump::Pace,
    tracked::{Failure, Flight, Phase, Tracked, Turn},
    writing::Writer,
};
use super::ledger::{self, Change, Origin};
use crate::types::{Cid, CidMap, PackedCid, PinState};

/// The machine. Call [`Machine::handle`] once per event.
#[derive(Debug)]
pub struct Machine {
    config: Config,
    entries: CidMap<Tracked>,
    /// Next number for queue places and timers.
    sequence: u64,

    queue: BTreeMap<(Turn, u64), PackedCid>,
    /// To be asked about one by one, because a question for several failed.
    alone: BTreeSet<Cid>,
    asking: usize,
    asks: usize,
    /// Not pinned when asked, with the intent on disk: may start.
    ready: BTreeMap<(Turn, u64), Cid>,
    /// Whether the newest fresh CID is the next to be asked about, and to start.
    newest_is_asked: bool,
    newest_starts: bool,
    pace: Pace,
    flights: BTreeMap<Cid, Flight>,
    /// When flights were last checked.
    looked_at: Duration,
    failures: BTreeMap<Cid, Failure>,
    timers: BTreeMap<(Duration, u64), Cid>,

    unpin_queue: BTreeMap<u64, Cid>,
    /// Covered by the barrier under way; empty if none is.
    confirming: Vec<Cid>,
    confirm_at: Duration,
    confirm_failures: u32,
    confirmed: BTreeMap<u64, Cid>,
    unpinning: usize,

    writer: Writer,
    watch: Watch,
    /// Answers with a smaller number come from before the daemon's last return.
    up_sequence: u64,
    listing: Listing,
    /// See [`Machine::is_settled`].
    settled: bool,

    collection: Collection,

    counts: BTreeMap<PinState, usize>,
    failed_attempts: BTreeMap<PinState, u64>,
    failure_log: FailureLog,
    changes: Changes,
    actions: Vec<Action>,
    now: Now,
}

/// Changes kept one by one before they become "everything".
const CHANGES_MAX: usize = 16 * 1024;

impl Machine {
    /// A machine that knows only the ledger. Ledger entries have no effect until an event says whether
    /// they are wanted.
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
            writer: Writer::new(bound),
            watch: Watch::new(now),
            up_sequence: 0,
            listing: Listing::new(now.at),
            settled: false,
            collection: Collection::new(),
            counts: BTreeMap::new(),
            failed_attempts: BTreeMap::new(),
            failure_log: FailureLog::default(),
            changes: Changes::default(),
            actions: Vec::new(),
            now,
        }
    }

    /// The same with a former peer's ledger, which is bound again before use.
    #[must_use]
    pub fn with_former_ledger(mut self) -> Self {
        self.writer.set_former();
        self
    }

    /// Handles one event and returns the actions to take.
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
                    // It may have been released and allocated again at once: then earlier reports no
                    // longer count.
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

    /// Whether the first list of the daemon has ended, or the daemon is known to be away. Until then
    /// "not pinned yet" only means "not asked yet".
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// What changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Changes an entry and maintains the counts and the time of its visible state.
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
        // The leader treats an unreported pin as queued, so most pins are reported only once.
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

    /// Notes that this CID's status has changed.
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
