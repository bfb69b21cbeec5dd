//! openraft's own store suite, and the checks of a damaged disk.

#![allow(clippy::unwrap_used)]

mod damage;
mod keeping;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use openraft::{
    EntryPayload, StorageError,
    storage::RaftStateMachine as _,
    testing::log::{StoreBuilder, Suite},
};
use tempfile::TempDir;
use tokio::{sync::watch, time::timeout};

use super::{
    BoundLog, DiskLog, ENTRY_LEN_MAX, OpenError, Side, StateStore, Stores, check_stores, fit,
    in_entries,
    machine::{Knows, Machine},
    raft_types::{RaftEntry, TypeConfig, position_in},
    state_store::Head,
};
use crate::{
    state::{Beside, Op},
    types::{Allocation, ClusterId, LogPosition, PeerId},
};

struct OnDisk;

impl StoreBuilder<TypeConfig, DiskLog, Machine, TempDir> for OnDisk {
    async fn build(&self) -> Result<(TempDir, DiskLog, Machine), StorageError<TypeConfig>> {
        let folder = TempDir::new().unwrap();
        let log = DiskLog::open(&folder.path().join("log")).unwrap();
        let store = StateStore::open(&folder.path().join("state.redb")).unwrap();
        // The suite applies entries that it never appended.
        let flushed = watch::Sender::new(Some(u64::MAX)).subscribe();
        let machine =
            Machine::load(store, flushed, Arc::new(OnceLock::new()), Knows::default()).unwrap();
        Ok((folder, log, machine))
    }
}

#[tokio::test]
async fn openrafts_store_suite_passes() {
    Suite::test_all(OnDisk).await.unwrap();
}

fn stores(folder: &TempDir) -> Stores<DiskLog> {
    let log = DiskLog::open(&folder.path().join("log")).unwrap();
    let state = StateStore::open(&folder.path().join("state.redb")).unwrap();
    Stores { flushed: log.flushed(), log, state }
}

#[test]
fn ops_of_many_peers_are_cut_into_entries_that_fit_in_a_message() {
    let peers = (0..60).map(|n| PeerId([n; 32]));
    let confirmed: Vec<Allocation> =
        peers.map(|peer| Allocation { peer, leaving: false, at_entry: u64::MAX }).collect();
    let cid = "QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR".parse().unwrap();
    let op = |n: u16| {
        let peer = PeerId([(n % 250) as u8; 32]);
        Op::LetGo { cid, peer, confirmed: confirmed.clone() }
    };
    let ops: Vec<Op> = (0..10_000).map(op).collect();
    let entries = in_entries(ops.clone());
    assert!(entries.len() > 5, "{}", entries.len());
    assert!(entries.iter().all(|entry| entry.len() <= ENTRY_LEN_MAX));
    assert_eq!(entries.iter().flat_map(|entry| entry.ops().to_vec()).collect::<Vec<_>>(), ops);
    assert_eq!(in_entries(ops[..500].to_vec()).len(), 1);
}

#[test]
fn only_a_log_and_a_state_that_fit_are_opened() {
    let ours = Some((ClusterId([1; 16]), 1));
    let later = Some((ClusterId([1; 16]), 2));
    let at = |index| Some(LogPosition { term: 2, index });
    let newer = Some(LogPosition { term: 3, index: 4 });
    let none = Side::default();
    let bound = Side { log: ours, state: ours, ..none };
    let used = Side { purged: at(3), last: at(9), applied: at(5), ..bound };
    let cases = [
        ("blank", none, ""),
        ("bound", bound, ""),
        ("only the state is bound yet", Side { log: None, ..bound }, ""),
        ("that, beside entries", Side { log: None, last: at(0), ..bound }, "Mixed"),
        ("that, beside a used state", Side { log: None, applied: at(0), ..bound }, "Mixed"),
        ("only the log is bound", Side { state: None, ..bound }, "Mixed"),
        ("of another epoch", Side { log: later, ..bound }, "Mixed"),
        ("used", used, ""),
        ("all applied", Side { applied: at(9), ..used }, ""),
        ("shorter by one", Side { applied: at(10), ..used }, "LogTooShort"),
        ("shorter, of a newer term", Side { applied: newer, ..used }, "LogTooShort"),
        ("gone", Side { purged: None, last: None, ..used }, "LogTooShort"),
        ("a snapshot", Side { applied: at(12), installed: at(12), ..used }, ""),
        ("applied behind one", Side { applied: at(12), installed: at(11), ..used }, "LogTooShort"),
        ("as old as what is kept", Side { applied: at(3), ..used }, ""),
        ("older by one", Side { applied: at(2), ..used }, "StateTooOld"),
        ("a state anew", Side { applied: None, ..used }, "StateTooOld"),
    ];
    for (case, side, refused) in cases {
        let told = match fit(side) {
            Ok(()) => "",
            Err(OpenError::Mixed { .. }) => "Mixed",
            Err(OpenError::LogTooShort { .. }) => "LogTooShort",
            Err(OpenError::StateTooOld { .. }) => "StateTooOld",
            Err(_) => "another",
        };
        assert_eq!(told, refused, "{case}");
    }
}

#[test]
fn a_log_of_another_cluster_or_none_is_refused() {
    let (id, other) = (ClusterId([1; 16]), ClusterId([2; 16]));
    let folder = TempDir::new().unwrap();
    let stores = stores(&folder);
    check_stores(&stores).unwrap();
    // A crash between binding the state and binding the log.
    stores.state.set_cluster(id, 1).unwrap();
    check_stores(&stores).unwrap();
    BoundLog::set_cluster(&stores.log, other, 1).unwrap();
    assert!(matches!(check_stores(&stores), Err(OpenError::Mixed { .. })));
    BoundLog::set_cluster(&stores.log, id, 1).unwrap();
    check_stores(&stores).unwrap();
}

#[test]
fn a_log_shorter_than_the_state_is_refused_unless_a_snapshot_was_installed() {
    let folder = TempDir::new().unwrap();
    let stores = stores(&folder);
    let at = Some(LogPosition { term: 1, index: 5 });
    stores.state.apply([], &Beside::default(), &Head { applied: at, ..Head::default() }).unwrap();
    assert!(matches!(check_stores(&stores), Err(OpenError::LogTooShort { .. })));
    stores
        .state
        .apply([], &Beside::default(), &Head { applied: at, installed: at, ..Head::default() })
        .unwrap();
    check_stores(&stores).unwrap();
}

/// A closed store is synced as it is: if it were ahead of the log on disk, the peer could not start
/// again after the log has lost entries.
#[tokio::test(start_paused = true)]
async fn what_the_log_has_not_on_disk_is_not_stored_either() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("state.redb");
    let at = |index| LogPosition { term: 1, index };
    let store = StateStore::open(&path).unwrap();
    let head = Head { applied: Some(at(1)), ..Head::default() };
    store.apply([], &Beside::default(), &head).unwrap();
    let (on_disk, flushed) = watch::channel(Some(1));
    let mut machine = Machine::load(store, flushed, Arc::default(), Knows::default()).unwrap();
    tokio::time::advance(Duration::from_secs(60)).await;
    let entry = RaftEntry { log_id: position_in(at(2)), payload: EntryPayload::Blank };
    let entries = || futures::stream::iter([Ok((entry.clone(), None))]);
    let applied = timeout(Duration::from_secs(60), machine.apply(entries())).await;
    assert!(applied.is_err(), "it is stored before the log is on disk");
    drop(machine);
    let store = StateStore::open(&path).unwrap();
    assert_eq!(store.view().unwrap().head.applied, Some(at(1)));

    let mut machine =
        Machine::load(store, on_disk.subscribe(), Arc::default(), Knows::default()).unwrap();
    tokio::time::advance(Duration::from_secs(60)).await;
    on_disk.send_replace(Some(2));
    machine.apply(entries()).await.unwrap();
    drop(machine);
    let store = StateStore::open(&path).unwrap();
    assert_eq!(store.view().unwrap().head.applied, Some(at(2)));
}
