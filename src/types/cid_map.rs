//! Large maps by CID.
//!
//! These maps keep their CIDs packed, in the same order. A [`Cid`] has room for the longest form, though
//! nearly all need less than half of it, and each node of a tree has room for eleven keys. With a million
//! CIDs in several maps, that would be most of a peer's memory.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, btree_map::Entry},
    ops::{Bound, Index},
};

use super::{Cid, cid::BYTES_LEN_MAX};

const HEAD_LEN: usize = 8;
/// Longest rest that needs no allocation. A CIDv1 with a hash of 32 bytes has a rest of 28 bytes if the
/// numbers of its codec and its hash are small.
const REST_LEN: usize = 30;

/// A CID for large maps: 40 bytes, and an allocation if it is unusually long. Ordered like [`Cid`].
#[derive(Clone)]
pub struct PackedCid {
    /// The first eight bytes, which decide nearly every comparison.
    head: u64,
    rest: Rest,
}

#[derive(Clone)]
enum Rest {
    /// The rest of a CID of `len` bytes in total; zero after its end.
    Short {
        len: u8,
        bytes: [u8; REST_LEN],
    },
    Long(Box<[u8]>),
}

impl PackedCid {
    /// The CID.
    #[must_use]
    pub fn cid(&self) -> Cid {
        let mut bytes = [0; BYTES_LEN_MAX];
        bytes[..HEAD_LEN].copy_from_slice(&self.head.to_be_bytes());
        let rest = self.rest();
        bytes[HEAD_LEN..HEAD_LEN + rest.len()].copy_from_slice(rest);
        Cid { bytes, len: self.len() }
    }

    /// The bytes after the head; of a short rest with the zeros after its end, which change neither order
    /// nor equality.
    fn rest(&self) -> &[u8] {
        match &self.rest {
            Rest::Short { bytes, .. } => bytes,
            Rest::Long(bytes) => bytes,
        }
    }

    fn len(&self) -> u8 {
        match &self.rest {
            Rest::Short { len, .. } => *len,
            Rest::Long(bytes) => u8::try_from(HEAD_LEN + bytes.len()).unwrap_or(u8::MAX),
        }
    }
}

impl From<&Cid> for PackedCid {
    fn from(cid: &Cid) -> Self {
        let len = usize::from(cid.len);
        let rest = if len <= HEAD_LEN + REST_LEN {
            let mut bytes = [0; REST_LEN];
            bytes.copy_from_slice(&cid.bytes[HEAD_LEN..HEAD_LEN + REST_LEN]);
            Rest::Short { len: cid.len, bytes }
        } else {
            Rest::Long(cid.bytes[HEAD_LEN..len].into())
        };
        Self { head: cid.head(), rest }
    }
}

impl Ord for PackedCid {
    fn cmp(&self, other: &Self) -> Ordering {
        let order = self.head.cmp(&other.head);
        order.then_with(|| self.rest().cmp(other.rest())).then_with(|| self.len().cmp(&other.len()))
    }
}

impl PartialOrd for PackedCid {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for PackedCid {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for PackedCid {}

impl std::fmt::Debug for PackedCid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.cid().fmt(f)
    }
}

/// A map by CID, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CidMap<V>(BTreeMap<PackedCid, V>);

impl<V> Default for CidMap<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<V> CidMap<V> {
    /// Number of CIDs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no CIDs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a CID.
    #[must_use]
    pub fn get(&self, cid: &Cid) -> Option<&V> {
        self.0.get(&cid.into())
    }

    /// The value of a CID, to change it.
    pub fn get_mut(&mut self, cid: &Cid) -> Option<&mut V> {
        self.0.get_mut(&cid.into())
    }

    /// The map's entry of a CID.
    pub fn entry(&mut self, cid: &Cid) -> Entry<'_, PackedCid, V> {
        self.0.entry(cid.into())
    }

    /// Inserts a value, and returns the earlier one.
    pub fn insert(&mut self, cid: &Cid, value: V) -> Option<V> {
        self.0.insert(cid.into(), value)
    }

    /// Removes a CID, and returns its value.
    pub fn remove(&mut self, cid: &Cid) -> Option<V> {
        self.0.remove(&cid.into())
    }

    /// All CIDs with their values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Cid, &V)> {
        self.0.iter().map(|(cid, value)| (cid.cid(), value))
    }

    /// All values, in the order of their CIDs.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.values()
    }

    /// CIDs after `after` and up to `until`, with their values, in order; `None` is no bound.
    pub fn range(
        &self,
        after: Option<&Cid>,
        until: Option<&Cid>,
    ) -> impl Iterator<Item = (Cid, &V)> {
        let lower = after.map_or(Bound::Unbounded, |cid| Bound::Excluded(cid.into()));
        let upper = until.map_or(Bound::Unbounded, |cid| Bound::Included(cid.into()));
        let range: (Bound<PackedCid>, Bound<PackedCid>) = (lower, upper);
        self.0.range(range).map(|(cid, value)| (cid.cid(), value))
    }
}

/// Panics if the CID is not in the map, like other maps.
impl<V> Index<&Cid> for CidMap<V> {
    type Output = V;

    fn index(&self, cid: &Cid) -> &V {
        &self.0[&cid.into()]
    }
}

impl<V> FromIterator<(Cid, V)> for CidMap<V> {
    fn from_iter<I: IntoIterator<Item = (Cid, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(cid, value)| ((&cid).into(), value)).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn cid(codec: u64, hash: u64, digest: &[u8]) -> Cid {
        cid::Cid::new_v1(codec, cid::multihash::Multihash::wrap(hash, digest).unwrap()).into()
    }

    /// CIDs of all lengths, many with the same beginning.
    fn any_cid() -> impl Strategy<Value = Cid> {
        let number = || prop_oneof![Just(0_u64), 0_u64..3, any::<u64>()];
        let digest = proptest::collection::vec(0_u8..2, 0..=64);
        (number(), number(), digest).prop_map(|(codec, hash, digest)| cid(codec, hash, &digest))
    }

    #[test]
    fn a_usual_cid_needs_no_allocation() {
        assert_eq!(size_of::<PackedCid>(), 40);
        let usual = cid(0x70, 0x12, &[7; 32]);
        assert!(matches!(PackedCid::from(&usual).rest, Rest::Short { .. }));
    }

    proptest! {
        #[test]
        fn packing_keeps_a_cid_and_its_order(a in any_cid(), b in any_cid()) {
            let (packed_a, packed_b) = (PackedCid::from(&a), PackedCid::from(&b));
            prop_assert_eq!(packed_a.cid(), a);
            prop_assert_eq!(packed_a.cmp(&packed_b), a.cmp(&b));
            prop_assert_eq!(packed_a == packed_b, a == b);
        }

        #[test]
        fn a_cid_map_behaves_like_a_map(cids in proptest::collection::vec(any_cid(), 0..40)) {
            let mut map: CidMap<usize> = cids.iter().copied().zip(0..).collect();
            let mut model: BTreeMap<Cid, usize> = cids.iter().copied().zip(0..).collect();
            for cid in cids.iter().step_by(3) {
                prop_assert_eq!(map.remove(cid), model.remove(cid));
                prop_assert_eq!(map.get(cid), None);
            }
            prop_assert!(map.iter().eq(model.iter().map(|(cid, n)| (*cid, n))));
            prop_assert_eq!(map.len(), model.len());
            for cid in &cids {
                prop_assert_eq!(map.get(cid), model.get(cid));
                let from = map.range(Some(cid), None).map(|(cid, _)| cid);
                let lower = (Bound::Excluded(*cid), Bound::Unbounded);
                prop_assert!(from.eq(model.range(lower).map(|(cid, _)| *cid)));
                let until = map.range(None, Some(cid)).map(|(cid, _)| cid);
                prop_assert!(until.eq(model.range(..=*cid).map(|(cid, _)| *cid)));
            }
        }
    }
}
