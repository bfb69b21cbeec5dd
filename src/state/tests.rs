//! The state by tables, and by random ops against its invariants.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    Applied, Fence, Found, Holds, Lost, Op, Outcome, PinSet, Refused, Ruling, Waiting, Window,
};
use crate::types::{
    Allocation, Cid, Claim, ClaimOptions, Factor, LogPosition, Owner, PeerId, Pin, Replication,
    Timestamp, Uid,
};

const TERM: u64 = 7;
const AT: LogPosition = LogPosition { term: TERM, index: 0 };

fn cid(n: u8) -> Cid {
    let hash = cid::multihash::Multihash::wrap(0, &[n]).unwrap();
    Cid::from(cid::Cid::new_v1(0x55, hash))
}

fn peer(n: u8) -> PeerId {
    PeerId([n; 32])
}

fn allocation(n: u8, since: u64) -> Allocation {
    Allocation { peer: peer(n), leaving: false, since }
}

fn object(name: &str) -> Owner {
    Owner::Object(Uid(name.to_owned()))
}

fn claim(n: u8, owner: Owner, min: u16, max: u16, retain: bool, generation: i64) -> Op {
    let replication = Replication { min: Factor::Count(min), max: Factor::Count(max) };
    Op::Claim {
        cid: cid(n),
        owner,
        options: ClaimOptions { replication, retain, name: String::new() },
        candidates: vec![peer(1), peer(2), peer(3)],
        at: Timestamp(1),
        fence: Some(Fence { term: TERM, generation }),
    }
}

fn release(n: u8, owner: Owner, generation: i64) -> Op {
    let fence = Some(Fence { term: TERM, generation });
    Op::Release { cid: cid(n), owner, at: Timestamp(2), fence }
}

fn holders(pins: &PinSet, n: u8) -> Vec<PeerId> {
    pins.get(&cid(n)).unwrap().holders().collect()
}

#[test]
fn a_rest_write_is_shown_what_it_left_or_found() {
    let mut pins = PinSet::default();
    let claim_as = |name: &str| match claim(1, Owner::Rest, 1, 1, false, 0) {
        Op::Claim { cid, owner, options, candidates, at, .. } => {
            let options = ClaimOptions { name: name.to_owned(), ..options };
            Op::Claim { cid, owner, options, candidates, at, fence: None }
        }
        other => other,
    };
    let release = release(1, Owner::Rest, 0);
    let mut shown = |op: &Op| {
        let Applied { outcome, pin } = pins.apply_shown(AT, op);
        let name = |pin: Pin| Some(pin.claims.get(&Owner::Rest)?.options.name.clone());
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
fn a_claim_allocates_what_it_wants_and_is_the_same_the_second_time() {
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
fn what_another_term_or_an_older_generation_decided_is_refused() {
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
fn the_last_claim_takes_the_pin_with_it_and_several_claims_get_the_most() {
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
fn retain_leaves_an_ownerless_claim_also_beside_others_until_somebody_takes_it_up() {
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
fn only_an_owner_that_is_new_takes_retained_content_up() {
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
    // Those that were there beside it say no more than they did: with other counts, or again.
    assert_eq!(owners_after(claim(1, object("b"), 1, 2, false, 2), changed), kept);
    assert_eq!(owners_after(claim(1, object("b"), 1, 1, true, 2), changed), kept);
    assert_eq!(owners_after(claim(1, object("b"), 1, 1, false, 1), unchanged), kept);
    assert_eq!(owners_after(claim(1, Owner::Rest, 1, 3, false, 0), changed), kept);
    // The one that left it comes back and decides anew.
    let back = owners_after(claim(1, object("a"), 1, 1, false, 2), changed);
    assert_eq!(back, [object("a"), object("b"), Owner::Rest]);
}

#[test]
fn what_one_of_two_owners_wants_retained_is_retained_whichever_goes_first() {
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
fn content_has_a_thousand_claims_and_a_few_at_most() {
    let mut pins = PinSet::default();
    let claim_of = |n: usize, generation| claim(1, object(&n.to_string()), 1, 1, false, generation);
    for n in 0..1024 {
        assert_eq!(pins.apply(AT, &claim_of(n, 1)), Outcome::Changed);
    }
    let before = pins.clone();
    let too_many = Outcome::Refused(Refused::TooManyClaims);
    assert_eq!(pins.apply(AT, &claim_of(1024, 1)), too_many);
    assert_eq!(pins.apply(AT, &claim(1, Owner::Rest, 1, 1, false, 0)), too_many);
    assert!(pins == before, "what is refused leaves nothing");
    assert_eq!(pins.apply(AT, &claim_of(7, 2)), Outcome::Changed, "that one has a claim");
    pins.apply(AT, &release(1, object("7"), 2));
    assert_eq!(pins.apply(AT, &claim_of(1024, 1)), Outcome::Changed);
}

#[test]
fn what_is_refused_changes_nothing() {
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
        (TERM + 1, gone(2, "w", Ruling::Free), Refused::OtherTerm),
        (TERM + 1, gone(3, "c", WAIT), Refused::OtherTerm),
        (TERM + 1, gone(3, "c", take), Refused::OtherTerm),
        (TERM + 1, allow(TERM), Refused::OtherTerm),
        (TERM, allow(TERM - 1), Refused::OtherTerm),
        (TERM, claim(1, object("a"), 1, 1, false, 1), Refused::OlderGeneration),
        (TERM, release(1, object("a"), 1), Refused::OlderGeneration),
        (TERM, gone(1, "a", Ruling::Free), Refused::OlderGeneration),
        (TERM, gone(1, "a", take), Refused::OlderGeneration),
        (TERM, gone(1, "a", WAIT), Refused::OlderGeneration),
        (TERM, older(gone(2, "w", Ruling::Free)), Refused::OlderGeneration),
        (TERM, claim(9, object("a"), 1, 1, false, 3), Refused::OtherCid),
        (TERM, release(9, object("a"), 2), Refused::NoSuchPin),
        (TERM, gone(9, "a", Ruling::Free), Refused::NoSuchPin),
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
fn what_does_not_concern_a_pin_leaves_it_as_it_is() {
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
        gone(1, "b", Ruling::Free),
        gone(1, "b", WAIT),
        Op::Allocate { cid: cid(1), candidates: vec![peer(3)] },
        Op::Leave { cid: cid(1), peers: vec![peer(3)] },
        let_go(1), // it does not leave
        let_go(3),
    ];
    for op in table {
        assert_eq!(pins.apply(AT, &op), Outcome::Unchanged, "{op:?}");
        assert!(pins == before, "{op:?}");
    }
}

/// A pin of the REST API, on holders and leaving peers.
fn kept(min: Factor, max: Factor, holders: &[u8], leaving: &[u8]) -> PinSet {
    let options =
        ClaimOptions { replication: Replication { min, max }, retain: false, name: String::new() };
    let claim = Claim { options, generation: 0, since: Timestamp(1) };
    let leaving = leaving.iter().map(|n| Allocation { leaving: true, ..allocation(*n, 1) });
    let allocations = holders.iter().map(|n| allocation(*n, 1)).chain(leaving).collect();
    let claims = [(Owner::Rest, claim)].into_iter().collect();
    let mut pins = PinSet::default();
    pins.restore(cid(1), Pin { claims, allocations, created: Timestamp(1) });
    pins
}

#[test]
fn a_copy_goes_only_when_the_least_number_of_others_is_confirmed() {
    use Factor::{Count, Everywhere};
    let leaving = |n| Allocation { leaving: true, ..allocation(n, 1) };
    let (one, two, other) = (allocation(1, 1), allocation(2, 1), allocation(1, 2));
    // The least number, the holders, those confirmed to have a copy, whether 3 may let go of its own.
    let table: &[(Factor, &[u8], &[Allocation], bool)] = &[
        (Count(1), &[1, 2], &[one], true),
        (Count(1), &[1, 2], &[], false),
        (Count(1), &[1, 2], &[other], false), // of another time
        (Count(1), &[1, 2], &[allocation(9, 1)], false),
        (Count(1), &[1, 2], &[leaving(3)], false),
        (Count(1), &[1, 2], &[leaving(4)], false),
        (Count(2), &[1, 2], &[one, two], true),
        (Count(2), &[1, 2], &[one, one], false),
        (Count(2), &[1, 2], &[one, leaving(3)], false),
        (Count(2), &[1, 2], &[one, leaving(4)], false),
        (Count(2), &[1], &[one], false),
        (Everywhere, &[1, 2], &[one, two], true),
        (Everywhere, &[1, 2], &[one], false),
        (Everywhere, &[], &[], false), // the last copies
        (Everywhere, &[], &[leaving(3), leaving(4)], false),
    ];
    for (min, holders, confirmed, goes) in table {
        let mut pins = kept(*min, Everywhere, holders, &[3, 4]);
        let op = Op::LetGo { cid: cid(1), peer: peer(3), confirmed: confirmed.to_vec() };
        let expected = match goes {
            true => Outcome::Changed,
            false => Outcome::Refused(Refused::TooFewConfirmed),
        };
        assert_eq!(pins.apply(AT, &op), expected, "{min:?} of {holders:?}, {confirmed:?}");
        let pin = pins.get(&cid(1)).unwrap();
        assert_eq!((pin.is_on(peer(3)), pin.is_on(peer(4))), (!goes, true));
    }
}

#[test]
fn holders_are_added_up_to_the_wanted_number_and_leaving_ones_stay_instead() {
    use Factor::{Count, Everywhere};
    let at = LogPosition { index: 8, ..AT };
    // Wanted, holders, leaving ones, candidates; then holders, leaving ones.
    type Row = (Factor, &'static [u8], &'static [u8], &'static [u8], &'static [u8], &'static [u8]);
    let table: &[Row] = &[
        (Count(1), &[1], &[], &[2], &[1], &[]),
        (Count(2), &[1], &[], &[2, 3], &[1, 2], &[]),
        (Count(3), &[1], &[], &[2], &[1, 2], &[]),
        (Count(3), &[1], &[], &[1, 2, 2, 3], &[1, 2, 3], &[]),
        (Count(2), &[1], &[2], &[2, 3], &[1, 2], &[]),
        (Count(2), &[1], &[2], &[3, 2], &[1, 3], &[2]),
        (Count(2), &[1, 4], &[2], &[2], &[1, 4], &[2]),
        (Count(2), &[], &[1, 2, 3], &[3, 2, 1], &[2, 3], &[1]),
        (Everywhere, &[1], &[2], &[2, 3, 4], &[1, 2, 3, 4], &[]),
    ];
    for (max, holders, leaving, candidates, then_holders, then_leaving) in table {
        let mut pins = kept(Count(1), *max, holders, leaving);
        let before = pins.clone();
        let candidates: Vec<PeerId> = candidates.iter().map(|n| peer(*n)).collect();
        let outcome = pins.apply(at, &Op::Allocate { cid: cid(1), candidates: candidates.clone() });
        let changed = if pins == before { Outcome::Unchanged } else { Outcome::Changed };
        assert_eq!(outcome, changed);
        let allocations = &pins.get(&cid(1)).unwrap().allocations;
        let on = |leaving: bool| {
            let those = allocations.iter().filter(move |allocation| allocation.leaving == leaving);
            let mut peers: Vec<u8> = those.map(|allocation| allocation.peer.0[0]).collect();
            peers.sort_unstable();
            peers
        };
        let given = format!("{max:?} of {holders:?} and {leaving:?}, {candidates:?}");
        assert_eq!(
            (on(false), on(true)),
            (then_holders.to_vec(), then_leaving.to_vec()),
            "{given}"
        );
        for allocation in allocations {
            let n = allocation.peer.0[0];
            let was_there = holders.contains(&n) || leaving.contains(&n);
            assert_eq!(allocation.since, if was_there { 1 } else { 9 }, "{given}: {n}");
        }
    }
}

#[test]
fn a_leaving_peer_is_let_go_only_when_the_others_are_confirmed() {
    let mut pins = PinSet::default();
    pins.apply(AT, &claim(1, Owner::Rest, 2, 3, false, 0));
    pins.apply(AT, &Op::Leave { cid: cid(1), peers: vec![peer(3)] });
    let let_go = |confirmed: &[u8]| Op::LetGo {
        cid: cid(1),
        peer: peer(3),
        confirmed: confirmed.iter().map(|n| allocation(*n, 1)).collect(),
    };
    let few = Outcome::Refused(Refused::TooFewConfirmed);
    assert_eq!(pins.apply(AT, &let_go(&[1])), few);
    assert_eq!(pins.apply(AT, &let_go(&[1, 3])), few, "it counts the others only");
    assert!(pins.get(&cid(1)).unwrap().is_on(peer(3)));
    assert_eq!(pins.apply(AT, &let_go(&[1, 2])), Outcome::Changed);
    assert!(!pins.get(&cid(1)).unwrap().is_on(peer(3)));
    assert_eq!(pins.apply(AT, &let_go(&[])), Outcome::Unchanged);
}

#[test]
fn a_copy_that_was_given_anew_since_it_was_confirmed_does_not_count() {
    let mut pins = PinSet::default();
    let at = |index| LogPosition { index, ..AT };
    pins.apply(at(4), &claim(1, Owner::Rest, 1, 3, false, 0));
    assert_eq!(pins.get(&cid(1)).unwrap().allocations[0], allocation(1, 5));
    pins.apply(at(5), &Op::Leave { cid: cid(1), peers: vec![peer(1)] });
    let let_go = |leaving, confirmed| Op::LetGo { cid: cid(1), peer: peer(leaving), confirmed };
    pins.apply(at(6), &let_go(1, vec![allocation(2, 5)]));
    pins.apply(at(7), &Op::Allocate { cid: cid(1), candidates: vec![peer(1)] });
    pins.apply(at(8), &Op::Leave { cid: cid(1), peers: vec![peer(2), peer(3)] });
    let few = Outcome::Refused(Refused::TooFewConfirmed);
    assert_eq!(pins.apply(at(9), &let_go(2, vec![allocation(1, 5)])), few);
    assert_eq!(pins.apply(at(9), &let_go(2, vec![allocation(1, 8)])), Outcome::Changed);
    // One that was leaving and stays has had it all the time.
    pins.apply(at(10), &Op::Allocate { cid: cid(1), candidates: vec![peer(3)] });
    assert_eq!(pins.get(&cid(1)).unwrap().allocations[0], allocation(3, 5));
}

fn gone(n: u8, name: &str, ruling: Ruling) -> Op {
    let fence = Fence { term: TERM, generation: 1 };
    Op::Gone { cid: cid(n), uid: Uid(name.to_owned()), ruling, at: Timestamp(3), fence }
}

const WAIT: Ruling = Ruling::Wait(Found::Watched);

/// A claim of an object that is gone, which waits.
fn waiting(pins: &mut PinSet, n: u8, name: &str) -> Waiting {
    pins.apply(AT, &claim(n, object(name), 1, 1, false, 1));
    assert_eq!(pins.apply(AT, &gone(n, name, WAIT)), Outcome::Changed);
    pins.waiting().unwrap()
}

#[test]
fn what_waits_stays_and_goes_when_it_is_allowed_once() {
    let mut pins = PinSet::default();
    let first = waiting(&mut pins, 1, "a");
    let both = waiting(&mut pins, 2, "b");
    assert_eq!((first.cids, both.cids, pins.len()), (1, 2, 2));
    assert_eq!(
        pins.cid_of(&Uid("a".to_owned())),
        None,
        "the comparison does not look for it again"
    );
    assert_eq!(pins.apply(AT, &gone(1, "a", WAIT)), Outcome::Unchanged);

    let allow = |waiting: Waiting| Op::Allow { digest: waiting.digest, term: TERM };
    assert_eq!(pins.apply(AT, &allow(first)), Outcome::Refused(Refused::OtherDigest));
    assert_eq!(
        pins.apply(LogPosition { term: TERM + 1, ..AT }, &allow(both)),
        Outcome::Refused(Refused::OtherTerm)
    );
    let mut touched = Vec::new();
    pins.touched(&allow(both), &mut touched);
    assert_eq!(touched, [cid(1), cid(2)]);
    assert_eq!(pins.apply(AT, &allow(both)), Outcome::Changed);
    assert!(pins.is_empty() && pins.allocations_by_peer().is_empty() && pins.waiting().is_none());

    // The same objects again, as after a restored backup of the API server's store.
    waiting(&mut pins, 1, "a");
    let again = waiting(&mut pins, 2, "b");
    assert_ne!(again.digest, both.digest);
    assert_eq!(pins.apply(AT, &allow(both)), Outcome::Refused(Refused::OtherDigest));
}

#[test]
fn whoever_takes_waiting_content_up_ends_the_waiting() {
    for owner in [object("new"), object("a"), Owner::Rest] {
        let mut pins = PinSet::default();
        waiting(&mut pins, 1, "a");
        let other = waiting(&mut pins, 2, "b");
        assert_eq!(pins.apply(AT, &claim(1, owner.clone(), 1, 1, false, 1)), Outcome::Changed);
        let owners: Vec<&Owner> = pins.get(&cid(1)).unwrap().claims.owners().collect();
        assert_eq!(owners, [&owner]);
        let left = pins.waiting().unwrap();
        assert!(left.cids == 1 && left.digest != other.digest);
    }
}

#[test]
fn only_a_last_claim_that_unpins_waits() {
    let mut pins = PinSet::default();
    for name in ["a", "b"] {
        pins.apply(AT, &claim(1, object(name), 1, 1, false, 1));
    }
    pins.apply(AT, &claim(2, object("c"), 1, 1, true, 1));
    for (n, name) in [(1, "a"), (2, "c")] {
        assert_eq!(pins.apply(AT, &gone(n, name, WAIT)), Outcome::Changed);
        assert!(pins.waiting().is_none() && pins.window() == PinSet::default().window());
    }
    assert!(pins.get(&cid(2)).unwrap().claims.contains(&Owner::Retained));
    pins.apply(AT, &gone(1, "b", WAIT));
    assert_eq!((pins.waiting().unwrap().cids, pins.len()), (1, 2));
    // Its namespace goes later.
    assert_eq!(pins.apply(AT, &gone(1, "b", Ruling::Free)), Outcome::Changed);
    assert_eq!((pins.waiting(), pins.len()), (None, 1));
}

#[test]
fn what_goes_counts_unless_it_is_free() {
    let mut pins = PinSet::default();
    let empty = pins.window().clone();
    for (ruling, counts) in [(Ruling::Free, false), (Ruling::Take(Found::Compared), true)] {
        pins.apply(AT, &claim(1, object("a"), 1, 1, false, 1));
        assert_eq!(pins.apply(AT, &gone(1, "a", ruling)), Outcome::Changed);
        assert!(pins.is_empty());
        assert_eq!(*pins.window() != empty, counts);
    }
    let stale = Op::Gone {
        cid: cid(1),
        uid: Uid("a".to_owned()),
        ruling: WAIT,
        at: Timestamp(3),
        fence: Fence { term: TERM + 1, generation: 1 },
    };
    assert_eq!(pins.apply(AT, &stale), Outcome::Refused(Refused::OtherTerm));
}

#[test]
fn only_what_is_unpinned_counts_by_how_it_was_found_and_whether_it_waits() {
    // Whether somebody else claims it, whether it is retained, the ruling, what counts.
    let table = [
        (false, false, Ruling::Free, None),
        (false, false, Ruling::Take(Found::Watched), Some((Found::Watched, false))),
        (false, false, Ruling::Take(Found::Compared), Some((Found::Compared, false))),
        (false, false, Ruling::Wait(Found::Watched), Some((Found::Watched, true))),
        (false, false, Ruling::Wait(Found::Compared), Some((Found::Compared, true))),
        (true, false, Ruling::Take(Found::Watched), None),
        (true, false, Ruling::Wait(Found::Compared), None),
        (false, true, Ruling::Take(Found::Watched), None),
        (false, true, Ruling::Wait(Found::Compared), None),
    ];
    for (shared, retain, ruling, counts) in table {
        let mut pins = PinSet::default();
        pins.apply(AT, &claim(1, object("a"), 1, 1, retain, 1));
        if shared {
            pins.apply(AT, &claim(1, object("b"), 1, 1, false, 1));
        }
        assert_eq!(pins.apply(AT, &gone(1, "a", ruling)), Outcome::Changed);
        let mut expected = Window::default();
        if let Some((found, waits)) = counts {
            expected.count(Timestamp(3), found, waits);
        }
        assert_eq!(*pins.window(), expected, "shared {shared}, retain {retain}, {ruling:?}");
        // Once only.
        pins.apply(AT, &gone(1, "a", ruling));
        assert_eq!(*pins.window(), expected, "again: shared {shared}, retain {retain}, {ruling:?}");
    }
}

#[test]
fn the_brake_counts_what_hangs_on_pins_alone() {
    // Beside two CIDs of objects, which the comparison misses both: are they the last there are?
    let table = [
        (vec![], true),
        (vec![claim(3, object("c"), 1, 1, false, 1)], false),
        (vec![claim(3, Owner::Rest, 1, 1, false, 0)], true),
        (vec![claim(3, object("c"), 1, 1, true, 1)], true),
        (vec![claim(3, object("c"), 1, 1, false, 1), claim(3, Owner::Rest, 1, 1, false, 0)], true),
        (vec![claim(3, object("c"), 1, 1, false, 1), claim(3, object("d"), 1, 1, true, 1)], true),
        (vec![claim(3, object("c"), 1, 1, false, 1), gone(3, "c", WAIT)], true),
        (
            vec![
                claim(3, object("c"), 1, 1, false, 1),
                gone(3, "c", WAIT),
                claim(3, object("c"), 1, 1, false, 1),
            ],
            false,
        ),
    ];
    for (ops, last) in table {
        let mut pins = PinSet::default();
        for (n, name) in [(1, "a"), (2, "b")] {
            pins.apply(AT, &claim(n, object(name), 1, 1, false, 1));
        }
        ops.iter().for_each(|op| assert_eq!(pins.apply(AT, op), Outcome::Changed));
        let holds = pins.brake(Lost { watched: 0, compared: 2 }, Timestamp(3));
        assert_eq!(holds, Holds { watched: false, compared: last }, "{ops:?}");
    }
}

fn any_op() -> impl Strategy<Value = Op> {
    let owner = prop_oneof![Just(Owner::Rest), (0..4_u8).prop_map(|n| object(&n.to_string())),];
    let found = || prop_oneof![Just(Found::Watched), Just(Found::Compared)];
    let ruling = prop_oneof![
        Just(Ruling::Free),
        found().prop_map(Ruling::Take),
        found().prop_map(Ruling::Wait),
    ];
    let peers = || proptest::collection::vec((1..5_u8).prop_map(peer), 0..4);
    let copy = (1..5_u8, 1..3_u64).prop_map(|(n, since)| allocation(n, since));
    let copies = proptest::collection::vec(copy, 0..4);
    prop_oneof![
        (0..4_u8, owner.clone(), 1..4_u16, any::<bool>(), 0..3_i64).prop_map(
            |(n, owner, max, retain, generation)| claim(n, owner, 1, max, retain, generation)
        ),
        (0..4_u8, owner, 0..3_i64).prop_map(|(n, owner, generation)| release(n, owner, generation)),
        (0..4_u8, 0..4_u8, ruling).prop_map(|(n, uid, ruling)| gone(n, &uid.to_string(), ruling)),
        (0..4_u8, peers()).prop_map(|(n, candidates)| Op::Allocate { cid: cid(n), candidates }),
        (0..4_u8, peers()).prop_map(|(n, peers)| Op::Leave { cid: cid(n), peers }),
        (0..4_u8, 1..5_u8, copies).prop_map(|(n, leaving, confirmed)| Op::LetGo {
            cid: cid(n),
            peer: peer(leaving),
            confirmed,
        }),
    ]
}

fn check(pins: &PinSet) -> Result<(), TestCaseError> {
    let mut counts: BTreeMap<PeerId, u64> = BTreeMap::new();
    let mut claimed = BTreeMap::new();
    let mut waits = BTreeMap::new();
    for (cid, pin) in pins.iter() {
        prop_assert!(!pin.claims.is_empty(), "a pin without a claim");
        for (n, allocation) in pin.allocations.iter().enumerate() {
            let again = pin.allocations[..n].iter().any(|other| other.peer == allocation.peer);
            prop_assert!(!again, "a peer twice");
            *counts.entry(allocation.peer).or_default() += 1;
        }
        for owner in pin.claims.owners() {
            if let Owner::Object(uid) = owner {
                prop_assert!(claimed.insert(uid.clone(), cid).is_none(), "two CIDs of one object");
            }
            if let Owner::Waiting(uid) = owner {
                prop_assert_eq!(pin.claims.len(), 1, "it waits beside others");
                waits.insert(uid.clone(), cid);
            }
        }
    }
    prop_assert_eq!(&counts, pins.allocations_by_peer());
    let known: BTreeMap<Uid, Cid> = pins.objects().map(|(uid, cid)| (uid.clone(), cid)).collect();
    prop_assert_eq!(claimed, known);
    let known: BTreeMap<Uid, Cid> =
        pins.waiting_objects().map(|(uid, cid)| (uid.clone(), *cid)).collect();
    prop_assert_eq!(waits, known);
    let mut restored = PinSet::default();
    restored.restore_window(pins.window().clone());
    pins.iter().for_each(|(cid, pin)| restored.restore(cid, pin.clone()));
    prop_assert_eq!(&restored, pins, "what is stored is not what is applied");
    Ok(())
}

proptest! {
    #[test]
    fn any_ops_keep_the_invariants_and_replicas_equal(
        ops in proptest::collection::vec((any_op(), any::<bool>()), 0..60),
    ) {
        let (mut one, mut other) = (PinSet::default(), PinSet::default());
        for (op, allow) in ops {
            // What waits is known only now.
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
            prop_assert!(cids.filter(changed).all(|cid| touched.contains(&cid)), "untold");
            prop_assert_eq!(outcome == Outcome::Changed, one != before, "{:?}: {:?}", op, outcome);
            prop_assert_eq!(outcome, other.apply(AT, op));
            check(&one)?;
        }
        prop_assert_eq!(one, other);
    }
}
