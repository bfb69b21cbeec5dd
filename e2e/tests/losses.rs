//! Peers that lose their data folders, with real daemons on loopback.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    time::{Duration, Instant},
};

use futures::future::join_all;
use pinkeeper::types::Cid;
use pinkeeper_e2e::{
    daemon::identity_cid,
    peer::{PeerProcess, until},
    trio::{FORM_DEADLINE, PIN_DEADLINE, Trio, whole},
};

/// The copies of the lost identity are those of its successor, which pins nothing anew: for one replica
/// they are the last ones.
#[tokio::test]
async fn a_peer_that_lost_its_data_folder_takes_over_what_it_pinned_before() {
    let mut trio = Trio::start_with(separate_ledgers).await.unwrap();
    let lost = if trio.leader().unwrap() == 1 { 2 } else { 1 };
    let cids: Vec<Cid> = (0..20).map(identity_cid).collect();
    for cid in &cids {
        trio.peers[0].pin(cid, "replication=1").await.unwrap();
        trio.until_pinned(cid, 1).await;
    }
    let mut held = Vec::new();
    for cid in cids {
        if trio.daemons[lost].holds(&cid).await {
            held.push(cid);
        }
    }
    assert!(!held.is_empty());

    trio.peers[lost].kill().await.unwrap();
    fs::remove_dir_all(trio.peers[lost].data()).unwrap();
    comes_back_as_another(&mut trio.peers[lost]).await;
    let all = format!("pinkeeper_pins_held {}", held.len());
    until("the successor counts all of them", FORM_DEADLINE * 2, || async {
        let (_, metrics) = trio.peers[lost].health("metrics").await.unwrap();
        metrics.lines().any(|line| line == all)
    })
    .await;
    for cid in &held {
        assert!(trio.daemons[lost].holds(cid).await, "{cid} was unpinned");
        trio.until_pinned(cid, 1).await;
    }
    // They go like any other.
    for cid in &held {
        trio.peers[0].unpin(cid).await.unwrap();
    }
    until("they were unpinned", PIN_DEADLINE, || async {
        !join_all(held.iter().map(|cid| trio.daemons[lost].holds(cid))).await.contains(&true)
    })
    .await;
}

fn separate_ledgers(peers: &mut [PeerProcess]) -> anyhow::Result<()> {
    peers.iter_mut().for_each(|peer| drop(peer.separate_ledger().to_owned()));
    Ok(())
}

/// One after the other, the founder first; and then the disk of a removed identity starts once more.
#[tokio::test]
async fn all_peers_can_lose_their_data_folders_one_after_the_other() {
    let mut trio = Trio::start_with(separate_ledgers).await.unwrap();
    let cids: Vec<Cid> = (0..30).map(identity_cid).collect();
    for cid in &cids {
        trio.peers[0].pin(cid, "replication=2").await.unwrap();
    }
    all_pinned(&trio, &cids).await;
    let old = trio.peers[2].data().with_extension("old");
    for lost in 0..3 {
        let begin = Instant::now();
        trio.peers[lost].kill().await.unwrap();
        let data = trio.peers[lost].data();
        match lost {
            2 => fs::rename(&data, &old).unwrap(),
            _ => fs::remove_dir_all(&data).unwrap(),
        }
        let bootstrap = vec![trio.peers[(lost + 1) % 3].address()];
        let setup = trio.peers[lost].setup();
        (setup.found, setup.bootstrap) = (false, bootstrap);
        comes_back_as_another(&mut trio.peers[lost]).await;
        whole(&trio.peers, FORM_DEADLINE * 3).await;
        println!("peer {lost} has a successor that votes after {:?}", begin.elapsed());
        all_pinned(&trio, &cids).await;
        println!("and its copies after {:?}", begin.elapsed());
    }
    trio.peers[2].kill().await.unwrap();
    fs::remove_dir_all(trio.peers[2].data()).unwrap();
    fs::rename(&old, trio.peers[2].data()).unwrap();
    trio.peers[2].start().unwrap();
    assert_eq!(trio.peers[2].ended().await.unwrap().code(), Some(2));
    let log = trio.peers[2].logged();
    let line = log.lines().next_back().unwrap();
    assert!(line.starts_with("error: ") && line.contains("was removed from its cluster"), "{line}");
}

async fn all_pinned(trio: &Trio, cids: &[Cid]) {
    for cid in cids {
        trio.until_pinned(cid, 2).await;
    }
}

/// It is refused until the leader has not heard for some seconds of the identity that it was before: that
/// one used this very daemon and name.
async fn comes_back_as_another(peer: &mut PeerProcess) {
    let until = Instant::now() + FORM_DEADLINE * 2;
    while !peer.is_ready().await {
        assert!(Instant::now() < until, "it does not come back");
        if !peer.is_running().unwrap() {
            peer.start().unwrap();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn a_founder_that_was_wiped_ends_where_its_cluster_is() {
    let mut trio = Trio::start().await.unwrap();
    trio.peers[0].kill().await.unwrap();
    fs::remove_dir_all(trio.peers[0].data()).unwrap();
    // It may end before the others have its hello.
    for _ in 0..10 {
        trio.peers[0].start().unwrap();
        assert_eq!(trio.peers[0].ended().await.unwrap().code(), Some(2));
        let log = trio.peers[0].logged();
        let line = log.lines().next_back().unwrap();
        assert!(line.starts_with("error: ") && line.contains("take found out"), "{line}");
        for peer in &trio.peers[1..] {
            until("the cluster goes on", FORM_DEADLINE, || peer.is_ready()).await;
        }
        let times = |peer: &PeerProcess| peer.logged().matches("another cluster met").count();
        let logged = [times(&trio.peers[1]), times(&trio.peers[2])];
        assert!(logged.iter().all(|times| *times <= 1), "it is logged too often: {logged:?}");
        if logged.contains(&1) {
            return;
        }
        fs::remove_dir_all(trio.peers[0].data()).unwrap();
    }
    panic!("no peer has logged that it met another cluster");
}

#[tokio::test]
async fn a_member_that_is_to_leave_gives_its_copies_away_first() {
    let mut trio = Trio::start().await.unwrap();
    let cids: Vec<Cid> = (0..30).map(identity_cid).collect();
    for cid in &cids {
        trio.peers[0].pin(cid, "replication=2").await.unwrap();
    }
    all_pinned(&trio, &cids).await;
    let (leaver, _) = trio.peers[2].members().await.unwrap();
    let begin = Instant::now();
    trio.peers[1].depart(&leaver).await.unwrap();
    assert_eq!(trio.peers[2].ended().await.unwrap().code(), Some(2));
    println!("the peer has left after {:?}", begin.elapsed());
    let line = trio.peers[2].logged();
    assert!(line.lines().next_back().unwrap().contains("was removed from its cluster"), "{line}");
    drop(trio.peers.pop());
    until("two are members", FORM_DEADLINE, || async {
        let of =
            async |peer: &PeerProcess| peer.members().await.is_ok_and(|(_, all)| all.len() == 2);
        of(&trio.peers[0]).await && of(&trio.peers[1]).await
    })
    .await;
    all_pinned(&trio, &cids).await;
    let error = trio.peers[0].depart("12D3KooWNoMember").await.unwrap_err().to_string();
    assert!(error.starts_with("400"), "{error}");
}
