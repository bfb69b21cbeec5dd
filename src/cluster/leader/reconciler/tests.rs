#![allow(clippy::unwrap_used)]

use super::*;
use crate::types::{Allocation, DaemonInfo, Member, StatusBatch, Timestamp};

fn peer(n: u8) -> PeerId {
    PeerId([n; 32])
}

fn members(voters: u8, learners: u8) -> BTreeMap<PeerId, MemberView> {
    (0..voters + learners)
        .map(|n| (peer(n), MemberView { member: Member::default(), voter: n < voters }))
        .collect()
}

fn peers(peers: &[u8]) -> BTreeSet<PeerId> {
    peers.iter().map(|n| peer(*n)).collect()
}

#[test]
fn members_with_a_daemon_that_answers_take_content() {
    let daemon = || DaemonInfo { id: "d".into(), agent: "kubo".into(), addresses: vec![] };
    let heard = |up: bool| Metrics { daemon: up.then(daemon), ..Metrics::default() };
    // Peers with metrics, and whether their daemon is up; the expected with_daemon of members 0, 1 and 2.
    type Row<'a> = (&'a [(u8, bool)], &'a [u8]);
    let table: &[Row<'_>] = &[
        (&[], &[]),
        (&[(0, true), (1, true)], &[0, 1]),
        (&[(0, true), (1, false)], &[0]),
        (&[(0, true), (7, true)], &[0]),
        (&[(2, false), (7, false)], &[]),
    ];
    for (peers_heard, expected) in table {
        let metrics = peers_heard.iter().map(|(n, up)| (peer(*n), heard(*up))).collect();
        assert_eq!(with_daemon(&metrics, &members(1, 2)), peers(expected), "{peers_heard:?}");
    }
}

#[test]
fn only_peers_with_a_complete_full_set_are_present() {
    let reports = Reports::default();
    let report = |n, stream, sequence, more| {
        let (entries, statuses) = (1, Vec::new());
        reports.take(peer(n), StatusBatch { stream, sequence, more, entries, statuses });
    };
    report(1, 1, 0, false);
    // Peer 2: half a set. Peer 3: a set that begins again, as after a restart. Peer 4: changes without a
    // set. Peer 5: nothing.
    report(2, 1, 0, true);
    report(3, 1, 0, false);
    report(3, 2, 0, true);
    report(4, 1, 1, false);
    assert_eq!(present(peers(&[1, 2, 3, 4, 5]), &reports).0, peers(&[1]));
    report(2, 1, 1, false);
    assert_eq!(present(peers(&[1, 2, 3, 4, 5]), &reports).0, peers(&[1, 2]));
    assert_eq!(present(peers(&[2, 5]), &reports).0, peers(&[2]), "peer 1 is away");
    let new_reports = Reports::default();
    assert_eq!(present(peers(&[1, 2, 3, 4, 5]), &new_reports).0, peers(&[]), "another leadership");
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

fn cid() -> Cid {
    "QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR".parse().unwrap()
}

#[test]
fn only_a_pinned_status_confirms_a_copy() {
    let all = [
        PinState::Queued,
        PinState::Pinning,
        PinState::Pinned,
        PinState::NotFound,
        PinState::Failed,
        PinState::DaemonDown,
        PinState::Unpinning,
        PinState::UnpinFailed,
        PinState::Rechecking,
    ];
    for state in all {
        let mut statuses = pinned(&[1]);
        statuses.values_mut().for_each(|status| status.state = state);
        let expected = if state == PinState::Pinned { peers(&[1]) } else { peers(&[]) };
        assert_eq!(confirmed_by(&statuses, &Present(peers(&[1, 2]))), expected, "{state:?}");
    }
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
fn an_absent_peer_confirms_nothing() {
    let present = Present(peers(&[2, 3]));
    assert_eq!(confirmed_by(&pinned(&[1, 2]), &present), peers(&[2]));
}

#[test]
fn a_plan_becomes_the_ops_that_carry_it_out() {
    let confirmed = vec![Allocation { peer: peer(1), leaving: false, at_entry: 1 }];
    let plan = Plan {
        add: vec![peer(2), peer(3)],
        missing: 1,
        leave: vec![peer(4)],
        let_go: vec![peer(5), peer(6)],
        confirmed: confirmed.clone(),
    };
    let cid = cid();
    let let_go = |n| Op::LetGo { cid, peer: peer(n), confirmed: confirmed.clone() };
    let expected = [
        Op::Allocate { cid, candidates: vec![peer(2), peer(3)] },
        Op::Leave { cid, peers: vec![peer(4)] },
        let_go(5),
        let_go(6),
    ];
    assert_eq!(ops_of(cid, plan), expected);
    assert_eq!(ops_of(cid, Plan::default()), []);
}
