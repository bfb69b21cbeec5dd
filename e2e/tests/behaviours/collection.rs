//! Its garbage collection, which waits for every pin in flight while everything else waits for it.

use std::{path::Path, time::Duration};

use pinkeeper::{
    ipfs::{Ipfs as _, IpfsError},
    types::{GcResult, PinState},
};
use pinkeeper_e2e::daemon::{Daemon, identity_cid};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{Tracked, broken_file, empty, start_pin, until};

/// Time a collection of little has, with what must be waited for before it.
const SOON: Duration = Duration::from_secs(20);

/// A daemon's tracker that collects for a while, and the outcome to come.
async fn collecting(daemon: &Daemon, folder: &Path) -> (Tracked, JoinHandle<GcResult>) {
    let bytes: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_be_bytes).collect();
    daemon.add(bytes).await.unwrap();
    let tracked = Tracked::start(daemon, folder, empty());
    until("settled", || async { tracked.handle.is_settled() }).await;
    let handle = tracked.handle.clone();
    let collection = tokio::spawn(async move { handle.run_gc().await });
    until("it begins", || async { tracked.handle.gc().running }).await;
    (tracked, collection)
}

#[tokio::test]
async fn what_is_unpinned_is_gone_after_a_collection_and_nothing_else() {
    let daemon = Daemon::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let tracked = Tracked::start(&daemon, folder.path(), empty());
    let mut roots = Vec::new();
    for seed in [1, 2, 3, 4] {
        roots.push(daemon.add(vec![seed; 20_000]).await.unwrap());
    }
    let [kept, unpinned, foreign, direct] = roots[..] else { unreachable!() };
    daemon.rpc("pin/add", &[("arg", &foreign.to_string())]).await.unwrap();
    let block_alone = [("arg", &*direct.to_string()), ("recursive", "false")];
    daemon.rpc("pin/add", &block_alone).await.unwrap();
    for root in [kept, unpinned] {
        tracked.want(root);
        tracked.until(root, Some(PinState::Pinned)).await;
    }
    tracked.release(unpinned);
    tracked.until(unpinned, None).await;
    assert!(daemon.stores(&unpinned).await, "unpinned is not gone");

    let done = timeout(SOON, tracked.handle.run_gc()).await.unwrap().unwrap();
    // The unpinned file's root and its one repeated block, and that block of the other file.
    assert!(done.removed >= 3 && done.errors.is_empty(), "{done:?}");
    assert!(!daemon.stores(&unpinned).await);
    assert!(daemon.stores(&direct).await);
    for root in [kept, foreign] {
        let query = [("arg", &*root.to_string()), ("offline", "true"), ("recursive", "true")];
        daemon.rpc("refs", &query).await.unwrap();
        assert!(daemon.holds(&root).await);
    }
    let garbage = tracked.handle.gc();
    assert!(!garbage.running && !garbage.unpinned, "{garbage:?}");
    assert_eq!(tracked.state_of(kept), Some(PinState::Pinned));
    tracked.stop().await;
}

#[tokio::test]
async fn a_stalled_pin_of_ours_gives_way_and_the_daemon_does_not_freeze() {
    let daemon = Daemon::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let tracked = Tracked::start(&daemon, folder.path(), empty());
    let (root, missing) = broken_file(&daemon).await;
    tracked.want(root);
    tracked.until(root, Some(PinState::Pinning)).await;
    let done = timeout(SOON, tracked.handle.run_gc()).await.unwrap();
    assert!(done.is_ok(), "{done:?}");
    // Others too can pin at once.
    let other = identity_cid(1).to_string();
    let pinned = timeout(Duration::from_secs(5), daemon.rpc("pin/add", &[("arg", &other)])).await;
    pinned.unwrap().unwrap();
    tracked.want(identity_cid(2));
    tracked.until(identity_cid(2), Some(PinState::Pinned)).await;
    // The collection took what was there of the content that never was whole.
    tracked.until(root, Some(PinState::NotFound)).await;
    let bytes: Vec<u8> = (0..20_000_u32).flat_map(u32::to_be_bytes).take(12_000).collect();
    assert_eq!(daemon.add(bytes).await.unwrap(), root);
    assert!(!missing.is_empty());
    tracked.until(root, Some(PinState::Pinned)).await;
    tracked.stop().await;
}

#[tokio::test]
async fn a_stalled_pin_of_somebody_else_is_not_waited_for() {
    let daemon = Daemon::start().await.unwrap();
    let client = daemon.client().unwrap();
    let (root, _missing) = broken_file(&daemon).await;
    let (theirs, mut progress) = start_pin(&client, root);
    timeout(Duration::from_secs(10), progress.wait_for(|p| p.blocks > 0)).await.unwrap().unwrap();
    let refused = timeout(SOON, client.run_gc()).await.unwrap();
    assert!(
        matches!(&refused, Err(IpfsError::Failed(text)) if text.contains("pin/add is under way there")),
        "{refused:?}"
    );
    let quick = Duration::from_secs(5);
    let other = identity_cid(1).to_string();
    let query = [("arg", other.as_str())];
    timeout(quick, daemon.rpc("pin/add", &query)).await.unwrap().unwrap();
    // That Kubo would have frozen otherwise, and stays so when the collection is called off.
    let collection = daemon.rpc("repo/gc", &[]);
    assert!(timeout(Duration::from_secs(1), collection).await.is_err());
    let frozen = timeout(Duration::from_secs(3), daemon.rpc("pin/rm", &query)).await;
    assert!(frozen.is_err(), "{frozen:?}");
    theirs.abort();
    timeout(quick, daemon.rpc("pin/add", &query)).await.unwrap().unwrap();
}

#[tokio::test]
async fn pins_wanted_during_a_collection_are_made_after_it() {
    let daemon = Daemon::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (tracked, collection) = collecting(&daemon, folder.path()).await;
    for n in 0..100 {
        tracked.want(identity_cid(n));
    }
    let begun = Instant::now();
    let mut pinned_meanwhile = 0;
    while !collection.is_finished() {
        if tracked.handle.gc().running {
            pinned_meanwhile = tracked.handle.counters().pinned;
        }
        assert!(begun.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(pinned_meanwhile, 0);
    let done = collection.await.unwrap().unwrap();
    assert!(done.removed > 3000, "{done:?}");
    until("all pinned", || async { tracked.handle.counters().pinned == 100 }).await;
    tracked.stop().await;
}

#[tokio::test]
async fn a_collection_on_a_daemon_that_is_killed_says_so() {
    let mut daemon = Daemon::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (tracked, collection) = collecting(&daemon, folder.path()).await;
    daemon.kill().await.unwrap();
    let reason = timeout(SOON, collection).await.unwrap().unwrap().unwrap_err();
    assert!(reason.contains("daemon"), "{reason}");
    daemon.run().await.unwrap();
    tracked.want(identity_cid(1));
    tracked.until(identity_cid(1), Some(PinState::Pinned)).await;
    tracked.stop().await;
}
