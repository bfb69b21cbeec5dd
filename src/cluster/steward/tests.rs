#![allow(clippy::unwrap_used)]

use super::*;
use crate::types::{
    Allocation, Claim, ClaimOptions, Factor, Member, Owner, Replication, Timestamp,
};

fn peer(n: u8) -> PeerId {
    PeerId([n; 32])
}

fn members(voters: u8, learners: u8) -> BTreeMap<PeerId, MemberView> {
    (0..voters + learners)
        .map(|n| (peer(n), MemberView { member: Member::default(), voter: n < voters }))
        .collect()
}

#[test]
fn voters_grow_in_odd_numbers_up_to_five_and_never_shrink() {
    let table = [
        (1, 0, None),
        (1, 1, None),
        (1, 2, Some(3)),
        (1, 4, Some(5)),
        (1, 9, Some(5)),
        (3, 1, None),
        (3, 2, Some(5)),
        (5, 3, None),
        (2, 0, None),
        (2, 1, Some(3)),
    ];
    for (voters, learners, expected) in table {
        let next = next_voters(&members(voters, learners), |_| true);
        assert_eq!(
            next.as_ref().map(BTreeSet::len),
            expected,
            "{voters} voters, {learners} learners"
        );
        if let Some(next) = next {
            assert!((0..voters).all(|n| next.contains(&peer(n))), "a voter was dropped");
        }
    }
    assert_eq!(next_voters(&members(1, 2), |_| false), None, "nobody has caught up");
}

fn pin(min: u16, max: u16, holders: &[u8], leaving: &[u8]) -> Pin {
    let replication = Replication { min: Factor::Count(min), max: Factor::Count(max) };
    let options = ClaimOptions { replication, retain: false, name: String::new() };
    let claim = Claim { options, generation: 0, since: Timestamp(0) };
    let allocation = |n: &u8, leaving| Allocation { peer: peer(*n), leaving, since: 1 };
    let holding = holders.iter().map(|n| allocation(n, false));
    Pin {
        claims: [(Owner::Rest, claim)].into_iter().collect(),
        allocations: holding.chain(leaving.iter().map(|n| allocation(n, true))).collect(),
        created: Timestamp(0),
    }
}

fn pinned(peers: &[u8]) -> BTreeMap<PeerId, PinStatus> {
    let status = PinStatus {
        state: PinState::Pinned,
        since: Timestamp(0),
        message: String::new(),
        attempts: 0,
    };
    peers.iter().map(|n| (peer(*n), status.clone())).collect()
}

fn settle(pin: &Pin, candidates: &[u8], holding: &[u8]) -> Vec<Op> {
    let candidates: Vec<PeerId> = candidates.iter().map(|n| peer(*n)).collect();
    let present = (1..=5).map(peer).collect();
    settle_pin(cid(), pin, 5, &candidates, &confirmed_by(&pinned(holding), &present))
}

fn cid() -> Cid {
    "QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR".parse().unwrap()
}

#[test]
fn a_settled_pin_needs_nothing() {
    assert_eq!(settle(&pin(1, 2, &[1, 2], &[]), &[], &[1, 2]), []);
    assert_eq!(settle(&pin(1, 3, &[1, 2], &[]), &[1, 2], &[1]), [], "there is no further peer");
}

#[test]
fn missing_holders_are_added_and_surplus_ones_leave_unconfirmed_first() {
    let allocate = Op::Allocate { cid: cid(), candidates: vec![peer(3)] };
    assert_eq!(settle(&pin(1, 2, &[1], &[]), &[1, 3], &[1]), [allocate]);
    let leave = |n| Op::Leave { cid: cid(), peers: vec![peer(n)] };
    assert_eq!(settle(&pin(3, 2, &[1, 2, 3], &[]), &[], &[1, 3]), [leave(2)]);
    assert_eq!(settle(&pin(3, 2, &[1, 2, 3], &[]), &[], &[]), [leave(3)]);
}

#[test]
fn a_leaving_peer_is_let_go_only_when_enough_others_hold_it() {
    let pin = pin(2, 2, &[1, 2], &[3]);
    assert_eq!(settle(&pin, &[], &[1, 3]), []);
    let let_go = Op::LetGo { cid: cid(), peer: peer(3), confirmed: pin.allocations[..2].to_vec() };
    assert_eq!(settle(&pin, &[], &[1, 2, 3]), [let_go]);
}

#[test]
fn what_an_absent_peer_has_told_is_no_reason_to_let_a_copy_go() {
    let present = BTreeSet::from([peer(2), peer(3)]);
    let settle =
        |pin: &Pin| settle_pin(cid(), pin, 5, &[], &confirmed_by(&pinned(&[1, 2]), &present));
    // Of two copies the one on the absent peer leaves, although it was allocated first.
    let leave = Op::Leave { cid: cid(), peers: vec![peer(1)] };
    assert_eq!(settle(&pin(1, 1, &[1, 2], &[])), [leave]);
    assert_eq!(settle(&pin(1, 1, &[1], &[2])), [], "the leaving one may be the only one");
}
