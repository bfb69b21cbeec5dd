//! What must hold at every instant of a world.
//!
//! Of a status that a pod writes on a Pin, when it sends it:
//! - it leads by its own knowledge, and it is not a leader that was replaced longer than
//!   [`DEPOSED_MAX`] ago. A version that names the object does not help here: a deposed leader sees by
//!   its watch what the new one has written, and would write over that very version;
//! - each copy called Pinned is held by that daemon, or was until [`REPORT_MAX`] ago, or the daemon lost
//!   it behind everybody's back at most [`NOTICED_MAX`] ago;
//! - Ready=True only with as many such copies as the spec of the generation it speaks of needs.
//!
//! When it arrives it may be as old as the request was long under way; but it does not replace what the
//! leader of a later term has written since it was sent.
//!
//! Of the rest, after every step: one cluster at most is founded; what is held of a living Pin that was
//! once Ready never falls below the least number it has asked for since, but for what daemons lost; no
//! process forgets the claim of a living Pin; foreign content stays.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

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

/// A leader that cannot reach a majority has stopped acting as one by then: after twice the longest
/// election timeout, and a little.
const DEPOSED_MAX: Duration = Duration::from_millis(3500);
/// News of an unpinning is at the leader by then.
const REPORT_MAX: Duration = Duration::from_millis(2000);
/// What a daemon lost is known by then: its list is compared every 20 s, and a list may have to be read
/// again.
const NOTICED_MAX: Duration = Duration::from_secs(45);
/// How often the world is looked at between its steps.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Clones are the same.
#[derive(Clone)]
pub struct Oracle(Arc<Mutex<Seen>>);

pub struct Seen {
    daemons: Vec<StandInDaemon>,
    pods: Vec<Option<Process>>,
    held: Vec<BTreeSet<Cid>>,
    /// When a daemon was last seen without what it had held.
    lost: BTreeMap<(usize, Cid), Instant>,
    /// What a daemon lost behind everybody's back and has not held since, and when.
    robbed: BTreeMap<(usize, Cid), Instant>,
    /// When a term's leader was first seen, and which pod it is.
    leaders: BTreeMap<u64, (Instant, usize)>,
    /// Clusters that disks belong to, and the pod it was first seen on.
    founded: BTreeMap<ClusterId, usize>,
    /// The term and the revision of each Pin's last status, by UID.
    written: BTreeMap<String, (u64, u64)>,
    violations: Vec<String>,
    /// Copies that leave, as the present leader knows, and since when it has known that.
    leaving: BTreeMap<(Cid, PeerId), Instant>,
    trace: Trace,
}

struct Process {
    cluster: Cluster,
    known: Leadership,
    /// When that changed last, and what it was before.
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks now and then, for as long as the world runs.
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
    /// A pod has another process, or none.
    pub fn set_process(&mut self, pod: usize, cluster: Option<&Cluster>) {
        let none = (Instant::now(), Leadership::default());
        let process = |cluster: &Cluster| Process {
            cluster: cluster.clone(),
            known: Leadership::default(),
            before: none,
        };
        self.pods[pod] = cluster.map(process);
    }

    /// A daemon has just lost these by itself.
    pub fn rob(&mut self, pod: usize, cids: &[Cid]) {
        self.robbed.extend(cids.iter().map(|cid| ((pod, *cid), Instant::now())));
    }

    pub fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    /// The first thing that was wrong.
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

    /// Judges a status of a Pin that a pod sends; `object` is the Pin of that name as it is now. About
    /// another Pin than that one the status can say what it likes: it is refused.
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
        // What has changed in this very instant may not have got around in the process.
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
            if copy["state"] == "Leaving" {
                self.trace.meet("a copy is shown as leaving");
                if leaves {
                    self.trace.meet("a copy leaves for long");
                }
            }
            if copy["state"] != "Pinned" {
                continue;
            }
            if leaves {
                return Some(format!("and the copy of pod-{holder} is leaving"));
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

    /// Since when a copy has been leaving, by what the sender of a status knows itself.
    fn leaves(&self, pod: usize, cid: &Cid, holder: usize) -> Option<Instant> {
        let pods = [&self.pods[pod], &self.pods[holder]];
        let [Some(sender), Some(holder)] = pods else { return None };
        let peer = holder.cluster.id();
        let is_leaving = sender.cluster.state().read(|pins| {
            pins.get(cid)?.allocations.iter().find(|a| a.peer == peer).map(|a| a.leaving)
        });
        self.leaving.get(&(*cid, peer)).copied().filter(|_| is_leaving == Some(true))
    }

    /// What leaves, by the state of a pod that leads.
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

    /// Daemons that hold it, or would if they had not lost it.
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

/// Copies that a Pin needs to be Ready; pods are told that 2 is the default.
pub fn needed(spec: &Value) -> u64 {
    let count = |name: &str| spec[name].as_u64();
    let least = count("minReplicas");
    let wanted = count("replicas").unwrap_or_else(|| 2.max(least.unwrap_or(1)));
    least.unwrap_or(wanted).min(wanted)
}
