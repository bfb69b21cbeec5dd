//! Garbage collection: what is asked, what came of it, and what a peer tells of its daemon's garbage.

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// One collection as its asker knows it. Asking again with the same ticket asks how it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Drawn at random by who asks.
    pub ticket: u64,
    /// Begin it if the ticket is unknown; otherwise an unknown one is refused.
    pub begin: bool,
}

/// What a collection did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// Blocks removed.
    pub removed: u64,
    /// What the daemon could not do, at most [`Collected::ERRORS_MAX`] texts.
    pub errors: Vec<String>,
}

impl Collected {
    /// Errors that are kept.
    pub const ERRORS_MAX: usize = 16;
}

/// What came of a collection; or why it was not done, for people.
pub type CollectResult = Result<Collected, String>;

/// What a peer tells of its daemon's garbage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Garbage {
    /// A collection is under way.
    pub collecting: bool,
    /// Something may have been unpinned since the last successful collection; also said while
    /// nothing is known, after the peer's start.
    pub unpinned: bool,
    /// Whole minutes since the end of the last attempt; absent before the first since the peer's
    /// start.
    pub idle_minutes: Option<u32>,
}

/// Collections since the start, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collections {
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
