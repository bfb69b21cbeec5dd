//! The composition root: builds every part of a peer, owns their tasks and stops them.
//!
//! [`Peer::start`] builds a process: disks, libp2p, Kubo and HTTP servers from a configuration.
//! [`Peer::assemble`] takes these as parameters, so that a world can supply simulated ones.

mod left;
mod start;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use futures::future::OptionFuture;
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    cluster::{
        AddressBook, Cluster, FatalError, GcPolicy, JoinPolicy, MovePolicy, Parts, ReadBarrier,
    },
    consensus::{BoundLog, Checkpoints, Consensus, OpenError, Stores, Timing},
    ipfs::SharedIpfs,
    monitor::informer::Sources,
    rpc::{Inbound, SharedTransport},
    tracker::{self, BarrierError, LedgerError, LedgerPort, Ports, Tracker, TrackerHandle},
    types::{Member, PeerId, Program},
};

pub use self::{left::mark as mark_removed, start::StartError};

/// The parts of a peer. Processes supply disks, libp2p and Kubo; worlds supply simulated ones.
pub struct Assembly<L> {
    /// The peer's ID.
    pub id: PeerId,
    /// Its name, and the addresses at which others reach it.
    pub member: Member,
    /// Raft's timing.
    pub timing: Timing,
    /// When Raft's log is purged.
    pub checkpoints: Checkpoints,
    /// What its program supports.
    pub program: Program,
    /// Log and state.
    pub stores: Stores<L>,
    /// Calls other peers.
    pub transport: SharedTransport,
    /// Requests from other peers.
    pub inbound: mpsc::Receiver<Inbound>,
    /// The daemon beside it.
    pub ipfs: SharedIpfs,
    /// The ledger of its pins on that daemon.
    pub ledger: LedgerPort,
    /// The tracker's limits.
    pub tracker: tracker::Config,
    /// Last known addresses of peers.
    pub addresses: AddressBook,
    /// A folder on the daemon's volume, to measure free space.
    pub volume: Option<PathBuf>,
    /// Labels for placement.
    pub tags: BTreeMap<String, String>,
    /// Wall-clock time for timestamps.
    pub clock: Clock,
    /// Which cluster to join while the disk is blank.
    pub join: JoinPolicy,
    /// When garbage is collected automatically; absent: never.
    pub gc: Option<GcPolicy>,
    /// When copies of absent members move to others.
    pub moves: MovePolicy,
}

impl<L> std::fmt::Debug for Assembly<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Assembly").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Why a peer did not start.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// The log or the state.
    #[error(transparent)]
    Consensus(#[from] OpenError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// A running peer.
#[derive(Debug)]
pub struct Peer {
    /// Its part in the cluster: the use cases.
    pub cluster: Cluster,
    /// The statuses of its pins.
    pub tracker: TrackerHandle,
    consensus: Consensus,
    tasks: JoinSet<Result<(), FatalError>>,
    token: CancellationToken,
    /// The transport's task and token; it ends after all parts that use it.
    network: Option<(JoinHandle<()>, CancellationToken)>,
    /// The data folder, for people.
    folder: Option<String>,
}

impl Peer {
    /// Builds and starts a peer.
    ///
    /// # Errors
    /// When the contents of its disks cannot be used.
    pub async fn assemble<L: BoundLog>(assembly: Assembly<L>) -> Result<Self, AssembleError> {
        let Assembly {
            id,
            member,
            timing,
            checkpoints,
            program,
            stores,
            transport,
            inbound,
            ipfs,
            ledger,
            tracker,
            addresses,
            volume,
            tags,
            clock,
            join,
            gc,
            moves,
        } = assembly;
        let token = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let consensus =
            Consensus::open(id, timing, checkpoints, program, stores, transport.clone()).await?;
        let barrier = ReadBarrier { consensus: consensus.clone(), transport: transport.clone() };
        let ports = Ports {
            ipfs: ipfs.clone(),
            ledger,
            state: consensus.state().clone(),
            me: id,
            barrier: Arc::new(move || {
                let barrier = barrier.clone();
                Box::pin(
                    async move { barrier.pass().await.map_err(|e| BarrierError(e.to_string())) },
                )
            }),
            clock: clock.clone(),
        };
        let (tracker, tracking) = Tracker::spawn(tracker, ports, token.clone())?;
        tasks.spawn(async move {
            tracking.await.map_err(|error| FatalError::Stopped(format!("the tracker: {error}")))
        });
        let sources = Sources {
            ipfs: ipfs.clone(),
            tracker: tracker.clone(),
            volume,
            tags,
            addresses: member.addresses.clone(),
        };
        let metrics = watch::Sender::new(sources.unknown());
        let known = metrics.subscribe();
        let stop = token.clone();
        tasks.spawn(async move {
            sources.run(metrics, stop).await;
            Ok(())
        });
        let parts = Parts {
            id,
            member,
            consensus: consensus.clone(),
            transport,
            ipfs,
            tracker: tracker.clone(),
            addresses,
            metrics: known,
            clock,
            join,
            gc,
            moves,
        };
        let cluster = Cluster::start(parts, inbound, &mut tasks, &token);
        Ok(Self { cluster, tracker, consensus, tasks, token, network: None, folder: None })
    }

    /// Resolves when the peer cannot continue; returns the reason.
    pub async fn failed(&mut self) -> FatalError {
        loop {
            let network = self.network.as_mut().map(|(task, _)| task);
            tokio::select! {
                ended = self.tasks.join_next() => match ended {
                    Some(Ok(Ok(()))) => {}
                    Some(Ok(Err(FatalError::Consensus(reason)))) => {
                        if let Some(what) = self.consensus.not_known().borrow().clone() {
                            return FatalError::NotKnown(what);
                        }
                        let folder = self.folder.as_ref();
                        let of = folder.map(|folder| format!(" (its data is in {folder})"));
                        return FatalError::Consensus(reason + &of.unwrap_or_default());
                    }
                    Some(Ok(Err(error))) => return error,
                    Some(Err(error)) => return FatalError::Stopped(error.to_string()),
                    None => return FatalError::Stopped("every task has ended".to_owned()),
                },
                Some(ended) = OptionFuture::from(network) => {
                    self.network = None;
                    let why = ended.map_or_else(|error| error.to_string(), |()| "it ended".to_owned());
                    return FatalError::Stopped(format!("the network: {why}"));
                }
            }
        }
    }

    /// Hands over leadership if it has it, then stops every task and consensus.
    pub async fn stop(mut self) {
        self.cluster.hand_over().await;
        self.token.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.consensus.shutdown().await;
        if let Some((task, token)) = self.network.take() {
            token.cancel();
            if let Err(error) = task.await {
                tracing::warn!(%error, "the network did not end cleanly");
            }
        }
    }
}

/// A dropped peer does nothing more, as after a crash.
impl Drop for Peer {
    fn drop(&mut self) {
        self.token.cancel();
        if let Some((_, token)) = &self.network {
            token.cancel();
        }
    }
}
