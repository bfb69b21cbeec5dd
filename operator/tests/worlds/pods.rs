//! A pod: a simulated machine that runs `pinkeeper run`.

use std::time::Duration;

use pinkeeper::{
    clock::Clock,
    cluster::{Cluster, JoinPolicy},
    consensus::Timing,
    sim::{
        host::{Host, Make},
        network::SimNetwork,
    },
    state::Limits,
    types::{Member, PeerId},
};
use pinkeeper_operator::{
    kubernetes::{Context, Counters, Settings},
    run::{RunError, run},
};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::api::SimApi;

/// Slower than in production; otherwise heartbeats would be most of a world's events.
pub const TIMING: Timing = Timing {
    heartbeat: Duration::from_millis(300),
    election_min: Duration::from_millis(900),
    election_max: Duration::from_millis(1500),
};
/// Longest time that a process takes to stop.
const STOP_MAX: Duration = Duration::from_secs(30);
/// Pods of a world.
pub const PODS: u8 = 3;
/// The namespace of the pods and of the record.
pub const NAMESPACE: &str = "pinkeeper";
/// The record's ConfigMap.
pub const RECORD: &str = "sim-cluster";

pub struct Pod {
    pub n: usize,
    pub host: Host,
    running: Option<Running>,
}

struct Running {
    token: CancellationToken,
    task: JoinHandle<Result<(), RunError>>,
    cluster: Cluster,
}

impl Pod {
    pub fn new(n: u8, pin_time: Duration, sync_time: Duration, network: &SimNetwork) -> Self {
        let name = pod_name(n.into());
        let member = Member { name, addresses: vec![format!("/sim/{n}")] };
        let make = Make { id: PeerId([n + 1; 32]), member, sync_time, pin_time };
        let mut host = Host::new(make, network.clone());
        host.timing = TIMING;
        Self { n: n.into(), host, running: None }
    }

    pub fn cluster(&self) -> Option<&Cluster> {
        self.running.as_ref().map(|running| &running.cluster)
    }

    /// Starts the process on the disks as they are.
    pub async fn start(&mut self, api: &SimApi, pods: u16) -> Result<(), String> {
        self.host.start(JoinPolicy::Wait).await.map_err(|error| error.to_string())?;
        let peer = self.host.peer.take().ok_or("the peer is not there")?;
        let cluster = peer.cluster.clone();
        let settings = Settings {
            namespace: NAMESPACE.into(),
            pod: pod_name(self.n),
            release: "sim".into(),
            initial_peers: pods,
            default_replicas: 2,
            limits: Limits::default(),
        };
        let (client, clock) = (api.client(self.n), Clock::Simulated(self.host.clock.clone()));
        let context = Context::new(client, cluster.clone(), clock, settings, Counters::default());
        let token = CancellationToken::new();
        let until = token.clone();
        let task = tokio::spawn(async move { run(peer, context, &until).await });
        self.running = Some(Running { token, task, cluster });
        Ok(())
    }

    /// Kills the process without warning.
    pub async fn crash(&mut self, api: &SimApi) {
        let Some(running) = self.running.take() else { return };
        running.task.abort();
        self.host.crash();
        api.hang_up(self.n);
        // The result of a killed process does not matter.
        let _ = running.task.await;
    }

    /// Stops the process, as by SIGTERM.
    pub async fn stop(&mut self, api: &SimApi) -> Result<(), String> {
        let Some(running) = self.running.take() else { return Ok(()) };
        running.token.cancel();
        let ended = timeout(STOP_MAX, running.task).await;
        self.host.crash();
        api.hang_up(self.n);
        match ended {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(other) => Err(format!("pod-{} did not end well: {other:?}", self.n)),
            Err(_) => Err(format!("pod-{} did not end within {STOP_MAX:?}", self.n)),
        }
    }

    /// Why the process ended by itself, if it did.
    pub async fn ended(&mut self, api: &SimApi) -> Option<String> {
        self.running.as_ref().filter(|running| running.task.is_finished())?;
        let running = self.running.take()?;
        self.host.crash();
        api.hang_up(self.n);
        Some(match running.task.await {
            Ok(Ok(())) => "without a reason".into(),
            Ok(Err(error)) => format!("exit code {}: {error}", error.exit_code()),
            Err(error) => error.to_string(),
        })
    }
}

pub fn pod_name(n: usize) -> String {
    format!("pod-{n}")
}
