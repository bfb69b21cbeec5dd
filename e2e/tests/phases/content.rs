//! b, e and f: real content, content that is not there, and a daemon that goes away.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow, ensure};
use k8s_openapi::api::core::v1::Event;
use kube::{Api, api::ListParams};
use pinkeeper::types::Cid;
use pinkeeper_e2e::kubernetes::{
    Signal, condition, holders, is_ready, reason, run, signal_in_container, until,
};
use pinkeeper_operator::crd::{AllocationState, Pin};
use tokio::time::Instant;

use super::{LATER, SOON, Trial, WEB, took};

/// Files in the folder.
const FILES: usize = 300;
/// Files that are read back.
const READ: usize = 12;
/// Least time for which a daemon that was stopped is watched: it is back and tried again within.
const WATCHED: Duration = Duration::from_secs(5);

/// Copies some hundred files of this machine's documentation; answers their names.
fn copy_documentation(into: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let from = Path::new("/usr/share/doc");
    let mut packages: Vec<_> = fs::read_dir(from)?.flatten().map(|entry| entry.path()).collect();
    packages.sort();
    let mut copied = Vec::new();
    for package in packages.into_iter().filter(|path| path.is_dir()) {
        for file in fs::read_dir(package)?.flatten() {
            if copied.len() == FILES || !file.file_type()?.is_file() {
                continue;
            }
            let name = file.path().strip_prefix(from)?.to_path_buf();
            fs::create_dir_all(into.join(&name).parent().context("no folder")?)?;
            fs::copy(file.path(), into.join(&name))?;
            copied.push(name);
        }
    }
    Ok(copied)
}

/// Added to one daemon, kept by two; exactly those that the status names hold it, by their own
/// word; a daemon that did not have it before gives the files back.
pub async fn a_folder(trial: &Trial) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let files = copy_documentation(folder.path())?;
    ensure!(files.len() == FILES, "/usr/share/doc has only {} files", files.len());
    let release = &trial.release;
    let first = format!("{}-0", release.fullname);
    let forward = release.daemon(&first).await?;
    let (home, began) = (tempfile::tempdir()?, Instant::now());
    let mut add = trial.cluster.tool("ipfs");
    add.env("IPFS_PATH", home.path()).env("IPFS_TELEMETRY", "off");
    add.args(["--api", &forward.multiaddr(), "add", "-r", "-Q", "--pin=false", "--cid-version=1"]);
    let root: Cid = run(add.arg(folder.path()), "").await?.trim().parse()?;

    took("added to one daemon within", began);
    let (name, began) = (format!("docs-{}", &root.to_string()[50..]), Instant::now());
    trial.create(WEB, &name, &root, 2).await?;
    let pin = trial.ready(WEB, &name, SOON).await?;
    took("Ready after", began);
    let named = holders(&pin);
    let status = pin.status.unwrap_or_default();
    ensure!(named.len() == 2 && status.allocations.len() == 2, "{status:?}");
    ensure!(status.copies.as_deref() == Some("2/2"), "{status:?}");
    ensure!(status.ready_replicas == Some(2), "{status:?}");
    let mut holding = BTreeSet::new();
    for pod in release.pods().await?.into_keys() {
        let pinned = release.ipfs(&pod, &["pin", "ls", "--type=recursive", "-q"]).await?;
        if pinned.lines().any(|line| line == root.to_string()) {
            holding.insert(pod);
        }
    }
    took("asked the daemons by exec after", began);
    ensure!(holding == named, "the status names {named:?}, but {holding:?} hold it");

    let other = named.iter().find(|pod| **pod != first).context("only the first has it")?;
    let forward = release.daemon(other).await?;
    for file in files.iter().step_by(FILES / READ) {
        let path = format!("/ipfs/{root}/{}", file.display());
        let read = forward.rpc("cat", &[("arg", &path), ("offline", "true")]).await?;
        ensure!(read == fs::read(folder.path().join(file))?, "{path} differs");
    }
    Ok(())
}

/// Nobody has it: said with a message and an Event, and other Pins go on. As soon as one daemon has
/// it, the Pin becomes Ready by itself.
pub async fn nowhere_and_then_somewhere(trial: &Trial) -> anyhow::Result<()> {
    let daemon = trial.release.daemon(&format!("{}-1", trial.release.fullname)).await?;
    let bytes = trial.fresh_bytes(500);
    let root = daemon.add(bytes.clone(), "only-hash=true&cid-version=1").await?;
    let name = format!("nowhere-{}", &root.to_string()[50..]);
    let created = Instant::now();
    trial.create(WEB, &name, &root, 2).await?;
    // Another one does not wait for it.
    trial.pin_that((WEB, &name), SOON, "is tried", |pin| reason(pin) == "Pinning").await?;
    let other = trial.fresh_cid();
    trial.create(WEB, &format!("beside-{name}"), &other, 3).await?;
    trial.ready(WEB, &format!("beside-{name}"), SOON).await?;

    let missing = |pin: &Pin| reason(pin) == "ContentNotFound";
    let pin = trial.pin_that((WEB, &name), LATER, "is ContentNotFound", missing).await?;
    let ready = condition(&pin, "Ready").context("no Ready")?;
    ensure!(ready.status == "False" && ready.message.contains("nobody"), "{ready:?}");
    ensure!(holders(&pin).is_empty(), "{:?}", pin.status);
    let reconciling = condition(&pin, "Reconciling").context("no Reconciling")?;
    ensure!(reconciling.status == "True", "{reconciling:?}");
    let events: Api<Event> = Api::namespaced(trial.cluster.client.clone(), WEB);
    until("an Event says ContentNotFound", SOON, async || {
        let events = events.list(&ListParams::default()).await?;
        let told = events.iter().any(|event| {
            event.involved_object.name.as_deref() == Some(&*name)
                && event.reason.as_deref() == Some("ContentNotFound")
                && event.type_.as_deref() == Some("Warning")
                && event.message.as_deref().is_some_and(|message| !message.is_empty())
        });
        Ok(told.then_some(()))
    })
    .await?;

    took("told after", created);
    let began = Instant::now();
    daemon.put_block(bytes).await?;
    let pin = trial.ready(WEB, &name, LATER).await?;
    took("there, and Ready after", began);
    trial.held_exactly_by(&root, &holders(&pin)).await
}

/// A daemon is told to stop while it waits for a block that nobody has: Kubo then ends the answer
/// as if all were well. No copy is ever called Pinned before the block is there.
pub async fn a_daemon_stops_in_mid_pin(trial: &Trial) -> anyhow::Result<()> {
    let release = &trial.release;
    let (owner, stopped) = (format!("{}-0", release.fullname), format!("{}-2", release.fullname));
    let daemon = release.daemon(&owner).await?;
    let (root, block) = daemon.add_with_a_block_missing(trial.fresh_bytes(60_000)).await?;
    let name = format!("broken-{}", &root.to_string()[50..]);
    trial.create(WEB, &name, &root, 3).await?;
    let state = |pin: &Pin, peer: &str| {
        let copies = pin.status.iter().flat_map(|status| &status.allocations);
        copies.filter(|copy| copy.peer == peer).map(|copy| copy.state).next()
    };
    let pinning = |pin: &Pin| state(pin, &stopped) == Some(AllocationState::Pinning);
    trial.pin_that((WEB, &name), SOON, "is being pinned", pinning).await?;

    let container = release.container(&stopped, "kubo").await?;
    signal_in_container(&container, "ipfs", Signal::TERM)?;
    // Until it answers again and was given time to be tried again.
    let began = Instant::now();
    until("the daemon is back and the pin is tried again", LATER, async || {
        let pin = trial.cluster.pins(WEB).get(&name).await?;
        if is_ready(&pin) || !holders(&pin).is_empty() {
            // Ends the wait, as an error would not.
            return Ok(Some(Err(anyhow!("called Pinned: {:?}", pin.status))));
        }
        let held = release.daemon(&stopped).await?.pinned().await?;
        ensure!(!held.contains(&root), "the daemon itself says that it holds it");
        let tried = matches!(
            state(&pin, &stopped),
            Some(AllocationState::Pinning | AllocationState::ContentNotFound)
        );
        Ok((tried && began.elapsed() >= WATCHED).then_some(Ok(())))
    })
    .await??;

    took("never called Pinned for", began);
    let began = Instant::now();
    release.daemon(&owner).await?.put_block(block).await?;
    let all = |pin: &Pin| is_ready(pin) && holders(pin).len() == 3;
    let pin = trial.pin_that((WEB, &name), LATER, "is Ready with three copies", all).await?;
    took("the block is there, and Ready after", began);
    trial.held_exactly_by(&root, &holders(&pin)).await
}
