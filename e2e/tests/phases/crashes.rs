//! c and g: processes are killed and pods are deleted while there is work.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time};
use kube::{ResourceExt as _, api::ListParams};
use pinkeeper::types::Cid;
use pinkeeper_e2e::kubernetes::{Signal, condition, holders, is_ready, signal_container, until};
use pinkeeper_operator::crd::{PeerRole, Pin};
use tokio::time::Instant;

use super::{LATER, SOON, Trial, WEB, took};

/// Pins of one storm.
const PINS: usize = 200;
/// The one with which a process is killed.
const KILL_AT: usize = 60;
/// Between two of them: the storm outlasts the election of another leader.
const PACE: Duration = Duration::from_millis(20);
/// Requests in flight.
const PARALLEL: usize = 8;
/// Within which all pods must be back after they were scheduled.
const BACK_WITHIN: Duration = Duration::from_secs(30);

pub async fn the_leader_is_killed(trial: &Trial) -> anyhow::Result<()> {
    let leader = trial.release.ready(LATER).await?;
    storm(trial, &leader).await
}

pub async fn a_follower_is_killed(trial: &Trial) -> anyhow::Result<()> {
    let leader = trial.release.ready(LATER).await?;
    let peers = trial.release.cluster_peers().await?;
    let follower = peers.keys().find(|name| **name != leader).context("no follower")?.clone();
    let role = peers[&follower].status.as_ref().and_then(|status| status.role);
    ensure!(role != Some(PeerRole::Leader), "{follower}");
    storm(trial, &follower).await
}

/// The one whose process was killed least often so far.
pub async fn the_third_is_killed(trial: &Trial) -> anyhow::Result<()> {
    trial.release.ready(LATER).await?;
    let mut third: Option<(i32, String)> = None;
    for pod in trial.release.pods().await?.into_keys() {
        let one = (trial.release.restarts(&pod).await?, pod);
        third = Some(third.map_or_else(|| one.clone(), |known| known.min(one.clone())));
    }
    storm(trial, &third.context("no pod")?.1).await
}

/// Applies Pins in parallel, kills the peer's process in the midst of it, and wants each Pin Ready
/// on exactly the two daemons that its status names.
async fn storm(trial: &Trial, victim: &str) -> anyhow::Result<()> {
    let restarts = trial.release.restarts(victim).await?;
    let container = trial.release.container(victim, "pinkeeper").await?;
    let wanted: BTreeMap<String, Cid> =
        (0..PINS).map(|_| trial.fresh_cid()).map(|cid| (format!("storm-{cid}"), cid)).collect();
    let began = Instant::now();
    stream::iter(wanted.iter().enumerate())
        .map(async |(n, (name, cid))| {
            tokio::time::sleep_until(began + PACE * u32::try_from(n)?).await;
            if n == KILL_AT {
                signal_container(&container, Signal::KILL)?;
            }
            trial.create(WEB, name, cid, 2).await
        })
        .buffer_unordered(PARALLEL)
        .try_collect::<()>()
        .await?;

    let pins = until("all Pins of the storm are Ready", LATER, async || {
        let pins = pins(trial, &wanted).await?;
        let ready = pins.values().filter(|pin| is_ready(pin)).count();
        ensure!(ready == PINS, "{ready} are");
        Ok(Some(pins))
    })
    .await?;
    took("all Ready, from the first one's creation", began);
    check_truth(trial, &pins, &wanted).await?;
    trial.release.ready(LATER).await?;
    let now = trial.release.restarts(victim).await?;
    ensure!(now == restarts + 1, "{victim} was started again {} times", now - restarts);
    Ok(())
}

async fn pins(
    trial: &Trial,
    wanted: &BTreeMap<String, Cid>,
) -> anyhow::Result<BTreeMap<String, Pin>> {
    let pins = trial.cluster.pins(WEB).list(&ListParams::default()).await?;
    let of_ours = pins.into_iter().filter(|pin| wanted.contains_key(&pin.name_any()));
    Ok(of_ours.map(|pin| (pin.name_any(), pin)).collect())
}

/// Each is on two daemons, neither lost nor kept twice, and these are the ones its status names.
async fn check_truth(
    trial: &Trial,
    pins: &BTreeMap<String, Pin>,
    wanted: &BTreeMap<String, Cid>,
) -> anyhow::Result<()> {
    let held = trial.release.held().await?;
    for (name, cid) in wanted {
        let pin = pins.get(name).with_context(|| format!("{name} is lost"))?;
        let with = held.iter().filter(|(_, cids)| cids.contains(cid));
        let with: BTreeSet<String> = with.map(|(pod, _)| pod.clone()).collect();
        let named = holders(pin);
        ensure!(
            with == named && with.len() == 2,
            "{name}: the status names {named:?}, {with:?} hold it"
        );
    }
    Ok(())
}

/// All come back with other addresses: the same cluster, all content, within the time.
pub async fn all_pods_are_deleted(trial: &Trial) -> anyhow::Result<()> {
    let release = &trial.release;
    let sorted = |mut pins: Vec<Pin>| {
        pins.sort_by_key(|pin| (pin.namespace(), pin.name_any()));
        pins
    };
    let list = async || {
        let pins = trial.cluster.pins(WEB).list(&ListParams::default()).await?;
        anyhow::Ok(sorted(pins.items))
    };
    release.ready(LATER).await?;
    let (record, held) = (release.record().await?, release.held().await?);
    let (before, identities) = (release.pods().await?, identities(trial).await?);
    let ready = |pins: &[Pin]| pins.iter().filter(|pin| is_ready(pin)).count();
    let pins = list().await?;

    let selector = format!("app.kubernetes.io/instance={}", release.name);
    let namespace = release.namespace.as_str();
    trial
        .cluster
        .kubectl(["delete", "pods", "-n", namespace, "-l", &selector, "--wait=false"])
        .await?;
    let scheduled = until("three other pods are scheduled", LATER, async || {
        let pods = release.pods().await?;
        let new = pods
            .values()
            .filter(|pod| before.get(&pod.name_any()).and_then(|b| b.uid()) != pod.uid());
        let new = new
            .filter(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()))
            .count();
        ensure!(new == release.peers, "{new} are");
        Ok(Some(Instant::now()))
    })
    .await?;
    release.ready(BACK_WITHIN).await?;
    let back = scheduled.elapsed();
    took("back after being scheduled", scheduled);
    ensure!(back < BACK_WITHIN, "it took {back:?}");

    let address = |pod: &Pod| pod.status.as_ref().and_then(|status| status.pod_ip.clone());
    for (name, pod) in release.pods().await? {
        ensure!(address(&pod) != address(&before[&name]), "{name} has the address it had");
    }
    ensure!(release.record().await? == record, "the record has changed");
    ensure!(self::identities(trial).await? == identities, "another identity, or another cluster");
    until("every daemon holds what it held", SOON, async || {
        let now = release.held().await?;
        ensure!(now == held, "it holds something else");
        Ok(Some(()))
    })
    .await?;
    let after = list().await?;
    ensure!(ready(&after) == ready(&pins) && after.len() == pins.len(), "Pins were lost");
    // And it takes more.
    let cid = trial.fresh_cid();
    trial.create(WEB, &format!("after-{cid}"), &cid, 3).await?;
    trial.ready(WEB, &format!("after-{cid}"), SOON).await?;
    // Peers that start ask their daemons anew; until then what was said of their copies is kept.
    let after = ready_since(&list().await?);
    for (name, since) in ready_since(&pins) {
        ensure!(after.get(&name) == Some(&since), "{name} was called not ready meanwhile");
    }
    Ok(())
}

/// When each Pin that is Ready became so.
fn ready_since(pins: &[Pin]) -> BTreeMap<String, Option<Time>> {
    let ready = pins.iter().filter(|pin| is_ready(pin));
    let since = |pin: &Pin| condition(pin, "Ready").map(|ready| ready.last_transition_time.clone());
    ready.map(|pin| (pin.name_any(), since(pin))).collect()
}

/// Peer and cluster of each ClusterPeer.
async fn identities(trial: &Trial) -> anyhow::Result<BTreeMap<String, (String, String)>> {
    let peers = trial.release.cluster_peers().await?;
    let one = |(name, peer): (String, pinkeeper_operator::crd::ClusterPeer)| {
        let status = peer.status.context("no status")?;
        Ok((name, (status.peer_id.context("no peer")?, status.cluster_id.context("no cluster")?)))
    };
    peers.into_iter().map(one).collect()
}
