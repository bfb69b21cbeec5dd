//! Faults of some worlds only: many Pins are deleted at once, while all watch, while no pod runs,
//! or with their namespace; copies leave while daemons are away; daemons give unexpected answers;
//! GETs of Pins are misdirected. They have a separate random stream, so that they do not change the
//! other worlds of a seed.

use std::{collections::BTreeSet, time::Duration};

use pinkeeper::types::{Allocation, Cid};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;
use tokio::time::Instant;

use crate::{
    api::{
        faults::Faults,
        store::{Key, Kind},
    },
    users::{cid_of, pins},
    world::{World, cid, is_ready},
};

/// Mixed into the seed, for a separate random stream.
const STREAM: u64 = 0x7374_6f72;
/// The namespace of the Pins that are created and deleted together, and that of Pins with the same
/// CIDs.
const MANY: &str = "many";
const SHARED: &str = "lab";
/// Number of these Pins. Together with those of users, fewer than 100 CIDs hang on Pins, so that a
/// comparison may take at most 10.
const PINS: u32 = 24;
const COMPARED_MAX: usize = 10;
/// The first of their CIDs, which users do not choose.
const FIRST_CID: u32 = 2_000;
/// How long a namespace stays away.
const AWAY: Duration = Duration::from_secs(20);

/// The storms of one world.
pub struct Storms {
    random: StdRng,
    mass: Option<Mass>,
    thin: Option<Thin>,
    rude: bool,
    astray: Option<Astray>,
    /// Content that was held when its Pins were deleted while no pod ran.
    unseen: Vec<Cid>,
}

/// Pins that are created together and deleted together.
#[derive(Clone, Copy, Debug)]
struct Mass {
    step: u8,
    due: Instant,
    end: End,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Watched,
    Unseen,
    WithNamespace,
}

/// One CID whose number of copies goes down and up again.
#[derive(Clone, Copy, Debug)]
struct Thin {
    cid: Option<Cid>,
    step: u8,
    due: Instant,
}

/// GETs of Pins are misdirected while another leader begins.
#[derive(Clone, Copy, Debug)]
struct Astray {
    step: u8,
    due: Instant,
}

impl Storms {
    pub fn draw(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ STREAM);
        let [mass, thins, rude, astray] =
            [0.3, 0.5, 0.3, 0.3].map(|often| random.random_bool(often));
        let end =
            [End::Watched, End::Unseen, End::WithNamespace][usize::try_from(seed % 3).unwrap()];
        let mut after =
            |from, until| Instant::now() + Duration::from_secs(random.random_range(from..until));
        let mass = mass.then(|| Mass { step: 0, due: after(5, 20), end });
        let thin = thins.then(|| Thin { cid: None, step: 0, due: after(10, 20) });
        let astray = astray.then(|| Astray { step: 0, due: after(15, 40) });
        Self { random, mass, thin, rude, astray, unseen: Vec::new() }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn later(&mut self, from_ms: u64, until_ms: u64) -> Instant {
        Instant::now() + Duration::from_millis(self.random.random_range(from_ms..until_ms))
    }

    /// A person has approved the deletions.
    pub fn allow(&mut self) {
        self.unseen.clear();
    }
}

impl World {
    /// Runs the due steps of the storms.
    pub async fn storm(&mut self) {
        let now = Instant::now();
        if self.storms.rude && self.storms.chance(15) {
            let n = self.storms.random.random_range(0..self.pods.len());
            let every = self.storms.chance(60).then(|| self.storms.random.random_range(1..5));
            self.note(format!("the daemon of pod-{n} is rude: {every:?}"));
            self.pods[n].host.daemon.set_rude(every);
            self.trace.meet("daemons are rude");
        }
        if let Some(mass) = self.storms.mass
            && now >= mass.due
        {
            self.step_mass(mass).await;
        }
        if let Some(thin) = self.storms.thin
            && now >= thin.due
        {
            self.step_thin(thin);
        }
        if let Some(astray) = self.storms.astray
            && now >= astray.due
        {
            self.step_astray(astray).await;
        }
    }

    async fn step_mass(&mut self, mass: Mass) {
        if mass.step == 0 {
            self.make_many();
            let due = self.storms.later(12_000, 20_000);
            self.storms.mass = Some(Mass { step: 1, due, ..mass });
            return;
        }
        self.storms.mass = None;
        self.note(format!("many go: {:?}", mass.end));
        match mass.end {
            End::Watched => {
                (0..PINS).for_each(|n| self.users.delete(&key(MANY, n)));
                self.trace.meet("many Pins go at once");
            }
            End::Unseen => {
                for n in 0..self.pods.len() {
                    self.crash(n).await;
                }
                // A user may have deleted some before, which a leader may have seen.
                let there: BTreeSet<Key> =
                    pins(&self.api).into_iter().map(|(key, _)| key).collect();
                let is_alone =
                    |n: &u32| !is_shared(*n) && !is_retained(*n) && there.contains(&key(MANY, *n));
                let cids: Vec<Cid> = (0..PINS).filter(is_alone).map(many_cid).collect();
                let held = |cid: &Cid| self.oracle.lock().holders(cid) > 0;
                self.storms.unseen = cids.into_iter().filter(held).collect();
                (0..PINS).for_each(|n| self.users.delete(&key(MANY, n)));
                // Otherwise an older list would contain them, and a watch from there would show the
                // deletion.
                self.api.change(|server| server.home_mut().compact());
                self.trace.meet("many Pins go unseen");
            }
            End::WithNamespace => {
                self.users.away = AWAY;
                self.users.delete_namespace(MANY);
                self.trace.meet("many Pins go with their namespace");
            }
        }
    }

    fn make_many(&mut self) {
        self.users.make_namespace(MANY);
        for n in 0..PINS {
            let policy = if is_retained(n) { "Retain" } else { "Unpin" };
            let spec = json!({
                "cid": many_cid(n).to_string(), "replicas": 1 + n % 2, "deletionPolicy": policy,
            });
            self.users.make(&key(MANY, n), spec);
            if is_shared(n) {
                let spec = json!({"cid": many_cid(n).to_string(), "replicas": 1});
                self.users.make(&key(SHARED, n), spec);
            }
        }
    }

    /// The daemons of all copies go away, and then fewer copies are wanted: none is confirmed, so
    /// leaving copies must wait. Then more are wanted again, while some daemons are still away.
    fn step_thin(&mut self, thin: Thin) {
        let mut next = Thin { step: thin.step + 1, ..thin };
        let copies = thin.cid.map(|cid| self.allocations(&cid)).unwrap_or_default();
        next.due = match (thin.step, thin.cid) {
            (0, None) => {
                next.cid = self.a_cid_of_several();
                next.step = 0;
                self.storms.later(100, 1_000)
            }
            (0, Some(_)) => {
                copies.iter().for_each(|copy| self.send(copy, false));
                self.storms.later(8_000, 12_000)
            }
            (1, Some(cid)) => {
                self.set_replicas(&cid, 1);
                self.storms.later(3_000, 6_000)
            }
            (2, Some(cid)) => {
                if !copies.is_empty() {
                    let n = self.storms.random.random_range(0..copies.len());
                    self.send(&copies[n], true);
                }
                if self.storms.chance(60) {
                    self.set_replicas(&cid, 3);
                }
                self.storms.later(1_500, 8_000)
            }
            _ => {
                self.note("daemons are back".into());
                self.pods.iter().for_each(|pod| pod.host.daemon.set_down(false));
                next = Thin { cid: None, step: 0, ..next };
                self.storms.later(500, 5_000)
            }
        };
        self.storms.thin = Some(next);
    }

    fn a_cid_of_several(&mut self) -> Option<Cid> {
        let several = pins(&self.api).into_iter().filter_map(|(_, pin)| {
            let copies = pin["status"]["allocations"].as_array().map_or(0, Vec::len);
            cid(&pin).filter(|_| is_ready(&pin) && copies > 1)
        });
        let several: Vec<Cid> = several.collect();
        let n = (!several.is_empty()).then(|| self.storms.random.random_range(0..several.len()))?;
        several.get(n).copied()
    }

    /// Sets the number of copies of all Pins of that content.
    fn set_replicas(&mut self, of: &Cid, replicas: u8) {
        for (key, _) in pins(&self.api).iter().filter(|(_, pin)| cid(pin) == Some(*of)) {
            self.users.patch(key, &json!({"spec": {"replicas": replicas, "minReplicas": null}}));
        }
    }

    /// The allocations in the most recent state of all processes.
    fn allocations(&self, cid: &Cid) -> Vec<Allocation> {
        let states = self.pods.iter().filter_map(|pod| Some(pod.cluster()?.state()));
        let latest = states.max_by_key(|state| state.entries());
        let of = |pins: &pinkeeper::state::PinSet| Some(pins.get(cid)?.allocations.clone());
        latest.and_then(|state| state.read(of)).unwrap_or_default()
    }

    fn send(&self, copy: &Allocation, back: bool) {
        let Some(pod) = self.pods.iter().find(|pod| pod.host.id == copy.peer) else { return };
        self.note(format!("the daemon of pod-{} is away: {}", pod.n, !back));
        pod.host.daemon.set_down(!back);
    }

    /// A new leader reads an older list, which lacks Pins, and GETs of these Pins are answered by a
    /// "not found" of something else.
    async fn step_astray(&mut self, astray: Astray) {
        let due = match astray.step {
            0 => {
                for n in 0..4 {
                    self.users.make(&key("web", n), json!({"cid": many_cid(n + PINS).to_string()}));
                }
                self.storms.later(1_000, 3_000)
            }
            1 => {
                self.note("the API server has lost the way to Pins, and its lists are old".into());
                self.api.lock().faults =
                    Faults { stale: 900, watch: 900, astray: 900, ..Faults::default() };
                self.trace.meet("the way to Pins is lost");
                let leads = |n: &usize| {
                    self.pods[*n].cluster().is_some_and(|of| of.leadership().borrow().local)
                };
                if let Some(leader) = (0..self.pods.len()).find(leads) {
                    self.crash(leader).await;
                }
                self.storms.later(6_000, 12_000)
            }
            _ => {
                self.api.lock().faults = Faults::default();
                self.storms.astray = None;
                return;
            }
        };
        self.storms.astray = Some(Astray { step: astray.step + 1, due });
    }

    /// Checks that a comparison unpins no more than it may without approval.
    ///
    /// # Errors
    /// When more is unpinned.
    pub fn check_unseen(&self) -> Result<(), String> {
        let gone = |cid: &&Cid| self.oracle.lock().holders(cid) == 0;
        let gone = self.storms.unseen.iter().filter(gone).count();
        if gone > COMPARED_MAX {
            return Err(format!("{gone} CIDs are unpinned that nobody saw deleted"));
        }
        Ok(())
    }
}

fn key(namespace: &str, n: u32) -> Key {
    Key::new(Kind::Pin, namespace, &format!("many-{n}"))
}

fn many_cid(n: u32) -> Cid {
    cid_of(FIRST_CID + n)
}

/// Whether a Pin in another namespace claims the same CID.
fn is_shared(n: u32) -> bool {
    n.is_multiple_of(4)
}

fn is_retained(n: u32) -> bool {
    n % 8 == 5
}
