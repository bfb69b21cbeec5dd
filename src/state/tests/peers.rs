//! Peers that leave for good: transfers of their allocations, and their removal.

use super::*;

fn transfer(from: u8, to: u8, page: Page) -> Op {
    Op::Transfer { from: peer(from), to: peer(to), page, term: TERM }
}

fn remove(n: u8) -> Op {
    Op::Remove { peer: peer(n), term: TERM }
}

/// A pin of REST with these allocations.
fn put(pins: &mut PinSet, n: u8, allocations: Vec<Allocation>) {
    pins.apply(AT, &claim(n, Owner::Rest, 1, 1, false, 0));
    let pin = pins.get(&cid(n)).unwrap().clone();
    let mut anew = PinSet::default();
    pins.iter().filter(|(of, _)| *of != cid(n)).for_each(|(of, pin)| anew.restore(of, pin.clone()));
    anew.restore(cid(n), Pin { allocations, ..pin });
    anew.restore_beside(pins.beside().clone());
    *pins = anew;
}

fn allocations(pins: &PinSet, n: u8) -> Vec<Allocation> {
    pins.get(&cid(n)).unwrap().allocations.clone()
}

fn leaving(n: u8, at_entry: u64) -> Allocation {
    Allocation { leaving: true, ..allocation(n, at_entry) }
}

#[test]
fn a_successor_gets_the_copies_of_its_predecessor_as_new_ones() {
    let at = LogPosition { index: 8, ..AT };
    let all = Page { after: None, last: cid(9) };
    // The allocations before, and after a transfer from 1 to 2 by the ninth entry.
    let table = [
        (vec![allocation(1, 1)], vec![allocation(2, 9)]),
        (vec![leaving(1, 1)], vec![leaving(2, 9)]),
        (vec![allocation(3, 1), allocation(1, 1)], vec![allocation(3, 1), allocation(2, 9)]),
        // The successor has one already: its reports of that one stay valid.
        (vec![allocation(1, 1), allocation(2, 4)], vec![allocation(2, 4)]),
        (vec![allocation(1, 1), leaving(2, 4)], vec![allocation(2, 4)]),
        (vec![leaving(1, 1), allocation(2, 4)], vec![allocation(2, 4)]),
        (vec![leaving(1, 1), leaving(2, 4)], vec![leaving(2, 4)]),
        (vec![allocation(3, 1)], vec![allocation(3, 1)]),
    ];
    for (before, after) in table {
        let mut pins = PinSet::default();
        put(&mut pins, 1, before.clone());
        let changes = before != after;
        let outcome = if changes { Outcome::Changed } else { Outcome::Unchanged };
        assert_eq!(pins.apply(at, &transfer(1, 2, all)), outcome, "{before:?}");
        assert_eq!(allocations(&pins, 1), after, "{before:?}");
        assert_eq!(pins.apply(at, &transfer(1, 2, all)), Outcome::Unchanged, "again");
    }
}

#[test]
fn a_transfer_changes_one_page() {
    let mut cids: Vec<u8> = (1..6).collect();
    cids.sort_by_key(|n| cid(*n));
    let mut pins = PinSet::default();
    cids.iter().for_each(|n| put(&mut pins, *n, vec![allocation(1, 1)]));
    let first = pins.page_after(None, 2).unwrap();
    assert_eq!(first, Page { after: None, last: cid(cids[1]) });
    let second = pins.page_after(Some(first.last), 2).unwrap();
    assert_eq!(second, Page { after: Some(first.last), last: cid(cids[3]) });
    let third = pins.page_after(Some(second.last), 2).unwrap();
    assert_eq!(third, Page { after: Some(second.last), last: cid(cids[4]) });
    assert_eq!(pins.page_after(Some(third.last), 2), None);
    assert_eq!(pins.apply(AT, &transfer(1, 2, second)), Outcome::Changed);
    let moved = cids.iter().map(|n| allocations(&pins, *n)[0].peer == peer(2));
    assert_eq!(moved.collect::<Vec<_>>(), [false, false, true, true, false]);
    let all = Page { after: None, last: third.last };
    assert_eq!(pins.allocated_in(&all, peer(2)).collect::<Vec<_>>(), [cid(cids[2]), cid(cids[3])]);
}

#[test]
fn a_peer_is_removed_once_it_has_no_copies_and_gets_none_again() {
    let mut pins = PinSet::default();
    put(&mut pins, 1, vec![allocation(1, 1)]);
    let all = Page { after: None, last: cid(1) };
    let of_another_term = Op::Remove { peer: peer(5), term: TERM - 1 };
    let steps = [
        (remove(1), Outcome::Refused(Refused::HasCopies)),
        (of_another_term, Outcome::Refused(Refused::OtherTerm)),
        (transfer(1, 1, all), Outcome::Unchanged),
        (transfer(1, 2, all), Outcome::Changed),
        (remove(1), Outcome::Changed),
        (remove(1), Outcome::Unchanged),
        (transfer(2, 1, all), Outcome::Refused(Refused::Removed)),
    ];
    for (op, outcome) in steps {
        assert_eq!(pins.apply(AT, &op), outcome, "{op:?}");
    }
    assert_eq!((pins.is_removed(peer(1)), pins.is_removed(peer(2))), (true, false));
    // Decided before the removal, applied after it.
    let candidates = vec![peer(1), peer(3)];
    pins.apply(AT, &claim(1, object("a"), 1, 3, false, 1));
    pins.apply(AT, &Op::Allocate { cid: cid(1), candidates });
    assert_eq!(holders(&pins, 1), [peer(2), peer(3)]);
    let mut restored = PinSet::default();
    restored.restore_beside(pins.beside().clone());
    assert!(restored.is_removed(peer(1)));
}

#[test]
fn the_oldest_removed_peers_are_forgotten_first() {
    let mut pins = PinSet::default();
    let id = |n: u16| PeerId([n.to_be_bytes(); 16].as_flattened().try_into().unwrap());
    for n in 0..300 {
        assert_eq!(pins.apply(AT, &Op::Remove { peer: id(n), term: TERM }), Outcome::Changed);
    }
    let known: Vec<u16> = (0..300).filter(|n| pins.is_removed(id(*n))).collect();
    assert_eq!(known, (44..300).collect::<Vec<_>>());
}

#[test]
fn a_departing_peer_keeps_its_copies_until_all_others_hold_them() {
    let depart = |n, departs| Op::Depart { peer: peer(n), departs, term: TERM, scaled_in: false };
    let mut pins = PinSet::default();
    pins.apply(AT, &claim(1, Owner::Rest, 3, 3, false, 0));
    assert_eq!(holders(&pins, 1), [peer(1), peer(2), peer(3)]);
    let of_another_term =
        Op::Depart { peer: peer(3), departs: true, term: TERM - 1, scaled_in: false };
    assert_eq!(pins.apply(AT, &of_another_term), Outcome::Refused(Refused::OtherTerm));
    let steps = [(depart(3, true), true), (depart(3, true), false), (depart(3, false), true)];
    for (op, changes) in steps {
        let outcome = if changes { Outcome::Changed } else { Outcome::Unchanged };
        assert_eq!(pins.apply(AT, &op), outcome, "{op:?}");
    }
    let confirmed = |pins: &PinSet, of: &[u8]| -> Vec<Allocation> {
        let all = allocations(pins, 1).into_iter();
        all.filter(|copy| of.iter().any(|n| copy.peer == peer(*n))).collect()
    };
    pins.apply(AT, &Op::Leave { cid: cid(1), peers: vec![peer(3)] });
    let let_go = |confirmed| Op::LetGo { cid: cid(1), peer: peer(3), confirmed };
    let few = Outcome::Refused(Refused::TooFewConfirmed);
    let both = confirmed(&pins, &[1, 2]);
    assert_eq!(pins.apply(AT, &let_go(both.clone())), few, "three are needed");
    pins.apply(AT, &depart(3, true));
    let one = confirmed(&pins, &[1]);
    assert_eq!(pins.apply(AT, &let_go(one)), few);
    // It is no holder any more: another one is added beside it.
    let add = Op::Allocate { cid: cid(1), candidates: vec![peer(4)] };
    assert_eq!(pins.clone().apply(AT, &add), Outcome::Changed);
    assert_eq!(pins.apply(AT, &let_go(both)), Outcome::Changed);
    assert_eq!(pins.apply(AT, &remove(3)), Outcome::Changed);
    assert!(pins.departing().is_empty() && pins.is_removed(peer(3)));
    assert_eq!(pins.apply(AT, &depart(3, true)), Outcome::Refused(Refused::Removed));
}

#[test]
fn a_pod_that_is_wanted_again_stays_unless_a_person_had_it_leave() {
    let depart = |departs, scaled_in| Op::Depart { peer: peer(1), departs, term: TERM, scaled_in };
    // The ops, and whether it departs and counts as scaled in after each.
    let table: [&[(Op, bool, bool)]; 4] = [
        &[
            (depart(true, true), true, true),
            (depart(true, true), true, true),
            (depart(false, true), false, false),
        ],
        &[(depart(true, false), true, false), (depart(false, true), true, false)],
        &[(depart(true, false), true, false), (depart(true, true), true, false)],
        // A person asks for it too, or against it.
        &[
            (depart(true, true), true, true),
            (depart(true, false), true, false),
            (depart(false, true), true, false),
            (depart(false, false), false, false),
        ],
    ];
    for ops in table {
        let mut pins = PinSet::default();
        for (op, departs, scaled_in) in ops {
            let before = pins.clone();
            let outcome = pins.apply(AT, op);
            assert_eq!(outcome == Outcome::Changed, pins != before, "{op:?}");
            let now = (pins.departing().contains(&peer(1)), pins.scaled_in().contains(&peer(1)));
            assert_eq!(now, (*departs, *scaled_in), "{ops:?} at {op:?}");
        }
        pins.apply(AT, &depart(true, true));
        pins.apply(AT, &remove(1));
        assert!(pins.scaled_in().is_empty() && pins.departing().is_empty());
    }
}

#[test]
fn a_copy_moves_to_the_first_candidate_that_can_take_it() {
    let at = LogPosition { index: 8, ..AT };
    // Peers 1 and 3 hold it, 4 leaves, 5 departs, 6 was removed. Candidates; the peer that takes it over.
    let table: &[(&[u8], Option<u8>)] = &[
        (&[2], Some(2)),
        (&[1, 3, 4, 5, 6, 7, 2], Some(7)),
        (&[], None),
        (&[1, 3, 4, 5, 6], None),
    ];
    let before = vec![allocation(1, 1), allocation(3, 1), leaving(4, 1)];
    for (candidates, takes) in table {
        let mut pins = PinSet::default();
        put(&mut pins, 1, before.clone());
        pins.apply(AT, &Op::Depart { peer: peer(5), departs: true, term: TERM, scaled_in: false });
        pins.apply(AT, &remove(6));
        let candidates = candidates.iter().map(|n| peer(*n)).collect();
        let outcome = pins.apply(at, &Op::Move { cid: cid(1), from: peer(1), candidates });
        let Some(to) = takes else {
            assert_eq!(outcome, Outcome::Refused(Refused::NoCandidate));
            assert_eq!(allocations(&pins, 1), before, "nothing leaves without a successor");
            continue;
        };
        let after = vec![leaving(1, 1), allocation(3, 1), leaving(4, 1), allocation(*to, 9)];
        assert_eq!((outcome, allocations(&pins, 1)), (Outcome::Changed, after));
        assert_eq!(pins.moving().collect::<Vec<_>>(), [cid(1)]);
    }
}

#[test]
fn only_a_holder_moves_and_only_a_leaving_peer_stays() {
    let mut pins = PinSet::default();
    put(&mut pins, 1, vec![allocation(1, 1), leaving(2, 1)]);
    let moved = |from| Op::Move { cid: cid(1), from: peer(from), candidates: vec![peer(3)] };
    let stay = |n| Op::Stay { cid: cid(1), peer: peer(n) };
    for op in [moved(2), moved(9), stay(1), stay(9)] {
        assert_eq!(pins.apply(AT, &op), Outcome::Unchanged, "{op:?}");
    }
    let none = Op::Stay { cid: cid(7), peer: peer(2) };
    assert_eq!(pins.apply(AT, &none), Outcome::Refused(Refused::NoSuchPin));
    assert_eq!(pins.apply(AT, &stay(2)), Outcome::Changed);
    assert_eq!(allocations(&pins, 1), [allocation(1, 1), allocation(2, 1)]);
    assert_eq!(pins.moving().count(), 0);
}

#[test]
fn absences_are_noted_in_the_term_they_were_decided_in_and_go_with_the_peer() {
    let away = |seconds| Away { seconds, absences: 1, ..Away::default() };
    let note = |away, term| Op::Away { peer: peer(1), away, term };
    let mut pins = PinSet::default();
    let steps = [
        (note(Some(away(30)), TERM - 1), Outcome::Refused(Refused::OtherTerm)),
        (note(None, TERM), Outcome::Unchanged),
        (note(Some(away(30)), TERM), Outcome::Changed),
        (note(Some(away(30)), TERM), Outcome::Unchanged),
        (note(Some(away(60)), TERM), Outcome::Changed),
    ];
    for (op, outcome) in steps {
        assert_eq!(pins.apply(AT, &op), outcome, "{op:?}");
    }
    assert_eq!(pins.away(), &[(peer(1), away(60))].into());
    let mut restored = PinSet::default();
    restored.restore_beside(pins.beside().clone());
    assert_eq!(restored, pins);
    assert_eq!(pins.apply(AT, &note(None, TERM)), Outcome::Changed);
    pins.apply(AT, &note(Some(away(90)), TERM));
    pins.apply(AT, &remove(1));
    assert!(pins.away().is_empty());
    assert_eq!(pins.apply(AT, &note(Some(away(90)), TERM)), Outcome::Refused(Refused::Removed));
}
