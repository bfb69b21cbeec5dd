//! A stand-in for a daemon, for tests and simulated worlds: in memory, deterministic, and as rude as
//! a test asks it to be. It is no IPFS: content is a CID that exists or not.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use tokio::sync::watch;

use super::{Held, Ipfs, IpfsError, RepositoryStat};
use crate::types::{Cid, Collected, DaemonInfo, Progress};

/// A request that changes something or asks about single CIDs, as it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Request {
    /// `pinned` asked about it.
    Ask(Cid),
    /// `pin`.
    Pin(Cid),
    /// `unpin`.
    Unpin(Cid),
    /// `collect_garbage`.
    Collect,
}

/// The stand-in; clones are the same daemon.
#[derive(Clone, Debug)]
pub struct StandInDaemon {
    world: Arc<Mutex<World>>,
    /// Wakes what waits for content or for the end of this life of the daemon.
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct World {
    id: String,
    down: bool,
    /// Counts restarts: requests of an earlier life end with an error.
    life: u64,
    pin_time: Duration,
    pins: BTreeSet<Cid>,
    direct: BTreeSet<Cid>,
    /// Content on its disk, pinned or not.
    blocks: BTreeSet<Cid>,
    /// A collection waits for the pins in flight, or runs: pins and unpins wait for its end.
    locked: bool,
    /// Whoever asked for it gave it up, but it still waits for the pins in flight.
    orphaned: bool,
    /// CIDs nobody provides.
    missing: BTreeSet<Cid>,
    /// CIDs it fails to pin, and how.
    failing: BTreeMap<Cid, IpfsError>,
    /// Listings end with an error after that many items.
    listing_limit: Option<usize>,
    requests: Vec<Request>,
    connected: Vec<Vec<String>>,
    in_flight: usize,
    in_flight_max: usize,
}

/// Requests remembered for [`StandInDaemon::take_requests`]; later ones are not.
const REQUESTS_MAX: usize = 100_000;

impl World {
    fn log(&mut self, request: Request) {
        if self.requests.len() < REQUESTS_MAX {
            self.requests.push(request);
        }
    }
}

/// Counts a pin in flight as long as it lives.
struct InFlight(StandInDaemon);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.change(|world| {
            world.in_flight -= 1;
            if world.in_flight == 0 && std::mem::take(&mut world.orphaned) {
                world.locked = false;
            }
        });
    }
}

/// Keeps pins and unpins waiting as long as it lives. Like Kubo's, a collection that waits for the
/// lock cannot be called off.
struct Lock(StandInDaemon);

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.change(|world| {
            world.orphaned = world.in_flight > 0;
            world.locked = world.orphaned;
        });
    }
}

impl StandInDaemon {
    /// A daemon that is up, holds nothing, finds everything, and takes `pin_time` for each pin.
    #[must_use]
    pub fn new(id: &str, pin_time: Duration) -> Self {
        let world = World {
            id: id.to_owned(),
            down: false,
            life: 0,
            pin_time,
            pins: BTreeSet::new(),
            direct: BTreeSet::new(),
            blocks: BTreeSet::new(),
            locked: false,
            orphaned: false,
            missing: BTreeSet::new(),
            failing: BTreeMap::new(),
            listing_limit: None,
            requests: Vec::new(),
            connected: Vec::new(),
            in_flight: 0,
            in_flight_max: 0,
        };
        Self { world: Arc::new(Mutex::new(world)), changed: watch::channel(0).0 }
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
            world.pins.insert(cid);
            world.blocks.insert(cid);
        });
    }

    /// Somebody else pins the block alone.
    pub fn pin_direct(&self, cid: Cid) {
        self.change(|world| world.direct.insert(cid));
    }

    /// A pin goes behind everybody's back; says whether it was there.
    pub fn lose_pin(&self, cid: &Cid) -> bool {
        self.change(|world| world.pins.remove(cid))
    }

    /// Content nobody provides until this is called with `false`.
    pub fn set_missing(&self, cid: Cid, missing: bool) {
        self.change(
            |world| {
                if missing { world.missing.insert(cid) } else { world.missing.remove(&cid) }
            },
        );
    }

    /// Pins of this CID fail so until this is called with `None`.
    pub fn set_failing(&self, cid: Cid, error: Option<IpfsError>) {
        self.change(|world| match error {
            Some(error) => world.failing.insert(cid, error),
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

    /// Stops answering, breaking off what is in flight, or answers again.
    pub fn set_down(&self, down: bool) {
        self.change(|world| {
            world.down = down;
            world.life += 1;
        });
    }

    /// Breaks off what is in flight; pins stay.
    pub fn restart(&self) {
        self.change(|world| world.life += 1);
    }

    /// Comes back as another daemon with an empty repository.
    pub fn replace(&self, id: &str) {
        self.change(|world| {
            world.life += 1;
            id.clone_into(&mut world.id);
            world.pins.clear();
            world.direct.clear();
            world.blocks.clear();
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

    /// All it holds.
    #[must_use]
    pub fn held(&self) -> BTreeSet<Cid> {
        self.world().pins.clone()
    }

    /// Requests since the last call, in order.
    pub fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.world().requests)
    }

    /// Addresses given to `connect`, in order.
    #[must_use]
    pub fn connected(&self) -> Vec<Vec<String>> {
        self.world().connected.clone()
    }

    /// Most pins that were in flight at once.
    #[must_use]
    pub fn in_flight_max(&self) -> usize {
        self.world().in_flight_max
    }

    fn up(&self) -> Result<MutexGuard<'_, World>, IpfsError> {
        let world = self.world();
        if world.down { Err(broken_off()) } else { Ok(world) }
    }

    /// Waits until `done` says so; an error when the daemon's life ends before.
    async fn wait(&self, life: u64, done: impl Fn(&World) -> bool) -> Result<(), IpfsError> {
        let mut changed = self.changed.subscribe();
        loop {
            {
                let world = self.world();
                if world.life != life || world.down {
                    return Err(broken_off());
                }
                if done(&world) {
                    return Ok(());
                }
            }
            // The sender lives as long as `self`.
            let _ = changed.changed().await;
        }
    }

    fn admit(&self, cid: Cid) -> Result<(u64, Duration, InFlight), IpfsError> {
        let mut world = self.up()?;
        world.log(Request::Pin(cid));
        // Like Kubo: a pin that is there is taken away before it is fetched again.
        world.pins.remove(&cid);
        world.in_flight += 1;
        world.in_flight_max = world.in_flight_max.max(world.in_flight);
        Ok((world.life, world.pin_time, InFlight(self.clone())))
    }

    async fn fetch(&self, cid: Cid, progress: watch::Sender<Progress>) -> Result<(), IpfsError> {
        self.unlocked().await?;
        let (life, time, _in_flight) = self.admit(cid)?;
        if let Some(error) = self.world().failing.get(&cid) {
            return Err(error.clone());
        }
        self.wait(life, |world| !world.missing.contains(&cid)).await?;
        progress.send_replace(Progress { blocks: 1, bytes: 100 });
        if !time.is_zero() {
            let broken = self.wait(life, |_| false);
            tokio::select! { biased;
                result = broken => result?,
                () = tokio::time::sleep(time) => {}
            }
        }
        let mut world = self.up()?;
        if world.life != life {
            return Err(broken_off());
        }
        world.pins.insert(cid);
        world.blocks.insert(cid);
        world.direct.remove(&cid);
        Ok(())
    }

    /// Waits while a collection waits or runs.
    async fn unlocked(&self) -> Result<(), IpfsError> {
        let life = self.up()?.life;
        self.wait(life, |world| !world.locked).await
    }

    async fn collect(&self) -> Result<Collected, IpfsError> {
        self.unlocked().await?;
        let life = {
            let mut world = self.up()?;
            world.log(Request::Collect);
            world.locked = true;
            world.life
        };
        let _lock = Lock(self.clone());
        self.wait(life, |world| world.in_flight == 0).await?;
        let time = self.up()?.pin_time;
        let broken = self.wait(life, |_| false);
        tokio::select! { biased;
            result = broken => result?,
            () = tokio::time::sleep(time) => {}
        }
        let mut world = self.up()?;
        let world = &mut *world;
        let before = world.blocks.len();
        world.blocks.retain(|cid| world.pins.contains(cid) || world.direct.contains(cid));
        let removed = (before - world.blocks.len()) as u64;
        Ok(Collected { removed, errors: Vec::new() })
    }
}

fn broken_off() -> IpfsError {
    IpfsError::Down("the stand-in is down".to_owned())
}

impl Ipfs for StandInDaemon {
    fn id(&self) -> BoxFuture<'_, Result<DaemonInfo, IpfsError>> {
        async move {
            let id = self.up()?.id.clone();
            let addresses = vec![format!("/ip4/127.0.0.1/tcp/4001/p2p/{id}")];
            Ok(DaemonInfo { id, agent: "stand-in/1".to_owned(), addresses })
        }
        .boxed()
    }

    fn pinned(&self, cids: Vec<Cid>) -> BoxFuture<'_, Result<Vec<Held>, IpfsError>> {
        async move {
            let mut world = self.up()?;
            for cid in &cids {
                world.log(Request::Ask(*cid));
            }
            let held = |cid| match (world.pins.contains(cid), world.direct.contains(cid)) {
                (true, _) => Held::Recursive,
                (false, true) => Held::Direct,
                (false, false) => Held::No,
            };
            Ok(cids.iter().map(held).collect())
        }
        .boxed()
    }

    fn pin(
        &self,
        cid: Cid,
        progress: watch::Sender<Progress>,
    ) -> BoxFuture<'_, Result<(), IpfsError>> {
        self.fetch(cid, progress).boxed()
    }

    fn unpin(&self, cid: Cid) -> BoxFuture<'_, Result<(), IpfsError>> {
        async move {
            self.unlocked().await?;
            let mut world = self.up()?;
            world.log(Request::Unpin(cid));
            world.pins.remove(&cid);
            Ok(())
        }
        .boxed()
    }

    fn pins(&self) -> BoxStream<'_, Result<Cid, IpfsError>> {
        let items = match self.up() {
            Ok(world) => {
                let limit = world.listing_limit;
                let mut items: Vec<_> =
                    world.pins.iter().copied().take(limit.unwrap_or(usize::MAX)).map(Ok).collect();
                if limit.is_some() {
                    items.push(Err(IpfsError::Failed("the listing broke off".to_owned())));
                }
                items
            }
            Err(error) => vec![Err(error)],
        };
        stream::iter(items).boxed()
    }

    fn repository(&self) -> BoxFuture<'_, Result<RepositoryStat, IpfsError>> {
        async move {
            let size = self.up()?.pins.len() as u64 * 100;
            Ok(RepositoryStat { size, storage_max: 10_000_000_000 })
        }
        .boxed()
    }

    fn collect_garbage(&self) -> BoxFuture<'_, Result<Collected, IpfsError>> {
        self.collect().boxed()
    }

    fn connect(&self, addresses: Vec<String>) -> BoxFuture<'_, Result<(), IpfsError>> {
        async move {
            self.up()?.connected.push(addresses);
            Ok(())
        }
        .boxed()
    }
}
