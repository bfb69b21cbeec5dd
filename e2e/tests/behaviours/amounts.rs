//! Much of everything: pins, content, and a volume that is full.

use futures::{StreamExt as _, stream};
use pinkeeper::{
    ipfs::{Held, Ipfs as _, IpfsError},
    types::{PinState, Progress},
};
use pinkeeper_e2e::{
    daemon::{Daemon, identity_cid, long_cid},
    peer::PeerProcess,
    stand_in_kubo::StandInKubo,
    trio::{next_of, number},
};
use tokio::{sync::watch, time::Instant};

use super::{Tracked, empty, until};

#[tokio::test]
async fn thousands_of_pins_arrive() {
    let daemon = Daemon::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let count: u32 = 3000;
    let direct = direct_rate(&daemon, count).await;
    let tracked = Tracked::start(&daemon, folder.path(), empty());
    let began = Instant::now();
    for n in 0..count {
        tracked.want(identity_cid(n));
    }
    let all = count as usize;
    until("all pinned", || async { tracked.handle.counters().pinned == all }).await;
    let rate = f64::from(count) / began.elapsed().as_secs_f64();
    println!("pins/s: {rate:.0} by the tracker, {direct:.0} by pin/ls and pin/add driven directly");
    tracked.stop().await;
}

/// Pins a second by the calls that the tracker makes, at its concurrency.
async fn direct_rate(daemon: &Daemon, count: u32) -> f64 {
    let client = daemon.client().unwrap();
    let began = Instant::now();
    let pins = stream::iter(0..count).map(|n| {
        let client = client.clone();
        async move {
            let cid = identity_cid(1_000_000 + n);
            assert_eq!(client.pinned(vec![cid]).await, Ok(vec![Held::No]));
            client.pin(cid, watch::channel(Progress::default()).0).await
        }
    });
    let results: Vec<_> = pins.buffer_unordered(8).collect().await;
    assert!(results.iter().all(Result::is_ok));
    f64::from(count) / began.elapsed().as_secs_f64()
}

/// Pins many CIDs that carry their content, in few requests.
async fn pin_many(daemon: &Daemon, count: u32) {
    let numbers: Vec<u32> = (0..count).collect();
    let requests = numbers.chunks(200).map(|numbers| {
        let cids: Vec<String> = numbers.iter().map(|n| identity_cid(*n).to_string()).collect();
        async move {
            let query: Vec<(&str, &str)> = cids.iter().map(|cid| ("arg", cid.as_str())).collect();
            daemon.rpc("pin/add", &query).await.unwrap();
        }
    });
    stream::iter(requests).buffer_unordered(4).collect::<Vec<()>>().await;
}

/// Pins of others cost no memory: they go by, and nothing of them is kept.
#[tokio::test]
async fn twenty_thousand_pins_of_others_go_by() {
    let count = 20_000;
    let daemon = Daemon::start().await.unwrap();
    pin_many(&daemon, count).await;
    let client = daemon.client().unwrap();
    let listed = client
        .pins()
        .map(|cid| cid.map(|_| 1))
        .fold(Ok(0), async |sum, one| Ok::<usize, IpfsError>(sum? + one?));
    assert!(listed.await.unwrap() >= count as usize);
    let folder = tempfile::tempdir().unwrap();
    let tracked = Tracked::start(&daemon, folder.path(), empty());
    until("its list was compared", || async { tracked.handle.is_settled() }).await;
    assert_eq!(tracked.handle.page(None, 1), (vec![], None));
    tracked.want(identity_cid(7));
    tracked.until(identity_cid(7), Some(PinState::Pinned)).await;
    tracked.release(identity_cid(7));
    tracked.until(identity_cid(7), None).await;
    assert!(daemon.holds(&identity_cid(7)).await);
    tracked.stop().await;
}

/// A stand-in has as many of them as it takes for a list that is kept to show in a peer's memory.
#[tokio::test]
async fn the_length_of_the_list_costs_no_memory() {
    /// As text about 150 bytes each.
    const PINS: u32 = 200_000;
    /// In bytes; the list is twice as long at least, in whatever form it would be kept.
    const GROWTH_MAX: u64 = 6 << 20;
    let daemon = StandInKubo::start([127, 0, 0, 1].into()).await.unwrap();
    let mut peer = PeerProcess::new(next_of(&[], "a", daemon.url())).unwrap();
    let few = memory_of_a_list(&mut peer, &daemon).await;
    (0..PINS).map(long_cid).for_each(|cid| daemon.pin_foreign(cid));
    let begin = Instant::now();
    let many = memory_of_a_list(&mut peer, &daemon).await;
    println!("at most {few} bytes, {many} with {PINS} pins of others: {:?}", begin.elapsed());
    assert!(many < few + GROWTH_MAX, "{few} bytes became {many}");
}

/// The most memory a peer has from its start until it has read its daemon's list.
async fn memory_of_a_list(peer: &mut PeerProcess, daemon: &StandInKubo) -> u64 {
    let before = daemon.list_count();
    peer.start().unwrap();
    until("its list was read", || async { daemon.list_count() > before }).await;
    let cid = long_cid(7);
    until("it can be pinned", || async { peer.pin(&cid, "").await.is_ok() }).await;
    until("pinned", || async {
        peer.statuses(&cid).await.is_ok_and(|statuses| number(&statuses, "pinned") == 1)
    })
    .await;
    let most = peer.peak_memory().unwrap();
    peer.kill().await.unwrap();
    most
}

#[tokio::test]
async fn a_full_volume_is_told_and_collecting_garbage_makes_room() {
    let (one, mut two) = (Daemon::start().await.unwrap(), Daemon::start().await.unwrap());
    two.terminate().unwrap();
    two.ended().await.unwrap();
    two.run_on_a_small_volume(24 << 20).await.unwrap();
    let addresses = one.client().unwrap().id().await.unwrap().addresses;
    let client = two.client().unwrap();
    client.connect(addresses).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let tracked = Tracked::start(&two, folder.path(), empty());
    tracked.want(identity_cid(1));
    tracked.until(identity_cid(1), Some(PinState::Pinned)).await;
    let bytes = |count: u32, seed: u32| -> Vec<u8> {
        (0..count)
            .flat_map(|n| n.wrapping_mul(2_654_435_761).wrapping_add(seed).to_be_bytes())
            .collect()
    };
    let large = one.add_in_blocks(bytes(10 << 20, 1), 256 << 10).await.unwrap();
    tracked.want(large);
    tracked.until(large, Some(PinState::Failed)).await;
    let message = tracked.message(large);
    assert!(message.contains("no space left on device"), "{message}");
    assert_eq!(client.pinned(vec![large]).await, Ok(vec![Held::No]));
    // What was fetched of it fills the volume, until it is given up and collected.
    let small = one.add_in_blocks(bytes(2 << 20, 2), 256 << 10).await.unwrap();
    tracked.release(large);
    tracked.until(large, None).await;
    tracked.want(small);
    tracked.until(small, Some(PinState::Failed)).await;
    let done = tracked.handle.run_gc().await.unwrap();
    assert!(done.removed > 10 && done.errors.is_empty(), "{done:?}");
    tracked.until(small, Some(PinState::Pinned)).await;
    assert_eq!(tracked.state_of(identity_cid(1)), Some(PinState::Pinned));
    tracked.stop().await;
}
