//! The commands `peer` and `run`: a peer as a process, alone or with the controllers.
//!
//! An error before the peer serves is an error of the configuration or of the disk: it is reported in
//! one line, with exit code 2. A full disk has exit code 1 at any time: another start helps once there
//! is space.

use std::{net::IpAddr, path::PathBuf};

use clap::{Arg, ArgMatches, Command, FromArgMatches, parser::ValueSource};
use pinkeeper::{
    clock::Clock,
    cluster::{FatalError, FoundError, JoinPolicy},
    config::{ConfigError, KEYS, PeerConfig, PeerOptions},
    peer::{self, Peer, StartError},
    state::{Limit, Limits},
    telemetry,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    kubernetes::{Context, Counters, Settings},
    run::{self, RunError},
};

/// Why the process failed.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data on disk, or an address, cannot be used.
    #[error(transparent)]
    Start(#[from] StartError),
    /// No API server is configured.
    #[error(
        "no API server is configured; run this in a pod with a service account, or set KUBECONFIG"
    )]
    Kubernetes(#[from] kube::Error),
    /// The peer or a controller failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The folder of a removed identity was not marked.
    #[error("this peer was removed from its cluster, but its data folder cannot be marked")]
    Mark(#[source] std::io::Error),
    /// The operating system refused a signal handler.
    #[error("cannot handle signals")]
    Signals(#[from] std::io::Error),
}

impl ProcessError {
    /// Whether a person must correct something before another start helps.
    #[must_use]
    pub fn is_config(&self) -> bool {
        match self {
            Self::Start(
                StartError::DiskFull { .. } | StartError::Found(FoundError::Consensus(_)),
            ) => false,
            Self::Start(StartError::Disk(error) | StartError::Found(FoundError::Disk(error))) => {
                !error.is_full_disk()
            }
            Self::Config(ConfigError::Folder { source, .. }) => {
                source.kind() != std::io::ErrorKind::StorageFull
            }
            Self::Config(_) | Self::Start(_) | Self::Kubernetes(_) => true,
            Self::Run(error) => error.exit_code() == ConfigError::EXIT_CODE,
            Self::Signals(_) | Self::Mark(_) => false,
        }
    }
}

/// The peer's settings from the command line and the environment. Each key of the configuration
/// file has a flag and a variable.
#[derive(Clone, Debug)]
pub struct PeerArgs {
    config: Option<PathBuf>,
    /// Index of the key, its flag or variable, and the text.
    said: Vec<(usize, String, String)>,
}

fn variable(key: &str) -> String {
    format!("PINKEEPER_{}", key.to_uppercase())
}

fn flag(key: &str) -> String {
    key.replace('_', "-")
}

impl clap::Args for PeerArgs {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config")
            .long("config")
            .env("PINKEEPER_CONFIG")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("YAML file with the settings below, for example data_dir: /var/lib/pinkeeper");
        KEYS.iter().fold(command.arg(config), |command, key| {
            command.arg(
                Arg::new(key.name)
                    .long(flag(key.name))
                    .env(variable(key.name))
                    .value_name("VALUE")
                    .help(key.help),
            )
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for PeerArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let said = KEYS.iter().enumerate().filter_map(|(n, key)| {
            let text = matches.get_one::<String>(key.name)?.clone();
            let origin = match matches.value_source(key.name) {
                Some(ValueSource::EnvVariable) => variable(key.name),
                _ => format!("--{}", flag(key.name)),
            };
            Some((n, origin, text))
        });
        Ok(Self { config: matches.get_one("config").cloned(), said: said.collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl PeerArgs {
    /// The settings. Flags override variables, these override the file, and that the `defaults`.
    fn options(&self, defaults: PeerOptions) -> Result<PeerOptions, ConfigError> {
        let mut options = PeerOptions::default();
        for (key, origin, text) in &self.said {
            options = options.or(PeerOptions::from_text(&KEYS[*key], text, origin)?);
        }
        if let Some(path) = &self.config {
            options = options.or(PeerOptions::from_file(path)?);
        }
        Ok(options.or(defaults))
    }
}

/// Arguments of `pinkeeper run`.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    peer: PeerArgs,
    /// The pod's name, also the peer's name.
    #[arg(long, env = "POD_NAME")]
    pod: String,
    /// The pod's namespace.
    #[arg(long, env = "POD_NAMESPACE")]
    namespace: String,
    /// The pod's addresses, announced to the other peers.
    #[arg(long, env = "POD_IPS", value_delimiter = ',', required = true)]
    pod_ips: Vec<IpAddr>,
    /// The name of the release; the record of the cluster is the ConfigMap <release>-cluster.
    #[arg(long)]
    release: String,
    /// Number of peers that the cluster is founded with; a majority of them must register first.
    #[arg(long, env = "PINKEEPER_INITIAL_PEERS", value_parser = clap::value_parser!(u16).range(1..))]
    initial_peers: u16,
    /// Copies of a Pin without replicas.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    default_replicas: u16,
    #[command(flatten)]
    guard: GuardArgs,
}

/// Limits of the deletion guard: what may be unpinned within an hour without approval.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct GuardArgs {
    /// Deletion guard: how far the number of CIDs may fall within an hour.
    #[arg(long, default_value_t = Limits::default().total.cids)]
    max_deleted: u64,
    /// The same in percent; the larger of both limits applies.
    #[arg(long, default_value_t = Limits::default().total.percent,
          value_parser = clap::value_parser!(u64).range(..=100))]
    max_deleted_percent: u64,
    /// Deletion guard: most CIDs that may be unpinned within an hour by deletions that no leader
    /// watched.
    #[arg(long, default_value_t = Limits::default().compared.cids)]
    max_missing: u64,
    /// The same in percent; the larger of both limits applies.
    #[arg(long, default_value_t = Limits::default().compared.percent,
          value_parser = clap::value_parser!(u64).range(..=100))]
    max_missing_percent: u64,
}

impl From<GuardArgs> for Limits {
    fn from(args: GuardArgs) -> Self {
        Self {
            compared: Limit { cids: args.max_missing, percent: args.max_missing_percent },
            total: Limit { cids: args.max_deleted, percent: args.max_deleted_percent },
        }
    }
}

/// Runs a peer outside Kubernetes until SIGTERM or SIGINT.
///
/// # Errors
/// Why it failed.
pub async fn peer(args: PeerArgs) -> Result<(), ProcessError> {
    let config = resolve(args.options(PeerOptions::default())?)?;
    let token = stop_on_signal()?;
    let mut peer = Peer::start(config, JoinPolicy::Any, telemetry::registry()).await?;
    let failed = tokio::select! {
        biased;
        () = token.cancelled() => None,
        error = peer.failed() => Some(error),
    };
    tracing::info!("stopping pinkeeper");
    peer.stop().await;
    tracing::info!("pinkeeper stopped");
    match failed {
        None => Ok(()),
        Some(error) => Err(RunError::from(error).into()),
    }
}

/// Runs a peer and the controllers in a pod until SIGTERM or SIGINT.
///
/// # Errors
/// Why it failed.
pub async fn run(args: RunArgs) -> Result<(), ProcessError> {
    let announce = announced(&args.pod_ips);
    let key = |name: &str| KEYS.iter().find(|key| key.name == name).copied();
    let mut defaults = PeerOptions { name: Some(args.pod.clone()), ..PeerOptions::default() };
    if let Some(key) = key("announce") {
        defaults = defaults.or(PeerOptions::from_text(&key, &announce, "POD_IPS")?);
    }
    let config = resolve(args.peer.options(defaults)?)?;
    let token = stop_on_signal()?;
    let counters = Counters::default();
    let mut registry = telemetry::registry();
    counters.register(&mut registry);
    let client = run::client().await?;
    let data_dir = config.data_dir.clone();
    let peer = Peer::start(config, JoinPolicy::Wait, registry).await?;
    let settings = Settings {
        namespace: args.namespace,
        pod: args.pod,
        release: args.release,
        initial_peers: args.initial_peers,
        default_replicas: args.default_replicas,
        limits: args.guard.into(),
    };
    let context = Context::new(client, peer.cluster.clone(), Clock::System, settings, counters);
    match run::run(peer, context, &token).await {
        Err(RunError::Peer(FatalError::Removed)) => {
            // The pod may come back as another peer, also on this volume.
            peer::mark_removed(&data_dir).map_err(ProcessError::Mark)?;
            // A pod that was scaled in ends as it should.
            if token.is_cancelled() {
                Ok(())
            } else {
                Err(RunError::Peer(FatalError::Removed).into())
            }
        }
        ended => Ok(ended?),
    }
}

/// The multiaddrs of a peer at these addresses, in the form of the setting `announce`.
fn announced(addresses: &[IpAddr]) -> String {
    let each = addresses.iter().map(|address| {
        let family = if address.is_ipv4() { 4 } else { 6 };
        format!("/ip{family}/{address}/tcp/9096")
    });
    each.collect::<Vec<_>>().join(",")
}

fn resolve(options: PeerOptions) -> Result<PeerConfig, ConfigError> {
    let config = PeerConfig::resolve(None, options)?;
    // A second call in one process has no effect.
    let _ = telemetry::log_to_stderr(&config.log_level, config.log_format);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), name = %config.name, "starting pinkeeper");
    Ok(config)
}

fn stop_on_signal() -> Result<CancellationToken, ProcessError> {
    let token = CancellationToken::new();
    let stop = token.clone();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            biased;
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(token)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use pinkeeper::{
        consensus::{OpenError, StateStore},
        sim::disk::{SimDisk, SimFile},
        types::ClusterId,
    };

    use super::*;

    #[test]
    fn every_address_of_the_pod_is_announced() {
        let addresses = ["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
        assert_eq!(announced(&addresses), "/ip4/10.0.0.7/tcp/9096,/ip6/fd00::7/tcp/9096");
        let key = KEYS.iter().find(|key| key.name == "announce").unwrap();
        assert!(PeerOptions::from_text(key, &announced(&addresses), "POD_IPS").is_ok());
    }

    #[test]
    fn a_disk_that_fills_up_while_a_cluster_is_founded_needs_another_start_and_no_person() {
        let disk = SimDisk::new(Duration::ZERO);
        let store = StateStore::with_backend(SimFile::new(disk.clone())).unwrap();
        disk.set_full(true);
        let full = || OpenError::from(store.set_cluster(ClusterId([1; 16]), 1).unwrap_err());
        let error = ProcessError::Start(StartError::Found(FoundError::Disk(full())));
        assert!(error.to_string().contains("free some space"), "{error}");
        assert!(!error.is_config());
        let other = FoundError::OtherCluster { own: None, asked: ClusterId([1; 16]) };
        assert!(ProcessError::Start(StartError::Found(other)).is_config());
    }
}
