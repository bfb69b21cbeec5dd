//! k: pods are scaled in and out, on the volumes that they keep.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use kube::{ResourceExt as _, api::ListParams};
use pinkeeper::types::Cid;
use pinkeeper_e2e::kubernetes::{is_ready, until};
use tokio::{sync::Mutex, time::Instant};

use super::{LATER, Trial, WEB, deletion::scale, took};

/// Pins with two copies each.
const PINS: usize = 40;

/// The last pod gives its copies to the others and ends, and no Pin is ever short of a copy. It comes
/// back on its old volumes as another peer.
pub async fn in_and_out(trial: &Trial) -> anyhow::Result<()> {
    trial.release.ready(LATER).await?;
    let wanted: BTreeMap<String, Cid> =
        (0..PINS).map(|_| trial.fresh_cid()).map(|cid| (format!("scale-{cid}"), cid)).collect();
    for (name, cid) in &wanted {
        trial.create(WEB, name, cid, 2).await?;
    }
    for name in wanted.keys() {
        trial.ready(WEB, name, LATER).await?;
    }
    let last = trial.release.pods().await?.into_keys().next_back().context("no pod")?;
    let before = identity(trial, &last).await?;
    let copies = held_of(trial, &last, &wanted).await?;
    ensure!(copies > 0, "{last} has no copy");

    let began = Instant::now();
    scale(trial, 2).await?;
    let short = Mutex::new(BTreeSet::new());
    until("the last pod has left", LATER, async || {
        let now = not_ready(trial, &wanted).await?;
        short.lock().await.extend(now);
        let pods = trial.release.all_pods().await?.len();
        ensure!(pods == 2, "{pods} pods are there");
        Ok(Some(()))
    })
    .await?;
    until("its ClusterPeer is gone", LATER, async || {
        let peers = trial.release.cluster_peers().await?;
        ensure!(!peers.contains_key(&last), "it is there");
        Ok(Some(()))
    })
    .await?;
    let short = short.into_inner();
    ensure!(short.is_empty(), "not Ready meanwhile: {short:?}");
    took(&format!("{copies} copies were given away, and the pod ended"), began);
    let held = trial.release.held().await?;
    for (name, cid) in &wanted {
        let with = held.values().filter(|cids| cids.contains(cid)).count();
        ensure!(with == 2, "{name} is on {with} daemons");
    }

    let began = Instant::now();
    scale(trial, 3).await?;
    trial.release.ready(LATER).await?;
    took("the pod is back", began);
    ensure!(identity(trial, &last).await? != before, "{last} is the peer that was removed");
    let copies = held_of(trial, &last, &wanted).await?;
    ensure!(copies == 0, "{last} still holds {copies} of what it gave away");
    let short = not_ready(trial, &wanted).await?;
    ensure!(short.is_empty(), "not Ready: {short:?}");
    let cid = trial.fresh_cid();
    trial.create(WEB, &format!("on-all-{cid}"), &cid, 3).await?;
    trial.ready(WEB, &format!("on-all-{cid}"), LATER).await?;
    Ok(())
}

async fn not_ready(trial: &Trial, wanted: &BTreeMap<String, Cid>) -> anyhow::Result<Vec<String>> {
    let pins = trial.cluster.pins(WEB).list(&ListParams::default()).await?;
    let ours = pins.iter().filter(|pin| wanted.contains_key(&pin.name_any()));
    Ok(ours.filter(|pin| !is_ready(pin)).map(|pin| pin.name_any()).collect())
}

async fn held_of(
    trial: &Trial,
    pod: &str,
    wanted: &BTreeMap<String, Cid>,
) -> anyhow::Result<usize> {
    let held = trial.release.held().await?;
    let of_pod = held.get(pod).with_context(|| format!("{pod} is not there"))?;
    Ok(wanted.values().filter(|cid| of_pod.contains(cid)).count())
}

async fn identity(trial: &Trial, pod: &str) -> anyhow::Result<String> {
    let peers = trial.release.cluster_peers().await?;
    let status = peers.get(pod).and_then(|peer| peer.status.as_ref());
    status.and_then(|status| status.peer_id.clone()).context("no identity")
}
