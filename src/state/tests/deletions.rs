//! Deleted objects: which claims wait for a person, and which CIDs count.

use super::*;

#[test]
fn an_approval_ends_the_waiting_claims_and_is_valid_once() {
    let mut pins = PinSet::default();
    let first = waiting(&mut pins, 1, "a");
    let both = waiting(&mut pins, 2, "b");
    assert_eq!((first.cids, both.cids, pins.len()), (1, 2, 2));
    assert_eq!(pins.cid_of(&Uid("a".to_owned())), None, "the comparison does not find it again");
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
fn a_claim_of_any_owner_ends_the_waiting() {
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
fn only_a_last_claim_without_retain_waits() {
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
    // Only an approval ends it.
    let waiting = pins.waiting();
    let take = gone(1, "b", Ruling::Take(Found::Watched));
    assert_eq!(pins.apply(AT, &take), Outcome::Unchanged);
    assert_eq!((pins.waiting(), pins.len()), (waiting, 2));
}

#[test]
fn a_ruling_of_another_term_is_refused() {
    let mut pins = PinSet::default();
    pins.apply(AT, &claim(1, object("a"), 1, 1, false, 1));
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
fn only_lost_cids_count_by_how_they_were_found_and_whether_they_wait() {
    // Whether it has another claim, whether it is retained, the ruling, the count.
    let table = [
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
        // It counts only once.
        pins.apply(AT, &gone(1, "a", ruling));
        assert_eq!(*pins.window(), expected, "again: shared {shared}, retain {retain}, {ruling:?}");
    }
}

/// A new CID makes up for one that was lost.
#[test]
fn a_cid_is_new_if_only_live_objects_want_it_now_and_not_before() {
    let of = |name| claim(2, object(name), 1, 1, false, 1);
    let rest = claim(2, Owner::Rest, 1, 1, false, 0);
    let retained = claim(2, object("r"), 1, 1, true, 1);
    // The earlier ops on the CID, the claim, and whether the CID is new.
    let table: [(&[Op], Op, bool); 8] = [
        (&[], of("b"), true),
        (&[of("b")], of("b"), false),
        (&[of("b")], of("c"), false),
        (&[of("b"), gone(2, "b", WAIT)], of("c"), true),
        (&[retained.clone(), gone(2, "r", WAIT)], of("c"), true),
        (std::slice::from_ref(&rest), of("b"), false),
        (&[], rest.clone(), false),
        (&[], retained, false),
    ];
    for (before, op, is_new) in table {
        let mut pins = PinSet::default();
        before.iter().for_each(|op| assert_eq!(pins.apply(AT, op), Outcome::Changed, "{op:?}"));
        pins.apply(AT, &claim(1, object("a"), 1, 1, false, 1));
        pins.apply(AT, &gone(1, "a", Ruling::Take(Found::Watched)));
        let mut expected = pins.window().clone();
        if is_new {
            expected.gain();
        }
        pins.apply(AT, &op);
        assert_eq!(*pins.window(), expected, "{before:?}, then {op:?}");
    }
}

#[test]
fn the_deletion_guard_counts_cids_that_only_objects_want() {
    // Ops on a third CID; whether two CIDs that the comparison takes are then the last ones.
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
        let holds = pins.guard(Lost { watched: 0, compared: 2 }, Timestamp(3), &Limits::default());
        assert_eq!(holds, Holds { watched: false, compared: last }, "{ops:?}");
    }
}
