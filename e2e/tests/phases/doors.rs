//! j: the daemons are reached from outside of the pods' network.

use anyhow::{Context as _, ensure};
use pinkeeper_e2e::{
    daemon::Daemon,
    kubernetes::{holders, repository, until},
};
use tokio::time::timeout;

use super::{LATER, SOON, Trial, WEB};

/// Port of the first pod's Service; the next pods have the next ones.
const FIRST_PORT: u16 = 31400;

/// A daemon that is none of the pods', and knows nothing but what the status of a ClusterPeer says, fetches what
/// that peer's daemon holds.
pub async fn a_stranger_fetches_a_pin(trial: &Trial) -> anyhow::Result<()> {
    let release = &trial.release;
    let chart = repository().join("charts/pinkeeper");
    let base = format!("swarm.service.nodePortBase={FIRST_PORT}");
    let mut upgrade = vec!["upgrade", &*release.name];
    let chart = chart.to_string_lossy();
    upgrade.extend([&*chart, "-n", &*release.namespace, "--reuse-values", "--wait"]);
    upgrade.extend(["--timeout", "300s", "--set", "swarm.service.type=NodePort", "--set", &*base]);
    trial.cluster.helm(upgrade).await?;
    release.ready(LATER).await?;

    let first = format!("{}-0", release.fullname);
    let text = format!("{:?}", trial.fresh_bytes(4000));
    let forward = release.daemon(&first).await?;
    let root = forward.add(text.clone().into_bytes(), "cid-version=1&pin=false").await?;
    let name = format!("door-{}", &root.to_string()[50..]);
    trial.create(WEB, &name, &root, 1).await?;
    let holder =
        holders(&trial.ready(WEB, &name, LATER).await?).pop_first().context("no holder")?;
    let ordinal: u16 = holder.rsplit('-').next().unwrap_or_default().parse()?;
    let door = format!("/tcp/{}/p2p/", FIRST_PORT + ordinal);

    let address = until("the status names the door", SOON, async || {
        let peers = release.cluster_peers().await?;
        let status = peers.get(&holder).and_then(|peer| peer.status.as_ref());
        let daemon = status.and_then(|status| status.daemon.as_ref()).context("no daemon")?;
        let found = daemon.addresses.iter().find(|address| address.contains(&door));
        found.cloned().map(Some).with_context(|| format!("{:?}", daemon.addresses))
    })
    .await?;
    let stranger = Daemon::start().await?;
    stranger.rpc("swarm/connect", &[("arg", &address)]).await?;
    let read = timeout(SOON, stranger.rpc("cat", &[("arg", &root.to_string())])).await??;
    ensure!(read == text, "{} bytes came of {}", read.len(), text.len());
    Ok(())
}
