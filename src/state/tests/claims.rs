//! Claims: accepted, refused, ended and retained.

use super::*;

#[test]
fn rest_gets_the_pin_after_a_claim_or_before_a_release() {
    let mut pins = PinSet::default();
    let claim_as = |name: &str| match claim(1, Owner::Rest, 1, 1, false, 0) {
        Op::Claim { cid, owner, options, candidates, at, .. } => {
            let options = ClaimOptions { name: ClaimName::Given(name.to_owned()), ..options };
            Op::Claim { cid, owner, options, candidates, at, fence: None }
        }
        other => other,
    };
    let release = release(1, Owner::Rest, 0);
    let mut shown = |op: &Op| {
        let Applied { outcome, pin } = pins.apply_shown(AT, op);
        let name = |pin: Pin| Some(pin.claims.get(&Owner::Rest)?.options.name.to_string());
        (outcome, pin.map(name))
    };
    let named = |name: &str| Some(Some(name.to_owned()));
    assert_eq!(shown(&release), (Outcome::Refused(Refused::NoSuchPin), None));
    assert_eq!(shown(&claim_as("one")), (Outcome::Changed, named("one")));
    assert_eq!(shown(&claim_as("two")), (Outcome::Changed, named("two")));
    assert_eq!(shown(&claim(1, object("a"), 1, 1, false, 1)), (Outcome::Changed, None));
    assert_eq!(shown(&release), (Outcome::Changed, named("two")));
    // The object still claims it.
    assert_eq!(shown(&release), (Outcome::Unchanged, Some(None)));
}

#[test]
fn a_claim_allocates_its_copies_and_a_repetition_changes_nothing() {
    let mut pins = PinSet::default();
    let op = claim(1, object("a"), 1, 2, false, 1);
    assert_eq!(pins.apply(AT, &op), Outcome::Changed);
    assert_eq!(holders(&pins, 1), [peer(1), peer(2)]);
    let before = pins.clone();
    assert_eq!(pins.apply(AT, &op), Outcome::Unchanged);
    assert_eq!(pins, before);
    assert_eq!(pins.cid_of(&Uid("a".to_owned())), Some(cid(1)));
}

#[test]
fn ops_of_another_term_generation_or_cid_are_refused() {
    let mut pins = PinSet::default();
    let refused = |refused| Outcome::Refused(refused);
    let op = claim(1, object("a"), 1, 1, false, 2);
    assert_eq!(pins.apply(LogPosition { term: TERM + 1, ..AT }, &op), refused(Refused::OtherTerm));
    assert!(pins.is_empty());
    pins.apply(AT, &op);
    let older = claim(1, object("a"), 1, 3, false, 1);
    assert_eq!(pins.apply(AT, &older), refused(Refused::OlderGeneration));
    assert_eq!(pins.apply(AT, &release(1, object("a"), 1)), refused(Refused::OlderGeneration));
    let other = claim(2, object("a"), 1, 1, false, 3);
    assert_eq!(pins.apply(AT, &other), refused(Refused::OtherCid));
}

#[test]
fn a_pin_has_the_largest_counts_of_its_claims_and_ends_with_the_last() {
    let mut pins = PinSet::default();
    pins.apply(AT, &claim(1, object("a"), 1, 1, false, 1));
    pins.apply(AT, &claim(1, object("b"), 2, 3, false, 1));
    assert_eq!(pins.get(&cid(1)).unwrap().replication().min, Factor::Count(2));
    assert_eq!(holders(&pins, 1).len(), 3);
    pins.apply(AT, &release(1, object("b"), 1));
    assert_eq!(pins.get(&cid(1)).unwrap().claims.len(), 1);
    pins.apply(AT, &release(1, object("a"), 1));
    assert!(pins.is_empty() && pins.allocations_by_peer().is_empty());
    assert_eq!(pins.cid_of(&Uid("a".to_owned())), None);
}

#[test]
fn a_retained_claim_stays_until_a_new_owner_claims_the_cid() {
    let mut pins = PinSet::default();
    pins.apply(AT, &claim(1, object("a"), 1, 1, true, 1));
    pins.apply(AT, &claim(1, object("b"), 1, 1, false, 1));
    pins.apply(AT, &release(1, object("a"), 1));
    pins.apply(AT, &release(1, object("b"), 1));
    let owners: Vec<&Owner> = pins.get(&cid(1)).unwrap().claims.owners().collect();
    assert_eq!(owners, [&Owner::Retained]);
    pins.apply(AT, &claim(1, object("c"), 1, 1, false, 1));
    pins.apply(AT, &release(1, object("c"), 1));
    assert!(pins.is_empty(), "the new owner decided");
}

#[test]
fn only_a_new_owner_replaces_a_retained_claim() {
    let owners_after = |again: Op, outcome| {
        let mut pins = PinSet::default();
        pins.apply(AT, &claim(1, object("a"), 1, 1, true, 1));
        pins.apply(AT, &claim(1, object("b"), 1, 1, false, 1));
        pins.apply(AT, &claim(1, Owner::Rest, 1, 1, false, 0));
        pins.apply(AT, &release(1, object("a"), 1));
        assert_eq!(pins.apply(AT, &again), outcome);
        pins.get(&cid(1)).unwrap().claims.owners().cloned().collect::<Vec<_>>()
    };
    let kept = [object("b"), Owner::Rest, Owner::Retained];
    let (changed, unchanged) = (Outcome::Changed, Outcome::Unchanged);
    // Owners that already had a claim change its options, or repeat it.
    assert_eq!(owners_after(claim(1, object("b"), 1, 2, false, 2), changed), kept);
    assert_eq!(owners_after(claim(1, object("b"), 1, 1, true, 2), changed), kept);
    assert_eq!(owners_after(claim(1, object("b"), 1, 1, false, 1), unchanged), kept);
    assert_eq!(owners_after(claim(1, Owner::Rest, 1, 3, false, 0), changed), kept);
    // The owner that left the retained claim comes back, and is new.
    let back = owners_after(claim(1, object("a"), 1, 1, false, 2), changed);
    assert_eq!(back, [object("a"), object("b"), Owner::Rest]);
}

#[test]
fn retain_of_one_owner_is_enough_in_either_order() {
    for (first, last) in [("a", "b"), ("b", "a")] {
        for retain in [[true, false], [true, true]] {
            let mut pins = PinSet::default();
            pins.apply(AT, &claim(1, object("a"), 1, 1, retain[0], 1));
            pins.apply(AT, &claim(1, object("b"), 1, 1, retain[1], 1));
            pins.apply(AT, &release(1, object(first), 1));
            pins.apply(AT, &gone(1, last, WAIT));
            let owners: Vec<&Owner> = pins.get(&cid(1)).unwrap().claims.owners().collect();
            assert_eq!(owners, [&Owner::Retained], "{first} goes first, {retain:?}");
        }
    }
}

#[test]
fn a_retained_claim_keeps_the_largest_counts() {
    for (first, last) in [("a", "b"), ("b", "a")] {
        let mut pins = PinSet::default();
        pins.apply(AT, &claim(1, object("a"), 1, 3, true, 1));
        pins.apply(AT, &claim(1, object("b"), 2, 2, true, 1));
        for name in [first, last] {
            pins.apply(AT, &release(1, object(name), 1));
        }
        let kept = pins.get(&cid(1)).unwrap();
        assert_eq!(kept.claims.owners().collect::<Vec<_>>(), [&Owner::Retained]);
        let counts = Replication { min: Factor::Count(2), max: Factor::Count(3) };
        assert_eq!(kept.replication(), counts, "{first} goes first");
    }
}

#[test]
fn a_claim_keeps_its_time_and_a_retained_one_begins_when_its_owner_goes() {
    let mut pins = PinSet::default();
    let claim_at = |at: u64, max| match claim(1, object("a"), 1, max, true, 1) {
        Op::Claim { cid, owner, options, candidates, fence, .. } => {
            Op::Claim { cid, owner, options, candidates, at: Timestamp(at), fence }
        }
        other => other,
    };
    let times = |pins: &PinSet, owner: &Owner| {
        let pin = pins.get(&cid(1)).unwrap();
        (pin.created, pin.claims.get(owner).unwrap().since)
    };
    pins.apply(AT, &claim_at(5, 1));
    assert_eq!(pins.apply(AT, &claim_at(9, 1)), Outcome::Unchanged);
    assert_eq!(pins.apply(AT, &claim_at(9, 2)), Outcome::Changed);
    assert_eq!(times(&pins, &object("a")), (Timestamp(5), Timestamp(5)));
    pins.apply(AT, &release(1, object("a"), 1));
    assert_eq!(times(&pins, &Owner::Retained), (Timestamp(5), Timestamp(2)));
    let retained = pins.get(&cid(1)).unwrap().claims.get(&Owner::Retained).unwrap().clone();
    assert_eq!((retained.generation, retained.options.retain), (0, true));
}

#[test]
fn a_pin_has_at_most_1024_claims() {
    let mut pins = PinSet::default();
    let claim_of = |n: usize, generation| claim(1, object(&n.to_string()), 1, 1, false, generation);
    for n in 0..1024 {
        assert_eq!(pins.apply(AT, &claim_of(n, 1)), Outcome::Changed);
    }
    let before = pins.clone();
    let too_many = Outcome::Refused(Refused::TooManyClaims);
    assert_eq!(pins.apply(AT, &claim_of(1024, 1)), too_many);
    assert_eq!(pins.apply(AT, &claim(1, Owner::Rest, 1, 1, false, 0)), too_many);
    assert!(pins == before, "a refused op changes nothing");
    assert_eq!(pins.apply(AT, &claim_of(7, 2)), Outcome::Changed, "this owner already has a claim");
    pins.apply(AT, &release(1, object("7"), 2));
    assert_eq!(pins.apply(AT, &claim_of(1024, 1)), Outcome::Changed);
}

#[test]
fn a_refused_op_changes_nothing() {
    let mut pins = PinSet::default();
    pins.apply(AT, &claim(1, object("a"), 1, 1, false, 2));
    let waits = waiting(&mut pins, 2, "w");
    pins.apply(AT, &claim(3, object("c"), 1, 1, false, 1));
    let older = |op: Op| match op {
        Op::Gone { cid, uid, ruling, at, fence } => {
            Op::Gone { cid, uid, ruling, at, fence: Fence { generation: 0, ..fence } }
        }
        other => other,
    };
    let take = Ruling::Take(Found::Watched);
    let allow = |term| Op::Allow { digest: waits.digest, term };
    let let_go = Op::LetGo { cid: cid(9), peer: peer(1), confirmed: vec![] };
    let table = [
        (TERM + 1, claim(1, object("a"), 1, 1, false, 3), Refused::OtherTerm),
        (TERM - 1, claim(9, object("b"), 1, 1, false, 1), Refused::OtherTerm),
        (TERM + 1, release(1, object("a"), 2), Refused::OtherTerm),
        (TERM + 1, gone(2, "w", take), Refused::OtherTerm),
        (TERM + 1, gone(3, "c", WAIT), Refused::OtherTerm),
        (TERM + 1, gone(3, "c", take), Refused::OtherTerm),
        (TERM + 1, allow(TERM), Refused::OtherTerm),
        (TERM, allow(TERM - 1), Refused::OtherTerm),
        (TERM, claim(1, object("a"), 1, 1, false, 1), Refused::OlderGeneration),
        (TERM, release(1, object("a"), 1), Refused::OlderGeneration),
        (TERM, gone(1, "a", take), Refused::OlderGeneration),
        (TERM, gone(1, "a", WAIT), Refused::OlderGeneration),
        (TERM, older(gone(3, "c", take)), Refused::OlderGeneration),
        (TERM, claim(9, object("a"), 1, 1, false, 3), Refused::OtherCid),
        (TERM, release(9, object("a"), 2), Refused::NoSuchPin),
        (TERM, gone(9, "a", take), Refused::NoSuchPin),
        (TERM, Op::Allocate { cid: cid(9), candidates: vec![peer(1)] }, Refused::NoSuchPin),
        (TERM, Op::Leave { cid: cid(9), peers: vec![peer(1)] }, Refused::NoSuchPin),
        (TERM, let_go, Refused::NoSuchPin),
    ];
    let before = pins.clone();
    for (term, op, refused) in table {
        let outcome = pins.apply(LogPosition { term, ..AT }, &op);
        assert_eq!(outcome, Outcome::Refused(refused), "{op:?} in term {term}");
        assert!(pins == before, "{op:?} in term {term}");
    }
}

#[test]
fn an_op_without_effect_leaves_the_pin_unchanged() {
    let mut pins = PinSet::default();
    pins.apply(AT, &claim(1, object("a"), 1, 2, false, 2));
    let let_go = |n| Op::LetGo {
        cid: cid(1),
        peer: peer(n),
        confirmed: vec![allocation(1, 1), allocation(2, 1)],
    };
    let before = pins.clone();
    let table = [
        release(1, object("b"), 1),
        release(1, Owner::Rest, 0),
        release(1, Owner::Retained, 0),
        gone(1, "b", Ruling::Take(Found::Watched)),
        gone(1, "b", WAIT),
        Op::Allocate { cid: cid(1), candidates: vec![peer(3)] },
        Op::Leave { cid: cid(1), peers: vec![peer(3)] },
        let_go(1), // not leaving
        let_go(3),
    ];
    for op in table {
        assert_eq!(pins.apply(AT, &op), Outcome::Unchanged, "{op:?}");
        assert!(pins == before, "{op:?}");
    }
}
