//! The peer's own client cannot tell the stand-in from a Kubo.
#![allow(clippy::unwrap_used)]

use std::net::Ipv4Addr;

use futures::StreamExt as _;
use pinkeeper::ipfs::{Held, Ipfs as _, IpfsError, kubo::KuboClient};
use tokio::{sync::watch, time::timeout};

use super::*;
use crate::daemon::identity_cid;

async fn start() -> (StandInKubo, KuboClient) {
    let daemon = StandInKubo::start(Ipv4Addr::LOCALHOST.into()).await.unwrap();
    let client = KuboClient::new(&daemon.url()).unwrap();
    (daemon, client)
}

async fn pin(client: &KuboClient, cid: Cid) -> Result<(), IpfsError> {
    client.pin(cid, watch::Sender::default()).await
}

#[tokio::test]
async fn pins_come_and_go() {
    let (daemon, client) = start().await;
    let [one, two, three] = [1, 2, 3].map(identity_cid);
    pin(&client, two).await.unwrap();
    daemon.pin_foreign(three);
    // In the middle the first question meets one that is not pinned: an error in the trailer.
    let held = client.pinned(vec![two, one, three]).await.unwrap();
    assert_eq!(held, [Held::Recursive, Held::No, Held::Recursive]);
    let listed: Vec<_> = client.pins().map(Result::unwrap).collect().await;
    assert_eq!(BTreeSet::from_iter(listed), BTreeSet::from([two, three]));
    client.unpin(two).await.unwrap();
    client.unpin(two).await.unwrap();
    assert_eq!(daemon.pins(), BTreeSet::from([three]));
}

#[tokio::test]
async fn it_says_who_it_is_and_what_it_has_room_for() {
    let (daemon, client) = start().await;
    let (other, _) = start().await;
    assert_eq!(client.id().await.unwrap().id, daemon.shared.id);
    assert!(daemon.shared.id != other.shared.id);
    daemon.pin_foreign(identity_cid(1));
    let stat = client.repository().await.unwrap();
    assert_eq!((stat.size, stat.storage_max), (PIN_SIZE, STORAGE_MAX));
    client.connect(vec!["/ip4/127.0.0.1/tcp/1/p2p/other".to_owned()]).await.unwrap();
}

#[tokio::test]
async fn a_long_list_is_whole() {
    let (daemon, client) = start().await;
    let cids: BTreeSet<Cid> = (0..5_000).map(identity_cid).collect();
    cids.iter().for_each(|cid| daemon.pin_foreign(*cid));
    let listed: Vec<Cid> = client.pins().map(Result::unwrap).collect().await;
    assert_eq!(listed, Vec::from_iter(cids));
}

#[tokio::test]
async fn a_pin_takes_its_time_and_is_given_up_with_its_connection() {
    let (daemon, client) = start().await;
    daemon.set_pin_time(Duration::from_millis(700));
    let begin = Instant::now();
    pin(&client, identity_cid(1)).await.unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(700), "{:?}", begin.elapsed());
    let _ = timeout(Duration::from_millis(100), pin(&client, identity_cid(2))).await.unwrap_err();
    // Longer than the pin given up would have taken.
    pin(&client, identity_cid(3)).await.unwrap();
    assert_eq!(daemon.pins(), BTreeSet::from([1, 3].map(identity_cid)));
}

#[tokio::test]
async fn what_it_does_not_know_is_refused() {
    let (daemon, _) = start().await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for (path, status, text) in [
        ("cat?arg=x", 404, "not found"),
        ("pin/add?arg=nothing", 500, "invalid path"),
        ("pin/ls?arg=x", 500, "invalid path"),
        ("pin/ls?stream=true", 500, "recursive and direct"),
    ] {
        let url = format!("{}/api/v0/{path}", daemon.url());
        let answer = http.post(url).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{path}");
        let body = answer.text().await.unwrap();
        assert!(body.contains(text), "{path}: {body}");
    }
}
