//! Rolling upgrades: three `pinkeeper peer` processes with real daemons, of this program and of a
//! successor that knows one level more (the feature `next-level`).
#![allow(clippy::unwrap_used, missing_docs)]

use std::{env, path::PathBuf, time::Duration};

use pinkeeper_e2e::{
    daemon::{Daemon, identity_cid},
    peer::{PeerProcess, until},
    trio::{Trio, next_of},
};

/// The successor raises the level after 5 s.
const RAISED_WITHIN: Duration = Duration::from_secs(60);
const REFUSED: &str = "the cluster is at level 2, and this version of pinkeeper";

fn successor() -> PathBuf {
    let path = env::var_os("PINKEEPER_NEXT_BINARY");
    PathBuf::from(
        path.expect("PINKEEPER_NEXT_BINARY names the program with the feature next-level"),
    )
}

/// Restarts a peer with another program, as a rollout does; absent: this program.
async fn roll(trio: &mut Trio, n: usize, program: Option<PathBuf>) {
    trio.peers[n].terminate().unwrap();
    assert!(trio.peers[n].ended().await.unwrap().success());
    trio.peers[n].set_program(program);
    trio.peers[n].start().unwrap();
}

/// Every peer takes a pin, and all three come to hold it.
async fn all_take_part(trio: &Trio, first: u32) {
    trio.whole().await;
    for (peer, n) in trio.peers.iter().zip(first..) {
        let cid = identity_cid(n);
        peer.pin(&cid, "").await.unwrap();
        trio.until_pinned(&cid, 3).await;
    }
}

async fn is_refused(peer: &mut PeerProcess) {
    let status = peer.ended().await.unwrap();
    assert_eq!(status.code(), Some(2), "{}", peer.logged());
    let log = peer.logged();
    assert!(log.lines().last().unwrap().contains(REFUSED), "{log}");
}

#[tokio::test]
async fn an_upgrade_can_be_taken_back_until_the_level_is_raised_and_not_afterwards() {
    let mut trio = Trio::start().await.unwrap();
    all_take_part(&trio, 0).await;
    // Two of three, and one of them back.
    for n in [1, 2] {
        roll(&mut trio, n, Some(successor())).await;
        all_take_part(&trio, 10 * u32::try_from(n).unwrap()).await;
    }
    roll(&mut trio, 1, None).await;
    all_take_part(&trio, 30).await;
    for n in [1, 0] {
        roll(&mut trio, n, Some(successor())).await;
        trio.whole().await;
    }
    until("the level is raised", RAISED_WITHIN, || async {
        trio.peers.iter().any(|peer| peer.logged().contains("cluster level raised"))
    })
    .await;
    all_take_part(&trio, 40).await;

    // One that goes back says why it does not start, and the others go on.
    roll(&mut trio, 1, None).await;
    is_refused(&mut trio.peers[1]).await;
    let cid = identity_cid(50);
    until("the others take a pin", RAISED_WITHIN, || async {
        trio.peers[0].pin(&cid, "replication=2").await.is_ok()
    })
    .await;
    // So does a new peer of this program.
    let daemon = Daemon::start().await.unwrap();
    let mut joiner = PeerProcess::new(next_of(&trio.peers, "d", daemon.url())).unwrap();
    joiner.start().unwrap();
    is_refused(&mut joiner).await;
    trio.peers[1].set_program(Some(successor()));
    trio.peers[1].start().unwrap();
    all_take_part(&trio, 60).await;
}
