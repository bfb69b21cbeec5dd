//! Ops: the changes of the state that log entries carry.

use minicbor::{Decode, Encode};

use super::{
    deletion_guard::{Ruling, WaitingDigest},
    pin_set::{Away, Page},
};
use crate::types::{
    Allocation, Cid, ClaimOptions, FIRST_LEVEL, Owner, PeerId, Pin, Timestamp, Uid,
};

/// Binds a controller's op to the term and the generation that it was decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Fence {
    /// The term of the leader that decided. In an entry of another term the op is refused.
    #[n(0)]
    pub term: u64,
    /// The Pin's `metadata.generation`. An op of an older one than the claim's is refused.
    #[n(1)]
    pub generation: i64,
}

/// A change of the state. The leader adds times and candidates, so applying needs no clock and no
/// metrics. New kinds go at the end.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Op {
    /// Adds an owner's claim of a CID, or changes its options.
    #[n(0)]
    Claim {
        /// The content.
        #[n(0)]
        cid: Cid,
        /// The owner.
        #[n(1)]
        owner: Owner,
        /// The options of the claim.
        #[n(2)]
        options: ClaimOptions,
        /// Peers to allocate while there are fewer holders than wanted, best first.
        #[n(3)]
        candidates: Vec<PeerId>,
        /// Now, by the leader's wall clock.
        #[n(4)]
        at: Timestamp,
        /// Present for objects.
        #[n(5)]
        fence: Option<Fence>,
    },
    /// Ends an owner's claim of a CID. With Retain the claim stays without an owner, also beside other
    /// claims, until a new owner claims the CID.
    #[n(1)]
    Release {
        /// The content.
        #[n(0)]
        cid: Cid,
        /// The owner.
        #[n(1)]
        owner: Owner,
        /// Now, by the leader's wall clock.
        #[n(2)]
        at: Timestamp,
        /// Present for objects.
        #[n(3)]
        fence: Option<Fence>,
    },
    /// Allocates peers while there are fewer holders than wanted.
    #[n(2)]
    Allocate {
        /// The content.
        #[n(0)]
        cid: Cid,
        /// Peers to allocate, best first.
        #[n(1)]
        candidates: Vec<PeerId>,
    },
    /// Makes holders leave. They keep the content until enough other holders are confirmed.
    #[n(3)]
    Leave {
        /// The content.
        #[n(0)]
        cid: Cid,
        /// The holders.
        #[n(1)]
        peers: Vec<PeerId>,
    },
    /// Removes the allocation of a leaving peer, because enough holders are confirmed.
    #[n(4)]
    LetGo {
        /// The content.
        #[n(0)]
        cid: Cid,
        /// The leaving peer.
        #[n(1)]
        peer: PeerId,
        /// Holders that their own reports confirm. A holder that was allocated again since its report
        /// does not count.
        #[n(2)]
        confirmed: Vec<Allocation>,
    },
    /// Ends the claim of a deleted object. The ruling applies only if this would unpin the content: not
    /// with Retain, and not beside other claims.
    #[n(5)]
    Gone {
        /// The content.
        #[n(0)]
        cid: Cid,
        /// The object's UID.
        #[n(1)]
        uid: Uid,
        /// The ruling on a last claim.
        #[n(2)]
        ruling: Ruling,
        /// Now, by the leader's time (see `deletion_guard`).
        #[n(3)]
        at: Timestamp,
        /// The leader's term, and the object's last known generation.
        #[n(4)]
        fence: Fence,
    },
    /// Ends the waiting claims after an approval. Refused if the digest does not name exactly these claims.
    #[n(6)]
    Allow {
        /// The digest that the person approved.
        #[n(0)]
        digest: WaitingDigest,
        /// The term of the leader that decided.
        #[n(1)]
        term: u64,
    },
    /// Raises the cluster's level: all members run programs that know it. Ops of that level may follow.
    #[n(7)]
    Raise {
        /// The cluster's new level.
        #[n(0)]
        level: u32,
        /// The term of the leader that decided.
        #[n(1)]
        term: u64,
    },
    /// Gives the allocations of one peer to another, for a page of the pins: the other one bears its name,
    /// after its disk was lost.
    #[n(9)]
    Transfer {
        /// The lost peer.
        #[n(0)]
        from: PeerId,
        /// Its successor.
        #[n(1)]
        to: PeerId,
        /// The pins.
        #[n(2)]
        page: Page,
        /// The term in which the deciding peer was leader.
        #[n(3)]
        term: u64,
    },
    /// Removes a peer without allocations for good.
    #[n(10)]
    Remove {
        /// The peer.
        #[n(0)]
        peer: PeerId,
        /// The term in which the deciding peer was leader.
        #[n(1)]
        term: u64,
    },
    /// A member is to give its copies away and be removed, or stays after all.
    #[n(11)]
    Depart {
        /// The member.
        #[n(0)]
        peer: PeerId,
        /// Whether it is to go.
        #[n(1)]
        departs: bool,
        /// The term in which the deciding peer was leader.
        #[n(2)]
        term: u64,
        /// Because its pod was scaled in, or is wanted again. A departure that a person asked for does
        /// not end when the pod is wanted again.
        #[n(3)]
        #[cbor(default)]
        scaled_in: bool,
    },
    /// Gives the copy of a holder to another peer: allocates the first candidate that has none, and makes
    /// the holder leave. Refused without such a candidate.
    #[n(12)]
    Move {
        /// The content.
        #[n(0)]
        cid: Cid,
        /// The holder.
        #[n(1)]
        from: PeerId,
        /// Peers that can take the copy, best first.
        #[n(2)]
        candidates: Vec<PeerId>,
    },
    /// Makes a leaving peer a holder again. It keeps its allocation.
    #[n(13)]
    Stay {
        /// The content.
        #[n(0)]
        cid: Cid,
        /// The leaving peer.
        #[n(1)]
        peer: PeerId,
    },
    /// What is known of the absences of a member changes.
    #[n(14)]
    Away {
        /// The member.
        #[n(0)]
        peer: PeerId,
        /// What is known from now on; absent: it was not away lately.
        #[n(1)]
        away: Option<Away>,
        /// The term in which the deciding peer was leader.
        #[n(2)]
        term: u64,
    },
    /// Changes nothing. An op of the next level, for tests of upgrades.
    #[cfg(any(test, feature = "simulation", feature = "next-level"))]
    #[n(8)]
    Next,
}

/// The result of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Outcome {
    /// It changed the state.
    #[n(0)]
    Changed,
    /// The state already matched it.
    #[n(1)]
    Unchanged,
    /// It was refused.
    #[n(2)]
    Refused(#[n(0)] Refused),
}

impl Outcome {
    pub(super) fn of_change(changed: bool) -> Self {
        if changed { Self::Changed } else { Self::Unchanged }
    }
}

/// The result of an op, and its pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The result.
    pub outcome: Outcome,
    /// For ops of REST: the pin after a claim, or the pin before a release.
    pub pin: Option<Pin>,
}

/// Why an op was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, thiserror::Error)]
#[cbor(index_only)]
pub enum Refused {
    /// Decided in another term than the entry's.
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
    /// The pin has the most claims that a pin may have.
    #[error("the content has too many claims")]
    #[n(5)]
    TooManyClaims,
    /// The digest does not name the waiting claims.
    #[error("the digest does not name the waiting claims")]
    #[n(6)]
    OtherDigest,
    /// The peer still has allocations.
    #[error("the peer still has copies")]
    #[n(7)]
    HasCopies,
    /// The peer was removed from the cluster.
    #[error("the peer was removed from the cluster")]
    #[n(8)]
    Removed,
    /// No candidate can take the copy.
    #[error("no other peer can take the copy")]
    #[n(9)]
    NoCandidate,
}

impl Op {
    /// Its level. Programs of this level or a higher one know it.
    #[must_use]
    pub fn level(&self) -> u32 {
        match self {
            #[cfg(any(test, feature = "simulation", feature = "next-level"))]
            Self::Next => FIRST_LEVEL + 1,
            _ => FIRST_LEVEL,
        }
    }

    /// The CID that it changes; absent if that depends on the state, or if it changes no pin.
    #[must_use]
    pub fn cid(&self) -> Option<Cid> {
        match self {
            Self::Claim { cid, .. }
            | Self::Release { cid, .. }
            | Self::Allocate { cid, .. }
            | Self::Leave { cid, .. }
            | Self::LetGo { cid, .. }
            | Self::Move { cid, .. }
            | Self::Stay { cid, .. }
            | Self::Gone { cid, .. } => Some(*cid),
            Self::Allow { .. }
            | Self::Raise { .. }
            | Self::Transfer { .. }
            | Self::Remove { .. }
            | Self::Depart { .. }
            | Self::Away { .. } => None,
            #[cfg(any(test, feature = "simulation", feature = "next-level"))]
            Self::Next => None,
        }
    }
}
