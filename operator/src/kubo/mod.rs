//! `pinkeeper kubo`: the supervisor of the daemon beside a peer.
//!
//! It creates the repository if there is none, merges its settings into the daemon's config and
//! logs the keys that it overwrote. Then it runs `ipfs daemon` as its child, and restarts it with
//! growing waits.
//!
//! Invariants: only a signal ends it. A broken daemon or disk is logged and tried again, since its
//! pod also runs a voter of the cluster. It never deletes content.

mod announce;
mod child;
mod config;
mod repository;

use std::{net::IpAddr, path::PathBuf, time::Duration};

use anyhow::Context as _;
use pinkeeper::telemetry::{self, LogFilter, LogFormat};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

pub use self::config::{Given, RESERVED, Settings};

/// Wait before the first restart; doubles with each further one.
const WAIT_MIN: Duration = Duration::from_secs(1);
/// Longest wait before a restart.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// A daemon that ran for this long was healthy: the next wait is the shortest again.
const HEALTHY: Duration = Duration::from_secs(60);

/// Runs the IPFS daemon beside a peer and keeps it running.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The daemon's repository; created if there is none.
    #[arg(long, env = "IPFS_PATH", default_value = "/data/ipfs")]
    pub repository: PathBuf,
    /// The daemon's program.
    #[arg(long, default_value = "ipfs")]
    pub ipfs: PathBuf,
    /// Multiaddr of the RPC API. Anyone who can reach it controls the daemon.
    #[arg(long, default_value = "/ip4/127.0.0.1/tcp/5001")]
    pub api: String,
    /// Multiaddr of the gateway.
    #[arg(long, default_value = "/ip4/127.0.0.1/tcp/8080")]
    pub gateway: String,
    /// Multiaddrs to listen on for other daemons; if absent, those of its configuration.
    #[arg(long, value_delimiter = ',')]
    pub swarm: Vec<String>,
    /// Port for all these addresses; if absent, their own ports.
    #[arg(long)]
    pub swarm_port: Option<u16>,
    /// Additional multiaddrs to announce, for example /{node}/tcp/{30400+ordinal}: {node} is each
    /// address of NODE_IPS, {ordinal} the number at the end of POD_NAME, {a|b|c} the entry of the
    /// list at that number.
    #[arg(long, value_delimiter = ',')]
    pub announce: Vec<String>,
    /// Addresses of the node, for --announce.
    #[arg(long = "node-ips", env = "NODE_IPS", value_delimiter = ',')]
    pub node_ips: Vec<IpAddr>,
    /// The pod's name, for --announce.
    #[arg(long, env = "POD_NAME")]
    pub pod: Option<String>,
    /// JSON object to merge into the daemon's configuration, for example
    /// '{"Provide":{"Strategy":"roots"}}'; null removes a key. Keys that Pinkeeper depends on
    /// cannot be set.
    #[arg(long = "config", value_name = "JSON", default_value = "{}")]
    pub given: Given,
    /// Memory of the daemon's container in bytes; Go collects more often near it. Ignored if
    /// GOMEMLIMIT is set.
    #[arg(long, env = "PINKEEPER_MEMORY_LIMIT")]
    pub memory_limit: Option<u64>,
    /// Most space for content, in Kubo's format, for example 100GB; if absent, as in the config.
    #[arg(long)]
    pub storage_max: Option<String>,
    /// Contact only daemons that it was connected to explicitly: no bootstrap peers, no DHT, no
    /// settings from the network.
    #[arg(long)]
    pub private: bool,
    /// File with the key of a private swarm; implies --private.
    #[arg(long)]
    pub swarm_key_file: Option<PathBuf>,
    /// Seconds that the daemon has to stop before it is killed.
    #[arg(long, default_value_t = 60)]
    pub stop_deadline: u64,
}

impl Args {
    /// The settings to merge into the daemon's config.
    ///
    /// # Errors
    /// When a template of --announce is invalid.
    pub fn settings(&self) -> Result<Settings, String> {
        let ordinal = self.pod.as_deref().and_then(announce::ordinal);
        let place = announce::Place { nodes: self.node_ips.clone(), ordinal };
        Ok(Settings {
            announce: place.addresses(&self.announce)?,
            api: self.api.clone(),
            gateway: self.gateway.clone(),
            swarm: self.swarm.clone(),
            swarm_port: self.swarm_port,
            given: self.given.clone(),
            storage_max: self.storage_max.clone(),
            private: self.private || self.swarm_key_file.is_some(),
        })
    }
}

/// Runs until SIGTERM or SIGINT, then stops the daemon.
///
/// # Errors
/// Only when no signal handler can be installed.
pub async fn run(args: Args) -> anyhow::Result<()> {
    // As text, like the daemon's log on the same stream. A second call would have no effect.
    let _ = telemetry::log_to_stderr(&LogFilter::default(), LogFormat::Text);
    let token = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    let stop = token.clone();
    let listener = tokio::spawn(async move {
        tokio::select! { biased;
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    supervise(&args, &token).await;
    listener.abort();
    Ok(())
}

/// Keeps the daemon running until the token is cancelled.
pub async fn supervise(args: &Args, token: &CancellationToken) {
    let mut wait = WAIT_MIN;
    loop {
        let started = Instant::now();
        match run_once(args, token).await {
            Ok(()) if token.is_cancelled() => return,
            Ok(()) => tracing::warn!("the daemon ended"),
            Err(error) => tracing::error!("the daemon failed: {error:#}"),
        }
        if started.elapsed() >= HEALTHY {
            wait = WAIT_MIN;
        }
        tracing::info!(wait_s = wait.as_secs(), "restarting the daemon after a wait");
        tokio::select! { biased;
            () = token.cancelled() => return,
            () = sleep(wait) => {}
        }
        wait = (wait * 2).min(WAIT_MAX);
    }
}

/// Runs the daemon once, until it ends or the token is cancelled.
async fn run_once(args: &Args, token: &CancellationToken) -> anyhow::Result<()> {
    repository::prepare(args, token).await?;
    if token.is_cancelled() {
        return Ok(());
    }
    let mut command = child::command(args);
    command.args(["daemon", "--migrate"]);
    let deadline = Duration::from_secs(args.stop_deadline);
    let status = child::run(command, deadline, token).await?;
    if !token.is_cancelled() {
        anyhow::ensure!(status.success(), "ipfs daemon ended with {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
