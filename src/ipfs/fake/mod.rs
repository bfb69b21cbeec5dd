//! A stand-in for Kubo, for tests and simulated worlds: in memory, deterministic, and as rude as a
//! test asks it to be. It is no IPFS: content is a CID that exists or not.
//!
//! It speaks Kubo's RPC down to the bytes and trailers of the answers ([`StandInDaemon::client`]),
//! so that the client that judges them is the real one. For those who look whether a peer tells the
//! truth it remembers what it last answered about each CID, and whose each pin is.

mod gc;
mod rpc;
mod rude;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::kubo::KuboClient;
use crate::types::Cid;

/// A request that changes something or asks about single CIDs, as it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Request {
    /// It was asked whether this is pinned recursively.
    Ask(Cid),
    /// `pin/add`.
    Pin(Cid),
    /// `pin/rm`.
    Unpin(Cid),
    /// `repo/gc`.
    Collect,
}

/// What the daemon last said of a CID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// That it holds it, or not.
    pub held: bool,
    /// When.
    pub at: Instant,
}

/// How the streams under way end when the daemon's life does.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// The connection breaks.
    Broken,
    /// Cleanly, with or without an error in the trailer.
    Clean(Option<String>),
}

/// Told of each request when it arrives: the command and its query.
pub type Witness = Arc<dyn Fn(&str, &[(&str, &str)]) + Send + Sync>;

/// The stand-in; clones are the same daemon.
#[derive(Clone)]
pub struct StandInDaemon {
    world: Arc<Mutex<World>>,
    /// Wakes what waits for content or for the end of this life of the daemon.
    changed: watch::Sender<u64>,
}

struct World {
    id: String,
    down: bool,
    hanging: bool,
    lying: bool,
    /// Every so manieth request is answered in other words than expected.
    rude: Option<u64>,
    /// Requests that could have been.
    rude_turn: u64,
    /// Counts restarts: requests of an earlier life end as `end` says.
    life: u64,
    end: End,
    pin_time: Duration,
    /// Answers come that late; what is asked happens at once.
    delay: Duration,
    pins: BTreeSet<Cid>,
    direct: BTreeSet<Cid>,
    /// Content on its disk, pinned or not.
    blocks: BTreeSet<Cid>,
    /// Pins in flight that hold its lock.
    locks: usize,
    /// A collection waits for these, or runs: pins and unpins wait for its end.
    collecting: bool,
    /// Whoever asked for it gave it up, and it still waits for the pins in flight.
    orphaned: bool,
    /// When it last said that a collection is done.
    collected_at: Option<Instant>,
    /// Of `pins`: pinned by others than the peer.
    foreign: BTreeSet<Cid>,
    /// When another daemon took its place last.
    replaced: Option<Instant>,
    /// Of `pins`: made before whoever asked can have noticed that this is another daemon.
    strays: BTreeSet<Cid>,
    /// CIDs nobody provides.
    missing: BTreeSet<Cid>,
    /// CIDs it fails to pin, and in which words.
    failing: BTreeMap<Cid, String>,
    /// Listings end with an error after that many items.
    listing_limit: Option<usize>,
    answers: BTreeMap<Cid, Answer>,
    /// What it said to hold and was not asked to unpin since, and when it said so last.
    confirmed: BTreeMap<Cid, Instant>,
    witness: Option<Witness>,
    requests: Vec<Request>,
    connected: Vec<Vec<String>>,
    in_flight: usize,
    in_flight_max: usize,
}

/// Within that time after another daemon took its place, whoever asks has noticed.
const NOTICED_AFTER: Duration = Duration::from_secs(20);
/// Requests remembered for [`StandInDaemon::take_requests`]; later ones are not.
const REQUESTS_MAX: usize = 100_000;

impl std::fmt::Debug for StandInDaemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StandInDaemon").field("id", &self.world().id).finish_non_exhaustive()
    }
}

impl World {
    fn log(&mut self, request: Request) {
        if self.requests.len() < REQUESTS_MAX {
            self.requests.push(request);
        }
    }

    fn answered(&mut self, cid: Cid, held: bool) {
        let at = Instant::now();
        self.answers.insert(cid, Answer { held, at });
        if held {
            self.confirmed.insert(cid, at);
        }
    }

    /// Whether what was said then still counts: not what the daemon said whose place this one took, once
    /// that can have been noticed.
    fn counts(&self, said: Instant) -> bool {
        self.replaced.is_none_or(|at| at <= said || at.elapsed() < NOTICED_AFTER)
    }

    fn hold_pin(&mut self, cid: Cid) {
        self.pins.insert(cid);
        self.blocks.insert(cid);
        self.direct.remove(&cid);
        if self.replaced.is_some_and(|at| at.elapsed() < NOTICED_AFTER) {
            self.strays.insert(cid);
        }
    }

    fn drop_pin(&mut self, cid: &Cid) -> bool {
        self.foreign.remove(cid);
        self.strays.remove(cid);
        self.pins.remove(cid)
    }
}

impl StandInDaemon {
    /// A daemon that is up, holds nothing, finds everything, and takes `pin_time` for each pin.
    #[must_use]
    pub fn new(id: &str, pin_time: Duration) -> Self {
        let world = World {
            id: id.to_owned(),
            down: false,
            hanging: false,
            lying: false,
            rude: None,
            rude_turn: 0,
            life: 0,
            end: End::Broken,
            pin_time,
            delay: Duration::ZERO,
            pins: BTreeSet::new(),
            direct: BTreeSet::new(),
            blocks: BTreeSet::new(),
            locks: 0,
            collecting: false,
            orphaned: false,
            collected_at: None,
            foreign: BTreeSet::new(),
            replaced: None,
            strays: BTreeSet::new(),
            missing: BTreeSet::new(),
            failing: BTreeMap::new(),
            listing_limit: None,
            answers: BTreeMap::new(),
            confirmed: BTreeMap::new(),
            witness: None,
            requests: Vec::new(),
            connected: Vec::new(),
            in_flight: 0,
            in_flight_max: 0,
        };
        Self { world: Arc::new(Mutex::new(world)), changed: watch::channel(0).0 }
    }

    /// The real client, speaking to this daemon.
    #[must_use]
    pub fn client(&self) -> KuboClient {
        KuboClient::over(Arc::new(self.clone()))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<R>(&self, change: impl FnOnce(&mut World) -> R) -> R {
        let result = change(&mut self.world());
        self.changed.send_modify(|n| *n += 1);
        result
    }

    /// Somebody else pins content that is there at once.
    pub fn pin_foreign(&self, cid: Cid) {
        self.change(|world| {
            world.foreign.insert(cid);
            world.blocks.insert(cid);
            world.pins.insert(cid)
        });
    }

    /// Somebody else pins the block alone.
    pub fn pin_direct(&self, cid: Cid) {
        self.change(|world| world.direct.insert(cid));
    }

    /// A pin goes behind everybody's back; says whether it was there.
    pub fn lose_pin(&self, cid: &Cid) -> bool {
        self.change(|world| world.drop_pin(cid))
    }

    /// Content nobody provides until this is called with `false`.
    pub fn set_missing(&self, cid: Cid, missing: bool) {
        self.change(
            |world| {
                if missing { world.missing.insert(cid) } else { world.missing.remove(&cid) }
            },
        );
    }

    /// Pins of this CID fail with these words of Kubo until this is called with `None`.
    pub fn set_failing(&self, cid: Cid, error: Option<&str>) {
        self.change(|world| match error {
            Some(error) => world.failing.insert(cid, error.to_owned()),
            None => world.failing.remove(&cid),
        });
    }

    /// Listings end with an error after that many items.
    pub fn set_listing_limit(&self, limit: Option<usize>) {
        self.change(|world| world.listing_limit = limit);
    }

    /// Time a pin of content that is there takes.
    pub fn set_pin_time(&self, time: Duration) {
        self.change(|world| world.pin_time = time);
    }

    /// Answers come that late.
    pub fn set_delay(&self, delay: Duration) {
        self.change(|world| world.delay = delay);
    }

    /// While `true`, requests that arrive are never answered.
    pub fn set_hanging(&self, hanging: bool) {
        self.change(|world| world.hanging = hanging);
    }

    /// While `true`, it says of every pin at once that it is done, and does nothing.
    pub fn set_lying(&self, lying: bool) {
        self.change(|world| world.lying = lying);
    }

    /// While it is set, every so manieth question about CIDs, pin and unpin is answered by an error in
    /// other words than those that say "not pinned"; or a pin is said to be done and then goes on, and
    /// its stream ends cleanly without the pin.
    pub fn set_rude(&self, every: Option<u64>) {
        self.change(|world| world.rude = every);
    }

    /// Stops answering, breaking off what is in flight, or answers again.
    pub fn set_down(&self, down: bool) {
        self.change(|world| {
            world.down = down;
            world.end = End::Broken;
            world.life += 1;
        });
    }

    /// Breaks off what is in flight; pins stay.
    pub fn restart(&self) {
        self.change(|world| {
            world.end = End::Broken;
            world.life += 1;
        });
    }

    /// Ends what is in flight cleanly, as Kubo does when it stops: with the error in the trailer, or
    /// without any word. Pins stay.
    pub fn interrupt(&self, trailer: Option<&str>) {
        self.change(|world| {
            world.end = End::Clean(trailer.map(str::to_owned));
            world.life += 1;
        });
    }

    /// Comes back as another daemon with an empty repository.
    pub fn replace(&self, id: &str) {
        self.change(|world| {
            world.end = End::Broken;
            world.life += 1;
            id.clone_into(&mut world.id);
            world.pins.clear();
            world.direct.clear();
            world.blocks.clear();
            world.foreign.clear();
            world.strays.clear();
            world.replaced = Some(Instant::now());
        });
    }

    /// Whether it holds the pin.
    #[must_use]
    pub fn holds(&self, cid: &Cid) -> bool {
        self.world().pins.contains(cid)
    }

    /// Whether the content is on its disk.
    #[must_use]
    pub fn stores(&self, cid: &Cid) -> bool {
        self.world().blocks.contains(cid)
    }

    /// When it last said that it has collected its garbage.
    #[must_use]
    pub fn collected_at(&self) -> Option<Instant> {
        self.world().collected_at
    }

    /// All it holds.
    #[must_use]
    pub fn held(&self) -> BTreeSet<Cid> {
        self.world().pins.clone()
    }

    /// Of these, what others than the peer pinned, and the peer has not pinned since.
    #[must_use]
    pub fn foreign(&self) -> BTreeSet<Cid> {
        self.world().foreign.clone()
    }

    /// What it holds since shortly after it took another daemon's place. Whoever asked believed that it
    /// was the other one, and cannot tell later whose these pins are.
    #[must_use]
    pub fn strays(&self) -> BTreeSet<Cid> {
        self.world().strays.clone()
    }

    /// What it last said of a CID since [`StandInDaemon::forget_answers`]. What another daemon said whose
    /// place it took does not count for long.
    #[must_use]
    pub fn answer(&self, cid: &Cid) -> Option<Answer> {
        let world = self.world();
        world.answers.get(cid).copied().filter(|answer| world.counts(answer.at))
    }

    /// Whether it said to hold it, and was not asked to unpin it since. What another daemon said whose
    /// place it took does not count for long.
    #[must_use]
    pub fn has_confirmed(&self, cid: &Cid) -> bool {
        let world = self.world();
        world.confirmed.get(cid).is_some_and(|at| world.counts(*at))
    }

    /// Whoever asks from now on has heard nothing yet.
    pub fn forget_answers(&self) {
        self.world().answers.clear();
    }

    /// From now on `witness` is told of each request.
    pub fn set_witness(&self, witness: Witness) {
        self.world().witness = Some(witness);
    }

    /// Requests since the last call, in order.
    pub fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.world().requests)
    }

    /// Addresses it was told to keep a connection to, in order.
    #[must_use]
    pub fn connected(&self) -> Vec<Vec<String>> {
        self.world().connected.clone()
    }

    /// Pins in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.world().in_flight
    }

    /// Most pins that were in flight at once.
    #[must_use]
    pub fn in_flight_max(&self) -> usize {
        self.world().in_flight_max
    }
}
