//! A peer with its controllers, on a stand-in daemon and a real API server.
#![allow(clippy::unwrap_used, unreachable_pub, dead_code)]

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace, PersistentVolumeClaim},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use pinkeeper::{
    clock::Clock,
    cluster::{AddressBook, JoinPolicy, MovePolicy},
    consensus::{Checkpoints, DiskLog, StateStore, Stores, Timing},
    ipfs::{Ipfs, fake::StandInDaemon},
    peer::{Assembly, Peer},
    rpc::{CallError, Transport},
    state::Limits,
    tracker::{Config, Ledger, LedgerPort},
    types::{Cid, Envelope, Member, PeerId, Program, Response},
};
use pinkeeper_operator::{
    crd::{ClusterPeer, ClusterPeerSpec, Pin, PinSpec},
    kubernetes::{Context, Counters, Settings},
    run::{RunError, run},
};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::common::ControlPlane;

/// Anything that takes longer has failed.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits for a condition.
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A transport without other peers.
struct Alone;

impl Transport for Alone {
    fn call(
        &self,
        peer: PeerId,
        _: Envelope,
        _: Duration,
    ) -> BoxFuture<'_, Result<Response, CallError>> {
        let reason = "there is nobody else".to_owned();
        async move { Err(CallError::Unreachable { peer, reason, sent: false }) }.boxed()
    }

    fn set_addresses(&self, _: BTreeMap<PeerId, Vec<String>>) {}

    fn set_members(&self, _: BTreeMap<PeerId, String>) {}

    fn connected(&self) -> Vec<PeerId> {
        Vec::new()
    }
}

/// What outlives the peer's process: the API server, the daemon and the peer's disk.
pub struct World {
    pub plane: ControlPlane,
    pub client: Client,
    pub daemon: StandInDaemon,
    disk: tempfile::TempDir,
}

/// A running `pinkeeper run`.
pub struct Running {
    token: CancellationToken,
    task: JoinHandle<Result<(), RunError>>,
    pub context: Context,
}

impl Running {
    /// Stops it as SIGTERM does.
    pub async fn stop(self) {
        self.token.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Waits until it ends by itself.
    pub async fn ended(self) -> RunError {
        tokio::time::timeout(DEADLINE, self.task).await.unwrap().unwrap().unwrap_err()
    }
}

impl World {
    pub async fn start() -> Self {
        let plane = ControlPlane::start();
        let client = plane.client().await;
        let world = Self {
            plane,
            client,
            daemon: StandInDaemon::new("daemon", Duration::from_millis(20)),
            disk: tempfile::tempdir().unwrap(),
        };
        for name in ["web", "docs"] {
            world.add_namespace(name).await;
        }
        world.define().await;
        world
    }

    pub async fn add_namespace(&self, name: &str) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace: Namespace =
            serde_json::from_value(serde_json::json!({"metadata": {"name": name}})).unwrap();
        namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    }

    /// Deletes an empty namespace, and finalizes it as Kubernetes' controller would, which does not
    /// run here.
    pub async fn remove_namespace(&self, name: &str) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces.delete(name, &DeleteParams::default()).await.unwrap();
        let mut namespace = namespaces.get(name).await.unwrap();
        namespace.spec.get_or_insert_default().finalizers = None;
        let params = PostParams::default();
        namespaces.replace_subresource("finalize", name, &params, &namespace).await.unwrap();
        eventually("the namespace is gone", async || {
            namespaces.get_opt(name).await.unwrap().is_none().then_some(())
        })
        .await;
    }

    /// Creates missing definitions and waits until they are served.
    pub async fn define(&self) {
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        for definition in pinkeeper_operator::crd::definitions() {
            let definition = serde_json::from_value(definition).unwrap();
            match definitions.create(&PostParams::default(), &definition).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.is_already_exists() => {}
                Err(error) => panic!("{error}"),
            }
        }
        eventually("the kinds are served", async || {
            let pins = self.pins("web").list(&ListParams::default()).await.is_ok();
            let peers: Api<ClusterPeer> = Api::namespaced(self.client.clone(), "web");
            (pins && peers.list(&ListParams::default()).await.is_ok()).then_some(())
        })
        .await;
    }

    /// A ClusterPeer of an installation that was removed with its volumes.
    pub async fn leave_a_cluster_peer(&self) {
        let peers: Api<ClusterPeer> = Api::namespaced(self.client.clone(), "web");
        let (params, name) = (PostParams::default(), "demo-7");
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), "web");
        let own = serde_json::json!({
            "metadata": {"name": "raft-demo-0"},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}},
            },
        });
        claims.create(&params, &serde_json::from_value(own).unwrap()).await.unwrap();
        let peer = ClusterPeer::new(name, ClusterPeerSpec::default());
        peers.create(&params, &peer).await.unwrap();
        let status = serde_json::json!({"status": {
            "peerID": "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp",
            "clusterID": "0123456789abcdef".repeat(2),
        }});
        let patch = Patch::Merge(status);
        peers.patch_status(name, &PatchParams::default(), &patch).await.unwrap();
    }

    pub fn pins(&self, namespace: &str) -> Api<Pin> {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub fn record(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), "web")
    }

    /// Starts the peer and its controllers on the disk as it is.
    pub async fn run(&self) -> Running {
        self.run_as(self.client.clone()).await
    }

    /// The same with another client.
    pub async fn run_as(&self, client: Client) -> Running {
        let disk = self.disk.path();
        let id = PeerId([7; 32]);
        // A peer that has just stopped may hold its lock for a moment.
        let log =
            eventually("the log is free", async || DiskLog::open(&disk.join("log")).ok()).await;
        let stores = Stores {
            flushed: log.flushed(),
            log,
            state: StateStore::open(&disk.join("state.redb")).unwrap(),
        };
        // Unused, but the sending end must stay alive.
        let (asks, inbound) = tokio::sync::mpsc::channel(1);
        let ipfs: Arc<dyn Ipfs> = Arc::new(self.daemon.client());
        let assembly = Assembly {
            id,
            member: Member {
                name: "demo-0".into(),
                addresses: vec!["/ip4/127.0.0.1/tcp/9096".into()],
            },
            timing: Timing {
                heartbeat: Duration::from_millis(50),
                election_min: Duration::from_millis(150),
                election_max: Duration::from_millis(300),
            },
            checkpoints: Checkpoints::default(),
            program: Program::default(),
            stores,
            transport: Arc::new(Alone),
            inbound,
            ipfs,
            ledger: LedgerPort::Offloaded(Ledger::open(&disk.join("ledger.redb")).unwrap()),
            tracker: tracker_config(),
            addresses: AddressBook::open(&disk.join("addresses.json")),
            volume: None,
            tags: BTreeMap::new(),
            clock: Clock::System,
            join: JoinPolicy::Wait,
            gc: None,
            moves: MovePolicy {
                after: Duration::from_secs(300),
                zone_after: Duration::from_secs(3600),
            },
        };
        let peer = Peer::assemble(assembly).await.unwrap();
        let settings = Settings {
            namespace: "web".into(),
            pod: "demo-0".into(),
            release: "demo".into(),
            initial_peers: 1,
            default_replicas: 1,
            limits: Limits::default(),
        };
        let (cluster, counters) = (peer.cluster.clone(), Counters::default());
        let context = Context::new(client, cluster, Clock::System, settings, counters);
        let token = CancellationToken::new();
        let (until, beside) = (token.clone(), context.clone());
        let task = tokio::spawn(async move {
            let _asks = asks;
            run(peer, beside, &until).await
        });
        Running { token, task, context }
    }

    pub async fn create(&self, namespace: &str, name: &str, cid: &str) -> Pin {
        self.create_with(namespace, name, serde_json::json!({"cid": cid})).await
    }

    pub async fn create_with(&self, namespace: &str, name: &str, spec: serde_json::Value) -> Pin {
        let mut spec: PinSpec = serde_json::from_value(spec).unwrap();
        // The definition's default is 3, and this world has one peer.
        spec.replicas = spec.replicas.or(Some(1));
        self.pins(namespace).create(&PostParams::default(), &Pin::new(name, spec)).await.unwrap()
    }

    pub async fn delete(&self, namespace: &str, name: &str) {
        self.pins(namespace).delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// Waits until the Pin's Ready has that reason; returns its message.
    pub async fn reason(&self, namespace: &str, name: &str, reason: &str) -> String {
        eventually(&format!("{namespace}/{name} is {reason}"), async || {
            let pin = self.pins(namespace).get(name).await.unwrap();
            let ready = pin.status?.conditions.into_iter().find(|c| c.type_ == "Ready")?;
            (ready.reason == reason).then_some(ready.message)
        })
        .await
    }

    pub async fn held(&self, cid: &Cid, held: bool) {
        let what = format!("{cid} {}", if held { "pinned" } else { "unpinned" });
        eventually(&what, async || (self.daemon.holds(cid) == held).then_some(())).await;
    }

    /// Successful writes of ours in the API server's audit log: verb and object.
    pub fn writes(&self) -> Vec<(String, String)> {
        let path = self.plane.kubeconfig.parent().unwrap().join("audit.log");
        read_audit(&path)
            .into_iter()
            .filter(|line| {
                line["requestURI"]
                    .as_str()
                    .is_some_and(|uri| uri.contains("fieldManager=pinkeeper"))
                    || line["objectRef"]["apiGroup"] == "events.k8s.io"
            })
            .filter(|line| line["responseStatus"]["code"].as_u64().is_some_and(|code| code < 300))
            .filter(|line| !matches!(line["verb"].as_str().unwrap(), "get" | "list" | "watch"))
            .map(|line| {
                let part = |key: &str| line["objectRef"][key].as_str().unwrap_or("").to_owned();
                let kind = format!("{} {}", part("resource"), part("subresource"));
                let name = format!("{}/{}", part("namespace"), part("name"));
                (kind.trim().to_owned(), name)
            })
            .collect()
    }
}

fn read_audit(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // The last line may be half written.
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Short times, so that failures show soon.
fn tracker_config() -> Config {
    Config {
        stall_time: Duration::from_secs(1),
        retry_min: Duration::from_millis(200),
        retry_max: Duration::from_secs(1),
        ..Config::default()
    }
}

/// Content that carries its own bytes.
pub fn cid(number: u32) -> Cid {
    let digest = cid::multihash::Multihash::<64>::wrap(0, &number.to_be_bytes()).unwrap();
    cid::Cid::new_v1(0x55, digest).into()
}
