//! The state by tables, and random ops against its invariants.

#![allow(clippy::unwrap_used)]

mod claims;
mod copies;
mod deletions;
mod peers;
mod random;

use super::{
    Applied, Away, Fence, Found, Holds, Limits, Lost, Op, Outcome, Page, PinSet, Refused, Ruling,
    Waiting, Window,
};
use crate::types::{
    Allocation, Cid, Claim, ClaimName, ClaimOptions, Factor, LogPosition, Owner, PeerId, Pin,
    Replication, Timestamp, Uid,
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
    Allocation { peer: peer(n), leaving: false, at_entry: since }
}

fn object(name: &str) -> Owner {
    Owner::Object(Uid(name.to_owned()))
}

fn claim(n: u8, owner: Owner, min: u16, max: u16, retain: bool, generation: i64) -> Op {
    let replication = Replication { min: Factor::Count(min), max: Factor::Count(max) };
    Op::Claim {
        cid: cid(n),
        owner,
        options: ClaimOptions { replication, retain, name: ClaimName::default() },
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

fn gone(n: u8, name: &str, ruling: Ruling) -> Op {
    let fence = Fence { term: TERM, generation: 1 };
    Op::Gone { cid: cid(n), uid: Uid(name.to_owned()), ruling, at: Timestamp(3), fence }
}

const WAIT: Ruling = Ruling::Wait(Found::Watched);

/// Adds the waiting claim of a deleted object.
fn waiting(pins: &mut PinSet, n: u8, name: &str) -> Waiting {
    pins.apply(AT, &claim(n, object(name), 1, 1, false, 1));
    assert_eq!(pins.apply(AT, &gone(n, name, WAIT)), Outcome::Changed);
    pins.waiting().unwrap()
}

#[test]
fn the_level_rises_in_the_term_it_was_decided_in_and_never_falls() {
    let raise = |level, term| Op::Raise { level, term };
    let mut pins = PinSet::default();
    let steps = [
        (raise(2, TERM - 1), Outcome::Refused(Refused::OtherTerm), 1),
        (raise(1, TERM), Outcome::Unchanged, 1),
        (raise(3, TERM), Outcome::Changed, 3),
        (raise(3, TERM), Outcome::Unchanged, 3),
        (raise(2, TERM), Outcome::Unchanged, 3),
    ];
    for (op, outcome, level) in steps {
        assert_eq!((pins.apply(AT, &op), pins.level()), (outcome, level), "{op:?}");
    }
    let mut restored = PinSet::default();
    restored.restore_beside(pins.beside().clone());
    assert_eq!(restored, pins);
}
