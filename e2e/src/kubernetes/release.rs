//! One installation of the chart, seen from outside.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{Api, ResourceExt as _, api::ListParams};
use pinkeeper::types::Cid;
use pinkeeper_operator::crd::{ClusterPeer, PeerRole};

use super::{DaemonForward, Kubernetes, until};

/// Its pods by name.
pub type Pods = BTreeMap<String, Pod>;

/// An installation.
#[derive(Clone, Debug)]
pub struct Release {
    /// Where it is installed.
    pub cluster: Kubernetes,
    /// Its namespace.
    pub namespace: String,
    /// Its name as Helm knows it.
    pub name: String,
    /// The name of its StatefulSet.
    pub fullname: String,
    /// Number of its peers.
    pub peers: usize,
}

impl Release {
    /// The pods that are not on their way out.
    ///
    /// # Errors
    /// When the API does not answer.
    pub async fn pods(&self) -> anyhow::Result<Pods> {
        let mut pods = self.all_pods().await?;
        pods.retain(|_, pod| pod.metadata.deletion_timestamp.is_none());
        Ok(pods)
    }

    /// Waits until no pod is there any more.
    ///
    /// # Errors
    /// When one still is.
    pub async fn no_pods(&self, limit: Duration) -> anyhow::Result<()> {
        until("no pod is left", limit, async || {
            let pods = self.all_pods().await?;
            ensure!(pods.is_empty(), "{:?}", pods.keys());
            Ok(Some(()))
        })
        .await
    }

    /// All pods, also those on their way out.
    ///
    /// # Errors
    /// When the API does not answer.
    pub async fn all_pods(&self) -> anyhow::Result<Pods> {
        let api: Api<Pod> = Api::namespaced(self.cluster.client.clone(), &self.namespace);
        let selector = format!("app.kubernetes.io/instance={}", self.name);
        let pods = api.list(&ListParams::default().labels(&selector)).await?;
        // The hook's pod is none of the StatefulSet's.
        let own = pods
            .into_iter()
            .filter(|pod| pod.labels().contains_key("apps.kubernetes.io/pod-index"));
        Ok(own.map(|pod| (pod.name_any(), pod)).collect())
    }

    /// Its ClusterPeers by name.
    ///
    /// # Errors
    /// When the API does not answer.
    pub async fn cluster_peers(&self) -> anyhow::Result<BTreeMap<String, ClusterPeer>> {
        let api: Api<ClusterPeer> = Api::namespaced(self.cluster.client.clone(), &self.namespace);
        let peers = api.list(&ListParams::default()).await?;
        Ok(peers.into_iter().map(|peer| (peer.name_any(), peer)).collect())
    }

    /// The record's data.
    ///
    /// # Errors
    /// When there is none.
    pub async fn record(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let api: Api<ConfigMap> = Api::namespaced(self.cluster.client.clone(), &self.namespace);
        let record = api.get(&format!("{}-cluster", self.fullname)).await?;
        record.data.context("an empty record")
    }

    /// Waits until all pods and all ClusterPeers are Ready and exactly one leads; answers its name.
    ///
    /// # Errors
    /// When that is not so in time.
    pub async fn ready(&self, limit: Duration) -> anyhow::Result<String> {
        until("all pods and peers are Ready and exactly one leads", limit, async || {
            let pods = self.pods().await?;
            let ready: Vec<_> = pods.values().filter(|pod| pod_condition(pod, "Ready")).collect();
            ensure!(ready.len() == self.peers, "{} pods are Ready", ready.len());
            let peers = self.cluster_peers().await?;
            let ready = peers.values().filter(|peer| peer_ready(peer)).count();
            ensure!(ready == self.peers, "{ready} ClusterPeers are Ready");
            let role = |peer: &&ClusterPeer| peer.status.as_ref().and_then(|status| status.role);
            let leaders: Vec<String> = peers
                .values()
                .filter(|peer| role(peer) == Some(PeerRole::Leader))
                .map(ClusterPeer::name_any)
                .collect();
            ensure!(leaders.len() == 1, "these lead: {leaders:?}");
            Ok(leaders.into_iter().next())
        })
        .await
    }

    /// The runtime's ID of a container that runs in a pod now.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn container(&self, pod: &str, container: &str) -> anyhow::Result<String> {
        let pods = self.pods().await?;
        let status = pods.get(pod).and_then(|pod| pod.status.as_ref()).context("no such pod")?;
        let every = [&status.container_statuses, &status.init_container_statuses];
        let found = every.into_iter().flatten().flatten().find(|status| status.name == container);
        let found = found.with_context(|| format!("no container {container} in {pod}"))?;
        let running = found.state.as_ref().is_some_and(|state| state.running.is_some());
        ensure!(running, "{container} in {pod} is not running");
        let id = found.container_id.as_deref().unwrap_or_default();
        Ok(id.rsplit('/').next().unwrap_or_default().to_owned())
    }

    /// How often the peer's container in a pod was started again.
    ///
    /// # Errors
    /// When there is no such pod.
    pub async fn restarts(&self, pod: &str) -> anyhow::Result<i32> {
        let pods = self.pods().await?;
        let status = pods.get(pod).and_then(|pod| pod.status.as_ref()).context("no such pod")?;
        let of = status.container_statuses.iter().flatten().find(|s| s.name == "pinkeeper");
        Ok(of.context("no container pinkeeper")?.restart_count)
    }

    /// The daemon of a pod.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn daemon(&self, pod: &str) -> anyhow::Result<DaemonForward> {
        DaemonForward::open(&self.cluster, &self.namespace, pod).await
    }

    /// What each daemon holds recursive pins of, as it says itself.
    ///
    /// # Errors
    /// When one cannot be reached.
    pub async fn held(&self) -> anyhow::Result<BTreeMap<String, BTreeSet<Cid>>> {
        let pods = self.pods().await?.into_keys();
        let each = pods
            .map(async |pod| anyhow::Ok((pod.clone(), self.daemon(&pod).await?.pinned().await?)));
        Ok(try_join_all(each).await?.into_iter().collect())
    }

    /// The daemons that hold one CID.
    ///
    /// # Errors
    /// When one cannot be reached.
    pub async fn held_by(&self, cid: &Cid) -> anyhow::Result<BTreeSet<String>> {
        let held = self.held().await?;
        let with = held.into_iter().filter(|(_, pins)| pins.contains(cid));
        Ok(with.map(|(pod, _)| pod).collect())
    }

    /// `ipfs` in the container beside the peer.
    ///
    /// # Errors
    /// When it fails.
    pub async fn ipfs(&self, pod: &str, args: &[&str]) -> anyhow::Result<String> {
        let exec = ["-n", &self.namespace, "exec", pod, "-c", "kubo", "--", "/usr/local/bin/ipfs"];
        self.cluster.kubectl(exec.iter().chain(args)).await
    }

    /// What a person would look at when something is wrong.
    pub async fn diagnosis(&self) -> String {
        let mut all = String::new();
        let namespace = self.namespace.as_str();
        let mut commands: Vec<Vec<String>> = vec![
            ["get", "pods,clusterpeers", "-o", "wide", "-n", namespace].map(String::from).into(),
            ["describe", "pods", "-n", namespace].map(String::from).into(),
        ];
        for pod in 0..self.peers {
            let name = format!("{}-{pod}", self.fullname);
            let logs = ["logs", &name, "-n", namespace, "-c", "pinkeeper", "--tail", "80"];
            commands.push(logs.map(String::from).into());
            commands
                .push(logs.map(String::from).into_iter().chain(["--previous".into()]).collect());
        }
        for command in commands {
            let said = self.cluster.kubectl(&command).await;
            let said = said.unwrap_or_else(|error| format!("{error:#}\n"));
            all.push_str(&format!("--- kubectl {}\n{said}", command.join(" ")));
        }
        all
    }
}

/// Whether a pod's condition is True.
fn pod_condition(pod: &Pod, kind: &str) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.filter(|c| c.type_ == kind).any(|c| c.status == "True")
}

fn peer_ready(peer: &ClusterPeer) -> bool {
    let conditions = peer.status.iter().flat_map(|status| &status.conditions);
    conditions.filter(|c| c.type_ == "Ready").any(|c| c.status == "True")
}
