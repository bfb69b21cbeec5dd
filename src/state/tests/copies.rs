//! Copies: which peers are allocated, and which leaving peers may let go.

use super::*;

/// A pin of REST with these holders and leaving peers.
fn kept(min: Factor, max: Factor, holders: &[u8], leaving: &[u8]) -> PinSet {
    let options = ClaimOptions {
        replication: Replication { min, max },
        retain: false,
        name: ClaimName::default(),
    };
    let claim = Claim { options, generation: 0, since: Timestamp(1) };
    let leaving = leaving.iter().map(|n| Allocation { leaving: true, ..allocation(*n, 1) });
    let allocations = holders.iter().map(|n| allocation(*n, 1)).chain(leaving).collect();
    let claims = [(Owner::Rest, claim)].into_iter().collect();
    let mut pins = PinSet::default();
    pins.restore(cid(1), Pin { claims, allocations, created: Timestamp(1) });
    pins
}

#[test]
fn a_copy_ends_only_when_the_minimum_of_others_is_confirmed() {
    use Factor::{Count, Everywhere};
    let leaving = |n| Allocation { leaving: true, ..allocation(n, 1) };
    let (one, two, other) = (allocation(1, 1), allocation(2, 1), allocation(1, 2));
    // The minimum, the holders, the confirmed allocations, whether peer 3 may let go.
    let table: &[(Factor, &[u8], &[Allocation], bool)] = &[
        (Count(1), &[1, 2], &[one], true),
        (Count(1), &[1, 2], &[], false),
        (Count(1), &[1, 2], &[other], false), // of another allocation
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
fn candidates_become_holders_up_to_the_wanted_number() {
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
            assert_eq!(allocation.at_entry, if was_there { 1 } else { 9 }, "{given}: {n}");
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
    assert_eq!(pins.apply(AT, &let_go(&[1, 3])), few, "only others count");
    assert!(pins.get(&cid(1)).unwrap().is_on(peer(3)));
    assert_eq!(pins.apply(AT, &let_go(&[1, 2])), Outcome::Changed);
    assert!(!pins.get(&cid(1)).unwrap().is_on(peer(3)));
    assert_eq!(pins.apply(AT, &let_go(&[])), Outcome::Unchanged);
}

#[test]
fn a_confirmation_from_before_the_present_allocation_does_not_count() {
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
    // A leaving peer that becomes a holder again keeps its allocation.
    pins.apply(at(10), &Op::Allocate { cid: cid(1), candidates: vec![peer(3)] });
    assert_eq!(pins.get(&cid(1)).unwrap().allocations[0], allocation(3, 5));
}
