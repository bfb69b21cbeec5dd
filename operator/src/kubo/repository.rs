//! The daemon's repository on disk: created once, configured before each start.
//!
//! Invariant: only two things are ever removed: leftovers of our own unfinished `ipfs init`, which
//! a marker file shows, and a lock file that no process holds.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write as _},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use pinkeeper::files;
use rustix::fs::{FlockOperation, fcntl_lock};
use tokio_util::sync::CancellationToken;

use super::{Args, child};

/// Marker that exists until `ipfs init` has finished: until then the folder has no content.
const MARKER: &str = ".pinkeeper-init";
/// Kubo's config file; without it there is no repository.
const CONFIG: &str = "config";
/// Kubo's lock file.
const LOCK: &str = "repo.lock";
/// Kubo's file with the key of a private swarm.
const SWARM_KEY: &str = "swarm.key";
/// First line of such a file.
const SWARM_KEY_HEAD: &[u8] = b"/key/swarm/psk/1.0.0/";
/// Folders with content and keys. If one exists without a config, something is wrong.
const PRECIOUS: [&str; 3] = ["blocks", "datastore", "keystore"];
/// What `ipfs init` creates (Kubo 0.43).
const MADE_BY_INIT: [&str; 6] =
    ["blocks", "config", "datastore", "datastore_spec", "keystore", "version"];
/// `ipfs init` takes well under a second; a slow disk may need more.
const INIT_DEADLINE: Duration = Duration::from_secs(120);

/// Creates the repository if there is none, and merges our settings into its config.
pub(super) async fn prepare(args: &Args, token: &CancellationToken) -> anyhow::Result<()> {
    let folder = args.repository.as_path();
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    remove_stale_lock(folder)?;
    let is_new = clear_unfinished(folder)?;
    if is_new {
        tracing::info!(folder = %folder.display(), "creating the repository");
        init(args, token).await?;
        if token.is_cancelled() {
            return Ok(());
        }
    }
    let changed = configure(args)?;
    if !is_new && !changed.is_empty() {
        let keys = changed.join(", ");
        tracing::info!(keys, "overwrote keys of the daemon's configuration that Pinkeeper manages");
    }
    finish(folder)
}

/// Removes leftovers of an unfinished `ipfs init`; returns whether to create a repository.
fn clear_unfinished(folder: &Path) -> anyhow::Result<bool> {
    let marker = folder.join(MARKER);
    if marker.exists() {
        for name in MADE_BY_INIT {
            remove(&folder.join(name))?;
        }
        return Ok(true);
    }
    if folder.join(CONFIG).exists() {
        return Ok(false);
    }
    for name in PRECIOUS {
        ensure!(
            !folder.join(name).exists(),
            "{} holds {name} but no config: put the config back, or move the folder away",
            folder.display()
        );
    }
    files::create_anew(&marker)
        .and_then(|file| file.sync_all())
        .with_context(|| format!("cannot write {}", marker.display()))?;
    sync_folder(folder)?;
    Ok(true)
}

fn remove(path: &Path) -> anyhow::Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other.with_context(|| format!("cannot remove {}", path.display())),
    }
}

async fn init(args: &Args, token: &CancellationToken) -> anyhow::Result<()> {
    let mut command = child::command(args);
    command.args(["init", "--empty-repo"]);
    let run = child::run(command, Duration::from_secs(5), token);
    let status = tokio::time::timeout(INIT_DEADLINE, run)
        .await
        .with_context(|| format!("ipfs init takes longer than {} s", INIT_DEADLINE.as_secs()))??;
    ensure!(status.success() || token.is_cancelled(), "ipfs init ended with {status}");
    Ok(())
}

/// Merges our settings into the daemon's config; returns the changed keys.
pub(super) fn configure(args: &Args) -> anyhow::Result<Vec<String>> {
    let folder = args.repository.as_path();
    if let Some(from) = &args.swarm_key_file {
        let key = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        // The error must not show the content.
        ensure!(key.starts_with(SWARM_KEY_HEAD), "{} is not a swarm key", from.display());
        let to = folder.join(SWARM_KEY);
        if fs::read(&to).ok().as_ref() != Some(&key) {
            replace(&to, &key)?;
        }
    }
    let path = folder.join(CONFIG);
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut config: serde_json::Value = serde_json::from_slice(&text)
        .with_context(|| format!("{} is not a config of Kubo", path.display()))?;
    let settings = args.settings().map_err(anyhow::Error::msg).context("--announce")?;
    match settings.merge(&mut config) {
        Ok(changed) if changed.is_empty() => Ok(changed),
        Ok(changed) => replace(&path, &serde_json::to_vec_pretty(&config)?).map(|()| changed),
        Err(reason) => bail!("{} is not a config of Kubo: {reason}", path.display()),
    }
}

/// Marks the repository as complete.
fn finish(folder: &Path) -> anyhow::Result<()> {
    let marker = folder.join(MARKER);
    if marker.exists() {
        // Sync the repository before the marker is removed.
        sync_folder(folder)?;
        remove(&marker)?;
        sync_folder(folder)?;
    }
    Ok(())
}

/// Replaces a file atomically. Only the owner can read it: the config holds the daemon's key.
fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    let write = || {
        let mut file = files::create_anew(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn sync_folder(folder: &Path) -> anyhow::Result<()> {
    File::open(folder)
        .and_then(|file| file.sync_all())
        .with_context(|| format!("cannot sync {}", folder.display()))
}

/// Removes a lock file that no process holds. Kubo locks it by fcntl, so a leftover file does no
/// harm unless it has content. If a process holds it, another daemon is running.
fn remove_stale_lock(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join(LOCK);
    let file = match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot open {}", path.display()));
        }
    };
    fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive)
        .with_context(|| format!("another daemon is running on {}", folder.display()))?;
    remove(&path)
}
