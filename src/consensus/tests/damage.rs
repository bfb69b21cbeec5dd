//! The log and the state after damage: unchanged, or refused with the reason.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use openraft::{
    RaftLogReader as _,
    storage::{RaftLogStorage as _, RaftLogStorageExt as _},
};

use super::super::{
    raft_types::{RaftEntry, entry_in, position_in, vote_in},
    state_store::StoreError,
};
use super::*;
use crate::{
    high_water::HighWater,
    sim::{damage, disk::SimFile},
    state::{Beside, PinSet},
    types::{Allocation, Cid, Claims, Entry, EntryBody, Member, PeerId, Pin, Timestamp, Vote},
};

/// Small, so that the log has several files.
const CHUNK_LEN: usize = 600;
pub(super) const CLUSTER: (ClusterId, u64) = (ClusterId([7; 16]), 3);

/// The contents of a log.
#[derive(Clone, Debug, PartialEq)]
struct Said {
    cluster: Option<(ClusterId, u64)>,
    vote: Option<Vote>,
    purged: Option<LogPosition>,
    entries: Vec<RaftEntry>,
}

fn entry(index: u64) -> RaftEntry {
    let member = Member { name: format!("peer-{index}"), addresses: vec!["/ip4/10.0.0.1".into()] };
    let body = EntryBody::Membership {
        voters: vec![vec![PeerId([1; 32])]],
        members: BTreeMap::from([(PeerId([1; 32]), member)]),
    };
    entry_in(Entry { id: LogPosition { term: 2, index }, body }).unwrap()
}

fn vote(term: u64) -> Vote {
    Vote { term, candidate: PeerId([1; 32]), committed: true }
}

/// Writes, purges and closes a log; returns its contents.
async fn written(folder: &Path) -> Said {
    let mut log = DiskLog::open_with(folder, CHUNK_LEN).unwrap();
    log.set_cluster(CLUSTER.0, CLUSTER.1).unwrap();
    log.save_vote(&vote_in(vote(1))).await.unwrap();
    for batch in 0..6 {
        log.blocking_append((batch * 3..batch * 3 + 3).map(entry)).await.unwrap();
        log.save_committed(Some(entry(batch * 3).log_id)).await.unwrap();
        if batch == 3 {
            log.purge(entry(5).log_id).await.unwrap();
        }
    }
    log.save_vote(&vote_in(vote(2))).await.unwrap();
    said(log).await
}

async fn said(mut log: DiskLog) -> Said {
    Said {
        cluster: log.cluster().unwrap(),
        vote: log.read_vote().await.unwrap().map(|vote| super::super::raft_types::vote_out(&vote)),
        purged: log.purged(),
        entries: log.try_get_log_entries(..).await.unwrap(),
    }
}

/// The files of a log and its mark: path below the folder, and contents.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let below = |path: PathBuf| {
        let name = path.strip_prefix(folder).unwrap().to_owned();
        (name, std::fs::read(path).unwrap())
    };
    let in_log = folder.join("log").read_dir().unwrap().map(|entry| entry.unwrap().path());
    let chunks = in_log.filter(|path| path.extension().is_some_and(|end| end == "wal"));
    chunks.chain([folder.join("log.synced")]).map(below).collect()
}

fn put(folder: &Path, files: &BTreeMap<PathBuf, Vec<u8>>) {
    let _ = std::fs::remove_dir_all(folder.join("log"));
    std::fs::create_dir(folder.join("log")).unwrap();
    for (name, contents) in files {
        std::fs::write(folder.join(name), contents).unwrap();
    }
}

fn open(folder: &Path) -> std::io::Result<DiskLog> {
    DiskLog::open_with(&folder.join("log"), CHUNK_LEN)
}

#[tokio::test]
async fn a_log_damaged_anywhere_is_whole_or_refused() {
    let folder = damage::folder();
    let expected = written(&folder.path().join("log")).await;
    let sound = files(folder.path());
    assert!(sound.len() > 3, "{} files", sound.len());
    assert_eq!(said(open(folder.path()).unwrap()).await, expected);
    let (mut refused, mut whole) = (0, 0);
    for (name, contents) in &sound {
        damage::each(contents, usize::MAX, 1, |what, bytes| {
            put(folder.path(), &sound);
            std::fs::write(folder.path().join(name), bytes).unwrap();
            match open(folder.path()) {
                Ok(log) => {
                    let said = futures::executor::block_on(said(log));
                    assert_eq!(said, expected, "{}: {what}", name.display());
                    whole += 1;
                }
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.contains(".wal") || text.contains("ChunkId"), "{what}: {text}");
                    refused += 1;
                }
            }
        });
        put(folder.path(), &sound);
        std::fs::remove_file(folder.path().join(name)).unwrap();
        let gone = open(folder.path()).map(|_| ()).map_err(|error| error.to_string());
        let is_mark = name.extension().is_some_and(|end| end == "synced");
        assert_eq!(gone.is_ok(), is_mark, "{} gone: {gone:?}", name.display());
    }
    println!("{refused} refused, {whole} whole");
    assert!(refused > 1000, "the damage was looked for");
}

#[tokio::test]
async fn what_was_not_synced_may_be_torn_and_the_log_goes_on() {
    let folder = damage::folder();
    let expected = written(&folder.path().join("log")).await;
    let mut sound = files(folder.path());
    let (last, contents) = sound.iter().rfind(|(name, _)| name.starts_with("log/")).unwrap();
    let (last, contents) = (last.clone(), contents.clone());
    // As if the last file were written and none of it synced yet.
    let chunk = last.file_name().unwrap().to_str().unwrap();
    let start = raft_log::chunked_wal::Config::parse_chunk_file_name(chunk).unwrap();
    HighWater::open(&folder.path().join("log.synced")).unwrap().0.raise(start);
    let mark = std::fs::read(folder.path().join("log.synced")).unwrap();
    sound.insert("log.synced".into(), mark);
    // Cut short, or with a hole before later data.
    let torn = (0..contents.len()).flat_map(|cut| {
        let mut hole = contents.clone();
        hole[cut..].iter_mut().take(64).for_each(|byte| *byte = 0);
        [(cut, contents[..cut].to_vec()), (cut, hole)]
    });
    for (cut, contents) in torn {
        put(folder.path(), &sound);
        std::fs::write(folder.path().join(&last), contents).unwrap();
        let mut log = open(folder.path()).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        let found = said(log.clone()).await;
        assert_eq!(found.cluster, expected.cluster, "cut at {cut}");
        assert!(expected.entries.starts_with(&found.entries), "cut at {cut}: {found:?}");
        let next = found.entries.last().unwrap().log_id.index + 1;
        log.blocking_append([entry(next)]).await.unwrap();
        drop(log);
        let entries = said(open(folder.path()).unwrap()).await.entries;
        assert_eq!(entries.last(), Some(&entry(next)), "cut at {cut}");
        assert_eq!(entries.len(), found.entries.len() + 1, "cut at {cut}");
    }
}

#[tokio::test]
async fn a_write_after_the_logs_thread_has_ended_says_why_it_ended() {
    let folder = damage::folder();
    written(&folder.path().join("log")).await;
    let mut log = open(folder.path()).unwrap();
    // The log's thread ends if it cannot remove a purged file.
    let in_log = |(name, _): &(PathBuf, Vec<u8>)| name.starts_with("log/");
    let (first, _) = files(folder.path()).into_iter().find(in_log).unwrap();
    std::fs::remove_file(folder.path().join(first)).unwrap();
    log.purge(entry(16).log_id).await.unwrap();
    for term in 3..5 {
        let error = log.save_vote(&vote_in(vote(term))).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
    }
    let error = log.purge(entry(17).log_id).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
}

pub(super) fn pins(count: u64, created: u64) -> Vec<(Cid, Option<Pin>)> {
    let pin = |n: u64| {
        let hash = cid::multihash::Multihash::wrap(0, &n.to_be_bytes()).unwrap();
        let pin = Pin {
            claims: Claims::default(),
            allocations: vec![Allocation { peer: PeerId::from(n), leaving: false, at_entry: 1 }],
            created: Timestamp(created),
        };
        (Cid::from(cid::Cid::new_v1(0x55, hash)), Some(pin))
    };
    (0..count).map(pin).collect()
}

pub(super) fn head(index: u64) -> Head {
    Head { applied: Some(LogPosition { term: 2, index }), ..Head::default() }
}

/// The contents of a state in a comparable form, and its pins.
pub(super) type Told = (String, PinSet);

pub(super) fn put_pins(store: &StateStore, count: u64, created: u64, index: u64) {
    let pins = pins(count, created);
    let pins = pins.iter().map(|(cid, pin)| (*cid, pin.as_ref()));
    store.apply(pins, &Beside::default(), &head(index)).unwrap();
}

pub(super) fn told(store: &StateStore) -> Result<Told, StoreError> {
    let view = store.view()?;
    Ok((format!("{:?} {:?}", store.cluster()?, view.head), view.pin_set()?))
}

/// Opens a state after each damage; it must hold one of `expected` or be refused.
fn state_after_damage(whole: &[u8], expected: &[Told]) {
    let (mut refused, mut sound) = (0, 0);
    damage::each(whole, 400, 397, |what, bytes| {
        let opened = StateStore::with_backend(SimFile::with_contents(bytes.to_vec()));
        match opened.and_then(|store| told(&store)) {
            // An empty file is a new store; only the log beside it shows the loss.
            Ok(_) if bytes.is_empty() => {}
            Ok(told) => {
                assert!(expected.contains(&told), "{what}: {told:?}");
                sound += 1;
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("the state in ") && text.contains("restore"), "{text}");
                refused += 1;
            }
        }
    });
    println!("{refused} refused, {sound} whole, of {} bytes", whole.len());
    assert!(refused > 100 && sound > 100, "the damage was looked for");
}

#[test]
fn a_state_damaged_anywhere_is_whole_or_refused() {
    let file = SimFile::with_contents(Vec::new());
    let store = StateStore::with_backend(file.clone()).unwrap();
    store.set_cluster(CLUSTER.0, CLUSTER.1).unwrap();
    put_pins(&store, 60, 1, 4);
    store.checkpoint().unwrap();
    let before = told(&store).unwrap();
    put_pins(&store, 120, 2, 9);
    store.checkpoint().unwrap();
    let last = told(&store).unwrap();
    put_pins(&store, 10, 3, 12);
    let end = told(&store).unwrap();

    // After a crash redb may fall back to the previous checkpoint; the log covers that, or
    // `check_stores` refuses it.
    state_after_damage(&file.synced(), &[before, last.clone()]);
    drop(store);
    // The same holds if the one bit is flipped that says which of redb's two commits is later: no
    // checksum covers it, and both commits are whole.
    state_after_damage(&file.synced(), &[last, end]);
}

#[test]
fn a_state_older_than_what_the_log_has_given_away_is_refused() {
    let folder = TempDir::new().unwrap();
    let mut stores = stores(&folder);
    stores.state.apply([], &Beside::default(), &head(9)).unwrap();
    futures::executor::block_on(stores.log.purge(position_in(head(9).applied.unwrap()))).unwrap();
    check_stores(&stores).unwrap();
    stores.state.apply([], &Beside::default(), &head(8)).unwrap();
    assert!(matches!(check_stores(&stores), Err(OpenError::StateTooOld { .. })));
}
