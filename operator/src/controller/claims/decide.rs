//! Decides the op for a Pin object. Pure.
//!
//! Invariant: nothing is proposed if the state already matches the object and no further peer could
//! be allocated. So a restarted controller writes nothing.

use pinkeeper::{
    allocate::{self, Fleet, Need, Plan, Sight},
    state::{Fence, Op, PinSet},
    types::{Cid, ClaimName, ClaimOptions, Factor, Owner, Pin, Replication, Timestamp, Uid},
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
    /// Propose this claim. Its copies are those of the plan.
    Claim(Box<Op>, Plan),
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

/// Decides about one object, given the pin of its CID.
pub fn decide(object: &PinObject, pin: Option<&Pin>, basis: Basis, fleet: &Fleet) -> Decision {
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
    let need = Need::with_claim(cid, pin, replication);
    let plan = allocate::plan(&need, fleet, &Sight::default());
    if same && plan.add.is_empty() {
        return Decision::Same;
    }
    let fence = Some(Fence { term: basis.term, generation: object.generation });
    let claim =
        Op::Claim { cid: *cid, owner, options, candidates: plan.add.clone(), at: basis.now, fence };
    Decision::Claim(Box::new(claim), plan)
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

    use pinkeeper::{
        state::Outcome,
        types::{LogPosition, PeerId},
    };
    use proptest::prelude::*;

    use super::*;
    use crate::controller::objects::tests::{DOCS, pin, roomy};

    const BASIS: Basis = Basis { term: 3, default_replicas: 2, now: Timestamp(1000) };
    const PEERS: [PeerId; 3] = [PeerId([1; 32]), PeerId([2; 32]), PeerId([3; 32])];

    /// The first `count` peers.
    fn fleet(count: usize) -> Fleet {
        roomy(&PEERS[..count])
    }

    fn docs(pins: &PinSet) -> Option<&Pin> {
        pins.get(&DOCS.parse().unwrap())
    }

    fn apply(pins: &mut PinSet, decision: &Decision) -> Outcome {
        let Decision::Claim(op, _) = decision else { panic!("{decision:?}") };
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
        let decision = decide(&object, docs(&pins), BASIS, &fleet(3));
        assert_eq!(apply(&mut pins, &decision), Outcome::Changed);
        let again = decide(&object, docs(&pins), BASIS, &fleet(3));
        assert_eq!(again, Decision::Same);
    }

    #[test]
    fn a_pin_with_too_few_holders_is_topped_up_when_there_are_peers() {
        let mut pins = PinSet::default();
        let object = pin("docs", "a", 1, DOCS);
        let decision = decide(&object, docs(&pins), BASIS, &fleet(1));
        apply(&mut pins, &decision);
        assert_eq!(decide(&object, docs(&pins), BASIS, &fleet(1)), Decision::Same);
        let decision = decide(&object, docs(&pins), BASIS, &fleet(2));
        assert_eq!(apply(&mut pins, &decision), Outcome::Changed);
        assert_eq!(pins.get(&DOCS.parse().unwrap()).unwrap().holders().count(), 2);
    }

    #[test]
    fn two_objects_of_one_cid_have_a_claim_each() {
        let mut pins = PinSet::default();
        let (a, b) = (pin("a", "1", 1, DOCS), pin("b", "2", 2, DOCS));
        for object in [&a, &b] {
            let decision = decide(object, docs(&pins), BASIS, &fleet(3));
            apply(&mut pins, &decision);
        }
        assert_eq!(pins.objects().count(), 2);
    }

    #[test]
    fn what_is_no_cid_claims_nothing() {
        let object = pin("x", "1", 1, "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbz");
        assert!(object.cid.is_err());
        let decision = decide(&object, None, BASIS, &fleet(3));
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
            let Decision::Claim(op, plan) = decide(&object, None, BASIS, &fleet(3)) else {
                panic!()
            };
            assert_eq!(BTreeSet::from_iter(plan.add.clone()), PEERS.into());
            assert_eq!(plan.missing, 3);
            let (min, max) = (Factor::Count(2), Factor::Count(3));
            let expected = Op::Claim {
                cid: DOCS.parse().unwrap(),
                owner: Owner::Object(Uid("a".into())),
                options: ClaimOptions {
                    replication: Replication { min, max },
                    retain,
                    name: ClaimName::Object(Box::new(object.key.clone())),
                },
                candidates: plan.add,
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
            let decision = decide(&object, None, BASIS, &fleet(3));
            assert_eq!(apply(&mut pins, &decision), Outcome::Changed);
            object.generation = generation;
            if !same {
                object = with(object, Some(1), None);
            }
            let decision = decide(&object, docs(&pins), BASIS, &fleet(3));
            let case = format!("{generation} {same}");
            assert_eq!(matches!(decision, Decision::Claim(..)), proposed, "{case}: {decision:?}");
            if proposed {
                assert_eq!(apply(&mut pins, &decision), Outcome::Changed, "{case}");
            }
        }
    }

    #[test]
    fn a_claim_that_asks_for_less_than_another_does_not_take_copies() {
        let mut pins = PinSet::default();
        let three = with(pin("a", "1", 1, DOCS), Some(3), None);
        let decision = decide(&three, None, BASIS, &fleet(1));
        apply(&mut pins, &decision);
        let one = with(pin("b", "2", 2, DOCS), Some(1), None);
        let decision = decide(&one, docs(&pins), BASIS, &fleet(3));
        let Decision::Claim(_, plan) = &decision else { panic!("{decision:?}") };
        assert_eq!(plan.missing, 2, "the other one wants three");
        apply(&mut pins, &decision);
        assert_eq!(docs(&pins).unwrap().holders().count(), 3);
    }

    #[test]
    fn nothing_is_missing_before_a_list_is_whole() {
        let mut pins = PinSet::default();
        let object = pin("docs", "a", 1, DOCS);
        let decision = decide(&object, docs(&pins), BASIS, &fleet(3));
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
                let decision = decide(&object, docs(&pins), BASIS, &fleet(3));
                prop_assert_eq!(apply(&mut pins, &decision), Outcome::Changed);
                let again = decide(&object, docs(&pins), BASIS, &fleet(3));
                prop_assert_eq!(again, Decision::Same);
            }
        }
    }
}
