#![allow(clippy::unwrap_used)]

use super::*;
use crate::types::{
    Claim, ClaimName, ClaimOptions, DaemonInfo, Factor, Owner, Replication, Timestamp,
};

const COUNT: fn(u16) -> Factor = Factor::Count;
const EVERYWHERE: Replication = Replication { min: Factor::Everywhere, max: Factor::Everywhere };

fn cid() -> Cid {
    "QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR".parse().unwrap()
}

fn peer(n: u8) -> PeerId {
    PeerId([n; 32])
}

fn peers<T: FromIterator<PeerId>>(peers: &[u8]) -> T {
    peers.iter().map(|n| peer(*n)).collect()
}

fn metrics(zone: Option<&str>, free_space: u64) -> Metrics {
    let daemon = DaemonInfo { id: "d".into(), agent: "kubo".into(), addresses: vec![] };
    let tags = zone.map(|zone| (ZONE_TAG.to_owned(), zone.to_owned())).into_iter().collect();
    Metrics { daemon: Some(daemon), free_space: Some(free_space), tags, ..Metrics::default() }
}

/// Members 1 to 5, of which these can take content.
fn fleet(takers: &[u8]) -> Fleet {
    let metrics = takers.iter().map(|n| (peer(*n), metrics(None, u64::MAX))).collect();
    Fleet::new(&peers(&[1, 2, 3, 4, 5]), &BTreeSet::new(), &metrics, &BTreeMap::new())
}

fn copies(min: u16, max: u16) -> Replication {
    Replication { min: COUNT(min), max: COUNT(max) }
}

fn allocations(holders: &[u8], leaving: &[u8]) -> Vec<Allocation> {
    let allocation = |n: &u8, leaving| Allocation { peer: peer(*n), leaving, at_entry: 1 };
    let holding = holders.iter().map(|n| allocation(n, false));
    holding.chain(leaving.iter().map(|n| allocation(n, true))).collect()
}

/// All have reported, and these hold it.
fn seen(confirmed: &[u8]) -> Sight {
    Sight { confirmed: peers(confirmed), is_complete: true, ..Sight::default() }
}

/// The plan for a pin with these holders and leaving peers, of which these hold it.
fn planned(
    replication: Replication,
    holders: &[u8],
    leaving: &[u8],
    takers: &[u8],
    confirmed: &[u8],
) -> Plan {
    let allocations = allocations(holders, leaving);
    let need = Need { cid: &cid(), allocations: &allocations, replication };
    let plan = plan(&need, &fleet(takers), &seen(confirmed));
    assert!(!need.is_met(&fleet(takers)) || plan.is_empty(), "{need:?}: {plan:?}");
    plan
}

impl Plan {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[test]
fn a_need_is_met_by_the_wanted_holders_without_leaving_ones() {
    // Wanted, holders, leaving, of three members.
    let table: &[(Replication, &[u8], &[u8], bool)] = &[
        (copies(1, 2), &[1, 2], &[], true),
        (copies(1, 2), &[1], &[], false),
        (copies(1, 2), &[1, 2, 3], &[], false),
        (copies(1, 2), &[1], &[2], false), // as many copies, but one of them is about to go
        (copies(1, 2), &[1, 2], &[3], false),
        (copies(1, 2), &[], &[1, 2], false),
        (EVERYWHERE, &[1, 2], &[], false),
        (EVERYWHERE, &[1, 2, 3], &[], true),
    ];
    for (replication, holders, leaving, met) in table {
        let allocations = allocations(holders, leaving);
        let need = Need { cid: &cid(), allocations: &allocations, replication: *replication };
        let three =
            Fleet::new(&peers(&[1, 2, 3]), &BTreeSet::new(), &BTreeMap::new(), &BTreeMap::new());
        assert_eq!(need.is_met(&three), *met, "{need:?}");
    }
}

#[test]
fn missing_holders_are_added() {
    // Wanted, holders, leaving, takers; the peers to choose from, and how many are missing.
    type Row<'a> = (Replication, &'a [u8], &'a [u8], &'a [u8], &'a [u8], usize);
    let table: &[Row<'_>] = &[
        (copies(1, 2), &[1, 2], &[], &[3], &[], 0),
        (copies(1, 2), &[1], &[], &[1, 3], &[3], 1),
        (copies(1, 2), &[], &[], &[1, 3, 4], &[1, 3, 4], 2),
        (copies(1, 3), &[1, 2], &[], &[1, 2], &[], 1), // there is no further peer
        (copies(2, 2), &[1], &[3], &[3, 4], &[3, 4], 1), // the leaving one may stay
        (EVERYWHERE, &[1, 2, 3, 4], &[], &[4, 5], &[5], 1),
    ];
    for (replication, holders, leaving, takers, add, missing) in table {
        let plan = planned(*replication, holders, leaving, takers, &[]);
        let case = format!("{replication:?} {holders:?} {leaving:?} {takers:?}");
        assert_eq!(BTreeSet::from_iter(plan.add.clone()), peers(add), "{case}");
        assert_eq!((plan.missing, plan.leave.len()), (*missing, 0), "{case}");
        assert_eq!(plan.added().count(), add.len().min(*missing), "{case}");
    }
}

#[test]
fn surplus_holders_leave_unconfirmed_ones_first() {
    // Wanted, holders, confirmed; those that leave.
    type Row<'a> = (Replication, &'a [u8], &'a [u8], &'a [u8]);
    let table: &[Row<'_>] = &[
        (copies(1, 2), &[1, 2, 3], &[1, 3], &[2]),
        (copies(1, 2), &[1, 2, 3], &[], &[3]),
        (copies(1, 2), &[1, 2, 3], &[1, 2, 3], &[3]),
        (copies(1, 1), &[1, 2, 3], &[3], &[2, 1]),
        // The one on a peer whose report does not count, although it was allocated first.
        (copies(1, 1), &[1, 2], &[2], &[1]),
    ];
    for (replication, holders, confirmed, leave) in table {
        let plan = planned(*replication, holders, &[], &[4, 5], confirmed);
        assert_eq!(plan.leave, peers::<Vec<_>>(leave), "{replication:?} {holders:?} {confirmed:?}");
        assert!(plan.add.is_empty() && plan.let_go.is_empty());
    }
}

#[test]
fn a_leaving_peer_may_let_go_when_enough_holders_are_confirmed() {
    // Wanted, holders, leaving, confirmed; those that may let go.
    type Row<'a> = (Replication, &'a [u8], &'a [u8], &'a [u8], &'a [u8]);
    let table: &[Row<'_>] = &[
        (copies(2, 2), &[1, 2], &[3], &[1, 3], &[]),
        (copies(2, 2), &[1, 2], &[3], &[1, 2, 3], &[3]),
        (copies(1, 2), &[1, 2], &[3, 4], &[2], &[3, 4]),
        (copies(1, 1), &[1], &[2], &[2], &[]), // the leaving one may be the only one
        (copies(1, 2), &[1], &[2], &[1], &[2]),
        (EVERYWHERE, &[1, 2, 3, 4], &[6], &[1, 2, 3, 4], &[]), // four of five are not all
        (EVERYWHERE, &[1, 2, 3, 4, 5], &[6], &[1, 2, 3, 4], &[]),
        (EVERYWHERE, &[1, 2, 3, 4, 5], &[6], &[1, 2, 3, 4, 5], &[6]),
    ];
    for (replication, holders, leaving, confirmed, let_go) in table {
        let plan = planned(*replication, holders, leaving, &[], confirmed);
        let case = format!("{replication:?} {holders:?} {leaving:?} {confirmed:?}");
        assert_eq!(plan.let_go, peers::<Vec<_>>(let_go), "{case}");
        let by: Vec<u8> = holders.iter().filter(|n| confirmed.contains(n)).copied().collect();
        let by = if let_go.is_empty() { Vec::new() } else { allocations(&by, &[]) };
        assert_eq!(plan.confirmed, by, "{case}");
    }
}

#[test]
fn a_leaving_peer_waits_for_holders_that_still_get_the_content() {
    // Wanted, holders, leaving, confirmed, those that still get it; those that may let go.
    type Row<'a> = (Replication, (&'a [u8], &'a [u8]), &'a [u8], &'a [u8], &'a [u8]);
    let table: &[Row<'_>] = &[
        (copies(1, 2), (&[1, 2], &[3]), &[1], &[2], &[]),
        (copies(1, 2), (&[1, 2], &[3]), &[1], &[], &[3]),
        (copies(1, 2), (&[1, 2], &[3]), &[1, 2], &[], &[3]),
        // One too many still gets it.
        (copies(1, 2), (&[1, 2, 4], &[3]), &[1, 2], &[4], &[3]),
        (copies(2, 2), (&[1, 2], &[3]), &[1], &[], &[]),
    ];
    for (replication, (holders, leaving), confirmed, pending, expected) in table {
        let allocations = allocations(holders, leaving);
        let need = Need { cid: &cid(), allocations: &allocations, replication: *replication };
        let sight = Sight { pending: peers(pending), ..seen(confirmed) };
        let plan = plan(&need, &fleet(&[]), &sight);
        assert_eq!(plan.let_go, peers::<Vec<_>>(expected), "{need:?} {confirmed:?} {pending:?}");
    }
}

#[test]
fn a_claim_adds_to_what_the_others_want() {
    let claim = |replication| {
        let options = ClaimOptions { replication, retain: false, name: ClaimName::default() };
        Claim { options, generation: 0, since: Timestamp(0) }
    };
    let claims = [(Owner::Rest, claim(copies(1, 3)))].into_iter().collect();
    let pin = Pin { claims, allocations: allocations(&[1], &[2]), created: Timestamp(0) };
    let cid = cid();
    let of = |pin, replication| {
        let need = Need::with_claim(&cid, pin, replication);
        (need.replication, need.allocations.len())
    };
    assert_eq!(of(None, copies(2, 2)), (copies(2, 2), 0));
    assert_eq!(of(Some(&pin), copies(2, 2)), (copies(2, 3), 2));
    assert_eq!(of(Some(&pin), EVERYWHERE), (EVERYWHERE, 2));
}

#[test]
fn only_members_with_space_take_content_and_zones_of_full_holders_count() {
    // The second is full, nothing is heard of the fourth, the ninth is no member.
    let heard = [(1, "a", u64::MAX), (2, "b", 0), (3, "b", u64::MAX), (9, "d", u64::MAX)];
    let heard = heard.map(|(n, zone, free)| (peer(n), metrics(Some(zone), free))).into();
    let none = BTreeSet::new();
    let fleet = Fleet::new(&peers(&[1, 2, 3, 4]), &none, &heard, &[(peer(1), 7)].into());
    assert_eq!(fleet.members(), 4, "whether they can take content or not");
    assert_eq!(fleet.best(&cid(), &[]), [peer(3), peer(1)], "the one with fewer pins first");
    assert_eq!(fleet.best(&cid(), &[peer(2)]), [peer(1), peer(3)], "another zone first");
    assert_eq!(fleet.best(&cid(), &[peer(3)]), [peer(1)]);
}

#[test]
fn reserved_copies_count() {
    let mut fleet = fleet(&[1, 2]);
    let first = fleet.best(&cid(), &[])[0];
    let mut next = |reserved: &[PeerId]| {
        let (add, missing) = (reserved.to_vec(), reserved.len());
        fleet.reserve(&Plan { add, missing, ..Plan::default() });
        fleet.best(&cid(), &[])[0]
    };
    assert_eq!(next(&[]), first, "nothing was reserved");
    let other = next(&[first]);
    assert_ne!(other, first);
    assert_eq!(next(&[other]), first, "both got as many");
    assert_eq!(next(&[first, other]), first);
}

/// The fleet of members 1 to 5 with departing ones, gone ones, those with room for moves, and those that can
/// take content at all.
fn fleet_with(departing: &[u8], gone: &[u8], room: &[u8], takers: &[u8]) -> Fleet {
    let metrics = takers.iter().map(|n| (peer(*n), metrics(None, u64::MAX))).collect();
    let all = peers(&[1, 2, 3, 4, 5]);
    let fleet = Fleet::new(&all, &peers(departing), &metrics, &BTreeMap::new());
    fleet.with_moves(peers(gone), room.iter().map(|n| (peer(*n), 1)).collect())
}

#[test]
fn a_departing_member_leaves_when_all_others_have_a_copy() {
    // Wanted, holders, leaving, departing, takers, confirmed; missing, those that leave and that let go.
    type Row<'a> = (
        (Replication, &'a [u8], &'a [u8]),
        (&'a [u8], &'a [u8], &'a [u8]),
        (usize, &'a [u8], &'a [u8]),
    );
    let table: &[Row<'_>] = &[
        // It keeps its copy until that has moved, and lets go once enough others are confirmed.
        ((copies(1, 2), &[1, 3], &[]), (&[3], &[1, 4], &[1, 3]), (0, &[], &[])),
        ((copies(1, 2), &[1, 3, 4], &[]), (&[3], &[1, 4], &[1, 3]), (0, &[3], &[])),
        ((copies(2, 2), &[1, 4], &[3]), (&[3], &[1, 4], &[1, 3]), (0, &[], &[])),
        ((copies(2, 2), &[1, 4], &[3]), (&[3], &[1, 4], &[1, 4]), (0, &[], &[3])),
        // All that stay have one, although fewer than wanted or needed.
        ((copies(5, 5), &[1, 2, 3, 4, 5], &[]), (&[5], &[], &[1, 2, 3, 4, 5]), (0, &[5], &[])),
        ((copies(5, 5), &[1, 2, 3, 4], &[5]), (&[5], &[], &[1, 2, 3]), (1, &[], &[])),
        ((copies(5, 5), &[1, 2, 3, 4], &[5]), (&[5], &[], &[1, 2, 3, 4]), (1, &[], &[5])),
        ((EVERYWHERE, &[1, 2, 3, 4, 5], &[]), (&[5], &[], &[]), (0, &[5], &[])),
        // More copies are possible than there are now.
        ((copies(3, 3), &[1, 2], &[3]), (&[3], &[], &[1, 2]), (1, &[], &[])),
        ((copies(2, 3), &[1, 2], &[3]), (&[3], &[], &[1, 2]), (1, &[], &[3])),
        // It takes nothing itself.
        ((copies(1, 2), &[1], &[]), (&[3], &[3], &[1]), (1, &[], &[])),
    ];
    for (pin, (departing, takers, confirmed), (missing, leave, let_go)) in table {
        let (replication, holders, leaving) = *pin;
        let fleet = fleet_with(departing, &[], &[], takers);
        let allocations = allocations(holders, leaving);
        let need = Need { cid: &cid(), allocations: &allocations, replication };
        let plan = plan(&need, &fleet, &seen(confirmed));
        assert_eq!(plan.missing, *missing, "{pin:?} {departing:?}");
        assert!(plan.add.iter().all(|taker| !fleet.departing.contains(taker)));
        let found = (plan.leave, plan.let_go);
        assert_eq!(found, (peers(leave), peers(let_go)), "{pin:?} {departing:?} {confirmed:?}");
    }
}

#[test]
fn copies_move_to_members_with_room() {
    // Holders, leaving, departing, gone, failing, members with room; the moves.
    type Row<'a> =
        ((&'a [u8], &'a [u8]), (&'a [u8], &'a [u8], &'a [u8]), &'a [u8], &'a [(u8, &'a [u8])]);
    let table: &[Row<'_>] = &[
        ((&[1, 2], &[]), (&[], &[], &[]), &[3, 4, 5], &[]),
        ((&[1, 2], &[]), (&[2], &[], &[]), &[3], &[(2, &[3])]),
        ((&[1, 2], &[]), (&[], &[2], &[]), &[3], &[(2, &[3])]),
        ((&[1, 2], &[]), (&[], &[], &[2]), &[3], &[(2, &[3])]),
        // No other member has room, or can take it.
        ((&[1, 2], &[]), (&[], &[2], &[]), &[], &[]),
        ((&[1, 2], &[]), (&[], &[2], &[]), &[1, 2], &[]),
        ((&[1, 2], &[]), (&[3], &[2, 4], &[]), &[3], &[]),
        // It gave its copy away before, so it does not get it back.
        ((&[1, 2], &[3]), (&[], &[2], &[]), &[3], &[]),
        ((&[1, 2], &[3]), (&[], &[3], &[]), &[4], &[]),
        // Two of one pin go to two members.
        ((&[1, 2], &[]), (&[1], &[2], &[]), &[3], &[(1, &[3])]),
        // One too many leaves instead.
        ((&[1, 2, 3], &[]), (&[], &[2], &[]), &[4], &[]),
        ((&[1, 2, 3], &[]), (&[], &[], &[2]), &[4], &[]),
    ];
    for (copies_now, (departing, gone, failing), room, expected) in table {
        let (holders, leaving) = *copies_now;
        let fleet = fleet_with(departing, gone, room, &[1, 2, 3, 4, 5]);
        let allocations = allocations(holders, leaving);
        let need = Need { cid: &cid(), allocations: &allocations, replication: copies(1, 2) };
        let mut sight = Sight { failing: peers(failing), ..seen(&[1, 3]) };
        let found = plan(&need, &fleet, &sight).moves;
        let expected: Vec<Move> =
            expected.iter().map(|(from, to)| Move { from: peer(*from), to: peers(to) }).collect();
        assert_eq!(found, expected, "{copies_now:?} {departing:?} {gone:?} {failing:?} {room:?}");
        sight.failed = peers(room);
        assert_eq!(plan(&need, &fleet, &sight).moves, [], "they failed to get it before");
        sight.failed.clear();
        sight.is_complete = false;
        assert_eq!(plan(&need, &fleet, &sight).moves, [], "a holder has not reported yet");
    }
}

#[test]
fn a_move_uses_up_the_room_of_its_receiver() {
    let mut fleet = fleet_with(&[], &[2], &[3], &[3]);
    let allocations = allocations(&[1, 2], &[]);
    let need = Need { cid: &cid(), allocations: &allocations, replication: copies(1, 2) };
    let first = plan(&need, &fleet, &seen(&[]));
    assert_eq!(first.added().collect::<Vec<_>>(), [peer(3)]);
    fleet.reserve(&first);
    assert_eq!(plan(&need, &fleet, &seen(&[])).moves, []);
}

#[test]
fn a_leaving_peer_stays_while_its_successor_does_not_hold_the_content() {
    // Wanted, holders, leaving, gone, confirmed; those that stay, those that leave.
    type Row<'a> = (Replication, (&'a [u8], &'a [u8]), &'a [u8], &'a [u8], (&'a [u8], &'a [u8]));
    let table: &[Row<'_>] = &[
        (copies(1, 2), (&[1, 4], &[2]), &[], &[1, 2], (&[2], &[])),
        (copies(1, 2), (&[1, 4], &[2]), &[], &[1, 2, 4], (&[], &[])),
        (copies(1, 2), (&[1, 4], &[2]), &[], &[1], (&[], &[])),
        (copies(1, 2), (&[1, 4], &[2]), &[2], &[1, 2], (&[], &[])),
        // Not more than holders that lack it.
        (copies(1, 2), (&[1, 4], &[2, 3]), &[], &[1, 2, 3], (&[2], &[])),
        (copies(1, 2), (&[4, 5], &[2, 3]), &[], &[2, 3], (&[2, 3], &[])),
        // Then the one that lacks it is one too many.
        (copies(1, 2), (&[1, 4, 2], &[]), &[], &[1, 2], (&[], &[4])),
        // A missing holder is added, and a leaving peer is one of the candidates.
        (copies(1, 3), (&[1, 4], &[2]), &[], &[1, 2], (&[], &[])),
    ];
    for (replication, copies_now, gone, confirmed, (stay, leave)) in table {
        let (holders, leaving) = *copies_now;
        let fleet = fleet_with(&[], gone, &[], &[1, 2, 3, 4, 5]);
        let allocations = allocations(holders, leaving);
        let need = Need { cid: &cid(), allocations: &allocations, replication: *replication };
        let case = format!("{copies_now:?} {gone:?} {confirmed:?}");
        let found = plan(&need, &fleet, &seen(confirmed));
        assert_eq!((found.stay, found.leave), (peers(stay), peers(leave)), "{case}");
        let early = Sight { is_complete: false, ..seen(confirmed) };
        let found = plan(&need, &fleet, &early);
        assert!(found.stay.is_empty() && found.leave.is_empty(), "{case}: reports are missing");
        assert!(found.let_go.is_empty(), "{case}: reports are missing");
    }
}
