//! Ops: what a log entry can ask of the state.

use minicbor::{Decode, Encode};

use super::deletion_guard::{Ruling, WaitingDigest};
use crate::types::{
    Allocation, Cid, ClaimOptions, FIRST_LEVEL, Owner, PeerId, Pin, Timestamp, Uid,
};

/// Binds a controller's op to the leadership and the object it was decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Fence {
    /// The term in which the deciding peer was leader; an entry of another term is refused.
    #[n(0)]
    pub term: u64,
    /// The Pin's `metadata.generation`; older than the claim's is refused.
    #[n(1)]
    pub generation: i64,
}

/// A change of the state. Times and allocations are put in by the leader, so that applying needs
/// neither clock nor metrics. New kinds go at the end.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Op {
    /// An owner wants a CID, newly or with other options.
    #[n(0)]
    Claim {
        /// The content.
        #[n(0)]
        cid: Cid,
        /// Who.
        #[n(1)]
        owner: Owner,
        /// What.
        #[n(2)]
        options: ClaimOptions,
        /// Peers to add while there are fewer holders than wanted, best first.
        #[n(3)]
        candidates: Vec<PeerId>,
        /// Now, by the leader's clock.
        #[n(4)]
        at: Timestamp,
        /// Present for objects.
        #[n(5)]
        fence: Option<Fence>,
    },
    /// An owner wants a CID no more. With Retain its claim stays without an owner, also beside others,
    /// until an owner takes the content up anew.
    #[n(1)]
    Release {
        /// The content.
        #[n(0)]
        cid: Cid,
        /// Who.
        #[n(1)]
        owner: Owner,
        /// Now, by the leader's clock.
        #[n(2)]
        at: Timestamp,
        /// Present for objects.
        #[n(3)]
        fence: Option<Fence>,
    },
    /// Peers to add while there are fewer holders than wanted, best first.
    #[n(2)]
    Allocate {
        /// The content.
        #[n(0)]
        cid: Cid,
        /// The peers.
        #[n(1)]
        candidates: Vec<PeerId>,
    },
    /// Holders that are to leave: they keep the content until others are confirmed.
    #[n(3)]
    Leave {
        /// The content.
        #[n(0)]
        cid: Cid,
        /// The peers.
        #[n(1)]
        peers: Vec<PeerId>,
    },
    /// A leaving peer may let go: these holders were seen to hold the content.
    #[n(4)]
    LetGo {
        /// The content.
        #[n(0)]
        cid: Cid,
        /// The leaving peer.
        #[n(1)]
        peer: PeerId,
        /// Holders confirmed by their own report. One that has been given the content anew since does
        /// not count.
        #[n(2)]
        confirmed: Vec<Allocation>,
    },
    /// An object is gone, and its claim with it. With Retain, or beside other claims, that is all; the
    /// ruling is about a claim whose end unpins the content.
    #[n(5)]
    Gone {
        /// The content.
        #[n(0)]
        cid: Cid,
        /// The object.
        #[n(1)]
        uid: Uid,
        /// What is to become of a last claim.
        #[n(2)]
        ruling: Ruling,
        /// Now, by the leader's time (see `deletion_guard`).
        #[n(3)]
        at: Timestamp,
        /// The leadership, and the object's last known generation.
        #[n(4)]
        fence: Fence,
    },
    /// A person lets go what waits, if it is still what the digest names.
    #[n(6)]
    Allow {
        /// What the person has seen.
        #[n(0)]
        digest: WaitingDigest,
        /// The term in which the deciding peer was leader.
        #[n(1)]
        term: u64,
    },
    /// All members run programs of this level: ops of it may follow.
    #[n(7)]
    Raise {
        /// The cluster's new level.
        #[n(0)]
        level: u32,
        /// The term in which the deciding peer was leader.
        #[n(1)]
        term: u64,
    },
    /// Changes nothing. An op of the next level, for tests of upgrades.
    #[cfg(any(test, feature = "simulation", feature = "next-level"))]
    #[n(8)]
    Next,
}

/// What became of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Outcome {
    /// The state is different now.
    #[n(0)]
    Changed,
    /// It was so already.
    #[n(1)]
    Unchanged,
    /// It was refused.
    #[n(2)]
    Refused(#[n(0)] Refused),
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, thiserror::Error)]
#[cbor(index_only)]
pub enum Refused {
    /// Decided under another term than the entry's.
    #[error("decided by a leader of another term")]
    #[n(0)]
    OtherTerm,
    /// Decided on an older generation of the object.
    #[error("decided on an older generation of the object")]
    #[n(1)]
    OlderGeneration,
    /// The object already claims another CID.
    #[error("the object claims another CID")]
    #[n(2)]
    OtherCid,
    /// There is no such pin.
    #[error("there is no such pin")]
    #[n(3)]
    NoSuchPin,
    /// Not enough other holders are confirmed.
    #[error("not enough other holders are confirmed")]
    #[n(4)]
    TooFewConfirmed,
    /// The pin has as many claims as one pin may have.
    #[error("the content has too many claims")]
    #[n(5)]
    TooManyClaims,
    /// What waits is not what the digest names.
    #[error("what waits is not what the digest names")]
    #[n(6)]
    OtherDigest,
}

impl Op {
    /// The level of programs that know it.
    #[must_use]
    pub fn level(&self) -> u32 {
        match self {
            #[cfg(any(test, feature = "simulation", feature = "next-level"))]
            Self::Next => FIRST_LEVEL + 1,
            _ => FIRST_LEVEL,
        }
    }

    /// The content it is about; absent when that depends on the state, or there is none.
    #[must_use]
    pub fn cid(&self) -> Option<Cid> {
        match self {
            Self::Claim { cid, .. }
            | Self::Release { cid, .. }
            | Self::Allocate { cid, .. }
            | Self::Leave { cid, .. }
            | Self::LetGo { cid, .. }
            | Self::Gone { cid, .. } => Some(*cid),
            Self::Allow { .. } | Self::Raise { .. } => None,
            #[cfg(any(test, feature = "simulation", feature = "next-level"))]
            Self::Next => None,
        }
    }
}
