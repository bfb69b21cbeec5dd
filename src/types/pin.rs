//! Pins: claims by owners, and allocations to peers.

use std::fmt;

use minicbor::{Decode, Encode};

use super::{Claims, PeerId, Timestamp};

/// Number of copies, or one copy on every peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Factor {
    /// This many peers, at least 1.
    #[n(0)]
    Count(#[n(0)] u16),
    /// Every peer (IPFS Cluster's -1).
    #[n(1)]
    Everywhere,
}

impl Factor {
    /// The requested number of copies in a cluster of `members` peers.
    fn of(self, members: usize) -> usize {
        match self {
            Self::Count(n) => usize::from(n),
            Self::Everywhere => members.max(1),
        }
    }
}

impl fmt::Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(n) => n.fmt(f),
            Self::Everywhere => f.write_str("-1"),
        }
    }
}

/// Copies needed and copies wanted. Invariant: min ≤ max, which the code that builds it ensures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Replication {
    /// Copies needed: a pin with fewer confirmed copies is not ready.
    #[n(0)]
    pub min: Factor,
    /// Copies wanted: so many are allocated if there are enough peers.
    #[n(1)]
    pub max: Factor,
}

impl Replication {
    /// Copies to make among `members` peers.
    #[must_use]
    pub fn wanted(self, members: usize) -> usize {
        self.max.of(members)
    }

    /// Confirmed copies that must be there before another one is given up, of `possible` ones.
    #[must_use]
    pub fn needed(self, possible: usize) -> usize {
        self.min.of(possible)
    }

    /// Confirmed copies that must be there before a copy ends beside `holders` other ones. If its peer
    /// departs, all others are enough, and at least one.
    #[must_use]
    pub fn needed_beside(self, holders: usize, departs: bool) -> usize {
        let needed = self.needed(holders);
        if departs { needed.min(holders).max(1) } else { needed }
    }

    /// The larger of each count, which serves both.
    #[must_use]
    pub fn larger(self, other: Self) -> Self {
        Self { min: self.min.max(other.min), max: self.max.max(other.max) }
    }
}

/// The UID of a Kubernetes object. Kubernetes never uses it again.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct Uid(#[n(0)] pub String);

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The owner of a claim.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Owner {
    /// A Pin object.
    #[n(0)]
    Object(#[n(0)] Uid),
    /// The REST API: one claim per CID, as in IPFS Cluster.
    #[n(1)]
    Rest,
    /// No owner: the owner of a claim with Retain released it.
    #[n(2)]
    Retained,
    /// A deleted Pin object whose claim waits until a person approves its end. Always the only claim of
    /// its pin.
    #[n(3)]
    Waiting(#[n(0)] Uid),
}

/// Namespace and name of a Pin object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ObjectKey {
    /// Its namespace.
    #[n(0)]
    pub namespace: String,
    /// Its name.
    #[n(1)]
    pub name: String,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The name of a claim.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ClaimName {
    /// The name given by REST; may be empty.
    #[n(0)]
    Given(#[n(0)] String),
    /// The object that made the claim. The controllers ask the API server by this key whether it exists.
    #[n(1)]
    Object(#[n(0)] Box<ObjectKey>),
}

/// No name.
impl Default for ClaimName {
    fn default() -> Self {
        Self::Given(String::new())
    }
}

impl ClaimName {
    /// The object's key, if an object claimed it.
    #[must_use]
    pub fn object(&self) -> Option<&ObjectKey> {
        match self {
            Self::Object(key) => Some(key),
            Self::Given(_) => None,
        }
    }
}

impl fmt::Display for ClaimName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(name) => name.fmt(f),
            Self::Object(key) => key.fmt(f),
        }
    }
}

/// The options of a claim.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ClaimOptions {
    /// Copies needed and wanted.
    #[n(0)]
    pub replication: Replication,
    /// Keep the content when this claim ends (deletionPolicy Retain).
    #[n(1)]
    pub retain: bool,
    /// The name of the claim.
    #[n(2)]
    pub name: ClaimName,
}

/// One owner's wish for a CID.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Claim {
    /// Its options.
    #[n(0)]
    pub options: ClaimOptions,
    /// The `metadata.generation` of the object that was read; 0 for other owners.
    #[n(1)]
    pub generation: i64,
    /// When the leader first proposed it.
    #[n(2)]
    pub since: Timestamp,
}

/// A peer that holds or leaves a pin. A leaving peer keeps the content until enough others are
/// confirmed to hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Allocation {
    /// The peer.
    #[n(0)]
    pub peer: PeerId,
    /// Whether it is leaving: it holds the content only until enough others are confirmed.
    #[n(1)]
    pub leaving: bool,
    /// Length of the log at this allocation. Reports taken earlier are ignored: the peer may have
    /// unpinned the content since.
    #[n(2)]
    pub at_entry: u64,
}

/// The agreed claims and allocations of one CID. Invariant: it has at least one claim.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Pin {
    /// Its claims.
    #[n(0)]
    pub claims: Claims,
    /// Its allocations, oldest first; at most one for each peer.
    #[n(1)]
    pub allocations: Vec<Allocation>,
    /// When its first claim was proposed.
    #[n(2)]
    pub created: Timestamp,
}

impl Pin {
    /// The largest of each count of its claims, which serves all of them.
    #[must_use]
    pub fn replication(&self) -> Replication {
        let least = Replication { min: Factor::Count(1), max: Factor::Count(1) };
        self.claims.values().map(|claim| claim.options.replication).fold(least, Replication::larger)
    }

    /// The pin with only the claim of REST. It may have a thousand other claims.
    #[must_use]
    pub fn as_asked_by_rest(&self) -> Self {
        let claim = self.claims.get(&Owner::Rest).map(|claim| (Owner::Rest, claim.clone()));
        Self {
            claims: claim.into_iter().collect(),
            allocations: self.allocations.clone(),
            created: self.created,
        }
    }

    /// Its holders: the allocated peers that are not leaving.
    pub fn holders(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.allocations.iter().filter(|a| !a.leaving).map(|a| a.peer)
    }

    /// Whether only Pin objects want it, without Retain: it is unpinned when they are gone.
    #[must_use]
    pub fn goes_with_objects(&self) -> bool {
        self.claims.iter().all(|(owner, claim)| {
            matches!(owner, Owner::Object(_) | Owner::Waiting(_)) && !claim.options.retain
        })
    }

    /// Whether it is allocated to `peer`, leaving or not.
    #[must_use]
    pub fn is_on(&self, peer: PeerId) -> bool {
        self.allocations.iter().any(|a| a.peer == peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn uid() -> Uid {
        Uid(String::new())
    }

    fn claim(min: Factor, max: Factor, retain: bool) -> Claim {
        let replication = Replication { min, max };
        let options = ClaimOptions { replication, retain, name: ClaimName::default() };
        Claim { options, generation: 0, since: Timestamp(0) }
    }

    fn pin(claims: impl IntoIterator<Item = (Owner, Claim)>) -> Pin {
        let claims = claims.into_iter().collect();
        Pin { claims, allocations: Vec::new(), created: Timestamp(0) }
    }

    #[test]
    fn a_pin_has_the_largest_counts_of_its_claims() {
        use Factor::{Count, Everywhere};
        let table = [
            ((Count(1), Count(2)), (Count(1), Count(1)), (Count(1), Count(2))),
            ((Count(1), Count(9)), (Count(3), Count(3)), (Count(3), Count(9))),
            ((Count(2), Count(2)), (Count(1), Everywhere), (Count(2), Everywhere)),
            ((Everywhere, Everywhere), (Count(5), Count(5)), (Everywhere, Everywhere)),
            (
                (Count(u16::MAX), Count(u16::MAX)),
                (Count(1), Everywhere),
                (Count(u16::MAX), Everywhere),
            ),
        ];
        for (one, other, (min, max)) in table {
            let claims = [(Owner::Rest, one), (Owner::Retained, other)];
            let claims = claims.map(|(owner, (min, max))| (owner, claim(min, max, false)));
            assert_eq!(pin(claims).replication(), Replication { min, max }, "{one:?} {other:?}");
        }
        assert_eq!((Everywhere.of(3), Everywhere.of(0)), (3, 1));
        assert_eq!((Count(5).of(3), Count(1).of(0)), (5, 1));
    }

    #[test]
    fn a_pin_goes_with_its_objects_if_only_they_want_it_without_retain() {
        let one = |retain| claim(Factor::Count(1), Factor::Count(1), retain);
        let (object, waiting) = (Owner::Object(uid()), Owner::Waiting(uid()));
        let table = [
            (vec![(object.clone(), false)], true),
            (vec![(waiting, false)], true),
            (vec![(object.clone(), true)], false),
            (vec![(Owner::Rest, false)], false),
            (vec![(Owner::Retained, true)], false),
            (vec![(Owner::Retained, false)], false),
            (vec![(object.clone(), false), (Owner::Rest, false)], false),
            (vec![(object.clone(), false), (Owner::Object(Uid("b".to_owned())), true)], false),
            (vec![(object, false), (Owner::Object(Uid("b".to_owned())), false)], true),
        ];
        for (claims, goes) in table {
            let owners = claims.iter().map(|(owner, retain)| (owner.clone(), one(*retain)));
            assert_eq!(pin(owners).goes_with_objects(), goes, "{claims:?}");
        }
    }

    #[test]
    fn a_leaving_peer_has_the_content_but_is_not_a_holder() {
        let peer = |n| PeerId([n; 32]);
        let on = |n, leaving| Allocation { peer: peer(n), leaving, at_entry: 1 };
        let pin = Pin { allocations: vec![on(1, false), on(2, true)], ..pin([]) };
        assert!(pin.holders().eq([peer(1)]));
        assert_eq!([1, 2, 3].map(|n| pin.is_on(peer(n))), [true, true, false]);
    }
}
