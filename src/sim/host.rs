//! One peer's machine: its disks, its daemon, its clock, and the process that runs on it.
//!
//! The machine outlives its process: [`Host::crash`] loses unsynced data, and [`Host::start`] runs the
//! whole peer on the remaining data. Worlds own hosts and the one network between them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::FutureExt as _;
use tokio::sync::mpsc;

use super::{
    disk::{SimDisk, SimFile},
    log::SimLog,
    network::SimNetwork,
};
use crate::{
    clock::{Clock, SimulatedClock},
    cluster::{AddressBook, FatalError, GcPolicy, JoinPolicy, MovePolicy},
    consensus::{Checkpoints, StateStore, StoreError, Stores, Timing},
    ipfs::fake::StandInDaemon,
    peer::{AssembleError, Assembly, Peer},
    tracker::{self, Ledger, LedgerError, LedgerPort},
    types::{Cid, Member, PeerId, Program, Timestamp},
};

/// Most queued requests for one peer.
const INBOUND_MAX: usize = 256;
/// Default timing of Raft.
const TIMING: Timing = Timing {
    heartbeat: Duration::from_millis(100),
    election_min: Duration::from_millis(300),
    election_max: Duration::from_millis(500),
};
/// As by default.
const MOVES: MovePolicy =
    MovePolicy { after: Duration::from_secs(300), zone_after: Duration::from_secs(3600) };
/// Initial time of all hosts' clocks.
const START: Timestamp = Timestamp(1_700_000_000_000);

/// Parameters of a host.
#[derive(Clone, Debug)]
pub struct Make {
    /// The peer's identity.
    pub id: PeerId,
    /// The peer's name, and its addresses (which the simulated network does not need).
    pub member: Member,
    /// Duration of a sync of the log.
    pub sync_time: Duration,
    /// Time that the daemon takes per pin.
    pub pin_time: Duration,
}

/// A machine, with or without a running peer.
#[derive(Debug)]
pub struct Host {
    /// The peer's identity.
    pub id: PeerId,
    /// The peer's name and addresses.
    pub member: Member,
    /// The daemon beside the peer; a crash of the peer does not affect it.
    pub daemon: StandInDaemon,
    /// The machine's wall clock.
    pub clock: SimulatedClock,
    /// The disk with the peer's log and state.
    pub disk: SimDisk,
    /// The daemon's volume, which also has the ledger.
    pub volume: SimDisk,
    /// The tracker's limits, from the next start on.
    pub tracker: tracker::Config,
    /// Raft's timing, from the next start on; the defaults of `config`.
    pub timing: Timing,
    /// When Raft's log is purged, from the next start on.
    pub checkpoints: Checkpoints,
    /// The level of its program, from the next start on.
    pub program: Program,
    /// When garbage is collected automatically, from the next start on.
    pub gc: Option<GcPolicy>,
    /// When copies of absent members move to others, from the next start on.
    pub moves: MovePolicy,
    /// The running process; absent after a crash and before the start.
    pub peer: Option<Peer>,
    /// What a former peer on this volume pinned: it stays, unless it is wanted and released here.
    pub former: BTreeSet<Cid>,
    network: SimNetwork,
    log: SimLog,
    state: SimFile,
    ledger: SimFile,
    pin_time: Duration,
}

/// Why a peer did not start from its disks.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The state cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The parts do not fit together.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
}

impl Host {
    /// A machine on `network` with empty disks and an empty daemon; its peer does not run. Must be
    /// called within the world's runtime.
    #[must_use]
    pub fn new(make: Make, network: SimNetwork) -> Self {
        let (disk, volume) = (SimDisk::new(make.sync_time), SimDisk::new(make.sync_time));
        Self {
            id: make.id,
            daemon: StandInDaemon::new(&format!("daemon of {}", make.member.name), make.pin_time),
            member: make.member,
            clock: SimulatedClock::new(START),
            timing: TIMING,
            checkpoints: Checkpoints::default(),
            program: Program::default(),
            gc: None,
            moves: MOVES,
            peer: None,
            former: BTreeSet::new(),
            network,
            log: SimLog::new(disk.clone()),
            state: SimFile::new(disk.clone()),
            ledger: SimFile::new(volume.clone()),
            tracker: tracker::Config::default(),
            pin_time: make.pin_time,
            disk,
            volume,
        }
    }

    /// Starts the peer; while blank it joins by `join`.
    ///
    /// # Errors
    /// When its disks cannot be used; the peer does not run then.
    pub async fn start(&mut self, join: JoinPolicy) -> Result<(), HostError> {
        self.daemon.forget_answers();
        let ledger = self.ledger.clone();
        let (inbound, requests) = mpsc::channel(INBOUND_MAX);
        let transport = self.network.connect(self.id, inbound);
        let assembly = Assembly {
            id: self.id,
            member: self.member.clone(),
            timing: self.timing,
            checkpoints: self.checkpoints,
            program: self.program,
            stores: Stores {
                log: self.log.clone(),
                flushed: self.log.flushed(),
                state: StateStore::with_backend(self.state.clone())?,
            },
            transport: Arc::new(transport),
            inbound: requests,
            ipfs: Arc::new(self.daemon.client()),
            ledger: LedgerPort::Slow(
                Ledger::with_backend(move || ledger.clone())?,
                self.volume.sync_ms(),
            ),
            tracker: self.tracker,
            addresses: AddressBook::default(),
            volume: None,
            tags: BTreeMap::new(),
            clock: Clock::Simulated(self.clock.clone()),
            join,
            gc: self.gc,
            moves: self.moves,
        };
        self.peer = Some(Peer::assemble(assembly).await?);
        Ok(())
    }

    /// The peer's log, until it crashes.
    #[must_use]
    pub fn log(&self) -> SimLog {
        self.log.clone()
    }

    /// Removes the log from the disk of a stopped process; the state stays.
    #[must_use]
    pub fn lose_log(&mut self) -> SimLog {
        std::mem::replace(&mut self.log, SimLog::new(self.disk.clone()))
    }

    /// Restores the lost log.
    pub fn put_back(&mut self, log: SimLog) {
        self.log = log;
    }

    /// The disk of a stopped process is lost: another peer of the same name starts on an empty one. Without
    /// the volume the daemon is another one, too.
    pub fn lose_disk(&mut self, id: PeerId, keeps_volume: bool) {
        self.id = id;
        self.log = SimLog::new(self.disk.clone());
        self.state = SimFile::new(self.disk.clone());
        if keeps_volume {
            self.former.extend(self.daemon.held());
            return;
        }
        let name = format!("daemon of {} as {id}", self.member.name);
        self.daemon = StandInDaemon::new(&name, self.pin_time);
        self.ledger = SimFile::new(self.volume.clone());
        self.former.clear();
    }

    /// Why the process cannot continue, if so.
    pub fn failure(&mut self) -> Option<FatalError> {
        self.peer.as_mut()?.failed().now_or_never()
    }

    /// Ends the process abruptly; unsynced data may be lost.
    pub fn crash(&mut self) {
        self.network.disconnect(self.id);
        self.log = self.log.after_crash();
        self.state = self.state.after_crash();
        self.ledger = self.ledger.after_crash();
        self.peer = None;
    }

    /// Ends the process as at a SIGTERM: hands over leadership, and joins all tasks.
    pub async fn stop(&mut self) {
        if let Some(peer) = self.peer.take() {
            peer.stop().await;
        }
        self.crash();
    }
}
