//! It stops, is killed, and comes back: as it was, emptied, or as another one.

use std::time::Duration;

use pinkeeper::types::PinState;
use pinkeeper_e2e::daemon::{Daemon, identity_cid};
use tokio::time::timeout;

use super::{Tracked, broken_file, empty, start_pin, until};

#[tokio::test]
async fn a_pin_interrupted_by_a_stop_is_pinned_when_its_block_appears() {
    let mut daemon = Daemon::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let tracked = Tracked::start(&daemon, folder.path(), empty());
    let (root, missing) = broken_file(&daemon).await;
    tracked.want(root);
    tracked.want(identity_cid(1));
    tracked.until(root, Some(PinState::Pinning)).await;
    daemon.terminate().unwrap();
    daemon.ended().await.unwrap();
    tracked.until(root, Some(PinState::DaemonDown)).await;
    daemon.run().await.unwrap();
    tracked.until(root, Some(PinState::NotFound)).await;
    let message = tracked.handle.status(&root).unwrap().message;
    assert!(message.contains("blocks") && message.contains("no connected daemon"), "{message}");
    // Others go on meanwhile.
    tracked.until(identity_cid(1), Some(PinState::Pinned)).await;
    tracked.want(identity_cid(2));
    tracked.until(identity_cid(2), Some(PinState::Pinned)).await;
    assert_eq!(tracked.handle.status(&root).unwrap().state, PinState::NotFound);
    daemon.put_block(missing).await.unwrap();
    tracked.until(root, Some(PinState::Pinned)).await;
    assert!(daemon.holds(&root).await);
    tracked.stop().await;
}

#[tokio::test]
async fn what_is_unpinned_behind_our_back_is_pinned_again() {
    let mut daemon = Daemon::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let tracked = Tracked::start(&daemon, folder.path(), empty());
    let cid = identity_cid(5);
    tracked.want(cid);
    tracked.until(cid, Some(PinState::Pinned)).await;
    daemon.rpc("pin/rm", &[("arg", &cid.to_string())]).await.unwrap();
    until("pinned again", || daemon.holds(&cid)).await;
    tracked.until(cid, Some(PinState::Pinned)).await;
    // Killed without a word: away, and back.
    daemon.kill().await.unwrap();
    tracked.until(cid, Some(PinState::DaemonDown)).await;
    daemon.run().await.unwrap();
    tracked.until(cid, Some(PinState::Pinned)).await;
    tracked.stop().await;
}

#[tokio::test]
async fn killed_in_mid_pin_it_never_counts_and_its_lock_file_does_no_harm() {
    let mut daemon = Daemon::start().await.unwrap();
    let client = daemon.client().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (root, missing) = broken_file(&daemon).await;
    let tracked = Tracked::start(&daemon, folder.path(), empty());
    tracked.want(root);
    tracked.until(root, Some(PinState::Pinning)).await;
    let (pin, mut progress) = start_pin(&client, root);
    timeout(Duration::from_secs(10), progress.wait_for(|p| p.blocks > 0)).await.unwrap().unwrap();
    daemon.kill().await.unwrap();
    assert!(pin.await.unwrap().is_err());
    tracked.until(root, Some(PinState::DaemonDown)).await;
    assert!(daemon.repository().join("repo.lock").exists());
    daemon.run().await.unwrap();
    tracked.until(root, Some(PinState::NotFound)).await;
    daemon.put_block(missing).await.unwrap();
    tracked.until(root, Some(PinState::Pinned)).await;
    assert!(daemon.holds(&root).await);
    tracked.stop().await;
}

#[tokio::test]
async fn an_emptied_repository_and_another_identity_are_filled_again() {
    let mut daemon = Daemon::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let tracked = Tracked::start(&daemon, folder.path(), empty());
    let cids = [identity_cid(1), identity_cid(2)];
    for cid in cids {
        tracked.want(cid);
    }
    for cid in cids {
        tracked.until(cid, Some(PinState::Pinned)).await;
    }
    for keep_identity in [true, false] {
        let id = tracked.handle.daemon().borrow().clone().unwrap().id;
        daemon.terminate().unwrap();
        daemon.ended().await.unwrap();
        tracked.until(cids[0], Some(PinState::DaemonDown)).await;
        daemon.wipe(keep_identity).await.unwrap();
        daemon.run().await.unwrap();
        until("pinned anew", || async {
            daemon.holds(&cids[0]).await && daemon.holds(&cids[1]).await
        })
        .await;
        for cid in cids {
            tracked.until(cid, Some(PinState::Pinned)).await;
        }
        let same = tracked.handle.daemon().borrow().clone().unwrap().id == id;
        assert_eq!(same, keep_identity);
    }
    // Ours, also at the daemon that never saw the first one's ledger.
    tracked.release(cids[0]);
    tracked.until(cids[0], None).await;
    assert!(!daemon.holds(&cids[0]).await && daemon.holds(&cids[1]).await);
    tracked.stop().await;
}
