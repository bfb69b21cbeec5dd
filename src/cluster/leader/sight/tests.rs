#![allow(clippy::unwrap_used)]

use super::*;
use crate::types::{DaemonInfo, Member, StatusBatch, Timestamp};

fn peer(n: u8) -> PeerId {
    PeerId([n; 32])
}

fn peers(peers: &[u8]) -> BTreeSet<PeerId> {
    peers.iter().map(|n| peer(*n)).collect()
}

fn cid() -> Cid {
    "QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR".parse().unwrap()
}

fn allocation(n: u8) -> Allocation {
    Allocation { peer: peer(n), leaving: false, at_entry: 1 }
}

/// Metrics of a peer whose daemon is up, or not.
fn heard(up: bool) -> Metrics {
    let daemon = || DaemonInfo { id: "d".into(), agent: "kubo".into(), addresses: vec![] };
    Metrics { daemon: up.then(daemon), ..Metrics::default() }
}

fn status(state: PinState) -> PinStatus {
    PinStatus { state, since: Timestamp(0), message: String::new(), attempts: 0 }
}

/// A batch of a peer, with one status or none.
fn report(
    reports: &Reports,
    n: u8,
    stream: u64,
    sequence: u64,
    more: bool,
    state: Option<PinState>,
) {
    let statuses = state.map(|state| (cid(), Some(status(state)))).into_iter().collect();
    reports.take(peer(n), StatusBatch { stream, sequence, more, entries: 1, statuses });
}

fn members(voters: u8, learners: u8) -> BTreeMap<PeerId, MemberView> {
    (0..voters + learners)
        .map(|n| (peer(n), MemberView { member: Member::default(), voter: n < voters }))
        .collect()
}

#[test]
fn members_with_a_daemon_that_answers_take_content() {
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
    let begin = |n, stream, sequence, more| report(&reports, n, stream, sequence, more, None);
    begin(1, 1, 0, false);
    // Peer 2: half a set. Peer 3: a set that begins again, as after a restart. Peer 4: changes without a
    // set. Peer 5: nothing.
    begin(2, 1, 0, true);
    begin(3, 1, 0, false);
    begin(3, 2, 0, true);
    begin(4, 1, 1, false);
    let present = |reports: &Reports, of: &[u8]| {
        let metrics = of.iter().map(|n| (peer(*n), heard(true))).collect();
        Senses::new(reports, metrics, &members(3, 3)).present
    };
    assert_eq!(present(&reports, &[1, 2, 3, 4, 5]), peers(&[1]));
    begin(2, 1, 1, false);
    assert_eq!(present(&reports, &[1, 2, 3, 4, 5]), peers(&[1, 2]));
    assert_eq!(present(&reports, &[2, 5]), peers(&[2]), "peer 1 is away");
    assert_eq!(present(&Reports::default(), &[1, 2, 3, 4, 5]), peers(&[]), "another leadership");
}

#[test]
fn the_sight_is_complete_when_all_that_are_heard_have_reported() {
    let reports = Reports::default();
    report(&reports, 1, 1, 0, false, None);
    report(&reports, 2, 1, 0, true, None);
    let members = members(3, 1);
    let senses = |of: &[(u8, bool)]| {
        let metrics = of.iter().map(|(n, up)| (peer(*n), heard(*up))).collect();
        Senses::new(&reports, metrics, &members)
    };
    // Peers that are heard, and whether their daemon is up; the peers with copies; whether it is complete.
    type Row<'a> = (&'a [(u8, bool)], &'a [u8], bool);
    let table: &[Row<'_>] = &[
        (&[(1, true)], &[1], true),
        (&[(1, true), (2, true)], &[1], true),
        (&[(1, true), (2, true)], &[1, 2], false),
        (&[(1, true), (2, false)], &[1, 2], false),
        (&[(1, true)], &[1, 2], true),
        (&[], &[], true),
    ];
    for (heard, copies, complete) in table {
        let copies: Vec<Allocation> = copies.iter().map(|n| allocation(*n)).collect();
        let senses = senses(heard);
        assert_eq!(senses.is_complete(&copies), *complete, "{heard:?} {copies:?}");
        let early = Senses { all_could_report: false, ..senses };
        assert!(!early.is_complete(&copies), "others may report yet");
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_fails_once_its_daemon_has_failed_for_long() {
    let reports = Reports::default();
    let say = |sequence, state| report(&reports, 1, 1, sequence, false, Some(state));
    let patience = Duration::from_secs(60);
    let fails = || {
        let one = reports.failing(&cid(), patience).contains(&peer(1));
        assert_eq!(reports.all_failing(patience, None, 9).contains(&cid()), one);
        one
    };
    let wait = || tokio::time::advance(Duration::from_secs(40));
    // Each state for 40 seconds; whether it has failed for long then.
    let table = [
        (PinState::Pinning, false),
        (PinState::Failed, false),
        (PinState::Queued, true),
        (PinState::Pinning, true),
        (PinState::DaemonDown, true),
        (PinState::Pinned, false),
        (PinState::Unpinnable, false),
        (PinState::Unpinnable, true),
        (PinState::NotFound, false),
        (PinState::NotFound, false),
        (PinState::Failed, false),
    ];
    for (sequence, (state, failing)) in (0..).zip(table) {
        say(sequence, state);
        wait().await;
        assert_eq!(fails(), failing, "{state:?}");
    }
    wait().await;
    assert!(fails());
    assert!(reports.all_failing(patience, None, 0).is_empty(), "as many as asked for");
    assert!(reports.all_failing(patience, Some(&cid()), 9).is_empty(), "those after it");
    assert_eq!(reports.failed(&cid()), peers(&[1]));
    // A full set that does not have it any more.
    report(&reports, 1, 2, 0, false, None);
    assert!(!fails());
    assert_eq!(reports.failed(&cid()), peers(&[1]), "another peer is to try");
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert_eq!(reports.failed(&cid()), peers(&[]));
}

fn pinned(peers: &[u8]) -> BTreeMap<PeerId, PinStatus> {
    peers.iter().map(|n| (peer(*n), status(PinState::Pinned))).collect()
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
        assert_eq!(confirmed_by(&statuses, &peers(&[1, 2])), expected, "{state:?}");
    }
}

#[test]
fn an_absent_peer_confirms_nothing() {
    assert_eq!(confirmed_by(&pinned(&[1, 2]), &peers(&[2, 3])), peers(&[2]));
}
