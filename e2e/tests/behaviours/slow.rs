//! It hangs, or answers some questions late or never.

use std::time::Duration;

use pinkeeper::{tracker, types::PinState};
use pinkeeper_e2e::{
    daemon::{Daemon, identity_cid},
    peer::PeerProcess,
    proxy::{Hold, Proxy},
    trio::next_of,
};
use tokio::time::Instant;

use super::{Tracked, broken_file, config, empty, until};

/// Within that time a peer says that its daemon is away.
const TOLD_DEADLINE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_daemon_that_hangs_is_told_within_ten_seconds() {
    let daemon = Daemon::start().await.unwrap();
    let mut peer = PeerProcess::new(next_of(&[], "a", daemon.url())).unwrap();
    peer.start().unwrap();
    until("it is ready", || peer.is_ready()).await;
    let cid = identity_cid(1);
    until("it can be pinned", || async { peer.pin(&cid, "").await.is_ok() }).await;
    let status = async |peer: &PeerProcess| peer.statuses(&cid).await.unwrap()["a"].clone();
    until("pinned", || async { status(&peer).await.status == "pinned" }).await;

    daemon.freeze(true).unwrap();
    let frozen = Instant::now();
    until("its pins are told as unknown", || async {
        let status = status(&peer).await;
        status.status == "cluster_error" && status.error.contains("the daemon is away")
    })
    .await;
    until("its absence is told", || async {
        let id = peer.get("id").await.unwrap();
        id["ipfs"]["error"] == "the daemon does not answer"
    })
    .await;
    println!("told after {:?}", frozen.elapsed());
    assert!(frozen.elapsed() <= TOLD_DEADLINE, "{:?}", frozen.elapsed());
    // The peer itself serves as before.
    assert!(peer.is_ready().await);
    assert_eq!(peer.pins().await.unwrap().len(), 1);
    peer.unpin(&cid).await.unwrap();
    assert!(peer.pins().await.unwrap().is_empty());

    daemon.freeze(false).unwrap();
    until("unpinned", || async { !daemon.holds(&cid).await }).await;
    until("it can be pinned again", || async { peer.pin(&cid, "").await.is_ok() }).await;
    until("pinned again", || async { status(&peer).await.status == "pinned" }).await;
}

/// A list that takes hours, an answer that never comes: the daemon is there all the same, and what
/// does not need that answer goes on.
#[tokio::test]
async fn a_list_that_never_comes_holds_nothing_else_up() {
    let daemon = Daemon::start().await.unwrap();
    let proxy = Proxy::start(&daemon.url()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = tracker::Config { stall_time: Duration::from_secs(60), ..config() };
    let tracked = Tracked::start_at(&proxy.url(), folder.path(), empty(), config);
    let held = identity_cid(1);
    tracked.want(held);
    tracked.until(held, Some(PinState::Pinned)).await;
    // A pin in flight while no question is answered any more.
    let (root, missing) = broken_file(&daemon).await;
    tracked.want(root);
    tracked.until(root, Some(PinState::Pinning)).await;
    proxy.hold("pin/ls", Hold::Request);
    let waited = proxy.waited();
    until("a list waits", || async { proxy.waited() > waited }).await;
    daemon.put_block(missing).await.unwrap();
    tracked.until(root, Some(PinState::Pinned)).await;
    assert_eq!(tracked.state_of(held), Some(PinState::Pinned));
    assert!(tracked.handle.daemon().borrow().is_some());
    // What may be pinned already is not added blindly.
    let unknown = identity_cid(2);
    tracked.want(unknown);
    tracked.until(unknown, Some(PinState::Queued)).await;
    proxy.release("pin/ls");
    tracked.until(unknown, Some(PinState::Pinned)).await;
    tracked.stop().await;
}

#[tokio::test]
async fn an_answer_after_a_minute_is_a_failure_that_says_so() {
    let daemon = Daemon::start().await.unwrap();
    let proxy = Proxy::start(&daemon.url()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let tracked = Tracked::start_at(&proxy.url(), folder.path(), empty(), config());
    let held = identity_cid(1);
    tracked.want(held);
    tracked.until(held, Some(PinState::Pinned)).await;
    proxy.hold("pin/ls", Hold::Request);
    proxy.hold("pin/rm", Hold::Request);
    let unknown = identity_cid(2);
    tracked.want(unknown);
    tracked.release(held);
    let failed = async |cid, state| {
        let deadline = Instant::now() + Duration::from_secs(100);
        while tracked.state_of(cid) != Some(state) {
            assert!(Instant::now() < deadline, "{cid}: {:?}", tracked.handle.status(&cid));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        tracked.message(cid)
    };
    let message = failed(unknown, PinState::Failed).await;
    assert!(message.contains("no answer to pin/ls within 60 s"), "{message}");
    let message = failed(held, PinState::UnpinFailed).await;
    assert!(message.contains("no answer to pin/rm within 60 s"), "{message}");
    assert!(tracked.handle.daemon().borrow().is_some());
    proxy.release("pin/ls");
    proxy.release("pin/rm");
    tracked.until(unknown, Some(PinState::Pinned)).await;
    tracked.until(held, None).await;
    assert!(!daemon.holds(&held).await);
    tracked.stop().await;
}
