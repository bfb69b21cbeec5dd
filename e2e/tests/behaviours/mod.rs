//! What Kubo does, and that we get along with it: helpers and the tests by subject.

mod amounts;
mod answers;
mod cluster_collection;
mod collection;
mod late;
mod pins_of_others;
mod slow;
mod stops;
mod supervisor;

use std::{path::Path, sync::Arc, time::Duration};

use pinkeeper::{
    clock::Clock,
    ipfs::{Ipfs as _, IpfsError, kubo::KuboClient},
    state::{Changed, Op, PinSet, SharedState},
    tracker::{Barrier, Config, Ledger, LedgerPort, Ports, Tracker, TrackerHandle},
    types::{
        Cid, ClaimName, ClaimOptions, Factor, LogPosition, Owner, PeerId, PinState, Progress,
        Replication, Timestamp,
    },
};
use pinkeeper_e2e::daemon::Daemon;
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

/// Short times, so that tests are short.
fn config() -> Config {
    Config {
        stall_time: Duration::from_secs(2),
        retry_min: Duration::from_millis(500),
        retry_max: Duration::from_secs(2),
        compare_period: Duration::from_secs(1),
        probe_period: Duration::from_millis(500),
        down_probe_period: Duration::from_millis(200),
        down_grace: Duration::from_millis(500),
        drain_time: Duration::from_secs(2),
        ..Config::default()
    }
}

/// A tracker on a daemon, with a ledger in a folder.
struct Tracked {
    state: SharedState,
    handle: TrackerHandle,
    ledger: LedgerPort,
    token: CancellationToken,
    task: JoinHandle<()>,
}

impl Tracked {
    fn start(daemon: &Daemon, folder: &Path, state: SharedState) -> Self {
        Self::start_at(&daemon.url(), folder, state, config())
    }

    fn start_at(url: &str, folder: &Path, state: SharedState, config: Config) -> Self {
        let barrier: Barrier = Arc::new(|| Box::pin(async { Ok(()) }));
        let ledger = LedgerPort::Offloaded(Ledger::open(&folder.join("ledger")).unwrap());
        let ports = Ports {
            ipfs: Arc::new(KuboClient::new(url).unwrap()),
            ledger: ledger.clone(),
            state: state.clone(),
            me: ME,
            barrier,
            clock: Clock::System,
        };
        let token = CancellationToken::new();
        let (handle, task) = Tracker::spawn(config, ports, token.clone()).unwrap();
        Self { state, handle, ledger, token, task }
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

    fn state_of(&self, cid: Cid) -> Option<PinState> {
        self.handle.status(&cid).map(|status| status.state)
    }

    fn message(&self, cid: Cid) -> String {
        self.handle.status(&cid).map(|status| status.message).unwrap_or_default()
    }

    async fn until(&self, cid: Cid, state: Option<PinState>) {
        let found = || async { self.state_of(cid) == state };
        until(&format!("{cid} {state:?}"), found).await;
    }
}

fn empty() -> SharedState {
    SharedState::new(PinSet::default())
}

fn apply(state: &SharedState, cid: Cid, op: &Op) {
    let at = LogPosition::default();
    state.write(0, |pins| (pins.apply(at, op), Changed::Cids([cid].into())));
}

fn claim(state: &SharedState, cid: Cid) {
    claim_named(state, cid, "");
}

fn claim_named(state: &SharedState, cid: Cid, name: &str) {
    let replication = Replication { min: Factor::Count(1), max: Factor::Count(1) };
    let options =
        ClaimOptions { replication, retain: false, name: ClaimName::Given(name.to_owned()) };
    let (owner, at, candidates) = (Owner::Rest, Timestamp(1), vec![ME]);
    apply(state, cid, &Op::Claim { cid, owner, options, candidates, at, fence: None });
}

fn release(state: &SharedState, cid: Cid) {
    let (owner, at) = (Owner::Rest, Timestamp(2));
    apply(state, cid, &Op::Release { cid, owner, at, fence: None });
}
