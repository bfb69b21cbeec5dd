//! The status of one pin on one peer.

use minicbor::{Decode, Encode};

use super::Timestamp;

/// The state of a pin on a peer.
///
/// ```text
/// Queued ──▶ Pinning ──▶ Pinned
///    ▲          │           │ the daemon lost it
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
    /// There was no progress within the stall time: no provider of (a part of) it was found. Retried.
    #[n(3)]
    NotFound,
    /// The daemon refused or failed. Retried.
    #[n(4)]
    Failed,
    /// The daemon cannot pin such a CID. Retried rarely, since the daemon may be upgraded.
    #[n(5)]
    Unpinnable,
    /// The daemon does not answer. Retried.
    #[n(6)]
    DaemonDown,
    /// The pin is no longer wanted here, and is being removed from the daemon.
    #[n(7)]
    Unpinning,
    /// Its removal failed. Retried.
    #[n(8)]
    UnpinFailed,
    /// The daemon held it, and is being asked whether it still does.
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

/// The status of one pin on one peer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PinStatus {
    /// Its state.
    #[n(0)]
    pub state: PinState,
    /// When it reached that state.
    #[n(1)]
    pub since: Timestamp,
    /// For people: the progress, or the reason and the next step; may be empty.
    #[n(2)]
    pub message: String,
    /// Failed attempts since the last success.
    #[n(3)]
    pub attempts: u32,
}
