//! The claims of one pin.

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

use super::{Claim, Owner};

/// The claims of a pin, in order of their owners.
///
/// They are a sorted vector: nearly every pin has one claim, there may be a million pins, and the first
/// node of a tree alone would take a kilobyte.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims(Vec<(Owner, Claim)>);

impl Claims {
    /// The claim of an owner.
    #[must_use]
    pub fn get(&self, owner: &Owner) -> Option<&Claim> {
        let at = self.find(owner).ok()?;
        self.0.get(at).map(|(_, claim)| claim)
    }

    /// Whether an owner has a claim.
    #[must_use]
    pub fn contains(&self, owner: &Owner) -> bool {
        self.find(owner).is_ok()
    }

    /// Inserts a claim; it replaces the owner's earlier one.
    pub fn insert(&mut self, owner: Owner, claim: Claim) {
        match self.find(&owner) {
            Ok(at) => self.0[at].1 = claim,
            Err(at) => {
                if self.0.is_empty() {
                    self.0.reserve_exact(1);
                }
                self.0.insert(at, (owner, claim));
            }
        }
    }

    /// Removes an owner's claim, and returns it.
    pub fn remove(&mut self, owner: &Owner) -> Option<Claim> {
        let at = self.find(owner).ok()?;
        Some(self.0.remove(at).1)
    }

    /// Keeps only the claims of the owners that `stays` accepts.
    pub fn retain(&mut self, stays: impl Fn(&Owner) -> bool) {
        self.0.retain(|(owner, _)| stays(owner));
    }

    /// Number of claims.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no claims.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All owners and their claims.
    pub fn iter(&self) -> impl Iterator<Item = (&Owner, &Claim)> {
        self.0.iter().map(|(owner, claim)| (owner, claim))
    }

    /// All owners.
    pub fn owners(&self) -> impl Iterator<Item = &Owner> {
        self.0.iter().map(|(owner, _)| owner)
    }

    /// All claims.
    pub fn values(&self) -> impl Iterator<Item = &Claim> {
        self.0.iter().map(|(_, claim)| claim)
    }

    /// The last owner and its claim.
    #[must_use]
    pub fn last(&self) -> Option<(&Owner, &Claim)> {
        self.0.last().map(|(owner, claim)| (owner, claim))
    }

    fn find(&self, owner: &Owner) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.cmp(owner))
    }
}

impl FromIterator<(Owner, Claim)> for Claims {
    fn from_iter<I: IntoIterator<Item = (Owner, Claim)>>(claims: I) -> Self {
        let mut all = Self::default();
        claims.into_iter().for_each(|(owner, claim)| all.insert(owner, claim));
        all
    }
}

/// In the form of a map.
impl<C> Encode<C> for Claims {
    fn encode<W: encode::Write>(
        &self,
        encoder: &mut Encoder<W>,
        context: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        encoder.map(self.0.len() as u64)?;
        for (owner, claim) in &self.0 {
            owner.encode(encoder, context)?;
            claim.encode(encoder, context)?;
        }
        Ok(())
    }
}

/// Reserves no memory for the number of claims in the bytes, since that may be wrong.
impl<'b, C> Decode<'b, C> for Claims {
    fn decode(decoder: &mut Decoder<'b>, context: &mut C) -> Result<Self, decode::Error> {
        let claims = decoder.map_iter_with::<C, Owner, Claim>(context)?;
        claims.collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use super::*;
    use crate::types::{ClaimName, ClaimOptions, Factor, Replication, Timestamp, Uid, encoding};

    fn claim(generation: i64) -> Claim {
        let one = Factor::Count(1);
        let replication = Replication { min: one, max: one };
        let options = ClaimOptions { replication, retain: false, name: ClaimName::default() };
        Claim { options, generation, since: Timestamp(1) }
    }

    #[test]
    fn claims_behave_and_are_stored_like_a_map() {
        let owner = |name: &str| Owner::Object(Uid(name.to_owned()));
        let owners = [owner("b"), Owner::Rest, owner("a"), Owner::Retained, owner("a")];
        let numbered = owners.into_iter().zip(0..).map(|(owner, n)| (owner, claim(n)));
        let mut map: BTreeMap<Owner, Claim> = numbered.clone().collect();
        let mut claims: Claims = numbered.collect();
        assert!(claims.iter().eq(map.iter()));
        let bytes = encoding::to_vec(&map);
        assert_eq!(encoding::to_vec(&claims), bytes);
        assert_eq!(encoding::from_slice(&bytes), Ok(claims.clone()));
        assert_eq!(claims.remove(&owner("b")), map.remove(&owner("b")));
        assert_eq!((claims.remove(&owner("b")), claims.get(&owner("b"))), (None, None));
        claims.retain(|owner| *owner != Owner::Rest);
        map.remove(&Owner::Rest);
        assert!(claims.iter().eq(map.iter()) && claims.contains(&owner("a")));
        assert_eq!(claims.last().unwrap().0, &Owner::Retained);
    }
}
