//! Random ops against the invariants of the state; replicas stay equal.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn any_op() -> impl Strategy<Value = Op> {
    let owner = prop_oneof![Just(Owner::Rest), (0..4_u8).prop_map(|n| object(&n.to_string())),];
    let found = || prop_oneof![Just(Found::Watched), Just(Found::Compared)];
    let ruling = prop_oneof![found().prop_map(Ruling::Take), found().prop_map(Ruling::Wait),];
    let peers = || proptest::collection::vec((1..5_u8).prop_map(peer), 0..4);
    let copy = (1..5_u8, 1..3_u64).prop_map(|(n, since)| allocation(n, since));
    let copies = proptest::collection::vec(copy, 0..4);
    let page = (proptest::option::of(0..4_u8), 0..4_u8);
    prop_oneof![
        (0..4_u8, owner.clone(), 1..4_u16, any::<bool>(), 0..3_i64).prop_map(
            |(n, owner, max, retain, generation)| claim(n, owner, 1, max, retain, generation)
        ),
        (0..4_u8, owner, 0..3_i64).prop_map(|(n, owner, generation)| release(n, owner, generation)),
        (0..4_u8, 0..4_u8, ruling).prop_map(|(n, uid, ruling)| gone(n, &uid.to_string(), ruling)),
        (0..4_u8, peers()).prop_map(|(n, candidates)| Op::Allocate { cid: cid(n), candidates }),
        (page, 1..5_u8, 1..5_u8).prop_map(|(page, from, to)| transfer(page, from, to)),
        (1..5_u8).prop_map(remove),
        (1..5_u8, any::<bool>(), any::<bool>()).prop_map(|(n, departs, scaled_in)| Op::Depart {
            peer: peer(n),
            departs,
            term: TERM,
            scaled_in,
        }),
        (0..4_u8, peers()).prop_map(|(n, peers)| Op::Leave { cid: cid(n), peers }),
        (0..4_u8, 1..5_u8, peers()).prop_map(|(n, from, candidates)| Op::Move {
            cid: cid(n),
            from: peer(from),
            candidates,
        }),
        (0..4_u8, 1..5_u8).prop_map(|(n, of)| Op::Stay { cid: cid(n), peer: peer(of) }),
        (1..5_u8, proptest::option::of(0..3_u32)).prop_map(|(n, seconds)| Op::Away {
            peer: peer(n),
            away: seconds.map(|seconds| Away { seconds, ..Away::default() }),
            term: TERM,
        }),
        (0..4_u8, 1..5_u8, copies).prop_map(|(n, leaving, confirmed)| Op::LetGo {
            cid: cid(n),
            peer: peer(leaving),
            confirmed,
        }),
    ]
}

fn transfer((after, last): (Option<u8>, u8), from: u8, to: u8) -> Op {
    let page = Page { after: after.map(cid), last: cid(last) };
    Op::Transfer { from: peer(from), to: peer(to), page, term: TERM }
}

fn remove(n: u8) -> Op {
    Op::Remove { peer: peer(n), term: TERM }
}

fn check(pins: &PinSet) -> Result<(), TestCaseError> {
    let mut counts: BTreeMap<PeerId, u64> = BTreeMap::new();
    let mut claimed = BTreeMap::new();
    let mut waits = BTreeMap::new();
    let mut moving = Vec::new();
    for (cid, pin) in pins.iter() {
        prop_assert!(!pin.claims.is_empty(), "a pin without a claim");
        for (n, allocation) in pin.allocations.iter().enumerate() {
            let again = pin.allocations[..n].iter().any(|other| other.peer == allocation.peer);
            prop_assert!(!again, "two allocations of one peer");
            prop_assert!(!pins.is_removed(allocation.peer), "a removed peer has a copy");
            *counts.entry(allocation.peer).or_default() += 1;
        }
        moving.extend(pin.allocations.iter().any(|copy| copy.leaving).then_some(cid));
        for owner in pin.claims.owners() {
            if let Owner::Object(uid) = owner {
                prop_assert!(claimed.insert(uid.clone(), cid).is_none(), "two CIDs of one object");
            }
            if let Owner::Waiting(uid) = owner {
                prop_assert_eq!(pin.claims.len(), 1, "a waiting claim beside others");
                waits.insert(uid.clone(), cid);
            }
        }
    }
    prop_assert_eq!(&counts, pins.allocations_by_peer());
    prop_assert_eq!(moving, pins.moving().collect::<Vec<_>>());
    let known: BTreeMap<Uid, Cid> = pins.objects().map(|(uid, cid)| (uid.clone(), cid)).collect();
    prop_assert_eq!(claimed, known);
    let known: BTreeMap<Uid, Cid> =
        pins.waiting_objects().map(|(uid, cid)| (uid.clone(), *cid)).collect();
    prop_assert_eq!(waits, known);
    let mut restored = PinSet::default();
    restored.restore_beside(pins.beside().clone());
    pins.iter().for_each(|(cid, pin)| restored.restore(cid, pin.clone()));
    prop_assert_eq!(&restored, pins, "the restored state differs");
    Ok(())
}

proptest! {
    #[test]
    fn any_ops_keep_the_invariants_and_replicas_equal(
        ops in proptest::collection::vec((any_op(), any::<bool>()), 0..60),
    ) {
        let (mut one, mut other) = (PinSet::default(), PinSet::default());
        for (op, allow) in ops {
            // The digest is known only now.
            let op = match one.waiting().filter(|_| allow) {
                Some(Waiting { digest, .. }) => Op::Allow { digest, term: TERM },
                None => op,
            };
            let op = &op;
            let before = one.clone();
            let outcome = one.apply(AT, op);
            let mut touched = Vec::new();
            before.touched(op, &mut touched);
            let changed = |cid: &Cid| before.get(cid) != one.get(cid);
            let cids = before.iter().chain(one.iter()).map(|(cid, _)| cid);
            prop_assert!(cids.filter(changed).all(|cid| touched.contains(&cid)), "a CID is missing");
            prop_assert_eq!(outcome == Outcome::Changed, one != before, "{:?}: {:?}", op, outcome);
            prop_assert_eq!(outcome, other.apply(AT, op));
            check(&one)?;
        }
        prop_assert_eq!(one, other);
    }
}
