//! Copies that move to other peers, with real daemons on loopback.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::{Duration, Instant};

use futures::future::join_all;
use pinkeeper::types::Cid;
use pinkeeper_e2e::{
    daemon::identity_cid,
    peer::{PeerProcess, until},
    trio::{PIN_DEADLINE, Trio},
};

/// A short grace; the leader needs six seconds more to notice an absence.
const GRACE: Duration = Duration::from_secs(5);

async fn trio() -> Trio {
    let short = |peers: &mut [PeerProcess]| {
        let grace = format!("{}s", GRACE.as_secs());
        peers.iter_mut().for_each(|peer| peer.set("move_after", grace.clone().into()));
        Ok(())
    };
    Trio::start_with(short).await.unwrap()
}

/// Pins these, two copies each, and returns those with a copy on the daemon of a peer.
async fn pinned_on(trio: &Trio, of: usize, cids: &[Cid]) -> Vec<Cid> {
    for cid in cids {
        trio.peers[0].pin(cid, "replication=2").await.unwrap();
    }
    for cid in cids {
        trio.until_pinned(cid, 2).await;
    }
    let mut held = Vec::new();
    for cid in cids {
        held.extend(trio.daemons[of].holds(cid).await.then_some(*cid));
    }
    assert!(!held.is_empty());
    held
}

async fn all_on(trio: &Trio, peers: &[usize], cids: &[Cid]) -> bool {
    let daemons = || peers.iter().map(|n| &trio.daemons[*n]);
    let holds = cids.iter().flat_map(|cid| daemons().map(move |daemon| daemon.holds(cid)));
    join_all(holds).await.into_iter().all(|holds| holds)
}

async fn none_on(trio: &Trio, peer: usize, cids: &[Cid]) -> bool {
    let holds = cids.iter().map(|cid| trio.daemons[peer].holds(cid));
    !join_all(holds).await.contains(&true)
}

#[tokio::test]
async fn a_peer_that_is_gone_for_long_loses_its_copies_to_others() {
    let mut trio = trio().await;
    let cids: Vec<Cid> = (0..60).map(identity_cid).collect();
    let lost = if trio.leader().unwrap() == 2 { 1 } else { 2 };
    let others: Vec<usize> = (0..3).filter(|n| *n != lost).collect();
    let held = pinned_on(&trio, lost, &cids).await;
    trio.peers[lost].kill().await.unwrap();
    let begin = Instant::now();
    until("the others have its copies", PIN_DEADLINE, || all_on(&trio, &others, &cids)).await;
    let took = begin.elapsed();
    println!("{} copies are elsewhere after {took:?}", held.len());
    assert!(took >= GRACE, "before the grace");
    let alerts = trio.peers[others[0]].get("health/alerts").await.unwrap();
    assert_eq!(alerts.as_array().unwrap().len(), 1, "{alerts}");
    trio.peers[lost].start().unwrap();
    until("it has let go", PIN_DEADLINE, || none_on(&trio, lost, &held)).await;
    assert!(all_on(&trio, &others, &cids).await);
}

#[tokio::test]
async fn a_peer_whose_daemon_is_gone_for_long_loses_its_copies() {
    let mut trio = trio().await;
    let cids: Vec<Cid> = (0..30).map(identity_cid).collect();
    let held = pinned_on(&trio, 2, &cids).await;
    trio.daemons[2].kill().await.unwrap();
    until("the others have its copies", PIN_DEADLINE, || all_on(&trio, &[0, 1], &cids)).await;
    trio.daemons[2].run().await.unwrap();
    until("it has let go", PIN_DEADLINE, || none_on(&trio, 2, &held)).await;
    assert!(all_on(&trio, &[0, 1], &cids).await);
}

/// The reports are as old as the daemon's last list, five minutes at most.
#[tokio::test]
async fn a_copy_stays_while_the_daemon_of_the_other_one_has_lost_it() {
    let trio = trio().await;
    // Only this daemon has the content.
    let cid = trio.daemons[0].add(b"content that only one daemon has".to_vec()).await.unwrap();
    trio.peers[0].pin(&cid, "replication=2").await.unwrap();
    trio.until_pinned(&cid, 2).await;
    let mut holders = Vec::new();
    for n in 0..3 {
        holders.extend(trio.daemons[n].holds(&cid).await.then_some(n));
    }
    let [loses, keeps] = holders[..] else { panic!("{holders:?}") };
    trio.daemons[loses].rpc("pin/rm", &[("arg", &cid.to_string())]).await.unwrap();
    trio.daemons[loses].rpc("repo/gc", &[]).await.unwrap();
    trio.peers[0].pin(&cid, "replication=1").await.unwrap();
    // Whichever of them is to leave, somebody has the content all the time.
    let one_copy = async || {
        let [kept, made] = [keeps, loses].map(|n| trio.daemons[n].holds(&cid));
        assert!(kept.await || made.await, "the content is gone");
        let statuses = trio.peers[0].statuses(&cid).await.unwrap();
        statuses.values().filter(|status| status.status == "pinned").count() == 1
    };
    until("one copy is left", PIN_DEADLINE * 2, one_copy).await;
    let mut left = 0;
    for daemon in &trio.daemons {
        left += usize::from(daemon.holds(&cid).await);
    }
    assert_eq!(left, 1);
}
