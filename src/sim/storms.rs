//! Rarer features of some worlds: daemons with unusual answers; many objects that are created and deleted
//! at once, under the deletion guard and with approvals; and copies that leave while daemons are away.
//! They are drawn from a separate stream, as in [`super::more`].

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::Instant;

use super::{
    clients::Object,
    rules,
    world::{World, cid_of},
};
use crate::{
    clock::Clock,
    state::{Found, PinSet, WaitingDigest},
    types::{
        Cid, ClaimName, ClaimOptions, Factor, Owner, PeerId, Pin, PinRequest, Replication, Uid,
    },
};

/// Combined with the seed for a separate stream.
const STREAM: u64 = 0x7374_6f72;
/// A storm takes longer than most worlds last.
const LONGER: Duration = Duration::from_secs(12);
/// How long clients wait in a storm.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most objects in such a world.
const MANY: usize = 40;
/// Number of objects created at once.
const CREATED_AT_ONCE: usize = 8;
/// The first of their CIDs; other clients use smaller numbers.
const FIRST_CID: u32 = 1_000;

/// The features of one world.
#[derive(Debug)]
pub(super) struct Storms {
    random: StdRng,
    /// Daemons give unusual answers.
    rude: bool,
    /// Many objects are created and deleted at once, and the leader rules on the deleted ones.
    pub(super) many: bool,
    /// Copies leave while daemons are away.
    thins: bool,
    thin: Option<Thin>,
    /// The waiting deletions that a person has seen.
    seen: Option<WaitingDigest>,
}

/// One pin whose number of copies falls and rises again.
#[derive(Clone, Copy, Debug)]
struct Thin {
    cid: Cid,
    step: u8,
    due: Instant,
}

impl Storms {
    pub(super) fn draw(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ STREAM);
        let [rude, many, thins] = [0.15, 0.15, 0.2].map(|often| random.random_bool(often));
        Self { random, rude, many, thins, thin: None, seen: None }
    }

    /// How much longer faults last.
    pub(super) fn longer(&self) -> Duration {
        if self.many || self.thins { LONGER } else { Duration::ZERO }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn one_of<T>(&mut self, mut all: Vec<T>) -> Option<T> {
        (!all.is_empty()).then(|| all.swap_remove(self.random.random_range(0..all.len())))
    }

    fn millis(&mut self, from: u64, until: u64) -> Duration {
        Duration::from_millis(self.random.random_range(from..until))
    }
}

impl World {
    /// Performs the next step of the storms, if any.
    pub(super) fn step_storms(&mut self) {
        if self.storms.rude && self.storms.chance(15) {
            let n = self.storms.random.random_range(0..self.hosts.len());
            let every = self.storms.chance(60).then(|| self.storms.random.random_range(1..5));
            self.trace.note(format!("daemon-{n} is rude: {every:?}"));
            self.hosts[n].daemon.set_rude(every);
            self.trace.meet("a rude daemon");
        }
        if self.storms.many {
            self.step_many();
        }
        if self.storms.thins {
            self.step_thin();
        }
    }

    fn step_many(&mut self) {
        match self.storms.random.random_range(0..100) {
            0..25 => self.make_many(),
            25..33 => self.delete_many(),
            33..38 => self.answer_as_a_person(),
            38..45 => self.take_up(),
            45..60 => self.change_beside_retained(),
            60..65 => self.decide_late(),
            _ => {}
        }
    }

    fn make_many(&mut self) {
        for _ in 0..CREATED_AT_ONCE {
            if self.objects.len() >= MANY {
                return;
            }
            // Some share their CID.
            let count = u32::try_from(self.objects.len()).unwrap_or_default();
            let back = u32::from(self.storms.chance(30));
            self.make_object(cid_of(FIRST_CID + count.saturating_sub(back)));
        }
    }

    fn make_object(&mut self, cid: Cid) {
        let uid = Uid(format!("object-{}", self.objects.len()));
        let options = self.storm_options();
        let object = Object { uid, cid, options, generation: 1, deleted: false };
        self.objects.push(object.clone());
        self.control(&object);
    }

    fn storm_options(&mut self) -> ClaimOptions {
        let max = Factor::Count(self.storms.random.random_range(1..3));
        let replication = Replication { min: Factor::Count(1), max };
        ClaimOptions { replication, retain: self.storms.chance(20), name: ClaimName::default() }
    }

    /// Deletes most or all objects at once; the leader finds them together.
    fn delete_many(&mut self) {
        let all = self.storms.chance(50);
        let found = match self.storms.random.random_range(0..10) {
            0..5 => Found::Watched,
            _ => Found::Compared,
        };
        let mut gone = Vec::new();
        for n in 0..self.objects.len() {
            if !self.objects[n].deleted && (all || self.storms.chance(70)) {
                self.objects[n].deleted = true;
                gone.push(self.objects[n].clone());
            }
        }
        self.trace.note(format!("{} objects are deleted, {found:?}", gone.len()));
        self.sweep(&gone, found);
    }

    /// A person approves the waiting deletions, or those that waited when they last looked.
    fn answer_as_a_person(&mut self) {
        let n = self.storms.random.random_range(0..self.hosts.len());
        let Some(client) = self.client(n, PATIENCE) else { return };
        let now = client.cluster.state().read(PinSet::waiting).map(|waiting| waiting.digest);
        let before = std::mem::replace(&mut self.storms.seen, now);
        let digest = if self.storms.chance(50) { now } else { before };
        for n in 0..self.hosts.len() {
            if let (Some(digest), Some(client)) = (digest, self.client(n, PATIENCE)) {
                self.clients[n].spawn(client.allow(digest));
            }
        }
    }

    /// A client claims content that is retained without an owner.
    fn take_up(&mut self) {
        let kept = |pin: &Pin| pin.claims.owners().any(rules::is_ownerless);
        let Some((cid, _)) = self.any_pin(kept) else { return };
        if self.storms.chance(50) && self.objects.len() < MANY {
            return self.make_object(cid);
        }
        let n = self.storms.random.random_range(0..self.hosts.len());
        let request = PinRequest { cid, options: self.storm_options() };
        if let Some(client) = self.client(n, PATIENCE) {
            self.clients[n].spawn(client.pin(request));
        }
    }

    /// Changes an object whose content is also retained; or deletes one of several objects of a CID
    /// whose content is retained.
    fn change_beside_retained(&mut self) {
        let shared = |pin: &Pin| pin.claims.len() > 1;
        let Some((cid, pin)) = self.any_pin(shared) else { return };
        let retained = pin.claims.contains(&Owner::Retained);
        let living = (0..self.objects.len())
            .filter(|n| self.objects[*n].cid == cid && !self.objects[*n].deleted);
        let Some(n) = self.storms.one_of(living.collect()) else { return };
        if retained || !self.objects[n].options.retain {
            self.objects[n].options = self.storm_options();
            self.objects[n].options.retain = !retained;
            self.objects[n].generation += 1;
        } else {
            self.objects[n].deleted = true;
        }
        let object = self.objects[n].clone();
        self.control(&object);
    }

    fn decide_late(&mut self) {
        let living = self.objects.iter().filter(|object| !object.deleted).cloned();
        let Some(object) = self.storms.one_of(living.collect()) else { return };
        let another_term = self.storms.chance(50);
        for n in 0..self.hosts.len() {
            let at = Clock::Simulated(self.hosts[n].clock.clone()).now();
            if let Some(client) = self.client(n, PATIENCE) {
                self.clients[n].spawn(client.control_late(object.clone(), at, another_term));
            }
        }
    }

    /// The daemons of all copies of a pin go away, then fewer copies are wanted: none is confirmed, so
    /// those that leave must wait. Then more are wanted again, while some daemons are still away.
    fn step_thin(&mut self) {
        let now = Instant::now();
        let Some(mut thin) = self.storms.thin else {
            let cid = cid_of(self.storms.random.random_range(0..self.cids));
            self.ask_for(cid, 3);
            let due = now + self.storms.millis(1_000, 3_000);
            self.storms.thin = Some(Thin { cid, step: 0, due });
            return;
        };
        if now < thin.due {
            return;
        }
        let pin = self.judge.watched().history.pins().get(&thin.cid).cloned();
        match thin.step {
            0 => {
                pin.iter().flat_map(Pin::holders).for_each(|peer| self.send(peer, false));
                thin.due = now + self.storms.millis(0, 2_000);
            }
            1 => {
                self.ask_for(thin.cid, 1);
                thin.due = now + self.storms.millis(800, 2_500);
            }
            2 => {
                let all = pin.iter().flat_map(|pin| &pin.allocations).map(|a| a.peer);
                if let Some(one) = self.storms.one_of(all.collect()) {
                    self.send(one, true);
                }
                if self.storms.chance(70) {
                    self.ask_for(thin.cid, 3);
                }
                thin.due = now + self.storms.millis(1_000, 5_000);
            }
            _ => {
                self.trace.note("daemons are back");
                self.hosts.iter().for_each(|host| host.daemon.set_down(false));
                self.storms.thin = None;
                return;
            }
        }
        thin.step += 1;
        self.storms.thin = Some(thin);
    }

    /// Pins by REST, at the leading peer if there is one.
    fn ask_for(&mut self, cid: Cid, max: u16) {
        let n =
            self.leader().unwrap_or_else(|| self.storms.random.random_range(0..self.hosts.len()));
        let min = Factor::Count(self.storms.random.random_range(1..=max.min(2)));
        let replication = Replication { min, max: Factor::Count(max) };
        let options = ClaimOptions { replication, retain: false, name: ClaimName::default() };
        if let Some(client) = self.client(n, PATIENCE) {
            self.clients[n].spawn(client.pin(PinRequest { cid, options }));
        }
    }

    fn send(&self, peer: PeerId, back: bool) {
        let Some(n) = self.hosts.iter().position(|host| host.id == peer) else { return };
        self.trace.note(format!("daemon-{n} is away: {}", !back));
        self.hosts[n].daemon.set_down(!back);
    }

    fn any_pin(&mut self, is: impl Fn(&Pin) -> bool) -> Option<(Cid, Pin)> {
        let found: Vec<(Cid, Pin)> = {
            let watched = self.judge.watched();
            let pins = watched.history.pins().iter().filter(|(_, pin)| is(pin));
            pins.map(|(cid, pin)| (cid, pin.clone())).collect()
        };
        self.storms.one_of(found)
    }
}
