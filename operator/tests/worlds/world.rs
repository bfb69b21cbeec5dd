//! A world: pods on empty disks, an API server, users, and faults.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use pinkeeper::{
    sim::{network::SimNetwork, trace::Trace},
    types::{Cid, Uid},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    api::{
        SimApi,
        faults::Faults,
        store::{Key, Kind, Store},
    },
    oracle::{Oracle, needed},
    pods::{NAMESPACE, PODS, Pod, RECORD},
    storms::Storms,
    users::{DEFINITION, FOREIGN, Users, cid_of, pins, uid},
};

/// The annotation by which a person approves waiting deletions.
const ALLOW_UNPIN: &str = "pinkeeper.dev/allow-unpin";
/// Virtual time with faults.
const FAULTS_FOR: Duration = Duration::from_secs(60);
/// In one of this many worlds daemons lose pins, and deleted namespaces stay away for a while. (The
/// other worlds do not depend on it, so that older kept seeds are still the worlds that failed.)
const LOSING: u64 = 5;
/// How long a deleted namespace stays away in these worlds.
const AWAY: Duration = Duration::from_secs(15);
/// How often a peer compares its daemon's list in these worlds.
const COMPARE_PERIOD: Duration = Duration::from_secs(20);
/// Longest time between two events.
const PAUSE_MAX_MS: u64 = 1000;

pub struct World {
    pub seed: u64,
    pub trace: Trace,
    pub api: SimApi,
    pub pods: Vec<Pod>,
    pub users: Users,
    pub oracle: Oracle,
    pub random: StdRng,
    network: SimNetwork,
    /// Random stream of lost pins; present if daemons lose pins.
    losses: Option<StdRng>,
    pub storms: Storms,
    /// Copies of living Pins that must be held, by UID.
    guarded: BTreeMap<String, u64>,
    /// Claimed UIDs in each process's state.
    claimed: Vec<BTreeSet<Uid>>,
    /// A person has confirmed the new definition of Pins.
    confirmed: bool,
    looking: JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

impl World {
    /// All pods start at once, on empty disks.
    pub async fn new(seed: u64) -> Self {
        Self::with(seed, |_| {}).await
    }

    /// The same, with a store prepared by `prepare`.
    pub async fn with(seed: u64, prepare: impl FnOnce(&mut Store)) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let trace = Trace::new(false);
        let network = SimNetwork::new(seed ^ 0x5eed);
        let mut millis = |most: u64| Duration::from_millis(random.random_range(1..most));
        let mut pods: Vec<Pod> =
            (0..PODS).map(|n| Pod::new(n, millis(400), millis(4), &network)).collect();
        let losses = seed.is_multiple_of(LOSING).then(|| StdRng::seed_from_u64(seed ^ 0x1055));
        for pod in &mut pods {
            if losses.is_some() {
                pod.host.tracker.compare_period = COMPARE_PERIOD;
            }
            FOREIGN.map(cid_of).for_each(|cid| pod.host.daemon.pin_foreign(cid));
        }
        let oracle =
            Oracle::new(pods.iter().map(|pod| pod.host.daemon.clone()).collect(), trace.clone());
        let api = SimApi::new(seed ^ 0xa91, pods.len(), trace.clone());
        api.change(|server| prepare(server.home_mut()));
        api.set_witness(Arc::new(oracle.clone()));
        let looking = tokio::spawn(oracle.clone().watch());
        let mut users = Users::new(api.clone(), trace.clone());
        if losses.is_some() {
            users.away = AWAY;
        }
        let claimed = pods.iter().map(|_| BTreeSet::new()).collect();
        let mut world = Self {
            seed,
            trace,
            api,
            pods,
            users,
            oracle,
            random,
            network,
            losses,
            storms: Storms::draw(seed),
            guarded: BTreeMap::new(),
            claimed,
            confirmed: false,
            looking,
        };
        for n in 0..world.pods.len() {
            world.start(n).await;
        }
        world
    }

    /// Runs the faults, and the users meanwhile.
    ///
    /// # Errors
    /// The violated invariant.
    pub async fn live(&mut self) -> Result<(), String> {
        self.begin().await;
        let until = Instant::now() + FAULTS_FOR;
        while Instant::now() < until {
            self.step().await;
            self.lose_something();
            self.storm().await;
            let pause = self.random.random_range(0..PAUSE_MAX_MS);
            sleep(Duration::from_millis(pause)).await;
            self.check().await?;
        }
        Ok(())
    }

    async fn step(&mut self) {
        let n = self.random.random_range(0..self.pods.len());
        match self.random.random_range(0..100) {
            0..45 => {
                for _ in 0..self.random.random_range(1..5) {
                    self.users.act(&mut self.random);
                }
            }
            45..50 => self.crash(n).await,
            50..62 if self.pods[n].cluster().is_none() => self.start(n).await,
            62..65 => self.stop(n).await,
            65..71 => self.cut_off(n),
            71..78 => self.cut_off_the_api(n),
            78..80 => {
                let loss = self.random.random_range(0..100);
                self.note(format!("loss {loss} of 1000"));
                self.network.set_loss(loss);
            }
            80..84 => self.trouble_a_daemon(n),
            84..90 => {
                let faults = match self.random.random_bool(0.5) {
                    true => Faults::draw(&mut self.random),
                    false => Faults::default(),
                };
                self.note(format!("{faults:?}"));
                self.api.lock().faults = faults;
            }
            90..93 => {
                self.note("old revisions go, connections break".into());
                self.api.change(|server| {
                    server.home_mut().compact();
                    server.break_connections();
                });
            }
            93..95 => {
                let by = self.random.random_range(-100_000..100_000);
                self.note(format!("the clock of pod-{n} jumps by {by} ms"));
                self.pods[n].host.clock.jump(by);
            }
            95..98 => self.rare().await,
            _ => {}
        }
    }

    /// Events of few worlds.
    async fn rare(&mut self) {
        match self.random.random_range(0..4) {
            0 if self.is_formed() => {
                self.note("a user deletes the record".into());
                // The record may be gone already.
                let _ = self.api.change(|server| server.home_mut().delete(&record()));
            }
            1 => {
                let defined = self.random.random_bool(0.7);
                self.users.set_defined(defined);
            }
            2 => {
                for n in 0..self.pods.len() {
                    self.crash(n).await;
                }
            }
            3 if self.is_formed() && self.all_are_members() => {
                let elsewhere = self.random.random_bool(0.5);
                self.note(format!("another cluster's API server answers: {elsewhere}"));
                self.api.change(|server| server.set_elsewhere(elsewhere));
            }
            _ => {}
        }
    }

    pub async fn start(&mut self, n: usize) {
        self.note(format!("pod-{n} starts"));
        if let Err(error) = self.pods[n].start(&self.api, PODS.into()).await {
            self.oracle.lock().violation(format!("pod-{n} does not start: {error}"));
        }
        self.oracle.lock().set_process(n, self.pods[n].cluster());
        self.claimed[n].clear();
    }

    pub async fn crash(&mut self, n: usize) {
        self.note(format!("pod-{n} crashes"));
        self.pods[n].crash(&self.api).await;
        self.oracle.lock().set_process(n, None);
    }

    async fn stop(&mut self, n: usize) {
        self.note(format!("pod-{n} is stopped"));
        if let Err(error) = self.pods[n].stop(&self.api).await {
            self.oracle.lock().violation(error);
        }
        self.oracle.lock().set_process(n, None);
    }

    fn cut_off(&mut self, n: usize) {
        let cut = self.random.random_bool(0.5);
        self.note(format!("pod-{n} is cut off from its peers: {cut}"));
        self.network.set_cut(self.pods[n].host.id, cut);
    }

    fn cut_off_the_api(&mut self, n: usize) {
        let cut = self.random.random_bool(0.5);
        self.note(format!("pod-{n} is cut off from the API server: {cut}"));
        self.api.change(|server| server.set_cut(n, cut));
    }

    fn trouble_a_daemon(&mut self, n: usize) {
        let daemon = self.pods[n].host.daemon.clone();
        let on = self.random.random_bool(0.5);
        let what = match self.random.random_range(0..6) {
            0 => {
                daemon.restart();
                "restarts".to_owned()
            }
            1 | 2 => {
                daemon.set_down(on);
                format!("is down: {on}")
            }
            3 => {
                daemon.set_hanging(on);
                format!("hangs: {on}")
            }
            4 => {
                let trailer = on.then_some("pin: promise channel was closed");
                daemon.interrupt(trailer);
                format!("ends what is in flight cleanly, with the trailer {trailer:?}")
            }
            _ => {
                let delay = Duration::from_millis(self.random.random_range(0..3000));
                daemon.set_delay(delay);
                format!("answers {delay:?} late")
            }
        };
        self.note(format!("the daemon of pod-{n} {what}"));
    }

    /// A daemon loses a pin without notice, or is replaced by one with an empty repository and the
    /// same foreign pins.
    fn lose_something(&mut self) {
        let Some(random) = &mut self.losses else { return };
        if !random.random_bool(0.05) {
            return;
        }
        let n = random.random_range(0..self.pods.len());
        let daemon = &self.pods[n].host.daemon;
        let mut lost: Vec<Cid> = daemon.held().difference(&daemon.foreign()).copied().collect();
        if random.random_bool(0.1) {
            daemon.replace(&format!("daemon {}", random.random_range(0..u64::MAX)));
            FOREIGN.map(cid_of).for_each(|cid| daemon.pin_foreign(cid));
        } else if !lost.is_empty() {
            lost = vec![lost[random.random_range(0..lost.len())]];
            daemon.lose_pin(&lost[0]);
        }
        self.oracle.lock().rob(n, &lost);
        self.note(format!("the daemon of pod-{n} loses {lost:?}"));
    }

    pub fn note(&self, what: String) {
        self.trace.note(what);
    }

    fn is_formed(&self) -> bool {
        self.api.lock().home().get(&record()).is_ok_and(|record| record["data"]["formed"] == "true")
    }

    fn all_are_members(&self) -> bool {
        self.pods
            .iter()
            .all(|pod| pod.cluster().is_some_and(|c| c.members().len() == self.pods.len()))
    }

    /// Checks what must hold after every step.
    ///
    /// # Errors
    /// The violated invariant.
    pub async fn check(&mut self) -> Result<(), String> {
        for n in 0..self.pods.len() {
            if let Some(why) = self.pods[n].ended(&self.api).await {
                return Err(format!("pod-{n} has ended by itself, {why}"));
            }
        }
        self.oracle.lock().look();
        self.oracle.lock().first_violation()?;
        if let Some(request) = self.api.lock().unknown.first() {
            return Err(format!("the stand-in does not know the request {request}"));
        }
        if self.waiting().is_some() {
            self.trace.meet("unpins wait for a person");
        }
        self.check_foreign()?;
        self.check_unseen()?;
        self.check_claims()?;
        self.check_copies()
    }

    fn check_foreign(&self) -> Result<(), String> {
        for pod in &self.pods {
            if let Some(cid) = FOREIGN.map(cid_of).find(|cid| !pod.host.daemon.holds(cid)) {
                return Err(format!("the daemon of pod-{} lost foreign content {cid}", pod.n));
            }
        }
        Ok(())
    }

    /// A claim is dropped only if its Pin was deleted, and not only with the definition.
    fn check_claims(&mut self) -> Result<(), String> {
        for (n, pod) in self.pods.iter().enumerate() {
            let Some(cluster) = pod.cluster() else { continue };
            let now: BTreeSet<Uid> =
                cluster.state().read(|pins| pins.objects().map(|(uid, _)| uid.clone()).collect());
            for gone in self.claimed[n].difference(&now) {
                let life = self.users.lives.get(&gone.0);
                let may = life.is_some_and(|life| life.dead && (!life.swept || self.confirmed));
                if !may {
                    return Err(format!("pod-{n} dropped the claim of {}: {life:?}", gone.0));
                }
            }
            self.claimed[n] = now;
        }
        Ok(())
    }

    fn check_copies(&mut self) -> Result<(), String> {
        let living = pins(&self.api);
        let uids: BTreeSet<String> = living.iter().map(|(_, pin)| uid(pin)).collect();
        self.guarded.retain(|uid, _| uids.contains(uid));
        for (key, pin) in &living {
            let life = self.users.lives.entry(uid(pin)).or_default();
            let fewest = life.fewest.take();
            life.was_ready |= is_ready(pin);
            let needed = needed(&pin["spec"]);
            let entry = self.guarded.get(&uid(pin)).copied();
            let guarded = match entry {
                Some(before) => before.min(fewest.unwrap_or(needed)),
                None if is_ready(pin) => needed,
                None => continue,
            };
            self.guarded.insert(uid(pin), guarded);
            let Some(cid) = cid(pin) else { continue };
            let holders = self.oracle.lock().holders(&cid);
            if (holders as u64) < guarded {
                return Err(format!("{key} was Ready, and {holders} of {guarded} copies are left"));
            }
        }
        Ok(())
    }

    /// Ends all faults, and does what the pods ask people for.
    pub async fn heal(&mut self) {
        self.note("faults end".into());
        self.network.set_loss(0);
        let mended = self.random.random_bool(0.9);
        self.api.change(|server| {
            server.faults = Faults::default();
            server.set_elsewhere(false);
            for n in 0..usize::from(PODS) {
                server.set_cut(n, false);
            }
            // Otherwise a world would mostly wait for a hanging request.
            if mended {
                server.break_connections();
            }
        });
        self.users.set_defined(true);
        for n in 0..self.pods.len() {
            self.network.set_cut(self.pods[n].host.id, false);
            let daemon = &self.pods[n].host.daemon;
            daemon.set_down(false);
            daemon.set_hanging(false);
            daemon.set_rude(None);
            daemon.set_delay(Duration::ZERO);
            if self.pods[n].cluster().is_none() {
                self.start(n).await;
            }
        }
    }

    /// Does what pods ask a person for: confirms the definition and the Kubernetes cluster, and
    /// approves the deletions.
    pub fn answer_the_pods(&mut self) {
        let Ok(record) = self.api.lock().home().get(&record()) else { return };
        let meant = |kind, name: &str| {
            let object = self.api.lock().home().get(&Key::new(kind, "", name));
            object.map_or(Value::Null, |object| object["metadata"]["uid"].clone())
        };
        for (key, now) in [
            ("kubeSystemUID", meant(Kind::Namespace, "kube-system")),
            ("pinDefinitionUID", meant(Kind::Definition, DEFINITION)),
        ] {
            if !record["data"][key].is_null() && record["data"][key] != now {
                self.confirmed = true;
                self.patch_the_record(&json!({"data": {key: null}}));
            }
        }
        if let Some(digest) = self.waiting() {
            let allowed = json!({ALLOW_UNPIN: digest});
            if record["metadata"]["annotations"][ALLOW_UNPIN] != allowed[ALLOW_UNPIN] {
                self.trace.meet("a person allows what waits");
                self.storms.allow();
                self.patch_the_record(&json!({"metadata": {"annotations": allowed}}));
            }
        }
    }

    fn patch_the_record(&self, patch: &Value) {
        self.note(format!("a person patches the record with {patch}"));
        // The record existed a moment ago.
        let _ = self.api.change(|server| server.home_mut().merge(&record(), patch));
    }

    /// The digest of the waiting deletions, from a ClusterPeer.
    pub fn waiting(&self) -> Option<String> {
        let server = self.api.lock();
        let peers = server.home().objects().iter().filter(|(key, _)| key.kind == Kind::ClusterPeer);
        let mut conditions =
            peers.flat_map(|(_, peer)| peer["status"]["conditions"].as_array()).flatten();
        let waits = conditions.find(|c| c["type"] == "UnpinsWaiting" && c["status"] == "True")?;
        let (_, rest) = waits["message"].as_str()?.split_once("allow-unpin=")?;
        rest.split(' ').next().map(str::to_owned)
    }
}

pub fn record() -> Key {
    Key::new(Kind::ConfigMap, NAMESPACE, RECORD)
}

/// Status and reason of the condition Ready, if it is about the present spec.
pub fn reason(pin: &Value) -> Option<(bool, String)> {
    let status = &pin["status"];
    if status["observedGeneration"] != pin["metadata"]["generation"] {
        return None;
    }
    let ready = status["conditions"].as_array()?.iter().find(|c| c["type"] == "Ready")?;
    Some((ready["status"] == "True", ready["reason"].as_str()?.to_owned()))
}

pub fn is_ready(pin: &Value) -> bool {
    reason(pin).is_some_and(|(ready, _)| ready)
}

pub fn cid(pin: &Value) -> Option<Cid> {
    pin["spec"]["cid"].as_str()?.parse().ok()
}
