//! What the machine knows of one CID.

use std::{sync::Arc, time::Duration};

use super::{Now, Origin};
use crate::types::{PinState, Progress, Timestamp};

/// Order of turns: questions after a failed attempt, new work, work from before, retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Turn {
    Check,
    Fresh,
    Again,
    Retry,
}

/// Stage of a CID. In brackets: the container that holds it then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Known from the ledger; not yet known whether it is wanted.
    Unknown,
    /// Was pinned; the next list says whether it still is.
    Recheck,
    /// To be asked about \[queue\].
    Queued,
    /// A question is under way.
    Asking,
    /// Not pinned: the intent is being written \[`to_write` or `writing`\].
    WritingOurs,
    /// Pinned directly by somebody else, and a recursive pin replaces that: its origin is being
    /// written; then it is pinned, and never unpinned \[`to_write` or `writing`\].
    WritingDirect,
    /// Pinned by somebody else: its origin is being written \[`to_write` or `writing`\].
    WritingForeign,
    /// Pinned by a former peer and wanted here: the takeover is being written \[`to_write` or
    /// `writing`\].
    TakingOver,
    /// May start \[ready\].
    Ready,
    /// \[flights\].
    Pinning,
    Pinned,
    /// An attempt of ours, or an unpin, ended without success; the daemon is asked a little later
    /// \[timers\].
    Unsure,
    /// The attempt had no effect: the intent is being withdrawn \[`to_write` or `writing`\].
    Withdrawing,
    /// Failed, waits for a retry \[timers\].
    Waiting,
    /// Ours and no longer wanted \[`unpin_queue`\].
    UnpinQueued,
    /// A barrier is under way.
    Confirming,
    /// Confirmed by a barrier as not wanted \[confirmed\].
    Confirmed,
    Unpinning,
    /// To be unpinned later \[timers\].
    UnpinWaiting,
    /// Its ledger entry is being removed \[`to_write` or `writing`\].
    Forgetting,
}

/// How the last attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// No progress.
    Stalled,
    /// A transient error.
    Failed,
    /// An error that a retry will hardly change.
    Refused,
    /// This daemon cannot pin this CID.
    Unpinnable,
}

impl Kind {
    /// The state shown for it.
    pub(super) fn shown(self) -> PinState {
        match self {
            Self::Stalled => PinState::NotFound,
            Self::Failed | Self::Refused => PinState::Failed,
            Self::Unpinnable => PinState::Unpinnable,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Tracked {
    pub(super) phase: Phase,
    pub(super) turn: Turn,
    pub(super) wanted: bool,
    pub(super) origin: Option<Origin>,
    /// An attempt was, or may have been, begun since the daemon last said that it is not pinned. A pin
    /// found without an attempt is foreign, whatever was intended.
    pub(super) attempted: bool,
    /// Shown until there is better news than another attempt.
    pub(super) failed: Option<Kind>,
    pub(super) attempts: u32,
    /// Number of the last list that says nothing new of it: the list named it, or something later is
    /// known.
    pub(super) seen: u32,
    /// Its place in the container of its phase.
    pub(super) sequence: u64,
    /// In the timers: when it is due. When an answer allows a pin or an unpin: when that answer came.
    pub(super) due: Duration,
    /// Since when the visible state holds.
    pub(super) since: Timestamp,
}

/// A pin in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    pub(super) progress: Progress,
    /// Time of the last progress, or of the start.
    pub(super) progressed_at: Duration,
    /// When progress was last reported.
    pub(super) told_at: Duration,
}

/// The last failure, as reported.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) reason: Arc<str>,
    /// Progress until then.
    pub(super) progress: Progress,
}

impl Tracked {
    pub(super) fn new(phase: Phase, now: Now) -> Self {
        Self {
            phase,
            turn: Turn::Fresh,
            wanted: false,
            origin: None,
            attempted: false,
            failed: None,
            attempts: 0,
            seen: 0,
            sequence: 0,
            due: Duration::ZERO,
            since: now.wall,
        }
    }

    /// The origin of the pin, if it is pinned. An intent makes it ours only with an attempt. A former
    /// peer's pin has none until it is taken over.
    pub(super) fn whose(&self) -> Option<Origin> {
        self.origin.filter(|origin| *origin == Origin::Foreign || self.attempted)
    }

    /// The visible state while the daemon is there; none if there is nothing to report.
    pub(super) fn state(&self) -> Option<PinState> {
        if !self.wanted {
            return match self.phase {
                Phase::UnpinQueued | Phase::Confirming | Phase::Confirmed | Phase::Unpinning => {
                    Some(self.unpin_state())
                }
                Phase::UnpinWaiting => Some(self.unpin_state()),
                // First the daemon is asked what the attempt achieved.
                Phase::Unsure | Phase::Queued | Phase::Asking
                    if self.whose() == Some(Origin::Ours) =>
                {
                    Some(PinState::Unpinning)
                }
                Phase::Forgetting if self.origin == Some(Origin::Ours) => Some(PinState::Unpinning),
                _ => None,
            };
        }
        Some(match (self.phase, self.failed) {
            (Phase::Pinned, _) => PinState::Pinned,
            (_, Some(kind)) => kind.shown(),
            (Phase::Pinning, None) => PinState::Pinning,
            (Phase::Recheck, None) => PinState::Rechecking,
            _ => PinState::Queued,
        })
    }

    fn unpin_state(&self) -> PinState {
        if self.failed.is_some() { PinState::UnpinFailed } else { PinState::Unpinning }
    }
}
