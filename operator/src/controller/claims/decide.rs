//! Decides the op for a Pin object. Pure.
//!
//! Invariant: nothing is proposed if the state already matches the object and no further peer could
//! be allocated. So a restarted controller writes nothing.

use pinkeeper::{
    state::{Fence, Op, PinSet},
    types::{
        Cid, ClaimName, ClaimOptions, Factor, Owner, PeerId, Pin, Replication, Timestamp, Uid,
    },
};

use crate::{
    controller::objects::{ObjectKey, Objects, PinObject},
    crd,
};

/// Inputs common to all decisions.
#[derive(Clone, Copy, Debug)]
pub struct Basis {
    /// The term this peer leads in.
    pub term: u64,
    /// Copies of a Pin without `replicas`.
    pub default_replicas: u16,
    /// Now.
    pub now: Timestamp,
}

/// What to do about an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Propose this claim.
    Claim(Box<Op>),
    /// The state already matches.
    Same,
    /// The object has no valid content to claim.
    Unusable,
}

/// Copies needed and wanted by a spec. A `minReplicas` above the default raises the default.
#[must_use]
pub fn replication(spec: &crd::PinSpec, default_replicas: u16) -> (u16, u16) {
    let count = |number: i32| u16::try_from(number.max(1)).unwrap_or(u16::MAX);
    let least = spec.min_replicas.map(count);
    let default = default_replicas.max(1).max(least.unwrap_or(1));
    let wanted = spec.replicas.map_or(default, count);
    (least.unwrap_or(wanted).min(wanted), wanted)
}

/// Decides about one object, given the pin of its CID. Calls `candidates` only if a peer may be
/// added.
pub fn decide(
    object: &PinObject,
    pin: Option<&Pin>,
    basis: Basis,
    candidates: impl FnOnce(&Cid, Replication) -> Vec<PeerId>,
) -> Decision {
    let (Some(spec), Ok(cid)) = (&object.spec, &object.cid) else { return Decision::Unusable };
    let (min, max) = replication(spec, basis.default_replicas);
    let replication = Replication { min: Factor::Count(min), max: Factor::Count(max) };
    let options = ClaimOptions {
        replication,
        retain: spec.deletion_policy == crd::DeletionPolicy::Retain,
        name: ClaimName::Object(Box::new(object.key.clone())),
    };
    let owner = Owner::Object(object.uid.clone());
    let claim = pin.and_then(|pin| pin.claims.get(&owner));
    if claim.is_some_and(|claim| claim.generation > object.generation) {
        return Decision::Same; // the watch will deliver a newer version of the object
    }
    let same = claim
        .is_some_and(|claim| claim.options == options && claim.generation == object.generation);
    // The pin with this claim added: another claim may ask for more.
    let wanted = pin.map_or(replication, |pin| replication.larger(pin.replication()));
    let holders = pin.map_or(0, |pin| pin.holders().count());
    let short = holders < wanted.max.of(usize::MAX);
    if same && !short {
        return Decision::Same;
    }
    let candidates = if short { candidates(cid, wanted) } else { Vec::new() };
    let useful = candidates
        .iter()
        .any(|peer| !pin.is_some_and(|pin| pin.holders().any(|holder| holder == *peer)));
    if same && !useful {
        return Decision::Same;
    }
    let fence = Some(Fence { term: basis.term, generation: object.generation });
    Decision::Claim(Box::new(Op::Claim {
        cid: *cid,
        owner,
        options,
        candidates,
        at: basis.now,
        fence,
    }))
}

/// A claim whose object is not in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The object's UID.
    pub uid: Uid,
    /// The object's name when it was claimed.
    pub key: ObjectKey,
}

/// Claims without a known object. None are missing until a list is complete.
#[must_use]
pub fn missing(pins: &PinSet, objects: &Objects) -> Vec<Missing> {
    if !objects.is_complete() {
        return Vec::new();
    }
    let key = |uid: &Uid, cid: &Cid| {
        let claim = pins.get(cid)?.claims.get(&Owner::Object(uid.clone()))?;
        claim.options.name.object().cloned()
    };
    pins.objects()
        .filter(|(uid, _)| !objects.contains(uid))
        .filter_map(|(uid, cid)| Some(Missing { uid: uid.clone(), key: key(uid, &cid)? }))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use pinkeeper::{state::Outcome, types::LogPosition};
    use proptest::prelude::*;

    use super::*;
    use crate::controller::objects::tests::{DOCS, pin};

    const BASIS: Basis = Basis { term: 3, default_replicas: 2, now: Timestamp(1000) };
    const PEERS: [PeerId; 3] = [PeerId([1; 32]), PeerId([2; 32]), PeerId([3; 32])];

    fn docs(pins: &PinSet) -> Option<&Pin> {
        pins.get(&DOCS.parse().unwrap())
    }

    fn apply(pins: &mut PinSet, decision: &Decision) -> Outcome {
        let Decision::Claim(op) = decision else { panic!("{decision:?}") };
        pins.apply(LogPosition { term: BASIS.term, index: 0 }, op)
    }

    fn with(mut object: PinObject, replicas: Option<i32>, min: Option<i32>) -> PinObject {
        let spec = object.spec.as_mut().unwrap();
        (spec.replicas, spec.min_replicas) = (replicas, min);
        object
    }

    #[test]
    fn counts_come_from_the_spec_and_the_default() {
        let cases = [
            (None, None, (2, 2)),
            (Some(3), None, (3, 3)),
            (Some(3), Some(1), (1, 3)),
            (None, Some(1), (1, 2)),
            (None, Some(5), (5, 5)),
        ];
        for (replicas, min, expected) in cases {
            let object = with(pin("a", "1", 1, DOCS), replicas, min);
            assert_eq!(replication(&object.spec.unwrap(), 2), expected);
        }
    }

    #[test]
    fn a_claim_is_proposed_once() {
        let mut pins = PinSet::default();
        let object = pin("docs", "a", 1, DOCS);
        let decision = decide(&object, docs(&pins), BASIS, |_, _| PEERS.to_vec());
        assert_eq!(apply(&mut pins, &decision), Outcome::Changed);
        let again = decide(&object, docs(&pins), BASIS, |_, _| panic!("nothing to allocate"));
        assert_eq!(again, Decision::Same);
    }

    #[test]
    fn a_pin_with_too_few_holders_is_topped_up_when_there_are_peers() {
        let mut pins = PinSet::default();
        let object = pin("docs", "a", 1, DOCS);
        let decision = decide(&object, docs(&pins), BASIS, |_, _| PEERS[..1].to_vec());
        apply(&mut pins, &decision);
        assert_eq!(decide(&object, docs(&pins), BASIS, |_, _| PEERS[..1].to_vec()), Decision::Same);
        let decision = decide(&object, docs(&pins), BASIS, |_, _| PEERS[..2].to_vec());
        assert_eq!(apply(&mut pins, &decision), Outcome::Changed);
        assert_eq!(pins.get(&DOCS.parse().unwrap()).unwrap().holders().count(), 2);
    }

    #[test]
    fn two_objects_of_one_cid_have_a_claim_each() {
        let mut pins = PinSet::default();
        let (a, b) = (pin("a", "1", 1, DOCS), pin("b", "2", 2, DOCS));
        for object in [&a, &b] {
            let decision = decide(object, docs(&pins), BASIS, |_, _| PEERS.to_vec());
            apply(&mut pins, &decision);
        }
        assert_eq!(pins.objects().count(), 2);
    }

    #[test]
    fn what_is_no_cid_claims_nothing() {
        let object = pin("x", "1", 1, "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbz");
        assert!(object.cid.is_err());
        let decision = decide(&object, None, BASIS, |_, _| PEERS.to_vec());
        assert_eq!(decision, Decision::Unusable);
    }

    #[test]
    fn a_claim_says_what_the_object_says_in_the_term_of_its_leader() {
        let mut object = with(pin("docs", "a", 1, DOCS), Some(3), Some(2));
        object.generation = 7;
        for (policy, retain) in
            [(crd::DeletionPolicy::Unpin, false), (crd::DeletionPolicy::Retain, true)]
        {
            object.spec.as_mut().unwrap().deletion_policy = policy;
            let Decision::Claim(op) = decide(&object, None, BASIS, |_, _| PEERS.to_vec()) else {
                panic!()
            };
            let (min, max) = (Factor::Count(2), Factor::Count(3));
            let expected = Op::Claim {
                cid: DOCS.parse().unwrap(),
                owner: Owner::Object(Uid("a".into())),
                options: ClaimOptions {
                    replication: Replication { min, max },
                    retain,
                    name: ClaimName::Object(Box::new(object.key.clone())),
                },
                candidates: PEERS.to_vec(),
                at: BASIS.now,
                fence: Some(Fence { term: BASIS.term, generation: 7 }),
            };
            assert_eq!(*op, expected);
        }
    }

    #[test]
    fn only_what_is_as_new_as_the_claim_is_proposed() {
        // The object's generation, and whether it equals the claim of generation 5.
        let cases = [
            (4, false, false),
            (4, true, false),
            (5, true, false),
            (5, false, true), // the default has changed
            (6, false, true),
            (6, true, true), // changed and taken back: what was decided in between is older now
        ];
        for (generation, same, proposed) in cases {
            let mut pins = PinSet::default();
            let mut object = with(pin("docs", "a", 1, DOCS), Some(2), None);
            object.generation = 5;
            let decision = decide(&object, None, BASIS, |_, _| PEERS.to_vec());
            assert_eq!(apply(&mut pins, &decision), Outcome::Changed);
            object.generation = generation;
            if !same {
                object = with(object, Some(1), None);
            }
            let decision = decide(&object, docs(&pins), BASIS, |_, _| PEERS.to_vec());
            let case = format!("{generation} {same}");
            assert_eq!(matches!(decision, Decision::Claim(_)), proposed, "{case}: {decision:?}");
            if proposed {
                assert_eq!(apply(&mut pins, &decision), Outcome::Changed, "{case}");
            }
        }
    }

    #[test]
    fn a_claim_that_asks_for_less_than_another_does_not_take_copies() {
        let mut pins = PinSet::default();
        let three = with(pin("a", "1", 1, DOCS), Some(3), None);
        let decision = decide(&three, None, BASIS, |_, _| PEERS[..1].to_vec());
        apply(&mut pins, &decision);
        let one = with(pin("b", "2", 2, DOCS), Some(1), None);
        let wanted = std::cell::Cell::new(None);
        decide(&one, docs(&pins), BASIS, |_, of| {
            wanted.set(Some(of));
            PEERS.to_vec()
        });
        let three = Factor::Count(3);
        assert_eq!(wanted.get(), Some(Replication { min: three, max: three }));
    }

    #[test]
    fn nothing_is_missing_before_a_list_is_whole() {
        let mut pins = PinSet::default();
        let object = pin("docs", "a", 1, DOCS);
        let decision = decide(&object, docs(&pins), BASIS, |_, _| PEERS.to_vec());
        apply(&mut pins, &decision);
        let mut objects = Objects::default();
        assert!(missing(&pins, &objects).is_empty());
        objects.list_done(&BTreeSet::new());
        let expected = Missing { uid: object.uid.clone(), key: object.key.clone() };
        assert_eq!(missing(&pins, &objects), [expected]);
        objects.upsert(object);
        assert!(missing(&pins, &objects).is_empty());
    }

    proptest! {
        /// After the decided op is applied, nothing more is decided, whatever was claimed before.
        #[test]
        fn decisions_settle(
            specs in prop::collection::vec((0u8..4, 1i32..5, 1i32..5, any::<bool>()), 1..12),
        ) {
            let mut pins = PinSet::default();
            for (version, (uid, replicas, min, retain)) in (1u64..).zip(specs) {
                let mut object = pin("x", &uid.to_string(), version, DOCS);
                object.generation = i64::try_from(version).unwrap();
                let spec = object.spec.as_mut().unwrap();
                (spec.replicas, spec.min_replicas) = (Some(replicas), Some(min.min(replicas)));
                if retain {
                    spec.deletion_policy = crd::DeletionPolicy::Retain;
                }
                let decision = decide(&object, docs(&pins), BASIS, |_, _| PEERS.to_vec());
                prop_assert_eq!(apply(&mut pins, &decision), Outcome::Changed);
                let again = decide(&object, docs(&pins), BASIS, |_, _| PEERS.to_vec());
                prop_assert_eq!(again, Decision::Same);
            }
        }
    }
}
