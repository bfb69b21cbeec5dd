//! What must hold at every instant of a world.
//!
//! When a pod sends a status of a Pin:
//! - The pod leads as far as it knows, and it is not a leader that was replaced longer than
//!   [`DEPOSED_MAX`] ago. The version in the write does not help here: a deposed leader's watch shows
//!   what the new leader has written, and it would overwrite that version.
//! - Each copy with the state Pinned is held by its daemon, or was until [`REPORT_MAX`] ago, or its
//!   daemon lost it without notice at most [`NOTICED_MAX`] ago.
//! - Ready=True needs as many such copies as the spec of the status's generation.
//!
//! When a status arrives, it may be as old as its request, but it does not replace what the leader of
//! a later term has written since it was sent.
//!
//! After every step:
//! - At most one cluster is founded.
//! - The held copies of a living Pin that was once Ready never fall below the least number that it
//!   has asked for since, except for what daemons lost.
//! - No process forgets the claim of a living Pin.
//! - Foreign content stays.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use pinkeeper::{
    cluster::{Cluster, Leadership, Standing},
    ipfs::fake::StandInDaemon,
    sim::trace::Trace,
    types::{Cid, ClusterId, PeerId, Pin},
};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{
    api::{
        Witness,
        store::{Key, Kind},
    },
    pods::pod_name,
};

/// A leader without a majority stops acting as leader within this time: twice the longest election
/// timeout and a little more.
const DEPOSED_MAX: Duration = Duration::from_millis(3500);
/// The leader knows of an unpin within this time.
const REPORT_MAX: Duration = Duration::from_millis(2000);
/// A lost pin is noticed within this time: the daemon's list is compared every 20 s, and a list may
/// have to be read again.
const NOTICED_MAX: Duration = Duration::from_secs(45);
/// How often the world is checked between its steps.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Clones are the same.
#[derive(Clone)]
pub struct Oracle(Arc<Mutex<Seen>>);

pub struct Seen {
    daemons: Vec<StandInDaemon>,
    pods: Vec<Option<Process>>,
    held: Vec<BTreeSet<Cid>>,
    /// When a daemon was last seen without a pin that it had held.
    lost: BTreeMap<(usize, Cid), Instant>,
    /// Pins that a daemon lost without notice and has not held since, and when it lost them.
    robbed: BTreeMap<(usize, Cid), Instant>,
    /// When a term's leader was first seen, and which pod it is.
    leaders: BTreeMap<u64, (Instant, usize)>,
    /// Clusters of the disks, and the pod where each was first seen.
    founded: BTreeMap<ClusterId, usize>,
    /// The term and the revision of each Pin's last status, by UID.
    written: BTreeMap<String, (u64, u64)>,
    violations: Vec<String>,
    /// Leaving copies that the present leader knows of, and since when.
    leaving: BTreeMap<(Cid, PeerId), Instant>,
    trace: Trace,
}

struct Process {
    cluster: Cluster,
    known: Leadership,
    /// When the leadership last changed, and what it was before.
    before: (Instant, Leadership),
}

impl Oracle {
    pub fn new(daemons: Vec<StandInDaemon>, trace: Trace) -> Self {
        let seen = Seen {
            pods: daemons.iter().map(|_| None).collect(),
            held: daemons.iter().map(StandInDaemon::held).collect(),
            daemons,
            lost: BTreeMap::new(),
            robbed: BTreeMap::new(),
            leaders: BTreeMap::new(),
            founded: BTreeMap::new(),
            written: BTreeMap::new(),
            violations: Vec::new(),
            leaving: BTreeMap::new(),
            trace,
        };
        Self(Arc::new(Mutex::new(seen)))
    }

    pub fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock()
    }

    /// Checks regularly, as long as the world runs.
    pub async fn watch(self) {
        loop {
            self.lock().look();
            sleep(LOOK_EVERY).await;
        }
    }
}

impl Witness for Oracle {
    fn sent(&self, pod: usize, key: &Key, body: &Value, object: Option<&Value>) -> u64 {
        self.lock().judge(pod, key, body, object)
    }

    fn taken(&self, term: u64, sent_at: u64, object: &Value) {
        if object["kind"] != "Pin" {
            return;
        }
        let mut seen = self.lock();
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let revision = text("resourceVersion").parse().unwrap_or_default();
        let (uid, name) = (text("uid"), text("name"));
        if let Some((other, at)) = seen.written.insert(uid, (term, revision))
            && other > term
            && at > sent_at
        {
            seen.violation(format!("{name}: a status of term {term} replaced one of term {other}"));
        }
    }
}

impl Seen {
    /// Sets the process of a pod, if it has one.
    pub fn set_process(&mut self, pod: usize, cluster: Option<&Cluster>) {
        let none = (Instant::now(), Leadership::default());
        let process = |cluster: &Cluster| Process {
            cluster: cluster.clone(),
            known: Leadership::default(),
            before: none,
        };
        self.pods[pod] = cluster.map(process);
    }

    /// A daemon has just lost these pins.
    pub fn rob(&mut self, pod: usize, cids: &[Cid]) {
        self.robbed.extend(cids.iter().map(|cid| ((pod, *cid), Instant::now())));
    }

    pub fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    /// The first violation.
    pub fn first_violation(&self) -> Result<(), String> {
        self.violations.first().map_or(Ok(()), |what| Err(what.clone()))
    }

    pub fn look(&mut self) {
        let now = Instant::now();
        for pod in 0..self.pods.len() {
            self.look_at_daemon(pod, now);
            let Some(process) = &mut self.pods[pod] else { continue };
            process.look(now);
            if process.known.local {
                self.leaders.entry(process.known.term).or_insert((now, pod));
            }
            self.look_at_leaving(pod, now);
            let Some(process) = &self.pods[pod] else { continue };
            if let Standing::Member { cluster, .. } = process.cluster.standing() {
                self.founded.entry(cluster).or_insert(pod);
            }
        }
        if self.founded.len() > 1 {
            let what = format!("more than one cluster was founded: {:?}", self.founded);
            self.violations.push(what);
        }
    }

    fn look_at_daemon(&mut self, pod: usize, now: Instant) {
        let held = self.daemons[pod].held();
        for gone in self.held[pod].difference(&held) {
            self.lost.insert((pod, *gone), now);
        }
        self.robbed.retain(|(of, cid), _| *of != pod || !held.contains(cid));
        self.held[pod] = held;
    }

    /// Judges a status that a pod sends; `object` is the present Pin of that name. A status for
    /// another Pin of that name is not judged, since it will be refused.
    fn judge(&mut self, pod: usize, key: &Key, body: &Value, object: Option<&Value>) -> u64 {
        if key.kind != Kind::Pin {
            return 0;
        }
        self.look();
        let object = object.filter(|object| object["metadata"]["uid"] == body["metadata"]["uid"]);
        let wrong = self.sender(pod).or_else(|| self.copies(pod, &body["status"], object?));
        if let Some(wrong) = wrong {
            self.violations.push(format!("{key}: pod-{pod} sends a status, {wrong}: {body}"));
        }
        self.pods[pod].as_ref().map_or(0, |process| process.known.term)
    }

    fn sender(&self, pod: usize) -> Option<String> {
        let Some(process) = &self.pods[pod] else { return Some("and does not run".into()) };
        let now = Instant::now();
        // A change at this very instant may not be known in the whole process yet.
        let knows = match process.before {
            (at, before) if at == now && before.local => before,
            _ => process.known,
        };
        if !knows.local {
            return Some(format!("and knows that it does not lead ({knows:?})"));
        }
        let newer =
            self.leaders.range(knows.term + 1..).find(|(_, (at, _))| now > *at + DEPOSED_MAX);
        newer.map(|(term, (at, other))| {
            let ago = now - *at;
            format!("in term {}, but pod-{other} leads in term {term} since {ago:?}", knows.term)
        })
    }

    fn copies(&self, pod: usize, status: &Value, object: &Value) -> Option<String> {
        let cid: Cid = object["spec"]["cid"].as_str()?.parse().ok()?;
        let now = Instant::now();
        let mut confirmed = 0;
        for copy in status["allocations"].as_array().into_iter().flatten() {
            let Some(holder) = (0..self.pods.len()).find(|n| copy["peer"] == pod_name(*n)) else {
                return Some(format!("and {} is no peer", copy["peer"]));
            };
            let leaves = self.leaves(pod, &cid, holder).is_some_and(|at| now > at + REPORT_MAX);
            let shown_leaving = copy["leaving"] == true;
            if shown_leaving {
                self.trace.meet("a copy is shown as leaving");
                if leaves {
                    self.trace.meet("a copy leaves for long");
                }
            }
            if copy["state"] != "Pinned" {
                continue;
            }
            if leaves && !shown_leaving {
                return Some(format!("and the copy of pod-{holder} is not shown as leaving"));
            }
            confirmed += 1;
            let since = |then: &BTreeMap<(usize, Cid), Instant>| then.get(&(holder, cid)).copied();
            let lately = since(&self.lost).is_some_and(|at| now <= at + REPORT_MAX)
                || since(&self.robbed).is_some_and(|at| now <= at + NOTICED_MAX);
            if !self.held[holder].contains(&cid) && !lately {
                return Some(format!("and the daemon of pod-{holder} does not hold {cid}"));
            }
        }
        let of_this_spec = status["observedGeneration"] == object["metadata"]["generation"];
        let conditions = status["conditions"].as_array()?;
        let ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
        let needed = needed(&object["spec"]);
        (ready && of_this_spec && confirmed < needed)
            .then(|| format!("Ready with {confirmed} copies, {needed} are needed"))
    }

    /// Since when a copy has been leaving, as far as the sender of a status knows.
    fn leaves(&self, pod: usize, cid: &Cid, holder: usize) -> Option<Instant> {
        let pods = [&self.pods[pod], &self.pods[holder]];
        let [Some(sender), Some(holder)] = pods else { return None };
        let peer = holder.cluster.id();
        let is_leaving = sender.cluster.state().read(|pins| {
            pins.get(cid)?.allocations.iter().find(|a| a.peer == peer).map(|a| a.leaving)
        });
        self.leaving.get(&(*cid, peer)).copied().filter(|_| is_leaving == Some(true))
    }

    /// Updates the leaving copies from the state of a leading pod.
    fn look_at_leaving(&mut self, pod: usize, now: Instant) {
        let Some(process) = self.pods[pod].as_ref().filter(|process| process.known.local) else {
            return;
        };
        let leaving: BTreeSet<(Cid, PeerId)> = process.cluster.state().read(|pins| {
            let leaving = |(cid, pin): (Cid, &Pin)| {
                let all = pin.allocations.iter().filter(|a| a.leaving);
                all.map(|a| (cid, a.peer)).collect::<Vec<_>>()
            };
            pins.iter().flat_map(leaving).collect()
        });
        self.leaving.retain(|copy, _| leaving.contains(copy));
        for copy in leaving {
            self.leaving.entry(copy).or_insert(now);
        }
    }

    /// Number of daemons that hold it, or would if they had not lost it.
    pub fn holders(&self, cid: &Cid) -> usize {
        let daemons = self.daemons.iter().enumerate();
        let robbed = |n| self.robbed.contains_key(&(n, *cid));
        daemons.filter(|(n, daemon)| daemon.holds(cid) || robbed(*n)).count()
    }
}

impl Process {
    fn look(&mut self, now: Instant) {
        let known = *self.cluster.leadership().borrow();
        if known != self.known {
            self.before = (now, self.known);
            self.known = known;
        }
    }
}

/// Copies that a Pin needs to be Ready; the pods' default is 2.
pub fn needed(spec: &Value) -> u64 {
    let count = |name: &str| spec[name].as_u64();
    let least = count("minReplicas");
    let wanted = count("replicas").unwrap_or_else(|| 2.max(least.unwrap_or(1)));
    least.unwrap_or(wanted).min(wanted)
}
