//! The judge checks everything that must always hold, and keeps the first violation.
//!
//! It sees each change of each replica, each unpin that reaches a daemon, and each answer to a user. It
//! never changes anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::broadcast::{
        self,
        error::{RecvError, TryRecvError},
    },
    task::AbortHandle,
    time::Instant,
};

use super::{
    history::{Facts, History, beside_of, hash_of},
    host::Host,
    log::SimLog,
    trace::Trace,
};
use crate::{
    cluster::Cluster,
    ipfs::fake::StandInDaemon,
    state::{Changed, PinSet, SharedState},
    types::{Cid, PeerId, PinState},
};

/// Longest time from a daemon's answer until the peer knows of it, or asks again. While the leader has the
/// daemon asked before a release, the peer still believes the answer before.
const ARRIVES_MAX: Duration = Duration::from_secs(6);

/// The judge; clones share it.
#[derive(Clone, Debug)]
pub struct Judge(Arc<Mutex<Watched>>);

/// The judge's knowledge.
#[derive(Debug)]
pub struct Watched {
    /// The agreed history.
    pub history: History,
    replicas: BTreeMap<PeerId, Replica>,
    daemons: BTreeMap<PeerId, StandInDaemon>,
    /// When the processes ended of peers that do not run.
    ended: BTreeMap<PeerId, Instant>,
    /// The logs of all lives of the peers.
    logs: Vec<SimLog>,
    violation: Option<String>,
    trace: Trace,
}

/// The state of one peer during one life.
#[derive(Debug)]
struct Replica {
    me: PeerId,
    cluster: Cluster,
    state: SharedState,
    log: SimLog,
    changes: broadcast::Receiver<Changed>,
    /// The hash of each pin, and whether it is allocated to this peer.
    pins: BTreeMap<Cid, (u64, bool)>,
    hash: u64,
    /// Number of entries compared with the history.
    compared: u64,
    /// Some of the later entries came by a snapshot.
    by_snapshot: bool,
    /// When it was first seen with an applied entry.
    first: Option<Instant>,
    /// Length of the history at its start.
    base: u64,
    /// Length of the history when a pin was seen to be released here.
    dropped: BTreeMap<Cid, u64>,
    /// When each pin was last allocated here.
    taken: BTreeMap<Cid, Instant>,
    /// Examined, and not yet compared with the leader's reports.
    looked_at: BTreeSet<Cid>,
    watcher: AbortHandle,
}

impl Judge {
    /// A judge that records its findings in the trace.
    #[must_use]
    pub fn new(trace: Trace) -> Self {
        Self(Arc::new(Mutex::new(Watched {
            history: History::new(trace.clone()),
            replicas: BTreeMap::new(),
            daemons: BTreeMap::new(),
            ended: BTreeMap::new(),
            logs: Vec::new(),
            violation: None,
            trace,
        })))
    }

    /// Watches all requests to a host's daemon from now on.
    pub fn watch_daemon(&self, host: &Host) {
        self.lock().daemons.insert(host.id, host.daemon.clone());
        let (judge, id, name) = (self.clone(), host.id, host.member.name.clone());
        let trace = self.lock().trace.clone();
        host.daemon.set_witness(Arc::new(move |command, query| {
            trace.event(|| format!("{name} asks its daemon {command} {query:?}"), &query);
            let cids = query.iter().filter_map(|(_, value)| value.parse().ok());
            match command {
                "pin/rm" => cids.for_each(|cid| judge.lock().unpin(id, &cid)),
                "pin/add" => cids.for_each(|cid| judge.lock().pin(id, &cid)),
                _ => {}
            }
        }));
    }

    /// Watches the replica of a peer that has just started.
    pub fn watch_peer(&self, host: &Host) {
        let Some(peer) = &host.peer else { return };
        let state = peer.cluster.state().clone();
        let (judge, id, mut changes) = (self.clone(), host.id, state.subscribe());
        let watcher = tokio::spawn(async move {
            while !matches!(changes.recv().await, Err(RecvError::Closed)) {
                judge.lock().observe();
            }
        });
        let mut watched = self.lock();
        let mut replica = Replica {
            me: id,
            cluster: peer.cluster.clone(),
            changes: state.subscribe(),
            log: host.log(),
            pins: BTreeMap::new(),
            hash: 0,
            compared: state.entries(),
            by_snapshot: false,
            first: None,
            base: watched.history.len_before_now(),
            dropped: BTreeMap::new(),
            taken: BTreeMap::new(),
            looked_at: BTreeSet::new(),
            watcher: watcher.abort_handle(),
            state,
        };
        replica.look_at_all(0);
        watched.logs.push(host.log());
        watched.ended.remove(&id);
        watched.replicas.insert(id, replica);
        watched.observe();
    }

    /// Examines a peer once more before its process ends; returns when it was first seen with an applied
    /// entry.
    pub fn forget_peer(&self, id: PeerId) -> Option<Instant> {
        let mut watched = self.lock();
        watched.observe();
        let replica = watched.replicas.remove(&id)?;
        watched.ended.insert(id, Instant::now());
        replica.watcher.abort();
        replica.first
    }

    /// Copies of a member move only when it has been away for so long, or departs.
    pub fn set_grace(&self, grace: Duration) {
        self.lock().history.set_grace(grace);
    }

    /// Records a violation found elsewhere.
    pub fn accuse(&self, what: &str) {
        self.lock().accuse(what.to_owned());
    }

    /// Number of entries agreed so far; answers to later requests are checked from there.
    #[must_use]
    pub fn begin(&self) -> u64 {
        self.watched().history.len()
    }

    /// Records a false answer, unless `truth` confirms it.
    pub fn expect(&self, what: &str, truth: impl FnOnce(&History) -> bool) {
        let mut watched = self.watched();
        if !truth(&watched.history) {
            watched.accuse(what.to_owned());
        }
    }

    /// Records a false answer, unless a daemon has reported the end of a collection since then.
    pub fn expect_gc(&self, peer: PeerId, since: Instant) {
        let mut watched = self.lock();
        let ended = watched.daemons.get(&peer).and_then(StandInDaemon::collected_at);
        if ended < Some(since) {
            watched.accuse(format!("{peer} reported a collection that its daemon has not ended"));
        }
    }

    /// Everything it knows now.
    pub fn watched(&self) -> MutexGuard<'_, Watched> {
        let mut watched = self.lock();
        watched.observe();
        watched
    }

    /// Checks a peer's statuses of its pins.
    ///
    /// # Errors
    /// The first violation, whenever it was found.
    pub fn check(&self, hosts: &[Host]) -> Result<(), String> {
        let mut watched = self.watched();
        for host in hosts {
            let Some(peer) = &host.peer else { continue };
            for (cid, status) in peer.tracker.statuses() {
                if status.state != PinState::Pinned {
                    continue;
                }
                match host.daemon.answer(&cid) {
                    Some(answer) if answer.held || answer.at.elapsed() <= ARRIVES_MAX => {}
                    answer => {
                        let name = &host.member.name;
                        watched.accuse(format!(
                            "{name} reports {cid} as Pinned, but its daemon answered {answer:?}"
                        ));
                    }
                }
                if host.daemon.holds(&cid) && !host.daemon.stores(&cid) {
                    let name = &host.member.name;
                    watched.accuse(format!(
                        "the daemon of {name} has a pin of {cid} without its content"
                    ));
                }
            }
        }
        watched.violation.clone().map_or(Ok(()), Err)
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.0.lock()
    }
}

impl Watched {
    fn accuse(&mut self, what: String) {
        self.trace.note(format!("!!! {what}"));
        self.violation.get_or_insert(what);
    }

    /// Compares the changes of the replicas with the history: first on those that applied everything
    /// themselves, so that the entries of a snapshot are known.
    fn observe(&mut self) {
        let agreed = self.history.len_before_now();
        for (id, replica) in &mut self.replicas {
            if replica.take_changes(agreed) {
                self.trace.note(format!("{id} has installed a snapshot"));
                self.trace.meet("a snapshot");
                replica.by_snapshot = true;
            }
        }
        let mut order: Vec<(bool, PeerId)> =
            self.replicas.iter().map(|(id, replica)| (replica.by_snapshot, *id)).collect();
        order.sort_unstable();
        order.into_iter().for_each(|(_, id)| self.compare(id));
        self.look_at_reports();
    }

    /// If a leader that has applied everything treats a CID as pinned, the daemon must have confirmed
    /// it and not been asked to unpin it since.
    fn look_at_reports(&mut self) {
        let mut found = None;
        for (id, replica) in &mut self.replicas {
            let cids = std::mem::take(&mut replica.looked_at);
            if replica.compared < self.history.len() || !replica.cluster.leadership().borrow().local
            {
                continue;
            }
            for cid in cids {
                let reports = replica.cluster.reports().of_pin(&cid);
                let statuses = replica.state.read(|pins| reports.of(pins.get(&cid)));
                let pinned = statuses.into_iter().filter(|(_, s)| s.state == PinState::Pinned);
                for (peer, _) in pinned {
                    if !self.daemons.get(&peer).is_some_and(|daemon| daemon.has_confirmed(&cid)) {
                        found = Some(format!("{id} treats {cid} as pinned on {peer}"));
                    }
                }
            }
        }
        found.into_iter().for_each(|what| self.accuse(what));
    }

    fn compare(&mut self, id: PeerId) {
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        let range = (replica.compared, replica.state.entries());
        let (daemons, ended, logs) = (&self.daemons, &self.ended, &self.logs);
        let facts = Facts {
            ended: &|peer| ended.get(&peer).copied(),
            confirmed: &|peer, cid| daemons.get(&peer)?.confirmed_at(cid),
            proposed: &|position| logs.iter().filter_map(|log| log.appended_at(position)).min(),
        };
        let extended = self.history.extend(&replica.log, range, replica.by_snapshot, &facts);
        replica.by_snapshot = false;
        replica.compared = range.1;
        if range.1 > 0 {
            replica.first.get_or_insert_with(Instant::now);
        }
        if let Err(what) = extended {
            return self.accuse(format!("{id}: {what}"));
        }
        let hashes = (replica.hash, replica.state.read(beside_of));
        if range.1 > self.history.len() || self.history.hashes(range.1) != hashes {
            self.accuse(format!("the state of {id} after {} entries differs", range.1));
        }
    }

    /// A request for a pin has reached a daemon. A foreign pin must not become the peer's, which would
    /// unpin it later.
    fn pin(&mut self, id: PeerId, cid: &Cid) {
        if self.daemons.get(&id).is_some_and(|daemon| daemon.foreign().contains(cid)) {
            self.accuse(format!("{id} pins {cid}, which is a foreign pin"));
        }
    }

    /// A request for an unpin has reached a daemon.
    fn unpin(&mut self, id: PeerId, cid: &Cid) {
        self.observe();
        if self.daemons.get(&id).is_some_and(|daemon| daemon.foreign().contains(cid)) {
            return self.accuse(format!("{id} unpins {cid}, which is a foreign pin"));
        }
        let Some(replica) = self.replicas.get(&id) else {
            return self.accuse(format!("{id} unpins {cid} but does not run"));
        };
        if replica.pins.get(cid).is_some_and(|(_, here)| *here)
            && replica.taken.get(cid).is_none_or(|since| *since != Instant::now())
        {
            return self.accuse(format!("{id} unpins {cid}, which is allocated to it"));
        }
        let needed = replica.dropped.get(cid).copied().unwrap_or_default().max(replica.base);
        if replica.compared < needed {
            let known = replica.compared;
            self.accuse(format!(
                "{id} unpins {cid} after {known} entries, but it must know {needed}"
            ));
        }
    }
}

impl Replica {
    /// Takes the changes; returns whether the state was replaced as a whole.
    fn take_changes(&mut self, agreed: u64) -> bool {
        let mut replaced = false;
        loop {
            match self.changes.try_recv() {
                Ok(Changed::Cids(cids)) => self.look_at(&cids, agreed),
                Ok(Changed::Everything) => {
                    replaced = true;
                    self.look_at_all(agreed);
                }
                Err(TryRecvError::Lagged(_)) => self.look_at_all(agreed),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return replaced,
            }
        }
    }

    fn look_at_all(&mut self, agreed: u64) {
        let mut cids: BTreeSet<Cid> = self.pins.keys().copied().collect();
        cids.extend(self.state.read(|pins| pins.iter().map(|(cid, _)| cid).collect::<Vec<_>>()));
        self.look_at(&cids.into_iter().collect::<Vec<_>>(), agreed);
    }

    fn look_at(&mut self, cids: &[Cid], agreed: u64) {
        let (me, state) = (self.me, self.state.clone());
        state.read(|pins| {
            for cid in cids {
                self.look_at_one(pins, *cid, me, agreed);
            }
        });
    }

    fn look_at_one(&mut self, pins: &PinSet, cid: Cid, me: PeerId, agreed: u64) {
        let pin = pins.get(&cid);
        self.looked_at.insert(cid);
        let (hash, here) = (hash_of(&cid, pin), pin.is_some_and(|pin| pin.is_on(me)));
        let (old_hash, was_here) = self.pins.insert(cid, (hash, here)).unwrap_or_default();
        self.hash ^= old_hash ^ hash;
        if here && !was_here {
            self.taken.insert(cid, Instant::now());
        }
        if was_here && !here {
            self.dropped.insert(cid, agreed);
        }
    }
}
