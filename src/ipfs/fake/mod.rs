//! A stand-in for Kubo, for tests and simulated worlds: in memory, deterministic, and with faults on
//! request. It does not implement IPFS: content is a CID that exists or not.
//!
//! It speaks Kubo's RPC down to the bytes and trailers of the answers ([`StandInDaemon::client`]), so
//! that the real client interprets them. For checks whether a peer reports the truth, it records its
//! last answer about each CID and who made each pin.

mod gc;
mod rpc;
mod rude;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::{sync::watch, time::Instant};

use super::kubo::KuboClient;
use crate::types::Cid;

/// A request that changes something or asks about single CIDs, as it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Request {
    /// Whether this is pinned recursively.
    Ask(Cid),
    /// `pin/add`.
    Pin(Cid),
    /// `pin/rm`.
    Unpin(Cid),
    /// `repo/gc`.
    Collect,
}

/// The daemon's last answer about a CID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether it holds the CID.
    pub held: bool,
    /// When.
    pub at: Instant,
}

/// How streams under way end when the daemon's life does.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// The connection breaks.
    Broken,
    /// Cleanly, with or without an error in the trailer.
    Clean(Option<String>),
}

/// Called with the command and query of each request when it arrives.
pub type Witness = Arc<dyn Fn(&str, &[(&str, &str)]) + Send + Sync>;

/// The stand-in; clones share the daemon.
#[derive(Clone)]
pub struct StandInDaemon {
    world: Arc<Mutex<World>>,
    /// Wakes tasks that wait for content or for the end of this life of the daemon.
    changed: watch::Sender<u64>,
}

struct World {
    id: String,
    down: bool,
    hanging: bool,
    lying: bool,
    /// Every n-th request gets an unusual answer.
    rude: Option<u64>,
    /// Requests so far that could have got one.
    rude_turn: u64,
    /// Counts restarts: requests of an earlier life end as `end` says.
    life: u64,
    end: End,
    pin_time: Duration,
    /// Answers are delayed by this time; effects are not.
    delay: Duration,
    pins: BTreeSet<Cid>,
    direct: BTreeSet<Cid>,
    /// Content on the daemon's disk, pinned or not.
    blocks: BTreeSet<Cid>,
    /// Pins in flight, which hold the daemon's lock.
    locks: usize,
    /// A collection waits for these or runs: pins and unpins wait for its end.
    collecting: bool,
    /// The requester abandoned the collection, which still waits for the pins in flight.
    orphaned: bool,
    /// When it last reported the end of a collection.
    collected_at: Option<Instant>,
    /// The subset of `pins` made by others than the peer.
    foreign: BTreeSet<Cid>,
    /// When another daemon last took its place.
    replaced: Option<Instant>,
    /// The subset of `pins` made before the requester can have noticed that this is another daemon.
    strays: BTreeSet<Cid>,
    /// CIDs without a provider.
    missing: BTreeSet<Cid>,
    /// CIDs that it fails to pin, with the error text.
    failing: BTreeMap<Cid, String>,
    /// Listings end with an error after that many items.
    listing_limit: Option<usize>,
    answers: BTreeMap<Cid, Answer>,
    /// CIDs that it confirmed to hold and was not asked to unpin since, with the time of the last
    /// answer.
    confirmed: BTreeMap<Cid, Instant>,
    witness: Option<Witness>,
    requests: Vec<Request>,
    connected: Vec<Vec<String>>,
    in_flight: usize,
    in_flight_max: usize,
}

/// Within this time after another daemon took its place, the requester has noticed.
const NOTICED_AFTER: Duration = Duration::from_secs(20);
/// Requests recorded for [`StandInDaemon::take_requests`]; later ones are not.
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

    /// Whether an answer of that time still counts. Answers of a replaced daemon do not, once the
    /// replacement can have been noticed.
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
    /// A daemon that is up, holds nothing, finds everything, and takes `pin_time` per pin.
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

    /// The real client, connected to this daemon.
    #[must_use]
    pub fn client(&self) -> KuboClient {
        KuboClient::over(Arc::new(self.clone()))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock()
    }

    fn change<R>(&self, change: impl FnOnce(&mut World) -> R) -> R {
        let result = change(&mut self.world());
        self.changed.send_modify(|n| *n += 1);
        result
    }

    /// Somebody else pins content that is available at once.
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

    /// Removes a pin secretly; returns whether it was there.
    pub fn lose_pin(&self, cid: &Cid) -> bool {
        self.change(|world| world.drop_pin(cid))
    }

    /// The content has no provider until this is called with `false`.
    pub fn set_missing(&self, cid: Cid, missing: bool) {
        self.change(
            |world| {
                if missing { world.missing.insert(cid) } else { world.missing.remove(&cid) }
            },
        );
    }

    /// Pins of this CID fail with this Kubo error until this is called with `None`.
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

    /// Sets the time that a pin of available content takes.
    pub fn set_pin_time(&self, time: Duration) {
        self.change(|world| world.pin_time = time);
    }

    /// Delays all answers.
    pub fn set_delay(&self, delay: Duration) {
        self.change(|world| world.delay = delay);
    }

    /// While `true`, new requests are never answered.
    pub fn set_hanging(&self, hanging: bool) {
        self.change(|world| world.hanging = hanging);
    }

    /// While `true`, it confirms every pin at once and does nothing.
    pub fn set_lying(&self, lying: bool) {
        self.change(|world| world.lying = lying);
    }

    /// While set, every n-th question about CIDs, pin and unpin gets an unusual answer: an error that
    /// differs from "not pinned"; or a pin that is confirmed, continues, and ends cleanly without the
    /// pin.
    pub fn set_rude(&self, every: Option<u64>) {
        self.change(|world| world.rude = every);
    }

    /// Stops answering and breaks off requests in flight, or answers again.
    pub fn set_down(&self, down: bool) {
        self.change(|world| {
            world.down = down;
            world.end = End::Broken;
            world.life += 1;
        });
    }

    /// Breaks off requests in flight; pins stay.
    pub fn restart(&self) {
        self.change(|world| {
            world.end = End::Broken;
            world.life += 1;
        });
    }

    /// Ends requests in flight cleanly, as Kubo does when it stops: with the error in the trailer, or
    /// without one. Pins stay.
    pub fn interrupt(&self, trailer: Option<&str>) {
        self.change(|world| {
            world.end = End::Clean(trailer.map(str::to_owned));
            world.life += 1;
        });
    }

    /// Becomes another daemon with an empty repository.
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

    /// Whether the CID is pinned.
    #[must_use]
    pub fn holds(&self, cid: &Cid) -> bool {
        self.world().pins.contains(cid)
    }

    /// Whether the content is on its disk.
    #[must_use]
    pub fn stores(&self, cid: &Cid) -> bool {
        self.world().blocks.contains(cid)
    }

    /// When it last reported the end of a collection.
    #[must_use]
    pub fn collected_at(&self) -> Option<Instant> {
        self.world().collected_at
    }

    /// All pins.
    #[must_use]
    pub fn held(&self) -> BTreeSet<Cid> {
        self.world().pins.clone()
    }

    /// The pins that others made and the peer has not made since.
    #[must_use]
    pub fn foreign(&self) -> BTreeSet<Cid> {
        self.world().foreign.clone()
    }

    /// Pins made shortly after it took another daemon's place. The requester took it for the other
    /// daemon, and cannot tell later whose these pins are.
    #[must_use]
    pub fn strays(&self) -> BTreeSet<Cid> {
        self.world().strays.clone()
    }

    /// Its last answer about a CID since [`StandInDaemon::forget_answers`]. Answers of a replaced
    /// daemon do not count for long.
    #[must_use]
    pub fn answer(&self, cid: &Cid) -> Option<Answer> {
        let world = self.world();
        world.answers.get(cid).copied().filter(|answer| world.counts(answer.at))
    }

    /// Whether it confirmed to hold the CID and was not asked to unpin it since. Answers of a replaced
    /// daemon do not count for long.
    #[must_use]
    pub fn has_confirmed(&self, cid: &Cid) -> bool {
        self.confirmed_at(cid).is_some()
    }

    /// The time of the last such confirmation.
    #[must_use]
    pub fn confirmed_at(&self, cid: &Cid) -> Option<Instant> {
        let world = self.world();
        world.confirmed.get(cid).copied().filter(|at| world.counts(*at))
    }

    /// Forgets all answers, as for a new requester.
    pub fn forget_answers(&self) {
        self.world().answers.clear();
    }

    /// Calls `witness` for each request from now on.
    pub fn set_witness(&self, witness: Witness) {
        self.world().witness = Some(witness);
    }

    /// Requests since the last call, in order.
    pub fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.world().requests)
    }

    /// Addresses it was asked to keep a connection to, in order.
    #[must_use]
    pub fn connected(&self) -> Vec<Vec<String>> {
        self.world().connected.clone()
    }

    /// Pins in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.world().in_flight
    }

    /// Largest number of pins in flight at the same time.
    #[must_use]
    pub fn in_flight_max(&self) -> usize {
        self.world().in_flight_max
    }
}
