//! Whole peers on stand-in daemons, with a paused clock.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::{
    cluster::{JoinPolicy, MovePolicy},
    sim::{
        host::{Host, Make},
        network::SimNetwork,
        run_seeded,
    },
    types::{
        Allocation, ClaimName, ClaimOptions, ClusterId, Factor, Member, PinRequest, Replication,
        Write,
    },
};

const CLUSTER: ClusterId = ClusterId([7; 16]);
const GRACE: Duration = Duration::from_secs(60);
/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(600);

/// Peers; the first one leads at the beginning.
struct Town {
    hosts: Vec<Host>,
    /// Log length when the first pins were all there; 0 before.
    settled_at: AtomicU64,
}

impl Town {
    async fn new(count: u8) -> Self {
        let network = SimNetwork::new(1);
        let mut hosts: Vec<Host> = (0..count).map(|n| host(n, &network)).collect();
        for host in &mut hosts {
            host.start(JoinPolicy::Only(CLUSTER)).await.unwrap();
        }
        hosts[0].peer.as_ref().unwrap().cluster.found(CLUSTER, 1).await.unwrap();
        let town = Self { hosts, settled_at: AtomicU64::new(0) };
        let voters = usize::from(if count >= 5 { 5 } else { 3.min(count) });
        town.until("all take part", |town| {
            let votes = |n: usize| {
                let members = town.cluster(n).members();
                members.len() == town.hosts.len()
                    && members.values().filter(|view| view.voter).count() == voters
            };
            (0..town.hosts.len()).all(votes)
                && town.leading().peer_metrics().len() == town.hosts.len()
        })
        .await;
        town
    }

    /// With so many pins of two copies, all of them pinned.
    async fn with_pins(count: u8, pins: u16, min: u16) -> Self {
        let town = Self::new(count).await;
        town.pin(0..pins, min, 2).await;
        town.until_pinned().await;
        town
    }

    /// A peer that does not lead goes away.
    fn lose_a_follower(&mut self) -> usize {
        let gone = (1..5).find(|n| *n != self.leader()).unwrap();
        self.hosts[gone].crash();
        gone
    }

    fn cluster(&self, n: usize) -> &Cluster {
        &self.hosts[n].peer.as_ref().unwrap().cluster
    }

    /// The leader, or any peer while there is none.
    fn leading(&self) -> &Cluster {
        let running = || self.hosts.iter().filter_map(|host| Some(&host.peer.as_ref()?.cluster));
        let leads = |cluster: &&Cluster| cluster.leadership().borrow().local;
        running().find(leads).or_else(|| running().next()).unwrap()
    }

    fn leader(&self) -> usize {
        self.hosts.iter().position(|host| host.id == self.leading().id()).unwrap()
    }

    async fn restart_leader(&mut self) {
        let leader = self.leader();
        self.hosts[leader].crash();
        self.hosts[leader].start(JoinPolicy::Any).await.unwrap();
    }

    async fn pin(&self, numbers: std::ops::Range<u16>, min: u16, max: u16) {
        let replication = Replication { min: Factor::Count(min), max: Factor::Count(max) };
        let options = ClaimOptions { replication, retain: false, name: ClaimName::default() };
        let request = |n| PinRequest { cid: cid(n), options: options.clone() };
        let requests: Vec<PinRequest> = numbers.map(request).collect();
        for some in requests.chunks(Write::BATCH_LEN_MAX) {
            for answer in self.leading().pin_all(some.to_vec()).await {
                answer.unwrap();
            }
        }
    }

    fn allocated(&self, n: u16) -> (Vec<PeerId>, Vec<PeerId>) {
        self.leading().state().read(|pins| {
            let pin = pins.get(&cid(n)).unwrap();
            let leaving = pin.allocations.iter().filter(|copy| copy.leaving).map(|copy| copy.peer);
            (pin.holders().collect(), leaving.collect())
        })
    }

    /// Every pin has as many holders as wanted, none is leaving, and just their daemons hold it.
    fn is_settled(&self) -> bool {
        self.leading().state().read(|pins| {
            pins.iter().all(|(cid, pin)| {
                let wanted = pin.replication().wanted(self.hosts.len());
                pin.allocations.len() == wanted
                    && pin.holders().count() == wanted
                    && self.hosts.iter().all(|host| {
                        host.peer.is_none() || host.daemon.holds(&cid) == pin.is_on(host.id)
                    })
            })
        })
    }

    async fn until_pinned(&self) {
        self.until("all are pinned", Self::is_settled).await;
        self.settled_at.store(self.leading().state().entries(), Ordering::Relaxed);
    }

    /// Copies allocated since then that their daemons do not hold yet, by peer.
    fn on_the_way(&self) -> BTreeMap<PeerId, usize> {
        let settled_at = self.settled_at.load(Ordering::Relaxed);
        let mut counts = BTreeMap::new();
        if settled_at == 0 {
            return counts;
        }
        self.leading().state().read(|pins| {
            for (cid, pin) in pins.iter() {
                let new = |copy: &&Allocation| !copy.leaving && copy.at_entry > settled_at;
                for copy in pin.allocations.iter().filter(new) {
                    let host = self.hosts.iter().find(|host| host.id == copy.peer).unwrap();
                    *counts.entry(copy.peer).or_default() += usize::from(!host.daemon.holds(&cid));
                }
            }
        });
        counts
    }

    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !condition(self) {
            assert!(begin.elapsed() < DEADLINE, "never: {what}");
            let most = self.on_the_way().into_values().max().unwrap_or_default();
            assert!(most <= IN_FLIGHT_MAX, "{most} copies are on their way to one peer");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Time passes in which nothing moves.
    async fn nothing_moves_for(&self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            assert_eq!(self.leading().pins_leaving(), 0);
            sleep(Duration::from_millis(100)).await;
        }
    }
}

fn host(n: u8, network: &SimNetwork) -> Host {
    let make = Make {
        id: PeerId([n + 1; 32]),
        member: Member { name: format!("pod-{n}"), addresses: vec![format!("/{n}")] },
        sync_time: Duration::ZERO,
        pin_time: Duration::from_millis(50),
    };
    let mut host = Host::new(make, network.clone());
    host.moves = MovePolicy { after: GRACE, zone_after: GRACE * 2 };
    host
}

fn cid(n: u16) -> Cid {
    let hash = cid::multihash::Multihash::wrap(0, &n.to_be_bytes()).unwrap();
    Cid::from(cid::Cid::new_v1(0x55, hash))
}

#[test]
fn copies_of_a_member_that_is_gone_spread_over_the_others_and_do_not_come_back() {
    run_seeded(1, async {
        let mut town = Town::with_pins(5, 500, 1).await;
        let gone = town.lose_a_follower();
        town.nothing_moves_for(GRACE - Duration::from_secs(1)).await;
        let of = |town: &Town| town.leading().copies_of(town.hosts[gone].id);
        assert!(of(&town) > 100);
        town.until("its copies are elsewhere", |town| of(town) == 0 && town.is_settled()).await;
        let copies = |host: &Host| town.leading().copies_of(host.id);
        let all: Vec<u64> =
            town.hosts.iter().filter(|host| host.peer.is_some()).map(copies).collect();
        let (least, most) = (all.iter().min().unwrap(), all.iter().max().unwrap());
        assert!(most - least <= 2, "not evenly: {all:?}");
        town.hosts[gone].start(JoinPolicy::Any).await.unwrap();
        town.until("it has let go", Town::is_settled).await;
        town.nothing_moves_for(GRACE).await;
        assert_eq!(of(&town), 0);
    });
}

#[test]
fn a_new_leader_goes_on_with_the_moves_and_with_the_time_of_an_absence() {
    run_seeded(2, async {
        let mut town = Town::with_pins(5, 400, 1).await;
        let gone = town.lose_a_follower();
        let id = town.hosts[gone].id;
        let began = Instant::now();
        sleep(GRACE / 2).await;
        town.restart_leader().await;
        let holds = |pin: &Pin| pin.holders().any(|holder| holder == id);
        let left = |town: &Town| {
            town.leading().state().read(|pins| pins.iter().filter(|(_, pin)| holds(pin)).count())
        };
        let all = left(&town);
        town.until("some have moved", |town| left(town) + 40 < all).await;
        assert!(left(&town) > 0);
        town.restart_leader().await;
        let of = |town: &Town| town.leading().copies_of(town.hosts[gone].id);
        town.until("its copies are elsewhere", |town| of(town) == 0 && town.is_settled()).await;
        let took = began.elapsed();
        assert!(took < GRACE * 2, "the grace began anew: {took:?}");
    });
}

#[test]
fn nothing_moves_while_half_of_the_members_are_away() {
    run_seeded(3, async {
        let town = Town::with_pins(4, 20, 1).await;
        for n in [2, 3] {
            town.hosts[n].daemon.set_down(true);
        }
        town.nothing_moves_for(GRACE * 5).await;
        town.hosts[2].daemon.set_down(false);
        let of = |town: &Town| town.leading().copies_of(town.hosts[3].id);
        assert!(of(&town) > 0);
        let all_have_moved = |town: &Town| of(town) == 0 && town.leading().pins_leaving() == 0;
        town.until("the copies of the other one move", all_have_moved).await;
        // Its daemon unpins what it has there when it is back.
        town.hosts[3].daemon.set_down(false);
        town.until("all is settled", Town::is_settled).await;
    });
}

#[test]
fn what_a_daemon_fails_to_pin_is_made_elsewhere() {
    run_seeded(4, async {
        let town = Town::new(4).await;
        town.hosts[1].daemon.set_failing(cid(1), Some("no space left on device"));
        town.hosts[2].daemon.set_failing(cid(1), Some("no space left on device"));
        town.pin(1..2, 1, 2).await;
        let good = [town.hosts[0].id, town.hosts[3].id];
        let is_on_good = move |town: &Town| {
            let (holders, leaving) = town.allocated(1);
            leaving.is_empty() && holders.len() == 2 && holders.iter().all(|h| good.contains(h))
        };
        town.until("it is on the other two", is_on_good).await;
    });
}

#[test]
fn the_last_copy_is_not_released_when_the_other_one_has_vanished() {
    run_seeded(5, async {
        let town = Town::new(3).await;
        town.pin(1..2, 1, 2).await;
        town.until("it is pinned", Town::is_settled).await;
        // The holder that was allocated last leaves; the other one has lost it and cannot get it back.
        let (holders, _) = town.allocated(1);
        let of = |id: &PeerId| town.hosts.iter().position(|host| host.id == *id).unwrap();
        let [stays, leaves] = [of(&holders[0]), of(&holders[1])];
        town.hosts[stays].daemon.set_missing(cid(1), true);
        assert!(town.hosts[stays].daemon.lose_pin(&cid(1)));
        town.pin(1..2, 1, 1).await;
        let kept = town.hosts[leaves].id;
        let daemon = town.hosts[leaves].daemon.clone();
        let decided = move |town: &Town| {
            assert!(daemon.holds(&cid(1)), "the last copy is gone");
            town.allocated(1) == (vec![kept], Vec::new())
        };
        town.until("the copy that is there stays", decided).await;
    });
}

#[test]
fn a_departing_member_gives_its_copies_away_within_the_budget() {
    run_seeded(6, async {
        let mut town = Town::with_pins(4, 400, 2).await;
        let (leaver, id) = (3, town.hosts[3].id);
        town.leading().depart(id, true).await.unwrap();
        let is_removed = |town: &Town| !town.leading().members().contains_key(&id);
        town.until("it is removed", is_removed).await;
        let all_are_there = |town: &Town| {
            (0..400).all(|n| {
                let (holders, leaving) = town.allocated(n);
                let holds = |host: &&Host| host.id != id && host.daemon.holds(&cid(n));
                leaving.is_empty()
                    && holders.len() == 2
                    && town.hosts.iter().filter(holds).count() == 2
            })
        };
        assert!(all_are_there(&town));
        let ended = town.hosts[leaver].peer.as_mut().unwrap().failed();
        let ended = tokio::time::timeout(DEADLINE, ended).await;
        assert_eq!(ended.unwrap(), FatalError::Removed);
    });
}
