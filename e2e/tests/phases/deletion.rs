//! d: what a deleted Pin releases, and what it does not.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::{ResourceExt as _, api::ListParams};
use pinkeeper::types::Cid;
use pinkeeper_e2e::kubernetes::{holders, until};
use pinkeeper_operator::crd::ClusterPeer;

use super::{BLOG, LATER, SOON, Trial, WEB};

/// For which content must stay where a mistake would take it away: deletions are worked on at once.
const STAYS_FOR: Duration = Duration::from_secs(3);
/// Requests in flight.
const PARALLEL: usize = 8;

/// A deleted Pin's content is unpinned everywhere; while another Pin, in another namespace, wants
/// it, it stays.
pub async fn live(trial: &Trial) -> anyhow::Result<()> {
    let (alone, shared) = (trial.fresh_cid(), trial.fresh_cid());
    let name = |of: &Cid| format!("deleted-{of}");
    trial.create(WEB, &name(&alone), &alone, 2).await?;
    trial.create(WEB, &name(&shared), &shared, 3).await?;
    trial.create(BLOG, &name(&shared), &shared, 2).await?;
    for (namespace, cid) in [(WEB, &alone), (WEB, &shared), (BLOG, &shared)] {
        trial.ready(namespace, &name(cid), SOON).await?;
    }
    trial.delete(WEB, &name(&shared)).await?;
    trial.delete(WEB, &name(&alone)).await?;
    // When the one is released, the other deletion was decided as well.
    trial.held_exactly_by(&alone, &BTreeSet::new()).await?;
    tokio::time::sleep(STAYS_FOR).await;
    let pin = trial.ready(BLOG, &name(&shared), SOON).await?;
    let named = holders(&pin);
    ensure!(named.len() >= 2, "{:?}", pin.status);
    trial.held_exactly_by(&shared, &named).await?;
    trial.delete(BLOG, &name(&shared)).await?;
    trial.held_exactly_by(&shared, &BTreeSet::new()).await
}

/// Pinned by somebody in a daemon before: counts as Pinned, and stays when the Pin goes.
pub async fn foreign_content_stays(trial: &Trial) -> anyhow::Result<()> {
    let somebody = format!("{}-1", trial.release.fullname);
    let daemon = trial.release.daemon(&somebody).await?;
    let cid = daemon.add(trial.fresh_bytes(3000), "pin=true&cid-version=1").await?;
    let name = format!("foreign-{}", &cid.to_string()[50..]);
    trial.create(WEB, &name, &cid, 3).await?;
    let pin = trial.ready(WEB, &name, SOON).await?;
    trial.held_exactly_by(&cid, &holders(&pin)).await?;
    ensure!(holders(&pin).len() == 3, "{:?}", pin.status);
    trial.delete(WEB, &name).await?;
    trial.held_exactly_by(&cid, &BTreeSet::from([somebody.clone()])).await?;
    tokio::time::sleep(STAYS_FOR).await;
    trial.held_exactly_by(&cid, &BTreeSet::from([somebody])).await
}

/// Deleted while the StatefulSet had no pod: released as soon as it has again, and nothing else is.
/// A Pin that was deleted and made again under its name keeps its content.
pub async fn while_nobody_runs(trial: &Trial) -> anyhow::Result<()> {
    let (gone, stays, again) = (trial.fresh_cid(), trial.fresh_cid(), trial.fresh_cid());
    let name = |of: &Cid| format!("absent-{of}");
    for cid in [&gone, &stays, &again] {
        trial.create(WEB, &name(cid), cid, 2).await?;
    }
    for cid in [&gone, &stays, &again] {
        trial.ready(WEB, &name(cid), SOON).await?;
    }
    scale(trial, 0).await?;
    trial.release.no_pods(LATER).await?;
    let uid = trial.cluster.pins(WEB).get(&name(&again)).await?.uid();
    trial.delete(WEB, &name(&gone)).await?;
    trial.delete(WEB, &name(&again)).await?;
    trial.create(WEB, &name(&again), &again, 2).await?;
    scale(trial, 3).await?;
    trial.release.ready(LATER).await?;
    trial.held_exactly_by(&gone, &BTreeSet::new()).await?;
    for cid in [&stays, &again] {
        let pin = trial.ready(WEB, &name(cid), SOON).await?;
        ensure!(holders(&pin).len() == 2, "{:?}", pin.status);
        trial.held_exactly_by(cid, &holders(&pin)).await?;
    }
    ensure!(trial.cluster.pins(WEB).get(&name(&again)).await?.uid() != uid, "not made again");
    Ok(())
}

/// So many Pins deleted at once that a person is asked: the rest stays pinned, each ClusterPeer says
/// so, and the command that people are told lets it go.
pub async fn too_many_at_once(trial: &Trial) -> anyhow::Result<()> {
    let mut others = 0;
    for namespace in [WEB, BLOG] {
        let pins = trial.cluster.pins(namespace);
        others += pins.list_metadata(&ListParams::default()).await?.items.len();
    }
    // Of all there are then, a quarter is less than a half of these.
    let cids: BTreeSet<Cid> = (0..others + 202).map(|_| trial.fresh_cid()).collect();
    let name = |of: &Cid| format!("many-{of}");
    stream::iter(&cids)
        .map(async |cid| trial.create(BLOG, &name(cid), cid, 2).await)
        .buffer_unordered(PARALLEL)
        .try_collect::<()>()
        .await?;
    for cid in &cids {
        trial.ready(BLOG, &name(cid), LATER).await?;
    }
    let held = async || -> anyhow::Result<usize> {
        let held = trial.release.held().await?;
        Ok(cids.iter().filter(|cid| held.values().any(|pins| pins.contains(cid))).count())
    };
    ensure!(held().await? == cids.len(), "not all are held");
    trial.cluster.kubectl(["delete", "pins", "--all", "-n", BLOG]).await?;
    let message = until("every ClusterPeer says that unpins wait", LATER, async || {
        let peers = trial.release.cluster_peers().await?;
        let said: BTreeSet<Option<String>> = peers.values().map(unpins_waiting).collect();
        ensure!(said.len() == 1, "{said:?}");
        Ok(said.into_iter().next().flatten())
    })
    .await?;
    let waiting: usize = message.split(' ').next().unwrap_or_default().parse()?;
    ensure!(waiting > cids.len() / 2, "{message}");
    until("what waits is held, and the rest is not", SOON, async || {
        let held = held().await?;
        ensure!(held == waiting, "{held} of {waiting} are");
        Ok(Some(()))
    })
    .await?;
    let command = message.split_once("kubectl ").and_then(|(_, rest)| rest.split_once(" ("));
    let (command, _) = command.with_context(|| message.clone())?;
    trial.cluster.kubectl(command.split(' ')).await?;
    until("all is unpinned and nothing waits", LATER, async || {
        let held = held().await?;
        ensure!(held == 0, "{held} are held");
        let peers = trial.release.cluster_peers().await?;
        ensure!(peers.values().all(|peer| unpins_waiting(peer).is_none()), "somebody says so");
        Ok(Some(()))
    })
    .await
}

fn unpins_waiting(peer: &ClusterPeer) -> Option<String> {
    let conditions = &peer.status.as_ref()?.conditions;
    conditions.iter().find(|c| c.type_ == "UnpinsWaiting").map(|c| c.message.clone())
}

/// Has the StatefulSet want so many pods.
pub async fn scale(trial: &Trial, pods: usize) -> anyhow::Result<()> {
    let set = format!("statefulset/{}", trial.release.fullname);
    let replicas = format!("--replicas={pods}");
    trial
        .cluster
        .kubectl(["-n", &trial.release.namespace, "scale", &set, &replicas])
        .await
        .map(drop)
}
