//! Garbage collection: what is asked, the results, and what a peer reports of its daemon.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use super::{PeerId, Timestamp};

/// One collection as its asker knows it. Asking again with the same ticket asks how it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Run {
    /// Drawn at random by who asks.
    #[n(0)]
    pub ticket: u64,
    /// Begin it if the ticket is unknown; otherwise an unknown one is refused.
    #[n(1)]
    pub begin: bool,
}

/// What a collection did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct GcReport {
    /// Blocks removed.
    #[n(0)]
    pub removed: u64,
    /// What the daemon could not do, at most [`GcReport::ERRORS_MAX`] texts.
    #[n(1)]
    pub errors: Vec<String>,
}

impl GcReport {
    /// Errors that are kept.
    pub const ERRORS_MAX: usize = 16;
}

/// What came of a collection; or why it was not done, for people.
pub type GcResult = Result<GcReport, String>;

/// The result of a collection on each member.
pub type GcResults = BTreeMap<PeerId, GcResult>;

/// How a collection goes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum GcProgress<T> {
    /// It is under way: ask again.
    #[n(0)]
    Running,
    /// It has ended.
    #[n(1)]
    Ended(#[n(0)] T),
}

/// What a peer reports of garbage collection of its daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct GcState {
    /// A collection is under way.
    #[n(0)]
    pub running: bool,
    /// Something may have been unpinned since the last successful collection; also said while
    /// nothing is known, after the peer's start.
    #[n(1)]
    pub unpinned: bool,
    /// Whole minutes since the end of the last attempt; absent before the first since the peer's
    /// start.
    #[n(2)]
    pub idle_minutes: Option<u32>,
}

/// Collections since the start, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcCounters {
    /// Under way now.
    pub running: bool,
    /// Those that ended well.
    pub done: u64,
    /// Those that did not.
    pub failed: u64,
    /// Blocks that the former removed.
    pub removed: u64,
    /// When the last of the former ended.
    pub done_at: Option<Timestamp>,
}
