//! A peer as a process: opens its disks, listens, and connects to a real daemon.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use libp2p::{Multiaddr, multiaddr::Protocol};
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, sync::mpsc, task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{AssembleError, Assembly, Peer, left};
use crate::{
    clock::Clock,
    cluster::{
        AddressBook, FatalError, FoundError, GcPolicy, JoinPolicy, MovePolicy, new_cluster_id,
    },
    config::PeerConfig,
    consensus::{Checkpoints, DiskLog, OpenError, StateStore, Stores, Timing},
    files::{self, FolderLock, LockError},
    identity::{Identity, IdentityError},
    ipfs::kubo::{DaemonMetrics, KuboClient, KuboUrlError},
    monitor::informer::space_on,
    rest::{self, BindError, Hosts, RestMetrics, SharedRegistry},
    rpc::{
        Inbound, RpcMetrics,
        swarm::{self, Started, SwarmOptions, SwarmTransport},
    },
    runtime::random_u64,
    tracker::{self, Ledger, LedgerError, LedgerPort},
    types::{ADDRESSES_MAX, Member, PeerId, Program},
};

/// Most queued requests from other peers.
const INBOUND_MAX: usize = 1024;

/// Free bytes required in the data folder. Opening the stores writes to them; without space the peer
/// would only restart again and again.
const SPACE_MIN: u64 = 1024 * 1024;

/// Time between two checks that the peer's folders still exist.
const FOLDERS_EVERY: Duration = Duration::from_secs(5);

/// Why a process could not start its peer. A person must fix it, so the exit code is 2, except for a
/// full disk, which may be freed without one.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no space for the log and the state.
    #[error(
        "{free} bytes are free in {folder}, and a peer needs {SPACE_MIN} to start; free some space or enlarge the volume, then start it again"
    )]
    DiskFull {
        /// The data folder.
        folder: String,
        /// Bytes free.
        free: u64,
    },
    /// Another process uses this peer's folder.
    #[error("{folder}: {source}")]
    InUse {
        /// The data folder, or the ledger's.
        folder: String,
        /// The process, if known.
        source: LockError,
    },
    /// The data of a removed identity cannot be put aside.
    #[error("the data of a removed identity cannot be put aside")]
    Aside(#[source] io::Error),
    /// The key on disk cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The log or the state on disk cannot be used.
    #[error(transparent)]
    Disk(#[from] OpenError),
    /// The ledger on disk cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The address for peers cannot be used.
    #[error("listen: {0}")]
    Listen(#[from] swarm::StartError),
    /// An address for HTTP cannot be used.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The daemon's address is invalid.
    #[error("ipfs_api: {0}")]
    Kubo(#[from] KuboUrlError),
    /// Founding, as configured, failed.
    #[error("found: {0}")]
    Found(#[from] FoundError),
}

impl From<AssembleError> for StartError {
    fn from(error: AssembleError) -> Self {
        match error {
            AssembleError::Consensus(error) => Self::Disk(error),
            AssembleError::Ledger(error) => Self::Ledger(error),
        }
    }
}

impl Peer {
    /// Starts a peer from its configuration; `registry` holds the other Prometheus metrics of the
    /// process. A blank peer joins by `join`, or founds a cluster if configured.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(
        config: PeerConfig,
        join: JoinPolicy,
        mut registry: Registry,
    ) -> Result<Self, StartError> {
        let rest_listener = rest::bind("rest_listen", config.rest_listen).await?;
        let health_listener = rest::bind("health_listen", config.health_listen).await?;
        let rest_metrics = RestMetrics::default();
        rest_metrics.register(&mut registry);
        let replication = config.replication;
        let hosts = Hosts::new(config.rest_listen, config.rest_hosts.iter().cloned());
        let found = config.found;
        let alone = matches!(join, JoinPolicy::Any) && !found && config.bootstrap.is_empty();
        let (mut peer, bootstrap) = open(config, join, &mut registry).await?;
        if found {
            peer.cluster.founds_as_configured();
            peer.found_alone().await?;
        } else if alone && peer.cluster.cluster_id().is_none() {
            tracing::warn!(
                "this peer belongs to no cluster, and neither found nor bootstrap is set: waiting for \
                 another peer to connect"
            );
        }
        // The founder's too: after all peers have stopped, it must find the others like any peer.
        let own = &peer.cluster.member().addresses;
        bootstrap.transport.set_seeds(without(bootstrap.addresses, own));
        let api = rest::api_router(peer.cluster.clone(), replication, rest_metrics, hosts);
        if let (Ok(rest), Ok(health)) = (rest_listener.local_addr(), health_listener.local_addr()) {
            tracing::info!(%rest, %health, "listening for REST and probes");
        }
        peer.serve(rest_listener, api);
        let health = rest::health_router(peer.cluster.clone(), SharedRegistry::new(registry));
        peer.serve(health_listener, health);
        Ok(peer)
    }

    /// Founds a cluster if the disk is blank, or if a crash interrupted the founding; without members
    /// nobody else can have added this peer.
    async fn found_alone(&self) -> Result<(), StartError> {
        if !self.cluster.members().is_empty() {
            return Ok(());
        }
        let cluster = self.cluster.cluster_id().unwrap_or_else(new_cluster_id);
        self.cluster.found(cluster, 1).await?;
        tracing::info!(%cluster, "founded a cluster");
        Ok(())
    }

    fn serve(&mut self, listener: TcpListener, router: axum::Router) {
        let token = self.token.clone();
        self.tasks.spawn(async move {
            rest::serve(listener, router, token).await;
            Ok(())
        });
    }
}

/// Peers to join, by address alone.
struct Bootstrap {
    transport: Arc<SwarmTransport>,
    addresses: Vec<Multiaddr>,
}

async fn open(
    config: PeerConfig,
    join: JoinPolicy,
    registry: &mut Registry,
) -> Result<(Peer, Bootstrap), StartError> {
    check_space(&config.data_dir)?;
    let locks = lock_folders(&config)?;
    if left::put_aside(&config.data_dir).map_err(StartError::Aside)? {
        tracing::info!(
            "the data of a removed identity was put aside; this peer joins as another one"
        );
    }
    let known = Identity::load(&config.data_dir)?.is_some();
    let stores = open_stores(&config, known)?;
    // Created after the stores: an identity without stores means that they were lost.
    let identity = Identity::load_or_create(&config.data_dir)?;
    let id = identity.id();
    let daemon_metrics = DaemonMetrics::default();
    daemon_metrics.register(registry);
    let ipfs = Arc::new(KuboClient::new(config.ipfs_api.url())?.measured(daemon_metrics));
    let ledger = open_ledger(&config.ledger_dir)?;
    let rpc_metrics = RpcMetrics::default();
    rpc_metrics.register(registry);
    let options = SwarmOptions {
        identity,
        secret: config.secret,
        listen: config.listen,
        jitter_seed: random_u64(),
        metrics: rpc_metrics,
    };
    let (requests, inbound) = mpsc::channel::<Inbound>(INBOUND_MAX);
    let network = CancellationToken::new();
    let Started { transport, listening, task } =
        SwarmTransport::start(options, requests, network.clone()).await?;
    let announce = if config.announce.is_empty() { listening } else { config.announce };
    let member = Member { name: config.name, addresses: announced(id, announce) };
    let assembly = Assembly {
        id,
        member,
        timing: Timing {
            heartbeat: config.heartbeat,
            election_min: config.election.0,
            election_max: config.election.1,
        },
        checkpoints: Checkpoints::default(),
        program: Program::default(),
        stores,
        transport: transport.clone(),
        inbound,
        ipfs,
        ledger: LedgerPort::Offloaded(ledger),
        tracker: tracker::Config {
            pins_max: config.concurrent_pins,
            stall_time: config.pin_stall_timeout,
            collect_time: config.gc_timeout,
            ..tracker::Config::default()
        },
        addresses: AddressBook::open(&config.data_dir.join("addresses")),
        volume: config.ipfs_path,
        tags: config.tags,
        clock: Clock::System,
        join,
        gc: config.gc_watermark.map(|watermark_percent| GcPolicy {
            watermark_percent,
            pause_minutes: u32::try_from(config.gc_pause.as_secs() / 60).unwrap_or(u32::MAX),
        }),
        moves: MovePolicy { after: config.move_after, zone_after: config.move_zone_after },
    };
    let mut peer = Peer::assemble(assembly).await?;
    peer.network = Some((task, network));
    let token = peer.token.clone();
    peer.tasks.spawn(async move {
        token.run_until_cancelled(watch_folders(locks)).await.unwrap_or(Ok(()))
    });
    peer.folder = Some(config.data_dir.display().to_string());
    Ok((peer, Bootstrap { transport, addresses: config.bootstrap }))
}

/// Removes this peer's own addresses, since the same list may be given to all peers.
fn without(mut seeds: Vec<Multiaddr>, own: &[String]) -> Vec<Multiaddr> {
    let is_own = |seed: &Multiaddr| {
        let place: Multiaddr =
            seed.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect();
        own.contains(&place.to_string())
    };
    seeds.retain(|seed| !is_own(seed));
    seeds
}

/// Two processes on one folder would run the same peer twice.
fn lock_folders(config: &PeerConfig) -> Result<Vec<FolderLock>, StartError> {
    let folders = BTreeSet::from([&config.data_dir, &config.ledger_dir]);
    let lock = |folder: &PathBuf| {
        let in_use = |source| StartError::InUse { folder: folder.display().to_string(), source };
        files::lock(folder).map_err(in_use)
    };
    folders.into_iter().map(lock).collect()
}

/// Watches the folders; ends when one no longer exists.
async fn watch_folders(locks: Vec<FolderLock>) -> Result<(), FatalError> {
    let locks = Arc::new(locks);
    loop {
        sleep(FOLDERS_EVERY).await;
        let looked_at = locks.clone();
        // A hanging disk blocks only this task.
        let gone = spawn_blocking(move || {
            let gone = |lock: &&FolderLock| matches!(lock.is_in_place(), Ok(false));
            looked_at.iter().find(gone).map(|lock| lock.folder().display().to_string())
        });
        if let Ok(Some(folder)) = gone.await {
            return Err(FatalError::FolderGone(folder));
        }
    }
}

fn check_space(folder: &Path) -> Result<(), StartError> {
    match space_on(folder) {
        Some(volume) if volume.free < SPACE_MIN => {
            Err(StartError::DiskFull { folder: folder.display().to_string(), free: volume.free })
        }
        // If the check fails, a later write will show the problem.
        _ => Ok(()),
    }
}

/// Opens the ledger, on a full disk too: it then delays only this peer's pins. If the ledger cannot be
/// opened, the disk may have been full at its creation.
fn open_ledger(folder: &Path) -> Result<Ledger, StartError> {
    Ledger::open(&folder.join("ledger.redb")).map_err(|error| match check_space(folder) {
        Err(full) => full,
        Ok(()) => error.into(),
    })
}

fn open_stores(config: &PeerConfig, known: bool) -> Result<Stores<DiskLog>, OpenError> {
    let state_path = config.data_dir.join("state.redb");
    if known && !state_path.exists() {
        return Err(OpenError::StateGone { path: state_path.display().to_string() });
    }
    let folder = config.data_dir.join("log");
    let log = DiskLog::open(&folder)
        .map_err(|source| OpenError::Log { folder: folder.display().to_string(), source })?;
    let state = StateStore::open(&state_path)?;
    if !known && state.cluster()?.is_some() {
        return Err(OpenError::IdentityGone { folder: config.data_dir.display().to_string() });
    }
    Ok(Stores { flushed: log.flushed(), log, state })
}

/// The addresses to announce: without this peer's ID, and loopback only if there is nothing else.
fn announced(own: PeerId, addresses: Vec<Multiaddr>) -> Vec<String> {
    let is_local = |address: &Multiaddr| {
        address.iter().any(|part| match part {
            Protocol::Ip4(ip) => ip.is_loopback(),
            // Link-local addresses are useless without the name of the link.
            Protocol::Ip6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
            _ => false,
        })
    };
    let bare = |address: Multiaddr| -> Multiaddr {
        address.into_iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect()
    };
    let (local, remote): (Vec<_>, Vec<_>) = addresses.into_iter().partition(is_local);
    let chosen = if remote.is_empty() { local } else { remote };
    let texts: BTreeSet<String> =
        chosen.into_iter().map(|address| bare(address).to_string()).collect();
    if texts.is_empty() {
        tracing::warn!(%own, "no address is known at which other peers can reach this peer");
    }
    texts.into_iter().take(ADDRESSES_MAX).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_peer_is_no_seed_of_its_own() {
        let id = "12D3KooW9tHTtS3inCZiYykw4u5G4frbjVFqhkmJX12gSNCVeH3e";
        let all = ["/ip4/10.0.0.1/tcp/9096", "/ip4/10.0.0.2/tcp/9096", "/ip4/10.0.0.1/tcp/9097"];
        let named = format!("{}/p2p/{id}", all[0]);
        let seeds = all.iter().chain([&&*named]).map(|seed| seed.parse().unwrap()).collect();
        let left: Vec<String> =
            without(seeds, &[all[0].to_owned()]).iter().map(ToString::to_string).collect();
        assert_eq!(left, all[1..]);
    }
}
