//! Garbage collection across peers: one daemon at a time.

use futures::future::{join, join_all};
use pinkeeper_e2e::{
    daemon::Daemon,
    peer::{PeerProcess, Setup},
    trio::{Trio, next_of},
};
use serde_json::{Value, json};

use super::until;

/// Blocks of content nobody has pinned.
async fn litter(daemon: &Daemon, seed: u32) {
    let bytes = (0..1_000_000_u32).flat_map(|n| n.wrapping_add(seed << 24).to_be_bytes()).collect();
    daemon.add(bytes).await.unwrap();
}

/// Asks for a collection: the HTTP status and the answer.
async fn collect(peer: &PeerProcess, query: &str) -> (u16, Value) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = peer.rest_url(&format!("ipfs/gc?{query}"));
    let answer = client.post(url).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// The answer about a peer.
fn about<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let peers = answer["peer_map"].as_object().unwrap();
    peers.values().find(|peer| peer["peername"] == name).unwrap_or_else(|| panic!("{answer}"))
}

/// When a peer collected, as it logged it: begin and end.
fn times(peer: &PeerProcess) -> (String, String) {
    let log = peer.logged();
    let time = |words: &str| {
        let line = log.lines().find(|line| line.contains(words)).unwrap_or_else(|| panic!("{log}"));
        line.split_whitespace().next().unwrap().to_owned()
    };
    (time("garbage is being collected; pins wait"), time("garbage was collected"))
}

#[tokio::test]
async fn peers_collect_one_after_the_other_and_a_dead_daemon_stops_no_other() {
    let mut trio = Trio::start().await.unwrap();
    join_all(trio.daemons.iter().zip(1..).map(|(daemon, seed)| litter(daemon, seed))).await;
    let leader = trio.leader().unwrap();
    let (follower, other) = ((leader + 1) % 3, (leader + 2) % 3);

    let first = collect(&trio.peers[follower], "local=false");
    let second = async {
        until("a peer collects", || async {
            let metrics = join_all(trio.peers.iter().map(|peer| peer.health("metrics"))).await;
            metrics.iter().any(|m| m.as_ref().is_ok_and(|(_, m)| m.contains("gc_running 1")))
        })
        .await;
        collect(&trio.peers[other], "").await
    };
    let ((status, answer), (refused, reason)) = join(first, second).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!((refused, &reason["code"]), (409, &json!(409)), "{reason}");
    for name in ["a", "b", "c"] {
        let of = about(&answer, name);
        assert!(of["removed"].as_u64().unwrap() > 3000 && of.get("error").is_none(), "{answer}");
    }
    let mut all: Vec<(String, String)> = trio.peers.iter().map(times).collect();
    all.sort();
    assert!(all.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{all:?}");

    trio.daemons[follower].kill().await.unwrap();
    let names: Vec<String> = trio.peers.iter().map(|peer| peer.name().to_owned()).collect();
    let (status, answer) = collect(&trio.peers[follower], "").await;
    assert_eq!(status, 200, "{answer}");
    let error = about(&answer, &names[follower])["error"].as_str().unwrap();
    assert!(error.contains("the daemon"), "{answer}");
    for n in [leader, other] {
        assert!(about(&answer, &names[n]).get("error").is_none(), "{answer}");
    }
    let (status, answer) = collect(&trio.peers[other], "local=true").await;
    assert_eq!((status, answer["peer_map"].as_object().unwrap().len()), (200, 1), "{answer}");
    assert!(about(&answer, &names[other]).get("error").is_none(), "{answer}");

    // A peer that is down is named, and the others collect.
    trio.peers[follower].kill().await.unwrap();
    until("it is known to be down", || async {
        let (status, answer) = collect(&trio.peers[leader], "").await;
        status == 200 && about(&answer, &names[follower])["error"] == "the peer is down"
    })
    .await;
}

#[tokio::test]
async fn a_full_volume_is_collected_unasked_once_something_was_unpinned() {
    let daemon = Daemon::start().await.unwrap();
    let mut peer = PeerProcess::new(next_of(&[], "a", daemon.url())).unwrap();
    // Any volume in use is as full as that.
    peer.set("ipfs_path", json!(daemon.repository()));
    peer.set("gc_watermark", json!(1));
    peer.set("gc_pause", json!("1s"));
    peer.start().unwrap();
    let done = async |count: usize| {
        let line = format!(r#"pinkeeper_gc_runs_total{{outcome="done"}} {count}"#);
        peer.health("metrics").await.is_ok_and(|(_, text)| text.lines().any(|l| l == line))
    };
    until("once, since nobody knows what was unpinned before", || done(1)).await;
    let cid = daemon.add(vec![7; 5000]).await.unwrap();
    peer.pin(&cid, "").await.unwrap();
    until("pinned", || daemon.holds(&cid)).await;
    peer.unpin(&cid).await.unwrap();
    until("its blocks are gone", || async { !daemon.stores(&cid).await }).await;
    until("it is counted", || done(2)).await;
}

#[tokio::test]
async fn a_peer_without_a_cluster_collects_nothing() {
    let daemon = Daemon::start().await.unwrap();
    let setup = Setup { found: false, ..next_of(&[], "a", daemon.url()) };
    let mut peer = PeerProcess::new(setup).unwrap();
    peer.start().unwrap();
    until("it serves", || async { peer.get("id").await.is_ok() }).await;
    for query in ["", "local=true"] {
        let (status, answer) = collect(&peer, query).await;
        assert_eq!(status, 503, "{answer}");
        assert!(answer["message"].as_str().unwrap().contains("has not joined"), "{answer}");
    }
}
