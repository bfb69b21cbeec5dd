//! Ops: what a log entry can ask of the state.

use serde::{Deserialize, Serialize};

use super::brake::{Ruling, WaitingDigest};
use crate::types::{Allocation, Cid, ClaimOptions, Owner, PeerId, Pin, Timestamp, Uid};

/// Binds a controller's op to the leadership and the object it was decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The term in which the deciding peer was leader; an entry of another term is refused.
    pub term: u64,
    /// The Pin's `metadata.generation`; older than the claim's is refused.
    pub generation: i64,
}

/// A change of the state. Times and allocations are put in by the leader, so that applying needs
/// neither clock nor metrics. New kinds go at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// An owner wants a CID, newly or with other options.
    Claim {
        /// The content.
        cid: Cid,
        /// Who.
        owner: Owner,
        /// What.
        options: ClaimOptions,
        /// Peers to add while there are fewer holders than wanted, best first.
        candidates: Vec<PeerId>,
        /// Now, by the leader's clock.
        at: Timestamp,
        /// Present for objects.
        fence: Option<Fence>,
    },
    /// An owner wants a CID no more. With Retain its claim stays without an owner, also beside others,
    /// until an owner takes the content up anew.
    Release {
        /// The content.
        cid: Cid,
        /// Who.
        owner: Owner,
        /// Now, by the leader's clock.
        at: Timestamp,
        /// Present for objects.
        fence: Option<Fence>,
    },
    /// Peers to add while there are fewer holders than wanted, best first.
    Allocate {
        /// The content.
        cid: Cid,
        /// The peers.
        candidates: Vec<PeerId>,
    },
    /// Holders that are to leave: they keep the content until others are confirmed.
    Leave {
        /// The content.
        cid: Cid,
        /// The peers.
        peers: Vec<PeerId>,
    },
    /// A leaving peer may let go: these holders were seen to hold the content.
    LetGo {
        /// The content.
        cid: Cid,
        /// The leaving peer.
        peer: PeerId,
        /// Holders confirmed by their own report. One that has been given the content anew since does
        /// not count.
        confirmed: Vec<Allocation>,
    },
    /// An object is gone, and its claim with it. With Retain, or beside other claims, that is all; the
    /// ruling is about a claim whose end unpins the content.
    Gone {
        /// The content.
        cid: Cid,
        /// The object.
        uid: Uid,
        /// What is to become of a last claim.
        ruling: Ruling,
        /// Now, by the leader's time (see `brake`).
        at: Timestamp,
        /// The leadership, and the object's last known generation.
        fence: Fence,
    },
    /// A person lets go what waits, if it is still what the digest names.
    Allow {
        /// What the person has seen.
        digest: WaitingDigest,
        /// The term in which the deciding peer was leader.
        term: u64,
    },
}

/// What became of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The state is different now.
    Changed,
    /// It was so already.
    Unchanged,
    /// It was refused.
    Refused(Refused),
}

/// What became of an op, and the pin it was about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// What became of it.
    pub outcome: Outcome,
    /// For the REST API: of a claim the pin as it is then, of a release as it was before.
    pub pin: Option<Pin>,
}

/// Why an op was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refused {
    /// Decided under another term than the entry's.
    #[error("decided by a leader of another term")]
    OtherTerm,
    /// Decided on an older generation of the object.
    #[error("decided on an older generation of the object")]
    OlderGeneration,
    /// The object already claims another CID.
    #[error("the object claims another CID")]
    OtherCid,
    /// There is no such pin.
    #[error("there is no such pin")]
    NoSuchPin,
    /// Not enough other holders are confirmed.
    #[error("not enough other holders are confirmed")]
    TooFewConfirmed,
    /// The pin has as many claims as one pin may have.
    #[error("the content has too many claims")]
    TooManyClaims,
    /// What waits is not what the digest names.
    #[error("what waits is not what the digest names")]
    OtherDigest,
}

impl Op {
    /// The content it is about; absent when that depends on the state.
    #[must_use]
    pub fn cid(&self) -> Option<Cid> {
        match self {
            Self::Claim { cid, .. }
            | Self::Release { cid, .. }
            | Self::Allocate { cid, .. }
            | Self::Leave { cid, .. }
            | Self::LetGo { cid, .. }
            | Self::Gone { cid, .. } => Some(*cid),
            Self::Allow { .. } => None,
        }
    }
}
