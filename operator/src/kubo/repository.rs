//! The daemon's repository on disk: made once, configured before each start.
//!
//! Invariant: nothing is removed but what an unfinished `ipfs init` of ours left behind (the marker
//! file says so) and a lock that no process holds.

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

/// There while `ipfs init` has not finished: then nothing else in the folder is of value.
const MARKER: &str = ".pinkeeper-init";
/// Kubo's config file; a repository without one is none.
const CONFIG: &str = "config";
/// Kubo's lock file.
const LOCK: &str = "repo.lock";
/// Kubo's file with the key of a private swarm.
const SWARM_KEY: &str = "swarm.key";
/// How such a file begins.
const SWARM_KEY_HEAD: &[u8] = b"/key/swarm/psk/1.0.0/";
/// Folders with content and keys: with one of them and no config, something is wrong.
const PRECIOUS: [&str; 3] = ["blocks", "datastore", "keystore"];
/// What `ipfs init` makes (Kubo 0.43).
const MADE_BY_INIT: [&str; 6] =
    ["blocks", "config", "datastore", "datastore_spec", "keystore", "version"];
/// `ipfs init` takes well under a second; a slow disk may need more.
const INIT_DEADLINE: Duration = Duration::from_secs(120);

/// Makes the repository if there is none and puts our settings into its config.
pub(super) async fn prepare(args: &Args, token: &CancellationToken) -> anyhow::Result<()> {
    let folder = args.repository.as_path();
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    remove_stale_lock(folder)?;
    let is_new = clear_unfinished(folder)?;
    if is_new {
        tracing::info!(folder = %folder.display(), "making the repository");
        init(args, token).await?;
        if token.is_cancelled() {
            return Ok(());
        }
    }
    let changed = configure(args)?;
    if !is_new && !changed.is_empty() {
        let keys = changed.join(", ");
        tracing::info!(
            keys,
            "overwrote keys of the daemon's configuration that are set from outside"
        );
    }
    finish(folder)
}

/// Whether a repository is to be made. Leftovers of an unfinished `ipfs init` are gone then.
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

/// Says which keys of the daemon's config have another value now.
pub(super) fn configure(args: &Args) -> anyhow::Result<Vec<String>> {
    let folder = args.repository.as_path();
    if let Some(from) = &args.swarm_key_file {
        let key = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        // What it holds is shown nowhere.
        ensure!(key.starts_with(SWARM_KEY_HEAD), "{} is no key of a swarm", from.display());
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

/// The repository is whole.
fn finish(folder: &Path) -> anyhow::Result<()> {
    let marker = folder.join(MARKER);
    if marker.exists() {
        // First what the marker vouches for, then the marker's end.
        sync_folder(folder)?;
        remove(&marker)?;
        sync_folder(folder)?;
    }
    Ok(())
}

/// Writes a file so that after a crash it is the old or the new one. For its owner alone: the config
/// holds the daemon's key.
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

/// Removes a lock file that no process holds. Kubo locks it by fcntl, so a file left behind does no
/// harm unless something was written into it; one that is held says that another daemon is running.
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
