//! What a peer says of one pin.

use minicbor::{Decode, Encode};

use super::Timestamp;

/// How far a peer is with a pin allocated to it.
///
/// ```text
/// Queued ──▶ Pinning ──▶ Pinned
///    ▲          │           │ gone behind our back
///    │          ▼           ▼
///    └─── NotFound, Failed, DaemonDown (retried with growing waits)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum PinState {
    /// Waits for its turn.
    #[n(0)]
    Queued,
    /// The daemon fetches it.
    #[n(1)]
    Pinning,
    /// The daemon held it when last asked.
    #[n(2)]
    Pinned,
    /// No progress within the stall time: nobody seems to provide (a part of) it. Retried.
    #[n(3)]
    NotFound,
    /// The daemon refused or failed. Retried.
    #[n(4)]
    Failed,
    /// The daemon cannot pin such a CID. Retried seldom: it may be upgraded.
    #[n(5)]
    Unpinnable,
    /// The daemon does not answer. Retried.
    #[n(6)]
    DaemonDown,
    /// The claim is gone and the content is being released.
    #[n(7)]
    Unpinning,
    /// Releasing failed. Retried.
    #[n(8)]
    UnpinFailed,
    /// It was pinned, and the daemon is asked whether it still is.
    #[n(9)]
    Rechecking,
}

/// Progress as Kubo reports it: blocks always, bytes since 0.40.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Progress {
    /// Blocks of the DAG visited so far.
    #[n(0)]
    pub blocks: u64,
    /// Bytes of those blocks.
    #[n(1)]
    pub bytes: u64,
}

/// What a peer says of one pin allocated to it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PinStatus {
    /// How far it is.
    #[n(0)]
    pub state: PinState,
    /// Since when it is in that state.
    #[n(1)]
    pub since: Timestamp,
    /// For people: progress, or the reason and what happens next. Empty when there is nothing to say.
    #[n(2)]
    pub message: String,
    /// Failed attempts since the last success.
    #[n(3)]
    pub attempts: u32,
}
