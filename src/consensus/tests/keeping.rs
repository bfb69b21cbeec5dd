//! What the state machine and its store keep, and when it is on disk.

use openraft::{Membership, RaftSnapshotBuilder as _, alias::SnapshotMetaOf};

use super::{
    super::{
        image, machine::SnapshotData, raft_types::RaftMembership, raft_types::entry_in,
        state_store::StoreError,
    },
    damage::{CLUSTER, Told, head, pins, put_pins, told},
    *,
};
use crate::{
    sim::disk::{SimDisk, SimFile},
    state::{Fence, Found, PinSet, Ruling},
    types::{
        Cid, ClaimName, ClaimOptions, Entry, EntryBody, Factor, Member, Owner, Replication,
        Timestamp, Uid,
    },
};

fn store() -> (SimFile, StateStore) {
    let file = SimFile::with_contents(Vec::new());
    let store = StateStore::with_backend(file.clone()).unwrap();
    (file, store)
}

/// The contents of a store opened after a crash that kept only synced data.
fn on_disk(file: &SimFile) -> Told {
    let store = StateStore::with_backend(SimFile::with_contents(file.synced())).unwrap();
    told(&store).unwrap()
}

#[test]
fn a_binding_a_checkpoint_and_a_snapshot_are_on_disk_when_they_are_done() {
    let (file, store) = store();
    store.set_cluster(CLUSTER.0, CLUSTER.1).unwrap();
    assert_eq!(on_disk(&file), told(&store).unwrap());
    let before = on_disk(&file);
    put_pins(&store, 20, 1, 4);
    assert_eq!(on_disk(&file), before, "the log has it");
    store.checkpoint().unwrap();
    assert_eq!(on_disk(&file), told(&store).unwrap());
    let (_, other) = self::store();
    put_pins(&other, 3, 2, 9);
    store.replace(&other.pin_set().unwrap(), &head(9)).unwrap();
    assert_eq!(store.pin_set().unwrap(), other.pin_set().unwrap(), "nothing is left of the old");
    assert_eq!(on_disk(&file), told(&store).unwrap());
    assert_eq!(store.cluster().unwrap(), Some(CLUSTER));
    // Absent pins are removed.
    let gone = pins(3, 2);
    store.apply([(gone[1].0, None)], &Beside::default(), &head(10)).unwrap();
    let left = store.pin_set().unwrap();
    assert_eq!((left.len(), left.get(&gone[1].0)), (2, None));
}

fn machine(store: &StateStore) -> Machine {
    let flushed = watch::Sender::new(Some(u64::MAX)).subscribe();
    Machine::load(store.clone(), flushed, Arc::new(OnceLock::from(CLUSTER)), Knows::default())
        .unwrap()
}

fn memory(machine: &Machine) -> PinSet {
    machine.state().read(PinSet::clone)
}

fn membership() -> Membership<PeerId, Member> {
    match &entries()[0].payload {
        EntryPayload::Membership(membership) => membership.clone(),
        other => panic!("{other:?}"),
    }
}

/// Two claims, one of them released again, and a membership.
fn entries() -> Vec<RaftEntry> {
    let fence = Fence { term: 1, generation: 1 };
    let one = Factor::Count(1);
    let replication = Replication { min: one, max: one };
    let uid = |n: usize| Uid(format!("uid-{n}"));
    let cids: [Cid; 2] = ["bafkqaaa", "QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR"]
        .map(|cid| cid.parse().unwrap());
    let claim = |n: usize| Op::Claim {
        cid: cids[n],
        owner: Owner::Object(uid(n)),
        options: ClaimOptions { replication, retain: false, name: ClaimName::default() },
        candidates: vec![PeerId([1; 32])],
        at: Timestamp(1),
        fence: Some(fence),
    };
    let ruling = Ruling::Take(Found::Watched);
    let gone = Op::Gone { cid: cids[0], uid: uid(0), ruling, at: Timestamp(1), fence };
    let member = Member { name: "peer-0".to_owned(), addresses: Vec::new() };
    let members = [(PeerId([1; 32]), member)].into();
    let membership = EntryBody::Membership { voters: vec![vec![PeerId([1; 32])]], members };
    let id = |index| LogPosition { term: 1, index };
    let of = |index, ops| RaftEntry {
        log_id: position_in(id(index)),
        payload: EntryPayload::Normal(super::super::raft_types::Batch::new(ops)),
    };
    vec![
        entry_in(Entry { id: id(0), body: membership }).unwrap(),
        of(1, vec![claim(0), claim(1)]),
        of(2, vec![gone]),
    ]
}

async fn apply(machine: &mut Machine, entries: &[RaftEntry]) {
    let entries = entries.iter().map(|entry| Ok((entry.clone(), None)));
    machine.apply(futures::stream::iter(entries.collect::<Vec<_>>())).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_was_applied_is_there_after_an_opening_at_the_position_that_is_told() {
    let all = entries();
    for count in 1..=all.len() {
        let (file, store) = store();
        let mut machine = machine(&store);
        assert!(machine.get_current_snapshot().await.unwrap().is_none(), "there is nothing yet");
        apply(&mut machine, &all[..count]).await;
        let mut builder = machine.get_snapshot_builder().await;
        let meta = builder.build_snapshot().await.unwrap().meta;
        assert_eq!(meta.last_log_id, Some(all[count - 1].log_id));
        let applied = machine.applied_state().await.unwrap();
        assert_eq!(applied, (meta.last_log_id, meta.last_membership));
        assert_eq!(applied.1.log_id(), &Some(all[0].log_id));
        assert_eq!(memory(&machine).len(), [0, 2, 1][count - 1]);

        let store = StateStore::with_backend(SimFile::with_contents(file.synced())).unwrap();
        let mut again = self::machine(&store);
        assert_eq!(again.applied_state().await.unwrap(), applied, "of {count}");
        assert_eq!(memory(&again), memory(&machine), "of {count}");
        let included = (machine.state().entries(), again.state().entries());
        assert_eq!(included, (count as u64, count as u64));
        // The rest, as from the log.
        apply(&mut again, &all[count..]).await;
        let (_, other) = self::store();
        let mut whole = self::machine(&other);
        apply(&mut whole, &all).await;
        assert_eq!(memory(&again), memory(&whole), "from {count} on");
    }
}

/// Otherwise an empty log beside it would pass for that of a peer that has not taken part yet.
#[tokio::test(start_paused = true)]
async fn the_first_entry_applied_is_on_disk_at_once() {
    let (file, store) = store();
    let mut machine = machine(&store);
    apply(&mut machine, &entries()[..1]).await;
    let store = StateStore::with_backend(SimFile::with_contents(file.synced())).unwrap();
    assert_eq!(store.view().unwrap().head.applied, Some(LogPosition { term: 1, index: 0 }));
}

#[tokio::test(start_paused = true)]
async fn only_a_snapshot_of_this_cluster_is_installed_and_then_nothing_else_is_left() {
    let (_, leader) = store();
    put_pins(&leader, 30, 2, 40);
    let at = head(40).applied;
    let meta = SnapshotMetaOf::<TypeConfig> {
        last_log_id: at.map(position_in),
        last_membership: RaftMembership::new(at.map(position_in), membership()),
    };
    let image = |of| image::write(&leader.view().unwrap(), of).unwrap();
    let others = [(ClusterId([8; 16]), CLUSTER.1), (CLUSTER.0, CLUSTER.1 + 1)];
    let (file, store) = store();
    let mut machine = machine(&store);
    apply(&mut machine, &entries()[..2]).await;
    let before = (memory(&machine), machine.applied_state().await.unwrap());
    let mut bad: Vec<Vec<u8>> = others.into_iter().map(image).collect();
    bad.push(image(CLUSTER).split_off(1));
    for bytes in bad {
        if let Ok(image) = image::read(&bytes) {
            let received = SnapshotData::Received(Box::new(image));
            assert!(machine.install_snapshot(&meta, received).await.is_err());
        }
        assert_eq!((memory(&machine), machine.applied_state().await.unwrap()), before);
    }
    let good = SnapshotData::Received(Box::new(image::read(&image(CLUSTER)).unwrap()));
    machine.install_snapshot(&meta, good).await.unwrap();
    assert_eq!(memory(&machine), leader.pin_set().unwrap());
    assert_eq!(machine.state().entries(), 41);
    let applied = (meta.last_log_id, meta.last_membership);
    assert_eq!(machine.applied_state().await.unwrap(), applied);
    let store = StateStore::with_backend(SimFile::with_contents(file.synced())).unwrap();
    let view = store.view().unwrap();
    assert_eq!((view.head.applied, view.head.installed), (at, at));
    assert_eq!(view.pin_set().unwrap(), leader.pin_set().unwrap());
}

/// A snapshot's contents are in no log; later entries must be in the log before they are stored.
#[tokio::test(start_paused = true)]
async fn only_what_came_by_a_snapshot_is_stored_without_the_log() {
    let (_, leader) = store();
    put_pins(&leader, 3, 2, 40);
    let at = head(40).applied.unwrap();
    let last_membership = RaftMembership::new(None, membership());
    let last_log_id = Some(position_in(at));
    let meta = SnapshotMetaOf::<TypeConfig> { last_log_id, last_membership };
    let bytes = image::write(&leader.view().unwrap(), CLUSTER).unwrap();
    let (_, store) = store();
    let (_log, flushed) = watch::channel(Some(40));
    let mut machine =
        Machine::load(store.clone(), flushed, Arc::default(), Knows::default()).unwrap();
    let received = SnapshotData::Received(Box::new(image::read(&bytes).unwrap()));
    machine.install_snapshot(&meta, received).await.unwrap();
    let (log, flushed) = watch::channel(None);
    let mut machine =
        Machine::load(store.clone(), flushed, Arc::default(), Knows::default()).unwrap();
    let wait = Duration::from_secs(60);
    assert!(timeout(wait, machine.get_current_snapshot()).await.unwrap().unwrap().is_some());
    tokio::time::advance(wait).await;
    let next = LogPosition { index: 41, ..at };
    let next = RaftEntry { log_id: position_in(next), payload: EntryPayload::Blank };
    let entries = || futures::stream::iter([Ok((next.clone(), None))]);
    assert!(timeout(wait, machine.apply(entries())).await.is_err());
    assert_eq!(store.view().unwrap().head.applied, Some(at));
    drop(log);
}

/// The error decides whether a person should free space or give up a damaged state.
#[test]
fn a_full_disk_is_no_damage_and_damage_no_full_disk() {
    let disk = SimDisk::new(Duration::ZERO);
    let store = StateStore::with_backend(SimFile::new(disk.clone())).unwrap();
    disk.set_full(true);
    let full = store.set_cluster(CLUSTER.0, CLUSTER.1).unwrap_err();
    assert!(matches!(full, StoreError::Full { .. }), "{full}");
    let damaged = StateStore::with_backend(SimFile::with_contents(vec![7; 8192])).unwrap_err();
    assert!(matches!(damaged, StoreError::Database { .. }), "{damaged}");
}
