//! A command is answered after long or never, or takes effect when nobody waits for it any more.

use pinkeeper::types::{Cid, PinState};
use pinkeeper_e2e::{
    daemon::{Daemon, identity_cid},
    proxy::{Hold, Proxy},
};
use tempfile::TempDir;

use super::{Tracked, claim, config, empty, until};

/// A tracker with a proxy between it and its daemon.
struct Between {
    daemon: Daemon,
    proxy: Proxy,
    folder: TempDir,
    tracked: Tracked,
}

impl Between {
    async fn start() -> Self {
        let daemon = Daemon::start().await.unwrap();
        let proxy = Proxy::start(&daemon.url()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let tracked = Tracked::start_at(&proxy.url(), folder.path(), empty(), config());
        Self { daemon, proxy, folder, tracked }
    }

    async fn pinned(&self, cid: Cid) {
        self.tracked.want(cid);
        self.tracked.until(cid, Some(PinState::Pinned)).await;
    }

    /// Waits until a pin was stopped for want of progress, and that is told.
    async fn stalled(&self, cid: Cid) {
        self.tracked.until(cid, Some(PinState::NotFound)).await;
        let message = self.tracked.message(cid);
        assert!(message.contains("no progress"), "{message}");
    }

    /// The same peer after a restart, before which something was wanted.
    async fn restarted_wanting(self, cid: Cid) -> Self {
        let Self { daemon, proxy, folder, tracked } = self;
        let state = tracked.stop().await;
        claim(&state, cid);
        let tracked = Tracked::start_at(&proxy.url(), folder.path(), state, config());
        Self { daemon, proxy, folder, tracked }
    }

    /// Waits until the daemon was taken for away, and is back.
    async fn away_for_a_moment(&self, cid: Cid) {
        self.proxy.hold("id", Hold::Request);
        self.tracked.until(cid, Some(PinState::DaemonDown)).await;
        self.proxy.release("id");
    }
}

fn add_of(cid: Cid) -> String {
    format!("pin/add?arg={cid}&")
}

#[tokio::test]
async fn a_pin_that_is_never_answered_is_stopped_and_others_go_on() {
    let it = Between::start().await;
    // More than are pinned at once.
    let held: Vec<Cid> = (0..12).map(identity_cid).collect();
    for cid in &held {
        it.proxy.hold(&add_of(*cid), Hold::Request);
        it.tracked.want(*cid);
    }
    until("pins wait", || async { it.proxy.waited() >= 8 }).await;
    for n in 100..120 {
        it.pinned(identity_cid(n)).await;
    }
    for cid in &held {
        it.stalled(*cid).await;
    }
    for n in 120..140 {
        it.pinned(identity_cid(n)).await;
    }
    for cid in &held {
        assert_ne!(it.tracked.state_of(*cid), Some(PinState::Pinned));
        assert!(!it.daemon.holds(cid).await);
        it.proxy.release(&add_of(*cid));
    }
    for cid in held {
        it.tracked.until(cid, Some(PinState::Pinned)).await;
        assert!(it.daemon.holds(&cid).await);
    }
    it.tracked.stop().await;
}

/// The daemon has it all the while, and only what it says counts.
#[tokio::test]
async fn a_pin_whose_answer_is_lost_counts_when_the_daemon_confirms_it() {
    let it = Between::start().await;
    let cid = identity_cid(1);
    it.proxy.hold(&add_of(cid), Hold::Answer);
    it.tracked.want(cid);
    until("the daemon has pinned it", || async { it.proxy.carried_out() > 0 }).await;
    // Neither a question nor a list is answered either.
    it.proxy.hold("pin/ls", Hold::Request);
    assert!(it.daemon.holds(&cid).await);
    it.stalled(cid).await;
    let waited = it.proxy.waited();
    until("it is asked about", || async { it.proxy.waited() > waited }).await;
    assert_eq!(it.tracked.state_of(cid), Some(PinState::NotFound));
    it.proxy.release("pin/ls");
    it.tracked.until(cid, Some(PinState::Pinned)).await;
    // It is known as ours, though no attempt of ours ever succeeded.
    it.tracked.release(cid);
    it.tracked.until(cid, None).await;
    assert!(!it.daemon.holds(&cid).await);
    it.tracked.stop().await;
}

/// An unpin is under way when the daemon seems to go, or the peer stops; the content is wanted again,
/// and counts as pinned, when the unpin takes effect.
#[tokio::test]
async fn an_unpin_that_takes_effect_late_is_made_good() {
    let mut it = Between::start().await;
    for (n, by_restart) in [(1, false), (2, true)] {
        let (cid, carried_out) = (identity_cid(n), it.proxy.carried_out());
        it.pinned(cid).await;
        it.proxy.hold("pin/rm", Hold::Late);
        let waited = it.proxy.waited();
        it.tracked.release(cid);
        until("the unpin is under way", || async { it.proxy.waited() > waited }).await;
        if by_restart {
            it = it.restarted_wanting(cid).await;
        } else {
            it.tracked.want(cid);
            it.away_for_a_moment(cid).await;
        }
        it.tracked.until(cid, Some(PinState::Pinned)).await;
        it.proxy.release("pin/rm");
        until("it takes effect", || async { it.proxy.carried_out() > carried_out }).await;
        until("it is pinned again", || it.daemon.holds(&cid)).await;
        it.tracked.until(cid, Some(PinState::Pinned)).await;
        it.tracked.release(cid);
        it.tracked.until(cid, None).await;
        assert!(!it.daemon.holds(&cid).await);
    }
    it.tracked.stop().await;
}
