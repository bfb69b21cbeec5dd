#![allow(clippy::unwrap_used)]

use super::*;
use crate::types::Allocation;

fn peer(n: u8) -> PeerId {
    PeerId([n; 32])
}

fn cid() -> Cid {
    "QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR".parse().unwrap()
}

#[test]
fn all_pins_are_checked_when_changes_are_missed_or_too_many() {
    let changed = |count| Ok(Changed::Cids(vec![cid(); count].into()));
    let mut work = Work { all: false, cids: Vec::new() };
    work.add(changed(WORK_MAX - 1));
    work.add(changed(1));
    assert!(!work.all && work.cids.len() == WORK_MAX);
    work.add(changed(1));
    assert!(work.all && work.cids.is_empty());
    for missed in [Ok(Changed::Everything), Err(RecvError::Lagged(1))] {
        let mut work = Work { all: false, cids: Vec::new() };
        work.add(missed);
        assert!(work.all);
        work.add(changed(1));
        assert!(work.all, "it stays so until all pins were checked");
    }
}

#[test]
fn a_plan_becomes_the_ops_that_carry_it_out() {
    let confirmed = vec![Allocation { peer: peer(1), leaving: false, at_entry: 1 }];
    let plan = Plan {
        add: vec![peer(2), peer(3)],
        missing: 1,
        leave: vec![peer(4)],
        moves: vec![allocate::Move { from: peer(1), to: vec![peer(9)] }],
        stay: vec![peer(7)],
        let_go: vec![peer(5), peer(6)],
        confirmed,
    };
    let cid = cid();
    let expected = [
        Op::Allocate { cid, candidates: vec![peer(2), peer(3)] },
        Op::Leave { cid, peers: vec![peer(4)] },
        Op::Stay { cid, peer: peer(7) },
    ];
    assert_eq!(ops_of(cid, plan), expected);
    assert_eq!(ops_of(cid, Plan::default()), []);
}
