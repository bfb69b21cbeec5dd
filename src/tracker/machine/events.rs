//! What goes into the machine and what comes out.

use std::{collections::BTreeMap, time::Duration};

use super::ledger::Change;
use crate::{
    ipfs::{Held, IpfsError},
    types::{Cid, GcReport, GcResult, PinState, Progress, Timestamp},
};

/// The time of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since the machine was created; never goes back.
    pub at: Duration,
    /// Wall-clock time, for people.
    pub wall: Timestamp,
}

/// An input of the machine.
#[derive(Clone, Debug)]
pub enum Event {
    /// Exactly these of the CIDs after `after`, up to and including `until` (absent: no bound), are
    /// wanted on this peer; sorted.
    DesiredRange {
        /// Lower bound, excluded.
        after: Option<Cid>,
        /// Upper bound, included.
        until: Option<Cid>,
        /// The wanted CIDs.
        wanted: Vec<Cid>,
    },
    /// The wish for each of these CIDs may have changed; the flag says whether it is wanted here now.
    Desired(Vec<(Cid, bool)>),
    /// The daemon was asked elsewhere and does not hold these.
    Missing(Vec<Cid>),
    /// Some changes were missed; the current wishes will follow.
    ChangesMissed,
    /// Answer to [`Action::Probe`]: the daemon's ID.
    Probed(Result<String, IpfsError>),
    /// Answer to [`Action::Bind`]: whether the entries are void.
    Bound(Result<bool, String>),
    /// Answer to [`Action::Ask`].
    Asked(Vec<Cid>, Result<Vec<Held>, IpfsError>),
    /// A piece of the daemon's list after [`Action::List`].
    Listed(Vec<Cid>),
    /// The end of that list.
    ListEnded(Result<(), IpfsError>),
    /// Answer to [`Action::Write`].
    Written(Result<(), String>),
    /// Progress of a pin so far.
    Progress(Cid, Progress),
    /// Answer to [`Action::Pin`].
    PinDone(Cid, Result<(), IpfsError>),
    /// Answer to [`Action::Confirm`] after the barrier: whether each is wanted here. Earlier changes
    /// were fed before.
    Confirmed(Vec<(Cid, bool)>),
    /// [`Action::Confirm`] failed.
    ConfirmFailed(String),
    /// Answer to [`Action::Unpin`].
    UnpinDone(Cid, Result<(), IpfsError>),
    /// A caller wants the daemon's garbage collected; never fed while a collection is under way.
    RunGc,
    /// Answer to [`Action::RunGc`].
    GcReport(Result<GcReport, IpfsError>),
    /// Time has passed. Progress up to now was fed before.
    Tick,
}

/// An output of the machine. Each action with an answer is answered once unless it is cancelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the daemon for its ID.
    Probe,
    /// Bind the ledger to this daemon; never during a write.
    Bind(String),
    /// Ask which of these are pinned.
    Ask(Vec<Cid>),
    /// List all pins.
    List,
    /// Write these changes to the ledger in one transaction; one write at a time.
    Write(Vec<Change>),
    /// Pin.
    Pin(Cid),
    /// Cancel a pin; its answer is no longer wanted.
    CancelPin(Cid),
    /// Cancel everything under way with the daemon except probes; no answers are wanted.
    CancelDaemon,
    /// Pass a read barrier, then check whether these are wanted here.
    Confirm(Vec<Cid>),
    /// Unpin.
    Unpin(Cid),
    /// Collect the daemon's garbage.
    RunGc,
    /// Cancel the collection; its answer is no longer wanted.
    CancelGc,
    /// The result of [`Event::RunGc`]; once for each.
    EndGc(GcResult),
}

/// CIDs whose status may have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// These, possibly with duplicates.
    pub cids: Vec<Cid>,
    /// All of them.
    pub everything: bool,
}

/// Numbers for Prometheus metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Wanted here, and held by the daemon when last asked.
    pub pinned: usize,
    /// Wanted here and not yet held, in any state.
    pub queued: usize,
    /// Of `queued`, pins in flight.
    pub pinning: usize,
    /// Of `queued`, waiting after a failure (not found included).
    pub failing: usize,
    /// To be unpinned.
    pub unpinning: usize,
    /// Number of CIDs in each state.
    pub states: BTreeMap<PinState, usize>,
    /// Failed attempts to pin since the start, by the state they lead to.
    pub failures: BTreeMap<PinState, u64>,
}
