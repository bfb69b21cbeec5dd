//! The log when its disk fails or loses unsynced data: by hand, and in worlds.

#![allow(clippy::unwrap_used)]

mod files;
mod full;
mod image;
mod model;
mod world;

use openraft::{storage::RaftLogStorageExt as _, type_config::TypeConfigExt as _};
use raft_log::Callback as _;
use tempfile::TempDir;

use super::*;

const CLUSTER: (ClusterId, u64) = (ClusterId([7; 16]), 3);

fn entries(range: std::ops::Range<u64>) -> impl Iterator<Item = RaftEntry> {
    let entry = |index| Entry { id: LogPosition { term: 1, index }, body: EntryBody::Blank };
    range.map(move |index| entry_in(entry(index)).unwrap())
}

fn vote(term: u64) -> RaftVote {
    vote_in(Vote { term, candidate: crate::types::PeerId([1; 32]), committed: false })
}

fn failed() -> io::Result<()> {
    Err(io::ErrorKind::StorageFull.into())
}

/// Blocks the log's thread until the last reader of `flushed` lets go: a sender of a watch waits for its
/// readers.
fn hold(log: &DiskLog, flushed: watch::Sender<Option<u64>>, mark: &Path) {
    let mark = Arc::new(HighWater::open(mark).unwrap().0);
    let (callback, truncations) = (IOFlushed::noop(), Arc::default());
    let then = Then::Entries { callback, last: None, flushed, truncations, then: 0 };
    log.write(|log| log.flush(false, Some(Synced { upto: 0, mark, then }))).unwrap();
}

#[test]
fn entries_are_acknowledged_as_their_sync_ended() {
    // The sync's result, and whether a truncation followed; then `flushed` and the mark.
    let cases = [
        (true, false, Some(9), 700),
        (true, true, Some(4), 700),
        (false, false, Some(4), 300),
        (false, true, Some(4), 300),
    ];
    for (ends_well, is_truncated, now_flushed, now_marked) in cases {
        let case = format!("ends well: {ends_well}, truncated: {is_truncated}");
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("mark");
        let mark = Arc::new(HighWater::open(&path).unwrap().0);
        mark.raise(300);
        let flushed = watch::Sender::new(Some(4));
        let (callback, mut called) = TypeConfig::oneshot();
        let truncations = Arc::new(AtomicU64::new(2 + u64::from(is_truncated)));
        let then = Then::Entries {
            callback: IOFlushed::signal(callback),
            last: Some(9),
            flushed: flushed.clone(),
            truncations,
            then: 2,
        };
        Synced { upto: 700, mark, then }.send(if ends_well { Ok(()) } else { failed() });
        assert_eq!(called.try_recv().unwrap().is_ok(), ends_well, "{case}");
        assert_eq!(*flushed.borrow(), now_flushed, "{case}");
        assert_eq!(HighWater::open(&path).unwrap().1, Some(now_marked), "{case}");
    }
}

#[test]
fn a_vote_is_acknowledged_as_its_sync_ended() {
    for (ends_well, now_marked) in [(true, 700), (false, 0)] {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("mark");
        let mark = Arc::new(HighWater::open(&path).unwrap().0);
        let (synced, mut waiter) = oneshot::channel();
        let result = if ends_well { Ok(()) } else { failed() };
        Synced { upto: 700, mark, then: Then::Vote(synced) }.send(result);
        assert_eq!(waiter.try_recv().unwrap().is_ok(), ends_well);
        assert_eq!(HighWater::open(&path).unwrap().1, Some(now_marked));
    }
}

#[tokio::test]
async fn what_was_truncated_counts_as_flushed_no_more() {
    let folder = TempDir::new().unwrap();
    let mut log = DiskLog::open(&folder.path().join("log")).unwrap();
    log.blocking_append(entries(0..5)).await.unwrap();
    // The last entry that stays; then `flushed` and the number of truncations.
    let cases = [(9, Some(4), 0), (4, Some(4), 0), (3, Some(3), 1), (1, Some(1), 2)];
    for (kept, flushed, truncations) in cases {
        let kept = entries(kept..kept + 1).next().unwrap();
        log.truncate_after(Some(kept.log_id)).await.unwrap();
        assert_eq!(*log.flushed().borrow(), flushed, "after {}", kept.log_id);
        assert_eq!(log.truncations.load(Ordering::SeqCst), truncations, "after {}", kept.log_id);
    }
    log.truncate_after(None).await.unwrap();
    assert_eq!((*log.flushed().borrow(), log.last()), (None, None));
    log.blocking_append(entries(0..2)).await.unwrap();
    assert_eq!(*log.flushed().borrow(), Some(1));
}

/// Each request is synced exactly once, by raft-log's own count, when it is acknowledged.
#[tokio::test]
async fn what_is_acknowledged_was_synced() {
    let folder = TempDir::new().unwrap();
    let mut log = DiskLog::open(&folder.path().join("log")).unwrap();
    let syncs = |log: &DiskLog| log.lock().stat().flush_metrics.sync_batch_count;
    log.save_vote(&vote(1)).await.unwrap();
    assert_eq!(syncs(&log), 1);
    log.blocking_append(entries(0..3)).await.unwrap();
    assert_eq!(syncs(&log), 2);
    log.purge(entries(1..2).next().unwrap().log_id).await.unwrap();
    log.lock().wait_worker_idle().unwrap();
    assert_eq!(syncs(&log), 3, "files are removed only behind a sync");
    log.set_cluster(CLUSTER.0, CLUSTER.1).unwrap();
    log.lock().wait_worker_idle().unwrap();
    assert_eq!(syncs(&log), 4);
}

/// Ten times, since in one of two the thread ends at another moment than the one that matters.
#[tokio::test]
async fn a_log_whose_thread_ended_beside_a_request_refuses_the_next_ones() {
    for _ in 0..10 {
        end_beside_a_request().await;
    }
}

/// The log's thread ends while a request waits for its place in the full queue.
async fn end_beside_a_request() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log");
    let mut log = DiskLog::open_with(&path, 20_000).unwrap();
    log.blocking_append(entries(0..20)).await.unwrap();
    let long = StoredCluster(vec![0; 200]);
    for _ in 0..100 {
        log.write(|log| log.save_user_data(Some(long.clone()))).unwrap();
    }
    log.save_vote(&vote(1)).await.unwrap();
    let files = image::Files::of(&path).0;
    // The thread ends when it is to remove a file that is not there.
    std::fs::remove_file(path.join(&files[0].0)).unwrap();

    let flushed = watch::Sender::new(None);
    let watched = flushed.subscribe();
    let held = watched.borrow();
    hold(&log, flushed, &folder.path().join("aside"));
    assert!(files.len() > 1);
    let purged = entries(19..20).next().unwrap().log_id;
    log.purge(purged).await.unwrap();
    let filled = Arc::new(AtomicU64::new(0));
    let (begun, sender) = std::sync::mpsc::channel();
    let filling = std::thread::spawn({
        let (log, count) = (log.clone(), Arc::clone(&filled));
        move || {
            begun.send(std::fs::read_link("/proc/thread-self").unwrap()).unwrap();
            let fill = || {
                let written = log.write(|log| {
                    log.save_user_data(Some(long.clone()))?;
                    log.flush(false, None)
                });
                count.fetch_add(1, Ordering::SeqCst);
                written
            };
            std::iter::repeat_with(fill).find_map(Result::err)
        }
    });
    let stat = Path::new("/proc").join(sender.recv().unwrap()).join("stat");
    let sleeps = || std::fs::read_to_string(&stat).unwrap().contains(") S ");
    // raft-log's queue takes 1,024 requests.
    while filled.load(Ordering::SeqCst) < 900 || !sleeps() {
        tokio::task::yield_now().await;
    }
    drop(held);
    assert!(filling.join().unwrap().is_some());

    let (answered, answer) = std::sync::mpsc::channel();
    let next = move || answered.send(log.set_cluster(CLUSTER.0, CLUSTER.1)).unwrap();
    std::thread::spawn(next);
    assert!(answer.recv_timeout(Duration::from_secs(20)).unwrap().is_err());
}
