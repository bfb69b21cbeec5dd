//! A peer for the tests of the HTTP servers: pins in memory, and errors on demand.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    cluster::{Counters, Leadership, Listed, MemberView, UseCaseError},
    types::{
        Allocation, Cid, Claim, DaemonInfo, GcCounters, GcResults, Member, Metrics, Owner, PeerId,
        Pin, PinEntry, PinRequest, PinState, Timestamp,
    },
};

/// How long the second member has been away.
const AWAY: Duration = Duration::from_secs(90);

#[derive(Clone, Debug)]
pub(in crate::rest) struct StandIn {
    id: PeerId,
    members: BTreeMap<PeerId, Member>,
    metrics: watch::Sender<Metrics>,
    told: Arc<Mutex<Told>>,
    /// Pins proceed while it is open and wait while it is not.
    pub(super) open: watch::Sender<bool>,
    /// Number of waiting pins.
    pub(super) waiting: watch::Sender<usize>,
}

/// Values set by tests.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) pins: BTreeMap<Cid, PinEntry>,
    /// The error of every use case.
    pub(super) error: Option<UseCaseError>,
    /// The error of a list after its first page.
    pub(super) error_after_page: Option<UseCaseError>,
    /// Pins per page.
    pub(super) page: usize,
    /// Why the peer is not ready.
    pub(super) unready: Option<String>,
    /// The results of garbage collections, and when they are returned.
    pub(super) collected: GcResults,
    pub(super) collect_time: Duration,
    pub(super) collections: GcCounters,
    /// The peers that were asked to leave or to stay.
    pub(super) departures: Vec<(PeerId, bool)>,
}

impl StandIn {
    pub(super) fn new(id: PeerId, members: BTreeMap<PeerId, Member>, metrics: Metrics) -> Self {
        let told = Told {
            pins: BTreeMap::new(),
            error: None,
            error_after_page: None,
            page: 1000,
            unready: None,
            collected: GcResults::new(),
            collect_time: Duration::ZERO,
            collections: GcCounters::default(),
            departures: Vec::new(),
        };
        let metrics = watch::Sender::new(metrics);
        let (open, waiting) = (watch::Sender::new(true), watch::Sender::new(0));
        Self { id, members, metrics, told: Arc::new(Mutex::new(told)), open, waiting }
    }

    pub(super) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap()
    }

    fn checked(&self) -> Result<MutexGuard<'_, Told>, UseCaseError> {
        let told = self.told();
        match told.error.clone() {
            Some(error) => Err(error),
            None => Ok(told),
        }
    }
}

/// Counts one waiting pin while its future lives.
struct Waits(watch::Sender<usize>);

impl Waits {
    fn begin(count: &watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count.clone())
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// The use cases, with the same names as the peer's.
#[allow(clippy::unused_async)]
impl StandIn {
    pub(in crate::rest) fn id(&self) -> PeerId {
        self.id
    }

    pub(in crate::rest) fn member(&self) -> &Member {
        &self.members[&self.id]
    }

    pub(in crate::rest) fn members(&self) -> BTreeMap<PeerId, MemberView> {
        let view = |member: &Member| MemberView { member: member.clone(), voter: true };
        self.members.iter().map(|(peer, member)| (*peer, view(member))).collect()
    }

    /// Peer B has moved since it joined.
    pub(in crate::rest) fn addresses(&self) -> BTreeMap<PeerId, Vec<String>> {
        let others = self.members.keys().filter(|peer| **peer != self.id);
        others.map(|peer| (*peer, vec!["/ip4/10.0.0.3/tcp/9096".to_owned()])).collect()
    }

    pub(in crate::rest) fn daemons(&self) -> BTreeMap<PeerId, DaemonInfo> {
        let own = self.metrics.borrow().daemon.clone();
        let others = self.members.keys().filter(|peer| **peer != self.id).map(|peer| {
            let (agent, addresses) = (String::new(), Vec::new());
            (*peer, DaemonInfo { id: "12D3Other".to_owned(), agent, addresses })
        });
        others.chain(own.map(|own| (self.id, own))).collect()
    }

    pub(in crate::rest) fn local_metrics(&self) -> watch::Receiver<Metrics> {
        self.metrics.subscribe()
    }

    pub(in crate::rest) fn leadership(&self) -> watch::Receiver<Leadership> {
        let leadership = Leadership { term: 7, local: true, ..Leadership::default() };
        watch::Sender::new(leadership).subscribe()
    }

    pub(in crate::rest) fn counters(&self) -> Counters {
        Counters {
            states: [(PinState::Pinned, 5), (PinState::NotFound, 2)].into(),
            failures: [(PinState::Failed, 9)].into(),
            ..Counters::default()
        }
    }

    /// The other peer departs, with three copies.
    pub(in crate::rest) fn roster(&self) -> BTreeMap<PeerId, Listed> {
        let listed = |peer: &PeerId| match *peer == self.id {
            true => Listed { votes: true, departs: false, copies: 7, away: Duration::ZERO },
            false => Listed { votes: false, departs: true, copies: 3, away: AWAY },
        };
        self.members.keys().map(|peer| (*peer, listed(peer))).collect()
    }

    pub(in crate::rest) async fn depart(
        &self,
        peer: PeerId,
        departs: bool,
    ) -> Result<u64, UseCaseError> {
        let mut told = self.checked()?;
        told.departures.push((peer, departs));
        Ok(3)
    }

    pub(in crate::rest) fn pins_leaving(&self) -> usize {
        4
    }

    pub(in crate::rest) fn levels(&self) -> (u32, u32) {
        (1, 2)
    }

    pub(in crate::rest) fn readiness(&self) -> Result<(), String> {
        self.told().unready.clone().map_or(Ok(()), Err)
    }

    pub(in crate::rest) fn collections(&self) -> GcCounters {
        self.told().collections
    }

    pub(in crate::rest) async fn run_gc(&self, local: bool) -> Result<GcResults, UseCaseError> {
        let time = self.told().collect_time;
        tokio::time::sleep(time).await;
        let own = self.id;
        let results = self.checked()?.collected.clone().into_iter();
        Ok(results.filter(|(peer, _)| !local || *peer == own).collect())
    }

    pub(in crate::rest) async fn pin_all(
        &self,
        requests: Vec<PinRequest>,
    ) -> Vec<Result<Pin, UseCaseError>> {
        futures::future::join_all(requests.into_iter().map(|request| self.pin(request))).await
    }

    pub(in crate::rest) async fn pin(&self, request: PinRequest) -> Result<Pin, UseCaseError> {
        let claim = Claim { options: request.options, generation: 0, since: Timestamp(1000) };
        let peers = self.members.keys();
        let pin = Pin {
            claims: [(Owner::Rest, claim)].into_iter().collect(),
            allocations: peers
                .map(|peer| Allocation { peer: *peer, leaving: false, at_entry: 1 })
                .collect(),
            created: Timestamp(1000),
        };
        let waits = Waits::begin(&self.waiting);
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
        drop(waits);
        let (cid, statuses) = (request.cid, BTreeMap::new());
        self.checked()?.pins.insert(cid, PinEntry { cid, pin: pin.clone(), statuses });
        Ok(pin)
    }

    pub(in crate::rest) async fn unpin(&self, cid: Cid) -> Result<Pin, UseCaseError> {
        let removed = self.checked()?.pins.remove(&cid);
        removed.map(|entry| entry.pin).ok_or(UseCaseError::NotFound)
    }

    pub(in crate::rest) async fn pin_entry(
        &self,
        cid: Cid,
    ) -> Result<Option<PinEntry>, UseCaseError> {
        Ok(self.checked()?.pins.get(&cid).cloned())
    }

    pub(in crate::rest) async fn pins_after(
        &self,
        after: Option<Cid>,
    ) -> Result<Vec<PinEntry>, UseCaseError> {
        let told = self.checked()?;
        match (&told.error_after_page, after) {
            (Some(error), Some(_)) => Err(error.clone()),
            _ => Ok(page(&told, after)),
        }
    }

    pub(in crate::rest) fn local_entry(&self, cid: Cid) -> Option<PinEntry> {
        self.told().pins.get(&cid).cloned()
    }

    pub(in crate::rest) fn local_pins_after(&self, after: Option<Cid>) -> Vec<PinEntry> {
        page(&self.told(), after)
    }
}

fn page(told: &Told, after: Option<Cid>) -> Vec<PinEntry> {
    let entries = told.pins.range((after.map_or(Unbounded, Excluded), Unbounded)).take(told.page);
    entries.map(|(_, entry)| entry.clone()).collect()
}
