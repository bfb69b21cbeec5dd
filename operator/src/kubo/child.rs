//! Child processes of the supervisor.

use std::{
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::Args;

/// Go's limit in percent of the container's memory; the rest is for memory that Go does not count.
const GO_MEMORY_PERCENT: u64 = 90;

/// The daemon's program with its repository. It inherits our output.
pub(super) fn command(args: &Args) -> Command {
    let mut command = Command::new(&args.ipfs);
    let environment = environment(args, |name| std::env::var_os(name).is_some());
    command
        .env("IPFS_PATH", &args.repository)
        .envs(environment)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Variables that the daemon gets besides those of this process; `is_set` knows the latter.
pub(super) fn environment(
    args: &Args,
    is_set: impl Fn(&str) -> bool,
) -> Vec<(&'static str, String)> {
    let mut variables = Vec::new();
    // Kubo sends usage data by default.
    if !is_set("IPFS_TELEMETRY") {
        variables.push(("IPFS_TELEMETRY", "off".to_owned()));
    }
    // Without a limit Go lets its heap double before it collects, and the kernel kills the daemon.
    if let Some(limit) = args.memory_limit
        && !is_set("GOMEMLIMIT")
    {
        variables.push(("GOMEMLIMIT", (limit / 100 * GO_MEMORY_PERCENT).to_string()));
    }
    // The daemon must not start without the key of its private network.
    if args.swarm_key_file.is_some() {
        variables.push(("LIBP2P_FORCE_PNET", "1".to_owned()));
    }
    variables
}

/// Runs a child to its end. When the token is cancelled, sends SIGTERM, and kills it at the
/// deadline.
pub(super) async fn run(
    mut command: Command,
    deadline: Duration,
    token: &CancellationToken,
) -> anyhow::Result<ExitStatus> {
    let program = command.as_std().get_program().to_owned();
    let mut child =
        command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
    tokio::select! { biased;
        () = token.cancelled() => {}
        status = child.wait() => return status.context("cannot wait for the daemon"),
    }
    tracing::info!("stopping the daemon");
    terminate(&child);
    match timeout(deadline, child.wait()).await {
        Ok(status) => status.context("cannot wait for the daemon"),
        Err(_) => {
            tracing::warn!(deadline_s = deadline.as_secs(), "the daemon did not stop; killing it");
            child.kill().await.context("cannot kill the daemon")?;
            child.wait().await.context("cannot wait for the daemon")
        }
    }
}

fn terminate(child: &Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid
        && let Err(error) = kill_process(pid, Signal::TERM)
    {
        tracing::warn!(%error, "cannot send SIGTERM to the daemon");
    }
}
