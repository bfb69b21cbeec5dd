//! A world: peers with their disks and daemons, and an oracle of what was acknowledged.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{sync::mpsc, time::Instant};

use super::{disk::SimFile, log::SimLog, network::SimNetwork};
use crate::{
    clock::Clock,
    cluster::{AddressBook, JoinPolicy, UseCaseError},
    consensus::{StateStore, Stores, Timing, seed_randomness},
    ipfs::fake::StandInDaemon,
    peer::{Assembly, Peer},
    state::PinSet,
    tracker::{self, Ledger, LedgerPort},
    types::{
        Cid, ClaimOptions, ClusterId, Factor, Member, PeerId, PinRequest, PinState, Replication,
        Timestamp,
    },
};

/// Requests waiting for one peer.
const INBOUND_MAX: usize = 256;
/// Virtual time everything asked has to become true in, once faults have ended.
const LIVENESS_DEADLINE: Duration = Duration::from_secs(60);

/// One peer's machine: what survives its process.
#[derive(Debug)]
struct Host {
    id: PeerId,
    log: SimLog,
    state: SimFile,
    ledger: SimFile,
    daemon: StandInDaemon,
    peer: Option<Peer>,
}

/// What is known of a CID from the answers users got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The last request was a pin, and it was acknowledged.
    Pinned,
    /// The last request was an unpin, and it was acknowledged.
    Unpinned,
    /// A request got no answer: it may or may not have taken effect.
    Unknown,
}

/// A world.
#[derive(Debug)]
pub struct World {
    random: StdRng,
    network: SimNetwork,
    hosts: Vec<Host>,
    clock: Clock,
    foreign: BTreeSet<Cid>,
    asked: BTreeMap<Cid, Asked>,
    trace: Vec<String>,
}

impl World {
    /// `count` peers, the first of which founds the cluster. Must run on a current-thread runtime
    /// with a paused clock.
    pub async fn new(seed: u64, count: u8) -> Self {
        seed_randomness(seed);
        let mut random = StdRng::seed_from_u64(seed);
        let foreign: BTreeSet<Cid> = (1000..1005).map(cid_of).collect();
        let hosts = (0..count)
            .map(|n| {
                let pin_time = Duration::from_millis(random.random_range(1..200));
                let daemon = StandInDaemon::new(&format!("daemon-{n}"), pin_time);
                foreign.iter().for_each(|cid| daemon.pin_foreign(*cid));
                Host {
                    id: PeerId([n + 1; 32]),
                    log: SimLog::new(Duration::from_millis(random.random_range(0..4))),
                    state: SimFile::default(),
                    ledger: SimFile::default(),
                    daemon,
                    peer: None,
                }
            })
            .collect();
        let clock =
            Clock::Simulated { start: Timestamp(1_700_000_000_000), origin: Instant::now() };
        let network = SimNetwork::new(seed ^ 0x5eed);
        let mut world = Self {
            random,
            network,
            hosts,
            clock,
            foreign,
            asked: BTreeMap::new(),
            trace: Vec::new(),
        };
        for n in 0..world.hosts.len() {
            world.start(n).await;
        }
        world
    }

    /// The first host founds the cluster, and again if a crash broke that off.
    fn found(&self) {
        let Some(peer) = &self.hosts[0].peer else { return };
        let cluster = peer.cluster.clone();
        if cluster.members().is_empty() {
            tokio::spawn(async move { cluster.found(ClusterId([9; 16]), 1).await });
        }
    }

    /// What happened, for a person who looks at a failed world.
    #[must_use]
    pub fn trace(&self) -> String {
        self.trace.join("\n")
    }

    fn note(&mut self, what: String) {
        self.trace.push(format!("{} {what}", self.clock.now()));
    }

    async fn start(&mut self, n: usize) {
        let (inbound, requests) = mpsc::channel(INBOUND_MAX);
        let host = &self.hosts[n];
        let transport = self.network.connect(host.id, inbound);
        let assembled = async {
            let stores = Stores {
                log: host.log.clone(),
                flushed: host.log.flushed(),
                state: StateStore::with_backend(host.state.clone()).map_err(|e| e.to_string())?,
            };
            let ledger = Ledger::with_backend(host.ledger.clone()).map_err(|e| e.to_string())?;
            let assembly = Assembly {
                id: host.id,
                member: Member { name: format!("peer-{n}"), addresses: vec![format!("/sim/{n}")] },
                timing: Timing {
                    heartbeat: Duration::from_millis(100),
                    election_min: Duration::from_millis(300),
                    election_max: Duration::from_millis(500),
                },
                stores,
                transport: std::sync::Arc::new(transport),
                inbound: requests,
                ipfs: std::sync::Arc::new(host.daemon.clone()),
                ledger: LedgerPort::Inline(ledger),
                tracker: tracker::Config::default(),
                addresses: AddressBook::default(),
                volume: None,
                tags: BTreeMap::new(),
                clock: self.clock,
                join: if n == 0 { JoinPolicy::Wait } else { JoinPolicy::Any },
                gc: None,
            };
            Peer::assemble(assembly).await.map_err(|e| e.to_string())
        };
        match assembled.await {
            Ok(peer) => {
                self.hosts[n].peer = Some(peer);
                if n == 0 {
                    self.found();
                }
            }
            Err(error) => self.note(format!("peer-{n} did not start: {error}")),
        }
    }

    /// The process of a peer ends without warning; what was not synced is lost.
    pub fn crash(&mut self, n: usize) {
        self.note(format!("peer-{n} crashes"));
        let host = &mut self.hosts[n];
        self.network.disconnect(host.id);
        host.log = host.log.after_crash();
        host.state = host.state.after_crash();
        host.ledger = host.ledger.after_crash();
        host.peer = None;
    }

    /// Does one random thing and lets a little time pass.
    pub async fn step(&mut self) {
        let n = self.random.random_range(0..self.hosts.len());
        match self.random.random_range(0..100) {
            0..45 => self.ask(n, true).await,
            45..60 => self.ask(n, false).await,
            60..68 if self.running() > self.hosts.len() / 2 + 1 => self.crash(n),
            60..76 if self.hosts[n].peer.is_none() => {
                self.note(format!("peer-{n} starts"));
                self.start(n).await;
            }
            76..84 => {
                let cut = self.random.random_bool(0.5);
                self.note(format!("peer-{n} cut off: {cut}"));
                self.network.set_cut(self.hosts[n].id, cut);
            }
            84..88 => {
                let loss = self.random.random_range(0..100);
                self.network.set_loss(loss);
            }
            88..92 => {
                self.note(format!("daemon-{n} restarts"));
                self.hosts[n].daemon.restart();
            }
            92..96 => {
                let down = self.random.random_bool(0.5);
                self.note(format!("daemon-{n} down: {down}"));
                self.hosts[n].daemon.set_down(down);
            }
            _ => {}
        }
        let pause = self.random.random_range(0..400);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }

    fn running(&self) -> usize {
        self.hosts.iter().filter(|host| host.peer.is_some()).count()
    }

    async fn ask(&mut self, n: usize, pin: bool) {
        let cid = cid_of(self.random.random_range(0..40));
        let max = self.random.random_range(1..=3);
        let Some(peer) = &self.hosts[n].peer else { return };
        let cluster = peer.cluster.clone();
        let replication = Replication { min: Factor::Count(1), max: Factor::Count(max) };
        let options = ClaimOptions { replication, retain: false, name: String::new() };
        let asked = async {
            if pin {
                cluster.pin(PinRequest { cid, options }).await.map(|_| Asked::Pinned)
            } else {
                cluster.unpin(cid).await.map(|_| Asked::Unpinned)
            }
        };
        // A user gives up after a while; the request may still take effect.
        let patience = Duration::from_millis(self.random.random_range(50..3000));
        let answer = tokio::time::timeout(patience, asked).await;
        let known = match answer {
            Ok(Ok(known)) => known,
            // Also when an earlier try of the same request took effect without an answer.
            Ok(Err(UseCaseError::NotFound)) if !pin => Asked::Unpinned,
            Ok(Err(UseCaseError::NotFound | UseCaseError::Invalid(_))) => return,
            Ok(Err(_)) | Err(_) => Asked::Unknown,
        };
        self.note(format!("peer-{n} asked, pin {pin}, {cid}: {known:?}"));
        // A request without an answer may take effect at any later time.
        if self.asked.get(&cid) != Some(&Asked::Unknown) {
            self.asked.insert(cid, known);
        }
    }

    /// What must hold at every instant; says what does not.
    ///
    /// # Errors
    /// The violated invariant.
    pub fn check(&self) -> Result<(), String> {
        for (n, host) in self.hosts.iter().enumerate() {
            for cid in &self.foreign {
                if !host.daemon.holds(cid) {
                    return Err(format!("daemon-{n} lost foreign content {cid}"));
                }
            }
            let Some(peer) = &host.peer else { continue };
            for (cid, status) in peer.tracker.statuses() {
                if status.state == PinState::Pinned && !host.daemon.holds(&cid) {
                    return Err(format!(
                        "peer-{n} says Pinned of {cid}, its daemon does not hold it"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Faults end; everything asked must become true.
    ///
    /// # Errors
    /// What did not.
    pub async fn heal_and_converge(&mut self) -> Result<(), String> {
        self.note("faults end".to_owned());
        self.network.set_loss(0);
        for n in 0..self.hosts.len() {
            self.network.set_cut(self.hosts[n].id, false);
            self.hosts[n].daemon.set_down(false);
            if self.hosts[n].peer.is_none() {
                self.start(n).await;
            }
        }
        let deadline = Instant::now() + LIVENESS_DEADLINE;
        loop {
            self.check()?;
            match self.unsettled() {
                None => return Ok(()),
                Some(reason) if Instant::now() >= deadline => return Err(reason),
                Some(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    /// What is not yet as it must become.
    fn unsettled(&self) -> Option<String> {
        let mut states = Vec::new();
        for (n, host) in self.hosts.iter().enumerate() {
            let Some(peer) = &host.peer else { return Some(format!("peer-{n} does not run")) };
            if peer.cluster.members().len() != self.hosts.len() {
                return Some(format!("peer-{n} knows {} members", peer.cluster.members().len()));
            }
            states.push(peer.cluster.state().read(PinSet::clone));
        }
        let state = &states[0];
        if states.iter().any(|other| other != state) {
            return Some("the replicas of the state differ".to_owned());
        }
        for (cid, asked) in &self.asked {
            match asked {
                Asked::Pinned if state.get(cid).is_none() => {
                    return Some(format!("{cid} was acknowledged and is lost"));
                }
                Asked::Unpinned if state.get(cid).is_some() => {
                    return Some(format!("{cid} was unpinned and is still there"));
                }
                _ => {}
            }
        }
        for (cid, pin) in state.iter() {
            let wanted = pin.replication().max.of(self.hosts.len());
            if pin.holders().count() != wanted || pin.allocations.iter().any(|a| a.leaving) {
                return Some(format!(
                    "{cid} is allocated to {:?}, wanted {wanted}",
                    pin.allocations
                ));
            }
        }
        for (n, host) in self.hosts.iter().enumerate() {
            let mut wanted: BTreeSet<Cid> = self.foreign.clone();
            wanted.extend(state.iter().filter(|(_, pin)| pin.is_on(host.id)).map(|(cid, _)| *cid));
            if host.daemon.held() != wanted {
                return Some(format!(
                    "daemon-{n} holds {} pins, wanted {}",
                    host.daemon.held().len(),
                    wanted.len()
                ));
            }
        }
        None
    }
}

/// The CID with number `n`, the same in every world.
fn cid_of(n: u32) -> Cid {
    let hash = cid::multihash::Multihash::wrap(0, &n.to_be_bytes()).unwrap_or_default();
    Cid::from(cid::Cid::new_v1(0x55, hash))
}
