//! `pinkeeper kubo` with a real program.

use std::{path::Path, time::Duration};

use pinkeeper::ipfs::{Held, Ipfs as _, kubo::KuboClient};
use pinkeeper_e2e::daemon::{identity_cid, ipfs_program};
use pinkeeper_operator::kubo;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{pin, until};

#[tokio::test]
async fn the_supervisor_keeps_a_real_daemon_running() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let args = kubo::Args {
        repository: folder.path().join("repo"),
        ipfs: ipfs_program(),
        api: format!("/ip4/127.0.0.1/tcp/{port}"),
        gateway: "/ip4/127.0.0.1/tcp/0".to_owned(),
        swarm: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
        swarm_port: None,
        announce: vec!["/{node}/tcp/31400".to_owned()],
        node_ips: vec!["192.0.2.1".parse().unwrap()],
        pod: None,
        given: r#"{"Provide": {"Strategy": "roots"}}"#.parse().unwrap(),
        memory_limit: Some(1 << 30),
        storage_max: Some("1GB".to_owned()),
        private: true,
        swarm_key_file: Some(swarm_key(folder.path())),
        stop_deadline: 20,
    };
    let token = CancellationToken::new();
    let stop = token.clone();
    let task = tokio::spawn(async move { kubo::supervise(&args, &stop).await });
    let client = KuboClient::new(&format!("http://127.0.0.1:{port}")).unwrap();
    until("up", || async { client.id().await.is_ok() }).await;
    let id = client.id().await.unwrap().id;
    let told = client.id().await.unwrap().addresses;
    let announced = format!("/ip4/192.0.2.1/tcp/31400/p2p/{id}");
    assert!(told.contains(&announced), "{told:?}");
    assert_eq!(client.repository().await.unwrap().storage_max, 1_000_000_000);
    assert_eq!(pin(&client, identity_cid(1)).await, Ok(()));
    // It ends by itself: it comes back as the same one.
    let shutdown = format!("http://127.0.0.1:{port}/api/v0/shutdown");
    let _ = reqwest::Client::new().post(shutdown).send().await;
    until("away", || async { client.id().await.is_err() }).await;
    until("back", || async { client.id().await.is_ok() }).await;
    assert_eq!(client.id().await.unwrap().id, id);
    assert_eq!(client.pinned(vec![identity_cid(1)]).await, Ok(vec![Held::Recursive]));
    token.cancel();
    timeout(Duration::from_secs(30), task).await.unwrap().unwrap();
    assert!(client.id().await.is_err());
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn swarm_key(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("key");
    let key = format!("/key/swarm/psk/1.0.0/\n/base16/\n{}\n", "5a".repeat(32));
    std::fs::write(&path, key).unwrap();
    path
}
