//! A world: peers on their hosts, clients (users and controllers), and faults, all from one seed.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{task::JoinSet, time::Instant};

use super::{
    absences::Absences,
    clients::{Client, Object},
    host::{Host, Make},
    judge::Judge,
    log::SimLog,
    losses::Losses,
    more::More,
    network::SimNetwork,
    storms::Storms,
    trace::Trace,
};
use crate::{
    clock::Clock,
    cluster::{FatalError, FoundError, JoinPolicy},
    state::{Found, PinSet},
    tracker,
    types::{
        Cid, ClaimName, ClaimOptions, ClusterId, Factor, Member, PeerId, PinRequest, PinState,
        Replication, Uid,
    },
};

/// Virtual time after the faults within which everything requested must become true: a request to a
/// hanging daemon is given up after a minute, and a pin that failed often waits longer.
const LIVENESS_DEADLINE: Duration = Duration::from_secs(300);
/// Longest duration of the faults.
const FAULTS_MAX: Duration = Duration::from_secs(60);
/// Most CIDs requested in one world.
const CIDS_MAX: u32 = 200;
/// Pin objects in one world.
const OBJECTS: usize = 12;
/// Number of the CIDs that some daemons hold from the start.
const FOREIGN: u32 = 6;

/// A world. It must be created and run in [`super::run_seeded`].
#[derive(Debug)]
pub struct World {
    pub(super) random: StdRng,
    pub(super) more: More,
    pub(super) storms: Storms,
    pub(super) losses: Losses,
    pub(super) absences: Absences,
    pub(super) network: SimNetwork,
    pub(super) hosts: Vec<Host>,
    /// When a host without a process starts one.
    pub(super) restarts: Vec<Instant>,
    /// Logs that their hosts have lost.
    pub(super) lost_logs: Vec<Option<SimLog>>,
    pub(super) judge: Judge,
    pub(super) trace: Trace,
    /// Number of CIDs requested.
    pub(super) cids: u32,
    pub(super) objects: Vec<Object>,
    /// Requests under way at each host; they end with its process.
    pub(super) clients: Vec<JoinSet<()>>,
    /// The first host's founding; its process ends if this fails.
    pub(super) founding: JoinSet<Result<(), FoundError>>,
    faults_end: Instant,
}

impl World {
    /// Creates three or five peers, the first of which founds the cluster.
    pub async fn new(seed: u64, trace: Trace) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let network = SimNetwork::new(seed ^ 0x5eed);
        network.set_trace(trace.clone());
        let judge = Judge::new(trace.clone());
        let count = if seed % 4 == 3 { 5 } else { 3 };
        let mut hosts: Vec<Host> = (0..count).map(|n| host(n, &mut random, &network)).collect();
        hosts.iter().for_each(|host| judge.watch_daemon(host));
        let (more, storms, losses) = (More::draw(seed), Storms::draw(seed), Losses::draw(seed));
        let absences = Absences::draw(seed);
        for host in &mut hosts {
            more.configure(host);
            absences.configure(host);
        }
        judge.set_grace(absences.moves.after);
        // Most worlds are short, so that many can run.
        let longest = if random.random_bool(0.1) { FAULTS_MAX.as_secs() } else { 12 };
        let faults = Duration::from_secs(random.random_range(5..=longest));
        let faults = faults + more.longer() + storms.longer() + losses.longer();
        let faults = faults + absences.longer();
        let mut world = Self {
            network,
            restarts: vec![Instant::now(); hosts.len()],
            lost_logs: hosts.iter().map(|_| None).collect(),
            clients: hosts.iter().map(|_| JoinSet::new()).collect(),
            hosts,
            judge,
            trace,
            cids: random.random_range(10..=if longest > 12 { CIDS_MAX } else { 40 }),
            objects: Vec::new(),
            founding: JoinSet::new(),
            faults_end: Instant::now() + faults,
            random,
            more,
            storms,
            losses,
            absences,
        };
        for n in 0..world.hosts.len() {
            world.start(n).await;
        }
        world
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// The first violation, or a requirement that was not met in time.
    pub async fn run(&mut self) -> Result<(), String> {
        while Instant::now() < self.faults_end {
            self.step();
            self.step_more();
            self.step_storms();
            self.step_losses();
            self.step_absences();
            let pause = self.random.random_range(1..300);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            self.supervise().await;
            self.judge.check(&self.hosts)?;
        }
        self.heal();
        let deadline = Instant::now() + LIVENESS_DEADLINE;
        loop {
            self.supervise().await;
            self.judge.check(&self.hosts)?;
            match self.unsettled() {
                None => return Ok(()),
                Some(reason) if Instant::now() >= deadline => return Err(reason),
                Some(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
            self.control_all();
        }
    }

    /// Performs one random step.
    fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..26 => {
                let request = PinRequest { cid: self.any_cid(), options: self.any_options(false) };
                self.ask(|client| client.pin(request));
            }
            26..38 => {
                let cid = self.any_cid();
                self.ask(|client| client.unpin(cid));
            }
            38..44 => {
                let cid = self.any_cid();
                self.ask(|client| client.look(cid));
            }
            44..46 => self.ask(Client::list),
            46..48 => self.crowd(),
            48..60 => self.change_object(),
            60..66 => self.crash_some(),
            66..80 => self.disturb_network(),
            80..94 => self.disturb_daemon(),
            94..98 => self.disturb_disk(),
            _ => self.disturb_clock(),
        }
    }

    fn any_cid(&mut self) -> Cid {
        cid_of(self.random.random_range(0..self.cids))
    }

    fn any_options(&mut self, retain: bool) -> ClaimOptions {
        let max = self.random.random_range(1..=3);
        let min = self.random.random_range(1..=max);
        let max =
            if self.random.random_bool(0.1) { Factor::Everywhere } else { Factor::Count(max) };
        let replication = Replication { min: Factor::Count(min), max };
        ClaimOptions { replication, retain, name: ClaimName::default() }
    }

    /// A client asks a peer.
    fn ask<F: Future<Output = ()> + Send + 'static>(&mut self, ask: impl FnOnce(Client) -> F) {
        let n = self.random.random_range(0..self.hosts.len());
        let patience = Duration::from_millis(self.random.random_range(50..12_000));
        if let Some(client) = self.client(n, patience) {
            self.clients[n].spawn(ask(client));
        }
    }

    /// Many clients ask all peers about one CID within moments.
    pub(super) fn crowd(&mut self) {
        let cid = self.any_cid();
        for n in (0..self.hosts.len()).flat_map(|n| [n; 5]) {
            let wait = Duration::from_millis(self.random.random_range(300..1_200));
            let (request, kind) = (
                PinRequest { cid, options: self.any_options(false) },
                self.random.random_range(0..3),
            );
            let Some(client) = self.client(n, Duration::from_secs(3)) else { continue };
            self.clients[n].spawn(async move {
                tokio::time::sleep(wait).await;
                match kind {
                    0 => client.pin(request).await,
                    1 => client.unpin(cid).await,
                    _ => client.look(cid).await,
                }
            });
        }
    }

    /// A host whose peer believes that it leads.
    pub(super) fn leader(&self) -> Option<usize> {
        self.hosts.iter().position(|host| {
            host.peer.as_ref().is_some_and(|peer| peer.cluster.leadership().borrow().local)
        })
    }

    pub(super) fn client(&self, n: usize, patience: Duration) -> Option<Client> {
        let cluster = self.hosts[n].peer.as_ref()?.cluster.clone();
        Some(Client { judge: self.judge.clone(), trace: self.trace.clone(), cluster, patience })
    }

    /// Creates, changes or deletes an object, and notifies the controllers.
    fn change_object(&mut self) {
        let retain = self.random.random_bool(0.2);
        let (cid, options) = (self.any_cid(), self.any_options(retain));
        let number = self.objects.len();
        let chosen = self.random.random_range(0..OBJECTS);
        let object = match self.objects.get_mut(chosen) {
            Some(object) if object.deleted => return,
            Some(object) => {
                object.deleted = self.random.random_bool(0.4);
                if !object.deleted {
                    object.options = options;
                    object.generation += 1;
                }
                object.clone()
            }
            None => {
                let uid = Uid(format!("object-{number}"));
                let object = Object { uid, cid, options, generation: 1, deleted: false };
                self.objects.push(object.clone());
                object
            }
        };
        self.control(&object);
    }

    /// The controllers of every peer that believes that it leads examine an object.
    pub(super) fn control(&mut self, object: &Object) {
        if object.deleted && self.storms.many {
            return self.sweep(std::slice::from_ref(object), Found::Compared);
        }
        for n in 0..self.hosts.len() {
            let at = Clock::Simulated(self.hosts[n].clock.clone()).now();
            if let Some(client) = self.client(n, Duration::from_secs(5)) {
                self.clients[n].spawn(client.control(object.clone(), at));
            }
        }
    }

    /// The same for many deleted objects together.
    pub(super) fn sweep(&mut self, gone: &[Object], found: Found) {
        for n in 0..self.hosts.len() {
            let at = Clock::Simulated(self.hosts[n].clock.clone()).now();
            if let Some(client) = self.client(n, Duration::from_secs(5)) {
                self.clients[n].spawn(client.sweep(gone.to_vec(), found, at));
            }
        }
    }

    fn control_all(&mut self) {
        if self.clients.iter().any(|under_way| !under_way.is_empty()) {
            return;
        }
        for object in self.objects.clone() {
            let settled = {
                let watched = self.judge.watched();
                object.is_settled(watched.history.pins().get(&object.cid))
            };
            if !settled {
                self.control(&object);
            }
        }
    }

    /// Ends processes that cannot continue, and restarts those whose time has come.
    async fn supervise(&mut self) {
        if let Some(Ok(Err(error))) = self.founding.try_join_next() {
            self.crash(0, &error.to_string());
        }
        for n in 0..self.hosts.len() {
            while self.clients[n].try_join_next().is_some() {}
            if let Some(error) = self.hosts[n].failure() {
                self.crash(n, &error.to_string());
                if error == FatalError::Removed {
                    self.was_removed(n);
                }
            }
            if self.hosts[n].peer.is_none() && self.restarts[n] <= Instant::now() {
                self.start(n).await;
            }
        }
    }

    async fn start(&mut self, n: usize) {
        let join = if n == 0 { JoinPolicy::Wait } else { JoinPolicy::Any };
        let started = self.hosts[n].start(join).await;
        if let Some(log) = self.lost_logs[n].take() {
            if started.is_ok() {
                self.judge.accuse(&format!("peer-{n} takes part again over an empty log"));
            }
            self.hosts[n].put_back(log);
        }
        match started {
            Ok(()) => {
                self.trace.note(format!("peer-{n} starts"));
                self.judge.watch_peer(&self.hosts[n]);
                if n == 0 {
                    self.found();
                }
            }
            Err(error) => {
                self.trace.note(format!("peer-{n} does not start: {error}"));
                self.restarts[n] = Instant::now() + Duration::from_secs(1);
            }
        }
    }

    /// The first host founds the cluster, again if a crash interrupted that.
    fn found(&mut self) {
        let Some(peer) = &self.hosts[0].peer else { return };
        let cluster = peer.cluster.clone();
        if cluster.members().is_empty() {
            self.founding.spawn(async move { cluster.found(ClusterId([9; 16]), 1).await });
        }
    }

    /// The first requirement that is not met yet.
    fn unsettled(&self) -> Option<String> {
        let watched = self.judge.watched();
        let (pins, agreed) = (watched.history.pins(), watched.history.len());
        for (n, host) in self.hosts.iter().enumerate() {
            let Some(peer) = &host.peer else { return Some(format!("peer-{n} does not run")) };
            let members = peer.cluster.members().len();
            if members != self.hosts.len() {
                return Some(format!("peer-{n} knows {members} members"));
            }
            if peer.cluster.is_joint() {
                return Some(format!("peer-{n} knows of two sets of voters"));
            }
            let entries = peer.cluster.state().entries();
            if entries != agreed {
                return Some(format!("peer-{n} has {entries} of {agreed} entries"));
            }
        }
        let unsettled = self.objects.iter().find(|o| !o.is_settled(pins.get(&o.cid)));
        if let Some(object) = unsettled {
            return Some(format!("the state does not agree with {object:?}"));
        }
        self.misallocated(pins).or_else(|| self.misheld(pins)).or_else(|| self.misreported(pins))
    }

    fn misallocated(&self, pins: &PinSet) -> Option<String> {
        pins.iter().find_map(|(cid, pin)| {
            let wanted = pin.replication().wanted(self.hosts.len()).min(self.hosts.len());
            let wrong =
                pin.holders().count() != wanted || pin.allocations.iter().any(|a| a.leaving);
            wrong.then(|| format!("{cid} is on {:?}, wanted {wanted}", pin.allocations))
        })
    }

    fn misheld(&self, pins: &PinSet) -> Option<String> {
        self.hosts.iter().find_map(|host| {
            let mut wanted = host.daemon.foreign();
            wanted.extend(pins.iter().filter(|(_, pin)| pin.is_on(host.id)).map(|(cid, _)| cid));
            let (held, strays) = (host.daemon.held(), host.daemon.strays());
            let mut wrongs = held.symmetric_difference(&wanted);
            let is_left = |cid: &Cid| strays.contains(cid) || host.former.contains(cid);
            let wrong = wrongs.find(|cid| wanted.contains(*cid) || !is_left(cid))?;
            let status = host.peer.as_ref().and_then(|peer| peer.tracker.status(wrong));
            let name = &host.member.name;
            Some(format!("{wrong} is held by {name}: {}; {status:?}", held.contains(wrong)))
        })
    }

    /// Checks that each peer reports Pinned exactly for the pins on it.
    fn misreported(&self, pins: &PinSet) -> Option<String> {
        self.hosts.iter().find_map(|host| {
            let tracker = &host.peer.as_ref()?.tracker;
            pins.iter().find_map(|(cid, pin)| {
                let status = tracker.status(&cid);
                let pinned = status.as_ref().is_some_and(|of| of.state == PinState::Pinned);
                (pinned != pin.is_on(host.id))
                    .then(|| format!("{} reports {cid} as {status:?}", host.member.name))
            })
        })
    }
}

fn host(n: u8, random: &mut StdRng, network: &SimNetwork) -> Host {
    let make = Make {
        id: PeerId([n + 1; 32]),
        member: Member { name: format!("peer-{n}"), addresses: vec![format!("/sim/{n}")] },
        pin_time: Duration::from_millis(random.random_range(1..700)),
        sync_time: Duration::from_millis(random.random_range(0..4)),
    };
    let mut host = Host::new(make, network.clone());
    // Comparisons with the daemon's list must find everything while the world lasts.
    host.tracker = tracker::Config {
        compare_period: Duration::from_secs(20),
        stall_time: Duration::from_secs(10),
        ..tracker::Config::default()
    };
    // Some ledgers are always slow: a crash can then come between an intent and its pin.
    if random.random_bool(0.3) {
        host.volume.set_sync_time(Duration::from_millis(random.random_range(0..1_500)));
    }
    for cid in 0..FOREIGN {
        if random.random_bool(0.5) {
            host.daemon.pin_foreign(cid_of(cid));
        }
    }
    host
}

/// The CID with number `n`, the same in every world.
#[must_use]
pub fn cid_of(n: u32) -> Cid {
    let hash = cid::multihash::Multihash::wrap(0, &n.to_be_bytes()).unwrap_or_default();
    Cid::from(cid::Cid::new_v1(0x55, hash))
}
