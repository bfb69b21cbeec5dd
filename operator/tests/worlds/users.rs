//! The users of a world: they create, change and delete Pins.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use pinkeeper::{sim::trace::Trace, types::Cid};
use rand::{RngExt as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    api::{
        SimApi,
        store::{Key, Kind},
    },
    oracle::needed,
    pods::{NAMESPACE, PODS, pod_name},
};

/// The definition of Pins.
pub const DEFINITION: &str = "pins.pinkeeper.dev";
pub const NAMESPACES: [&str; 3] = ["web", "docs", "lab"];
/// Most Pins at a time, and in total.
const PINS_MAX: usize = 60;
const EVER_MAX: usize = 200;
/// Number of CIDs that users choose from; the last ones are also foreign pins.
const CIDS: u32 = 24;
pub const FOREIGN: std::ops::Range<u32> = 20..28;
/// Looks like a CID, but is invalid.
const NO_CID: &str = "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdz";

/// A present or past Pin.
#[derive(Clone, Debug, Default)]
pub struct Life {
    pub cid: Option<Cid>,
    /// All policies that it has had.
    pub policies: BTreeSet<String>,
    /// Fewest copies that it needed after a change, since the world last checked the copies.
    pub fewest: Option<u64>,
    /// It was Ready.
    pub was_ready: bool,
    pub dead: bool,
    /// It was deleted with the definition, not by a user.
    pub swept: bool,
}

/// By UID.
pub type Lives = BTreeMap<String, Life>;

pub struct Users {
    api: SimApi,
    trace: Trace,
    pub lives: Lives,
    /// How long a deleted namespace stays away.
    pub away: Duration,
    /// Namespaces that are away, and until when.
    deleted: Vec<(String, Instant)>,
}

impl Users {
    /// Creates what an administrator creates before the pods start.
    pub fn new(api: SimApi, trace: Trace) -> Self {
        api.change(|server| {
            for namespace in ["kube-system", NAMESPACE].iter().chain(&NAMESPACES) {
                make(server.home_mut(), Kind::Namespace, namespace);
            }
            make(server.home_mut(), Kind::Definition, DEFINITION);
            for n in 0..PODS.into() {
                server.home_mut().provide(volume_claim(&pod_name(n)));
            }
            server.set_elsewhere(true);
            for namespace in ["kube-system", NAMESPACE] {
                make(server.store_mut(), Kind::Namespace, namespace);
            }
            make(server.store_mut(), Kind::Definition, DEFINITION);
            server.set_elsewhere(false);
        });
        Self { api, trace, lives: Lives::new(), away: Duration::ZERO, deleted: Vec::new() }
    }

    /// Does one random thing.
    pub fn act(&mut self, random: &mut StdRng) {
        self.make_namespaces();
        let there: Vec<Key> = pins(&self.api).into_iter().map(|(key, _)| key).collect();
        let some = (!there.is_empty()).then(|| there[random.random_range(0..there.len())].clone());
        match (random.random_range(0..100), some) {
            (0..50, _) | (_, None) => {
                let namespace = NAMESPACES[random.random_range(0..NAMESPACES.len())];
                let name = format!("pin-{}", random.random_range(0..30));
                self.create(random, &Key::new(Kind::Pin, namespace, &name));
            }
            (50..65, Some(key)) => self.change(random, &key),
            (65..70, Some(key)) => {
                let label =
                    json!({"metadata": {"labels": {"n": random.random_range(0..9).to_string()}}});
                self.patch(&key, &label);
            }
            (70..88, Some(key)) => self.delete(&key),
            (88..99, Some(key)) => {
                self.delete(&key);
                self.create(random, &key);
            }
            (_, Some(key)) => self.delete_namespace(&key.namespace),
        }
    }

    fn create(&mut self, random: &mut StdRng, key: &Key) {
        let alive = self.lives.values().filter(|life| !life.dead).count();
        let away = self.deleted.iter().any(|(namespace, _)| *namespace == key.namespace);
        if !self.defined() || away || alive >= PINS_MAX || self.lives.len() >= EVER_MAX {
            return;
        }
        let cid = cid_of(random.random_range(0..CIDS));
        let mut spec = self.counts(random);
        let text = if random.random_bool(0.05) { NO_CID.to_owned() } else { cid.to_string() };
        spec["cid"] = text.into();
        self.make(key, spec);
    }

    /// Creates a Pin, unless one of that name exists.
    pub fn make(&mut self, key: &Key, spec: Value) {
        let object = json!({"metadata": {}, "spec": spec});
        let made = self.api.change(|server| server.home_mut().create(key, object));
        let Ok(made) = made else { return };
        self.trace.note(format!("a user creates {key}: {}", made["spec"]));
        let text = |field: &str| made["spec"][field].as_str().unwrap_or_default().to_owned();
        let (cid, policies) = (text("cid").parse().ok(), BTreeSet::from([text("deletionPolicy")]));
        self.lives.insert(uid(&made), Life { cid, policies, ..Life::default() });
    }

    /// Random `replicas`, `minReplicas` and policy that admission would accept.
    fn counts(&self, random: &mut StdRng) -> Value {
        let mut spec = json!({});
        let replicas = random.random_range(1..=4);
        if random.random_bool(0.7) {
            spec["replicas"] = replicas.into();
        }
        if random.random_bool(0.4) {
            spec["minReplicas"] = random.random_range(1..=replicas).into();
        }
        if random.random_bool(0.1) {
            spec["deletionPolicy"] = "Retain".into();
        }
        spec
    }

    fn change(&mut self, random: &mut StdRng, key: &Key) {
        let mut spec = self.counts(random);
        for name in ["replicas", "minReplicas"] {
            if spec[name].is_null() {
                spec[name] = Value::Null;
            }
        }
        self.patch(key, &json!({"spec": spec}));
    }

    pub fn patch(&mut self, key: &Key, patch: &Value) {
        let Ok(now) = self.api.change(|server| server.home_mut().merge(key, patch)) else { return };
        self.trace.note(format!("a user patches {key} with {patch}"));
        let policy = now["spec"]["deletionPolicy"].as_str().unwrap_or_default().to_owned();
        let life = self.lives.entry(uid(&now)).or_default();
        life.policies.insert(policy);
        let needed = needed(&now["spec"]);
        life.fewest = Some(life.fewest.map_or(needed, |fewest| fewest.min(needed)));
    }

    pub fn delete(&mut self, key: &Key) {
        let deleted = self.api.change(|server| {
            let store = server.home_mut();
            let object = store.get(key)?;
            store.delete(key).map(|()| object)
        });
        let Ok(object) = deleted else { return };
        self.trace.note(format!("{key} is deleted"));
        self.lives.entry(uid(&object)).or_default().dead = true;
    }

    pub fn delete_namespace(&mut self, namespace: &str) {
        self.trace.note(format!("a user deletes the namespace {namespace}"));
        for (key, _) in pins(&self.api).into_iter().filter(|(key, _)| key.namespace == namespace) {
            self.delete(&key);
        }
        // The namespace exists.
        let key = Key::new(Kind::Namespace, "", namespace);
        let _ = self.api.change(|server| server.home_mut().delete(&key));
        self.deleted.push((namespace.to_owned(), Instant::now() + self.away));
        self.make_namespaces();
    }

    pub fn make_namespace(&self, namespace: &str) {
        self.api.change(|server| make(server.home_mut(), Kind::Namespace, namespace));
    }

    /// Creates namespaces again that were away long enough.
    fn make_namespaces(&mut self) {
        let now = Instant::now();
        for (namespace, _) in self.deleted.extract_if(.., |(_, until)| *until <= now) {
            self.api.change(|server| make(server.home_mut(), Kind::Namespace, &namespace));
        }
    }

    fn defined(&self) -> bool {
        let key = Key::new(Kind::Definition, "", DEFINITION);
        self.api.lock().home().get(&key).is_ok()
    }

    /// Deletes the definition with all Pins, or creates it again.
    pub fn set_defined(&mut self, defined: bool) {
        if defined == self.defined() {
            return;
        }
        if !defined {
            for (key, object) in pins(&self.api) {
                self.delete(&key);
                self.lives.entry(uid(&object)).or_default().swept = true;
            }
        }
        self.trace.note(format!("the definition of Pins is there: {defined}"));
        self.api.change(|server| {
            let key = Key::new(Kind::Definition, "", DEFINITION);
            match defined {
                true => make(server.home_mut(), Kind::Definition, DEFINITION),
                false => drop(server.home_mut().delete(&key)),
            }
            server.break_connections();
        });
    }
}

fn make(store: &mut crate::api::store::Store, kind: Kind, name: &str) {
    // It may exist already.
    let _ = store.create(&Key::new(kind, "", name), json!({"metadata": {}}));
}

/// The volume claim of a pod's data.
pub fn volume_claim(pod: &str) -> Key {
    Key::new(Kind::VolumeClaim, NAMESPACE, &format!("raft-{pod}"))
}

/// All Pins there are.
pub fn pins(api: &SimApi) -> Vec<(Key, Value)> {
    let server = api.lock();
    let pins = server.home().objects().iter().filter(|(key, _)| key.kind == Kind::Pin);
    pins.map(|(key, object)| (key.clone(), Value::clone(object))).collect()
}

pub fn uid(object: &Value) -> String {
    object["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

/// The CID with that number, the same in every world.
pub fn cid_of(number: u32) -> Cid {
    let hash = cid::multihash::Multihash::<64>::wrap(0, &number.to_be_bytes()).unwrap();
    cid::Cid::new_v1(0x55, hash).into()
}
