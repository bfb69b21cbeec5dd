//! Rolling upgrades: members restart with programs of two levels, in both directions, while they crash
//! and are cut off. Until the cluster's level is raised both programs take part; afterwards the older
//! one is refused with the reason, and the others continue.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::{Instant, sleep};

use super::{
    host::{Host, HostError, Make},
    network::SimNetwork,
    run_seeded,
};
use crate::{
    cluster::{Cluster, FatalError, JoinPolicy},
    consensus::{OpenError, ProposeError},
    peer::AssembleError,
    state::Op,
    types::{
        ClaimName, ClaimOptions, ClusterId, FIRST_LEVEL, Factor, Member, PeerId, PinRequest,
        Program, Replication,
    },
};

/// Seeds of every run, and with `PINKEEPER_SOAK`.
const SEEDS: (u64, u64) = (6, 100);
const CLUSTER: ClusterId = ClusterId([7; 16]);
const RAISE_AFTER: Duration = Duration::from_secs(15);
const OLD: Program = Program { level: FIRST_LEVEL, raise_after: RAISE_AFTER };
const NEW: Program = Program { level: FIRST_LEVEL + 1, raise_after: RAISE_AFTER };
/// Virtual time of restarts.
const ROLLING: Duration = Duration::from_secs(120);
/// Virtual time within which all must reach one level.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);

struct Upgrades {
    hosts: Vec<Host>,
    network: SimNetwork,
    random: StdRng,
    /// Number of programs that were refused or stopped.
    refused: u32,
    /// Number of ops of the new level that were refused before the cluster reached it, and of those
    /// written.
    early: u32,
    written: u32,
}

fn host(n: u8, network: &SimNetwork) -> Host {
    let member = Member { name: format!("pod-{n}"), addresses: vec![format!("/{n}")] };
    let (sync_time, pin_time) = (Duration::from_millis(1), Duration::from_millis(10));
    let make = Make { id: PeerId([n; 32]), member, sync_time, pin_time };
    let mut host = Host::new(make, network.clone());
    host.program = OLD;
    host
}

fn level(cluster: &Cluster) -> u32 {
    cluster.state().read(|pins| pins.level())
}

impl Upgrades {
    async fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let network = SimNetwork::new(seed);
        let mut hosts: Vec<Host> =
            (1..=random.random_range(2..=5)).map(|n| host(n, &network)).collect();
        for host in &mut hosts {
            host.start(JoinPolicy::Only(CLUSTER)).await.unwrap();
        }
        hosts[0].peer.as_ref().unwrap().cluster.found(CLUSTER, 1).await.unwrap();
        Self { hosts, network, random, refused: 0, early: 0, written: 0 }
    }

    fn clusters(&self) -> impl Iterator<Item = (&Host, &Cluster)> {
        self.hosts.iter().filter_map(|host| Some((host, &host.peer.as_ref()?.cluster)))
    }

    fn is_raised(&self) -> bool {
        self.clusters().any(|(_, cluster)| level(cluster) > OLD.level)
    }

    /// Checks that a program was refused or stopped only for its level.
    fn check_refused(&mut self, n: usize, why: &str) {
        assert_eq!(self.hosts[n].program, OLD, "{why}");
        assert!(why.contains("level 2") && why.contains("levels up to 1"), "{why}");
        self.refused += 1;
        self.hosts[n].program = NEW;
    }

    async fn start(&mut self, n: usize) {
        match self.hosts[n].start(JoinPolicy::Only(CLUSTER)).await {
            Ok(()) => {}
            Err(HostError::Assemble(AssembleError::Consensus(error @ OpenError::NotKnown(_)))) => {
                self.check_refused(n, &error.to_string());
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn look_for_failures(&mut self) {
        for n in 0..self.hosts.len() {
            match self.hosts[n].failure() {
                None => {}
                Some(FatalError::NotKnown(why)) => {
                    self.check_refused(n, &why);
                    self.hosts[n].crash();
                }
                Some(error) => panic!("{error}"),
            }
        }
    }

    /// Restarts a member with either program, later more often with the newer one.
    async fn restart(&mut self, newer: f64) {
        let n = self.random.random_range(0..self.hosts.len());
        if self.hosts[n].peer.is_some() {
            match self.random.random_bool(0.5) {
                true => self.hosts[n].stop().await,
                false => self.hosts[n].crash(),
            }
            sleep(Duration::from_millis(self.random.random_range(0..3_000))).await;
        }
        self.hosts[n].program = if self.random.random_bool(newer) { NEW } else { OLD };
        self.start(n).await;
    }

    fn cut(&mut self) {
        let ways = [0, 1].map(|_| self.random.random_range(0..self.hosts.len()));
        let [from, to] = ways.map(|n| self.hosts[n].id);
        self.network.set_way_cut(from, to, true);
    }

    /// The presumed leader proposes an op of the new level, and a user pins.
    async fn write(&mut self) {
        let led = self.clusters().find(|(_, cluster)| cluster.leadership().borrow().local);
        let Some((host, cluster)) = led else { return };
        let (program, cluster) = (host.program, cluster.clone());
        let (term, before) = (cluster.leadership().borrow().term, level(&cluster));
        match cluster.submit(term, vec![Op::Next]).await {
            Ok(_) => {
                assert_eq!((level(&cluster), program), (NEW.level, NEW));
                self.written += 1;
            }
            Err(ProposeError::TooEarly { .. }) => {
                assert_eq!(before, OLD.level);
                self.early += 1;
            }
            Err(_) => {}
        }
        let hash = cid::multihash::Multihash::wrap(0, &self.written.to_be_bytes()).unwrap();
        let one = Factor::Count(1);
        let replication = Replication { min: one, max: one };
        let options = ClaimOptions { replication, retain: false, name: ClaimName::default() };
        let cid = cid::Cid::new_v1(0x55, hash).into();
        // It may fail: the leader may be cut off.
        let _ = cluster.pin(PinRequest { cid, options }).await;
    }

    async fn roll(&mut self) {
        let start = Instant::now();
        while start.elapsed() < ROLLING {
            let newer = 0.3 + 0.6 * start.elapsed().as_secs_f64() / ROLLING.as_secs_f64();
            match self.random.random_range(0..10) {
                0..3 => self.restart(newer).await,
                3..5 => self.cut(),
                5..7 => self.network.heal(),
                _ => self.write().await,
            }
            sleep(Duration::from_millis(self.random.random_range(0..3_000))).await;
            self.look_for_failures();
        }
    }

    /// Starts all with the newer program. Then the level must be raised, and all must apply the same
    /// entries.
    async fn settle(&mut self) {
        self.network.heal();
        for n in 0..self.hosts.len() {
            self.hosts[n].crash();
            self.hosts[n].program = NEW;
            self.start(n).await;
        }
        let until = Instant::now() + SETTLED_WITHIN;
        let is_settled = |upgrades: &Self| {
            let mut entries = upgrades.clusters().map(|(_, cluster)| cluster.state().entries());
            let first = entries.next();
            upgrades.clusters().all(|(_, cluster)| level(cluster) == NEW.level)
                && entries.all(|count| Some(count) == first)
        };
        while !is_settled(self) {
            assert!(Instant::now() < until, "the level is not raised everywhere");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Starts a member with the older program. It must be refused, and the others must continue.
    async fn go_back(&mut self) {
        let n = self.random.random_range(0..self.hosts.len());
        let refused = self.refused;
        self.hosts[n].stop().await;
        self.hosts[n].program = OLD;
        self.start(n).await;
        assert_eq!(self.refused, refused + 1, "refused at the start");
        let written = self.written;
        let until = Instant::now() + SETTLED_WITHIN;
        while self.hosts.len() > 2 && self.written == written {
            assert!(Instant::now() < until, "the others do not continue");
            self.write().await;
            sleep(Duration::from_millis(500)).await;
        }
    }
}

#[test]
fn members_of_two_levels_take_part_until_the_level_is_raised_and_never_afterwards() {
    let (mut refused, mut early, mut raised) = (0, 0, 0);
    let soak = std::env::var_os("PINKEEPER_SOAK").is_some();
    for seed in 0..if soak { SEEDS.1 } else { SEEDS.0 } {
        let met = run_seeded(seed, async {
            let mut upgrades = Upgrades::new(seed).await;
            upgrades.roll().await;
            let raised = upgrades.is_raised();
            upgrades.settle().await;
            let rolled = (upgrades.refused, upgrades.early, u32::from(raised));
            upgrades.go_back().await;
            rolled
        });
        (refused, early, raised) = (refused + met.0, early + met.1, raised + met.2);
    }
    assert!(refused > 0, "no program was refused during the restarts");
    assert!(early > 0, "no op of the new level was proposed too early");
    assert!(raised > 0, "the level was never raised during the restarts");
}
