//! The Kubo connector, the tracker and the supervisor on a real Kubo.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use pinkeeper::{
    clock::Clock,
    ipfs::{Held, Ipfs as _, IpfsError, kubo::KuboClient},
    state::{Changed, Op, PinSet, SharedState},
    tracker::{Barrier, Config, Ledger, LedgerPort, Ports, Tracker, TrackerHandle},
    types::{Cid, ClaimOptions, Factor, Owner, PeerId, PinState, Progress, Replication, Timestamp},
};
use pinkeeper_e2e::daemon::{Daemon, identity_cid, ipfs_program};
use pinkeeper_operator::kubo;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

const ME: PeerId = PeerId([1; 32]);

/// Content with a block missing: its root, the missing bytes.
async fn broken_file(daemon: &Daemon) -> (Cid, Vec<u8>) {
    let bytes: Vec<u8> = (0..20_000_u32).flat_map(u32::to_be_bytes).take(12_000).collect();
    let root = daemon.add(bytes).await.unwrap();
    let children = daemon.children(&root).await.unwrap();
    assert!(children.len() > 5, "{children:?}");
    let missing = daemon.take_block(&children[5]).await.unwrap();
    (root, missing)
}

async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition().await {
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

type Pinning = (JoinHandle<Result<(), IpfsError>>, watch::Receiver<Progress>);

fn start_pin(client: &KuboClient, cid: Cid) -> Pinning {
    let (sender, receiver) = watch::channel(Progress::default());
    let client = client.clone();
    (tokio::spawn(async move { client.pin(cid, sender).await }), receiver)
}

async fn pin(client: &KuboClient, cid: Cid) -> Result<(), IpfsError> {
    let (task, _progress) = start_pin(client, cid);
    timeout(Duration::from_secs(30), task).await.unwrap().unwrap()
}

#[tokio::test]
async fn pins_are_added_asked_about_listed_and_removed() {
    let daemon = Daemon::start().await.unwrap();
    let client = daemon.client().unwrap();
    let info = client.id().await.unwrap();
    assert!(info.id.starts_with("12D3KooW") && info.agent.starts_with("kubo/"), "{info:?}");
    let stat = client.repository().await.unwrap();
    assert!(stat.size > 0 && stat.storage_max == 10_000_000_000, "{stat:?}");

    let count = 3000;
    let results: Vec<_> = stream::iter(0..count)
        .map(|n| {
            let client = client.clone();
            async move { client.pin(identity_cid(n), watch::channel(Progress::default()).0).await }
        })
        .buffer_unordered(8)
        .collect()
        .await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let listed: BTreeSet<Cid> = client.pins().map(Result::unwrap).collect().await;
    assert!((0..count).all(|n| listed.contains(&identity_cid(n))), "{}", listed.len());

    // Every second one is not pinned, and then a long run is.
    let asked: Vec<u32> =
        (0..60).map(|n| if n % 2 == 0 { n } else { count + n }).chain(0..100).collect();
    let answers = client.pinned(asked.iter().map(|n| identity_cid(*n)).collect()).await.unwrap();
    let held = |n: &u32| if *n < count { Held::Recursive } else { Held::No };
    let expected: Vec<Held> = asked.iter().map(held).collect();
    assert_eq!(answers, expected);
    // Also where somebody has pinned the block alone, listed or asked about.
    let direct = identity_cid(count + 1);
    let query = [("arg", &*direct.to_string()), ("recursive", "false")];
    daemon.rpc("pin/add", &query).await.unwrap();
    assert_eq!(client.pinned(vec![direct]).await, Ok(vec![Held::Direct]));
    let four: Vec<Cid> = (0..4).map(|n| identity_cid(count + n)).collect();
    let answers = client.pinned(four).await.unwrap();
    assert_eq!(answers, [Held::No, Held::Direct, Held::No, Held::No]);

    client.unpin(identity_cid(7)).await.unwrap();
    client.unpin(identity_cid(7)).await.unwrap();
    assert_eq!(client.pinned(vec![identity_cid(7)]).await, Ok(vec![Held::No]));
    assert!(daemon.holds(&identity_cid(8)).await);
}

#[tokio::test]
async fn what_can_never_be_pinned_is_refused() {
    let daemon = Daemon::start().await.unwrap();
    let client = daemon.client().unwrap();
    // Hashed with MD5, and bytes that are no hash beyond what Kubo allows.
    for text in [
        "bafk5kaiqmfqwcylbmfqwcylbmfqwcylbme",
        "bafk2dbqbebqwcylbmfqwcylbmfqwcylbmfqwcylbmfqwcylbmfqwcylbmfqwc",
    ] {
        let cid: Cid = text.parse().unwrap();
        assert_eq!(client.pinned(vec![cid]).await, Ok(vec![Held::No]));
        let result = pin(&client, cid).await;
        assert!(matches!(result, Err(IpfsError::Refused(_))), "{text}: {result:?}");
    }
}

#[tokio::test]
async fn a_missing_block_never_counts_as_pinned() {
    let mut daemon = Daemon::start().await.unwrap();
    let client = daemon.client().unwrap();
    let (root, missing) = broken_file(&daemon).await;
    let (task, mut progress) = start_pin(&client, root);
    timeout(Duration::from_secs(10), progress.wait_for(|p| p.blocks > 0)).await.unwrap().unwrap();
    sleep(Duration::from_secs(2)).await;
    assert!(!task.is_finished());
    // Stopped in the middle: Kubo ends the stream cleanly.
    daemon.terminate().unwrap();
    let result = timeout(Duration::from_secs(30), task).await.unwrap().unwrap();
    assert!(matches!(result, Err(IpfsError::Failed(_) | IpfsError::Down(_))), "{result:?}");
    daemon.ended().await.unwrap();
    daemon.run().await.unwrap();
    assert_eq!(client.pinned(vec![root]).await, Ok(vec![Held::No]));
    // Broken off by us: the daemon stops too, and others are not held up.
    let (task, _progress) = start_pin(&client, root);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(pin(&client, identity_cid(1)).await, Ok(()));
    task.abort();
    daemon.put_block(missing).await.unwrap();
    assert_eq!(pin(&client, root).await, Ok(()));
    assert_eq!(client.pinned(vec![root]).await, Ok(vec![Held::Recursive]));
}

#[tokio::test]
async fn daemons_connected_to_each_other_fetch_from_each_other() {
    let (one, two) = (Daemon::start().await.unwrap(), Daemon::start().await.unwrap());
    let root = one.add(vec![7; 50_000]).await.unwrap();
    let client = two.client().unwrap();
    let addresses = one.client().unwrap().id().await.unwrap().addresses;
    client.connect(addresses).await.unwrap();
    assert_eq!(pin(&client, root).await, Ok(()));
    let error = client.connect(vec!["/ip4/127.0.0.1/tcp/1".to_owned()]).await;
    assert!(error.is_err(), "{error:?}");
}

/// A tracker on a daemon, with a ledger in a folder.
struct Tracked {
    state: SharedState,
    handle: TrackerHandle,
    token: CancellationToken,
    task: JoinHandle<()>,
}

impl Tracked {
    fn start(daemon: &Daemon, folder: &Path, state: SharedState) -> Self {
        let config = Config {
            stall_time: Duration::from_secs(2),
            retry_min: Duration::from_millis(500),
            retry_max: Duration::from_secs(2),
            compare_period: Duration::from_secs(1),
            probe_period: Duration::from_millis(500),
            down_probe_period: Duration::from_millis(200),
            down_grace: Duration::from_millis(500),
            ..Config::default()
        };
        let barrier: Barrier = Arc::new(|| Box::pin(async { Ok(()) }));
        let ports = Ports {
            ipfs: Arc::new(daemon.client().unwrap()),
            ledger: LedgerPort::Offloaded(Ledger::open(&folder.join("ledger")).unwrap()),
            state: state.clone(),
            me: ME,
            barrier,
            clock: Clock::System,
        };
        let token = CancellationToken::new();
        let (handle, task) = Tracker::spawn(config, ports, token.clone()).unwrap();
        Self { state, handle, token, task }
    }

    async fn stop(self) -> SharedState {
        self.token.cancel();
        timeout(Duration::from_secs(2), self.task).await.unwrap().unwrap();
        self.state
    }

    fn want(&self, cid: Cid) {
        claim(&self.state, cid);
    }

    fn release(&self, cid: Cid) {
        release(&self.state, cid);
    }

    async fn until(&self, cid: Cid, state: Option<PinState>) {
        let found = || async { self.handle.status(&cid).map(|status| status.state) == state };
        until(&format!("{cid} {state:?}"), found).await;
    }
}

fn empty() -> SharedState {
    SharedState::new(PinSet::default())
}

fn apply(state: &SharedState, cid: Cid, op: &Op) {
    state.write(|pins| (pins.apply(1, op), Some(Changed::Cids([cid].into()))));
}

fn claim(state: &SharedState, cid: Cid) {
    let replication = Replication { min: Factor::Count(1), max: Factor::Count(1) };
    let options = ClaimOptions { replication, retain: false, name: String::new() };
    let (owner, at, candidates) = (Owner::Rest, Timestamp(1), vec![ME]);
    apply(state, cid, &Op::Claim { cid, owner, options, candidates, at, fence: None });
}

fn release(state: &SharedState, cid: Cid) {
    let (owner, at) = (Owner::Rest, Timestamp(2));
    apply(state, cid, &Op::Release { cid, owner, at, fence: None });
}

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
async fn foreign_pins_stay_and_ours_go_also_when_deleted_while_away() {
    let daemon = Daemon::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let foreign = identity_cid(100);
    daemon.rpc("pin/add", &[("arg", &foreign.to_string())]).await.unwrap();
    let tracked = Tracked::start(&daemon, folder.path(), empty());
    for n in [100, 101, 102, 103] {
        tracked.want(identity_cid(n));
    }
    for n in [100, 101, 102, 103] {
        tracked.until(identity_cid(n), Some(PinState::Pinned)).await;
    }
    tracked.release(identity_cid(101));
    tracked.until(identity_cid(101), None).await;
    assert!(!daemon.holds(&identity_cid(101)).await);
    // The peer is away while the others' claims go.
    let state = tracked.stop().await;
    release(&state, foreign);
    release(&state, identity_cid(102));
    let tracked = Tracked::start(&daemon, folder.path(), state);
    until("unpinned", || async { !daemon.holds(&identity_cid(102)).await }).await;
    tracked.until(identity_cid(103), Some(PinState::Pinned)).await;
    tracked.until(foreign, None).await;
    assert!(daemon.holds(&foreign).await && daemon.holds(&identity_cid(103)).await);
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
