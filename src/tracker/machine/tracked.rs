//! What the machine knows of one CID.

use std::{sync::Arc, time::Duration};

use super::{Now, Origin};
use crate::types::{PinState, Progress, Timestamp};

/// Who goes first: what came of a failed attempt, new work, what was there before, what is tried
/// again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Turn {
    Check,
    Fresh,
    Again,
    Retry,
}

/// Where a CID is on its way. In brackets: the container that holds it then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// From the ledger; nobody has said yet whether it is wanted.
    Unknown,
    /// Was pinned once; the next list says whether it is.
    Recheck,
    /// To be asked about \[queue\].
    Queued,
    /// A question is under way.
    Asking,
    /// Not pinned: the intent is being written \[`to_write` or `writing`\].
    WritingOurs,
    /// Pinned directly by somebody else, which a recursive pin replaces: that is being written, then
    /// it is pinned, and never unpinned \[`to_write` or `writing`\].
    WritingDirect,
    /// Pinned by somebody else: that is being written \[`to_write` or `writing`\].
    WritingForeign,
    /// Pinned by a former peer, and wanted here: that it is ours is being written \[`to_write` or
    /// `writing`\].
    TakingOver,
    /// May be pinned \[ready\].
    Ready,
    /// \[flights\].
    Pinning,
    Pinned,
    /// An attempt of ours, or an unpin, ended without success; what came of it is asked a little
    /// later \[timers\].
    Unsure,
    /// Nothing came of it: the intent is being taken back \[`to_write` or `writing`\].
    Withdrawing,
    /// Failed, to be tried again \[timers\].
    Waiting,
    /// Ours and not wanted \[`unpin_queue`\].
    UnpinQueued,
    /// A barrier is under way.
    Confirming,
    /// Not wanted behind a barrier \[confirmed\].
    Confirmed,
    Unpinning,
    /// To be unpinned later \[timers\].
    UnpinWaiting,
    /// Its entry is being taken out of the ledger \[`to_write` or `writing`\].
    Forgetting,
}

/// How the last attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// No progress.
    Stalled,
    /// An error that may pass.
    Failed,
    /// An error that a repetition will hardly change.
    Refused,
    /// This daemon cannot pin such a CID.
    Unpinnable,
}

impl Kind {
    /// The state that shows it.
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
    pub(super) lane: Turn,
    pub(super) wanted: bool,
    pub(super) origin: Option<Origin>,
    /// An attempt was begun since the daemon said last that it is not pinned, or may have been. What
    /// is found pinned without one is somebody else's, whatever was intended.
    pub(super) attempted: bool,
    /// Shown until there is better news than another attempt.
    pub(super) failed: Option<Kind>,
    pub(super) attempts: u32,
    /// Number of the last list that says nothing new of it: it named it, or something fresher than
    /// that list is known.
    pub(super) seen: u32,
    /// Its place in the container of its phase.
    pub(super) sequence: u64,
    /// Its timer, if it is in the timers; when it was answered, while it may be pinned or unpinned
    /// because of that answer.
    pub(super) due: Duration,
    /// Of the visible state.
    pub(super) since: Timestamp,
}

/// A pin in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    pub(super) progress: Progress,
    /// When there was progress last, or it started.
    pub(super) progressed_at: Duration,
    /// When progress was told last.
    pub(super) told_at: Duration,
}

/// What is told of the last failure.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) reason: Arc<str>,
    /// How far it came.
    pub(super) progress: Progress,
}

impl Tracked {
    pub(super) fn new(phase: Phase, now: Now) -> Self {
        Self {
            phase,
            lane: Turn::Fresh,
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

    /// Whose it is if it is pinned. An intent makes it ours only with an attempt. What a former peer
    /// pinned is nobody's until it is taken over.
    pub(super) fn whose(&self) -> Option<Origin> {
        self.origin.filter(|origin| *origin == Origin::Foreign || self.attempted)
    }

    /// The state to be seen while the daemon is there; none when there is nothing to say.
    pub(super) fn state(&self) -> Option<PinState> {
        if !self.wanted {
            return match self.phase {
                Phase::UnpinQueued | Phase::Confirming | Phase::Confirmed | Phase::Unpinning => {
                    Some(self.unpin_state())
                }
                Phase::UnpinWaiting => Some(self.unpin_state()),
                // What came of the attempt is asked before.
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
