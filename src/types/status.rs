//! What a peer says of one pin.

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// How far a peer is with a pin allocated to it.
///
/// ```text
/// Queued ──▶ Pinning ──▶ Pinned
///    ▲          │           │ gone behind our back
///    │          ▼           ▼
///    └─── NotFound, Failed, DaemonDown (retried with growing waits)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PinState {
    /// Waits for its turn.
    Queued,
    /// The daemon fetches it.
    Pinning,
    /// The daemon held it when last asked.
    Pinned,
    /// No progress within the stall time: nobody seems to provide (a part of) it. Retried.
    NotFound,
    /// The daemon refused or failed. Retried.
    Failed,
    /// The daemon cannot pin such a CID. Retried seldom: it may be upgraded.
    Unpinnable,
    /// The daemon does not answer. Retried.
    DaemonDown,
    /// The claim is gone and the content is being released.
    Unpinning,
    /// Releasing failed. Retried.
    UnpinFailed,
    /// It was pinned, and the daemon is asked whether it still is.
    Rechecking,
}

/// Progress as Kubo reports it: blocks always, bytes since 0.40.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Blocks of the DAG visited so far.
    pub blocks: u64,
    /// Bytes of those blocks.
    pub bytes: u64,
}

/// What a peer says of one pin allocated to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinStatus {
    /// How far it is.
    pub state: PinState,
    /// Since when it is in that state.
    pub since: Timestamp,
    /// For people: progress, or the reason and what happens next. Empty when there is nothing to say.
    pub message: String,
    /// Failed attempts since the last success.
    pub attempts: u32,
}
