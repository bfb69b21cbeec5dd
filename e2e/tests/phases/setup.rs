//! a and i: the installation and its end.

use anyhow::ensure;
use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{Namespace, PersistentVolumeClaim},
        rbac::v1::ClusterRole,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams},
};
use pinkeeper_e2e::kubernetes::{Kubernetes, Release, repository, run, until};
use pinkeeper_operator::crd::{ClusterPeer, GROUP, Pin};
use tokio::process::Command;

use super::{BLOG, LATER, SOON, SYSTEM, Trial, WEB};

const RELEASE: &str = "e2e";
const PEERS: usize = 3;

impl Trial {
    /// Takes away what an earlier run has left, unless it is to be used, and makes the namespaces.
    pub async fn begin(reuse: bool) -> anyhow::Result<Self> {
        let cluster = Kubernetes::connect().await?;
        refuse_another_release(&cluster).await?;
        let release = Release {
            cluster: cluster.clone(),
            namespace: SYSTEM.to_owned(),
            name: RELEASE.to_owned(),
            fullname: format!("{RELEASE}-pinkeeper"),
            peers: PEERS,
        };
        let mut trial = Self { cluster, release, definitions_before: true, next: 0.into() };
        let installed = trial.installed().await;
        if reuse {
            // A run that used the same CIDs may have been here before.
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
            let seconds = u32::try_from(now.as_secs() & 0xf_ffff)?;
            trial.next = (seconds << 12).into();
        } else if installed {
            trial.cluster.helm(["uninstall", RELEASE, "-n", SYSTEM, "--wait"]).await?;
        }
        if !(reuse && installed) {
            trial.remove_namespaces().await?;
            recycle_volumes().await?;
        }
        trial.definitions_before = trial.definitions().await? > 0;
        for namespace in [SYSTEM, WEB, BLOG] {
            trial.cluster.apply(&restricted(namespace)).await?;
        }
        Ok(trial)
    }

    async fn installed(&self) -> bool {
        self.cluster.helm(["status", RELEASE, "-n", SYSTEM]).await.is_ok()
    }

    async fn definitions(&self) -> anyhow::Result<usize> {
        let api: Api<CustomResourceDefinition> = Api::all(self.cluster.client.clone());
        let all = api.list_metadata(&ListParams::default()).await?;
        Ok(all.items.iter().filter(|found| found.name_any().ends_with(GROUP)).count())
    }

    async fn remove_namespaces(&self) -> anyhow::Result<()> {
        let api: Api<Namespace> = Api::all(self.cluster.client.clone());
        for name in [WEB, BLOG, SYSTEM] {
            if api.get_opt(name).await?.is_some() {
                api.delete(name, &DeleteParams::default()).await?;
            }
        }
        until("the namespaces are gone", LATER, async || {
            for name in [WEB, BLOG, SYSTEM] {
                ensure!(api.get_opt(name).await?.is_none(), "{name} is still there");
            }
            Ok(Some(()))
        })
        .await
    }

    /// Namespaces with all in them, volumes, and the definitions if they came with the chart.
    pub async fn remove_everything(&self) -> anyhow::Result<()> {
        if self.installed().await {
            self.cluster.helm(["uninstall", RELEASE, "-n", SYSTEM, "--wait"]).await?;
        }
        self.remove_namespaces().await?;
        recycle_volumes().await?;
        if !self.definitions_before {
            let names = ["pins.pinkeeper.dev", "clusterpeers.pinkeeper.dev"];
            self.cluster.kubectl(["delete", "crd"].into_iter().chain(names)).await?;
        }
        Ok(())
    }
}

fn restricted(namespace: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}, labels: \
         {{pod-security.kubernetes.io/enforce: restricted}}}}}}"
    )
}

/// Two installations that watch the same Pins would write each other's statuses.
async fn refuse_another_release(cluster: &Kubernetes) -> anyhow::Result<()> {
    let api: Api<StatefulSet> = Api::all(cluster.client.clone());
    let selector = ListParams::default().labels("app.kubernetes.io/name=pinkeeper");
    for other in api.list(&selector).await? {
        let namespace = other.namespace().unwrap_or_default();
        ensure!(
            namespace == SYSTEM,
            "Pinkeeper is installed in the namespace {namespace} and would work on the same Pins; \
             take it away first (make demo-down)"
        );
    }
    Ok(())
}

async fn recycle_volumes() -> anyhow::Result<()> {
    let script = repository().join("e2e/local/cluster.sh");
    let mut command = Command::new(script);
    command
        .arg("volumes")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    run(&mut command, "").await.map(drop)
}

/// The namespace enforces Pod Security "restricted", so pods that ask for more would be refused.
pub async fn forms_a_cluster(trial: &Trial) -> anyhow::Result<()> {
    let chart = repository().join("charts/pinkeeper");
    let values = repository().join("e2e/local/values.yaml");
    let (chart, values) = (chart.to_string_lossy(), values.to_string_lossy());
    let mut install = vec!["upgrade", "--install", RELEASE, &*chart, "-n", SYSTEM, "-f", &*values];
    install.extend(["--wait", "--timeout", "120s"]);
    let crds = repository().join("crds");
    if trial.definitions_before {
        // Another release may own them.
        trial.cluster.kubectl(["apply", "-f", &*crds.to_string_lossy()]).await?;
        install.extend(["--set", "crds.install=false"]);
    }
    trial.cluster.helm(install).await?;
    trial.release.ready(SOON).await?;
    let pods = trial.release.pods().await?;
    ensure!(pods.len() == PEERS, "pods: {:?}", pods.keys());
    for (name, peer) in trial.release.cluster_peers().await? {
        ensure!(pods.contains_key(&name), "no pod is called as the ClusterPeer {name}");
        let status = peer.status.unwrap_or_default();
        let record = trial.release.record().await?;
        ensure!(status.cluster_id.is_some(), "{name} does not name its cluster");
        ensure!(
            status.cluster_id.as_ref() == record.get("clusterID"),
            "{name}: {status:?}, {record:?}"
        );
        ensure!(status.daemon.is_some(), "{name} does not name its daemon");
    }
    Ok(())
}

/// Without the release nothing of it runs; volumes, ClusterPeers and Pins are still there, and
/// nothing holds up their deletion.
pub async fn uninstall(trial: &Trial) -> anyhow::Result<()> {
    trial.cluster.helm(["uninstall", RELEASE, "-n", SYSTEM, "--wait", "--timeout", "120s"]).await?;
    trial.release.no_pods(LATER).await?;
    let client = &trial.cluster.client;
    let volumes: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), SYSTEM);
    let volumes = volumes.list(&ListParams::default()).await?;
    let bound = |claim: &&PersistentVolumeClaim| {
        claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
    };
    let bound = volumes.iter().filter(bound).count();
    ensure!(bound == 2 * PEERS, "{bound} volumes are left");
    let peers: Api<ClusterPeer> = Api::namespaced(client.clone(), SYSTEM);
    ensure!(
        peers.list(&ListParams::default()).await?.items.len() == PEERS,
        "ClusterPeers are gone"
    );
    let roles: Api<ClusterRole> = Api::all(client.clone());
    let selector = ListParams::default().labels(&format!("app.kubernetes.io/instance={RELEASE}"));
    ensure!(roles.list(&selector).await?.items.is_empty(), "a ClusterRole is left");
    let pins: Api<Pin> = trial.cluster.pins(WEB);
    let pins = pins.list(&ListParams::default()).await?;
    ensure!(!pins.items.is_empty(), "the Pins are gone");
    let held_up = pins.iter().any(|pin| !pin.finalizers().is_empty());
    ensure!(!held_up, "a Pin has a finalizer");
    Ok(())
}
