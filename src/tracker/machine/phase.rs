//! The stages of a CID.

use std::time::Duration;

use super::{
    Origin,
    timers::Timer,
    turns::{Place, Turn},
};

/// Stage of a CID, with what only that stage needs. In brackets: the part of the machine that holds the
/// CID then. [`super::Machine::enter`] changes both together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Known from the ledger; not yet known whether it is wanted.
    Unknown,
    /// Was pinned; the next list says whether it still is.
    Recheck,
    /// To be asked about \[questions\].
    Queued(Place),
    /// A question is under way \[questions\].
    Asking {
        turn: Turn,
    },
    /// By an answer of the daemon it has this origin, which is being written \[writer\].
    Writing {
        finding: Finding,
        turn: Turn,
        answered_at: Duration,
        /// The answer no longer counts: the daemon was away since, or a list says otherwise.
        outdated: bool,
    },
    /// Not pinned when asked, with the intent on disk: may start. Its place is of this turn and number
    /// \[pins\].
    Ready {
        turn: Turn,
        number: u64,
        answered_at: Duration,
    },
    /// In flight \[pins\].
    Pinning {
        turn: Turn,
    },
    Pinned,
    /// An attempt of ours, or an unpin, ended without success; the daemon is asked a little later
    /// \[timers\].
    Unsure {
        turn: Turn,
        timer: Timer,
    },
    /// The attempt had no effect: the intent is being withdrawn \[writer\].
    Withdrawing,
    /// Failed, waits for a retry \[timers\].
    Waiting(Timer),
    /// Ours and no longer wanted \[unpins\].
    UnpinQueued {
        number: u64,
    },
    /// A barrier is under way.
    Confirming,
    /// Confirmed by a barrier as not wanted \[unpins\].
    Confirmed {
        number: u64,
        confirmed_at: Duration,
    },
    /// An unpin is under way \[unpins\].
    Unpinning,
    /// To be unpinned later \[timers\].
    UnpinWaiting(Timer),
    /// Its ledger entry is being removed \[writer\].
    Forgetting,
}

/// What an answer of the daemon says of the origin of a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// Not pinned: the intent is written, then it is pinned.
    Ours,
    /// Pinned directly by somebody else, and a recursive pin replaces that: it is pinned, and never
    /// unpinned.
    Direct,
    /// Pinned by somebody else.
    Foreign,
    /// Pinned by a former peer and wanted here: it is taken over.
    Former,
}

impl Finding {
    /// The origin to write.
    pub(super) fn origin(self) -> Origin {
        match self {
            Self::Ours | Self::Former => Origin::Ours,
            Self::Direct | Self::Foreign => Origin::Foreign,
        }
    }
}

impl Phase {
    /// Whether an absence of the daemon ends it. It does not end a write, but outdates the answer.
    pub(super) fn needs_daemon(self) -> bool {
        matches!(
            self,
            Self::Asking { .. }
                | Self::Ready { .. }
                | Self::Pinning { .. }
                | Self::Confirmed { .. }
                | Self::Unpinning
        )
    }

    /// The turn of a CID that waits for it.
    pub(super) fn turn(self) -> Option<Turn> {
        match self {
            Self::Queued(place) => Some(place.turn),
            Self::Ready { turn, .. } => Some(turn),
            _ => None,
        }
    }
}
