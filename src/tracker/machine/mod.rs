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
//! - everything in flight is bounded, and a CID is in at most one queue.
//!
//! What is known of each CID is in `entries`, with its phase (`phase`). These parts hold the CIDs that
//! wait: for a question (`questions`), to be pinned (`pinning`), for a time (`timers`), to be unpinned
//! (`unpinning`), for the ledger (`writing`). `Machine::enter` alone changes the phase of a CID, and with
//! it the part that holds the CID. These parts hold none: the daemon's watch (`daemon`), its lists
//! (`listing`), collections (`gc`). The file of a part has its struct with the rules that it keeps, and
//! below that what the machine does with it. After each event, `pump` starts all that may start.

mod config;
mod daemon;
mod desired;
mod entries;
mod events;
mod failures;
mod gc;
mod listing;
mod pace;
mod phase;
mod pinning;
mod pump;
mod questions;
mod status;
mod timers;
mod turns;
mod unpinning;
mod writing;

use std::{mem, time::Duration};

pub use self::{
    config::Config,
    events::{Action, Changes, Counters, Event, Now},
};
use self::{
    daemon::Watch, entries::Entries, failures::Failures, gc::Collection, listing::Listing,
    phase::Phase, pinning::Pins, questions::Questions, timers::Timers, turns::Turn,
    unpinning::Unpins, writing::Writer,
};
use super::ledger::{self, Change, Origin};
use crate::types::Cid;

/// The machine. Call [`Machine::handle`] once per event.
#[derive(Debug)]
pub struct Machine {
    config: Config,
    /// The time of the event that is being handled.
    now: Now,
    /// What is to be done for it.
    actions: Vec<Action>,
    /// What is known of each CID.
    entries: Entries,
    failures: Failures,
    // These parts hold the CIDs that wait for something. Which one does is decided by the phase.
    questions: Questions,
    pins: Pins,
    timers: Timers,
    unpins: Unpins,
    writer: Writer,
    // These parts hold no CIDs.
    watch: Watch,
    listing: Listing,
    collection: Collection,
    /// See [`Machine::is_settled`].
    settled: bool,
}

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
        Self {
            config,
            now,
            actions: Vec::new(),
            entries: Entries::of_ledger(ledger, now),
            failures: Failures::default(),
            questions: Questions::default(),
            pins: Pins::new(now.at),
            timers: Timers::default(),
            unpins: Unpins::new(),
            writer: Writer::new(bound),
            watch: Watch::new(now),
            listing: Listing::new(now.at),
            collection: Collection::new(),
            settled: false,
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
            Event::Desired(cids) => self.changed(&cids),
            Event::Missing(cids) => self.are_missing(&cids),
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
            Event::Tick => self.pins.look(now.at),
        }
        self.pump();
        mem::take(&mut self.actions)
    }

    /// Whether the first list of the daemon has ended, or the daemon is known to be away. Until then
    /// "not pinned yet" only means "not asked yet".
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// What changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        self.entries.take_changes()
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
