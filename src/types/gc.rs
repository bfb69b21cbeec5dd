//! Garbage collection: requests, results, and the state that a peer reports.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use super::{PeerId, Timestamp};

/// A run: a collection under a ticket. A repeated request with the same ticket asks for its progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Run {
    /// A random number of the asking peer.
    #[n(0)]
    pub ticket: u64,
    /// Whether to begin a run if the ticket is unknown. Otherwise an unknown ticket is refused.
    #[n(1)]
    pub begin: bool,
}

/// The report of a collection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct GcReport {
    /// Number of blocks removed.
    #[n(0)]
    pub removed: u64,
    /// The daemon's errors, at most [`GcReport::ERRORS_MAX`].
    #[n(1)]
    pub errors: Vec<String>,
}

impl GcReport {
    /// Most errors that are kept.
    pub const ERRORS_MAX: usize = 16;
}

/// The report of a collection; or why it was not done, for people.
pub type GcResult = Result<GcReport, String>;

/// The result of a collection on each member.
pub type GcResults = BTreeMap<PeerId, GcResult>;

/// The progress of a collection.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum GcProgress<T> {
    /// It is running: ask again later.
    #[n(0)]
    Running,
    /// It has ended.
    #[n(1)]
    Ended(#[n(0)] T),
}

/// The state of garbage collection on a peer's daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct GcState {
    /// Whether a collection is running.
    #[n(0)]
    pub running: bool,
    /// Whether content may have been unpinned since the last successful collection; also `true` after
    /// the peer's start, when it does not know.
    #[n(1)]
    pub unpinned: bool,
    /// Whole minutes since the end of the last attempt; absent if there was none since the peer's start.
    #[n(2)]
    pub idle_minutes: Option<u32>,
}

/// Collections since the peer's start, for Prometheus metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcCounters {
    /// Whether one is running.
    pub running: bool,
    /// Number of successful collections.
    pub done: u64,
    /// Number of failed collections.
    pub failed: u64,
    /// Number of blocks that the successful ones removed.
    pub removed: u64,
    /// When the last successful one ended.
    pub done_at: Option<Timestamp>,
}
