//! The stand-in's store: objects with versions, and all changes in order.
//!
//! As in etcd and the API server:
//! - One counter of revisions covers all objects.
//! - A write that names another version than the present one is refused.
//! - A write that changes nothing creates no version.
//! - An object created again under an old name has another UID.
//! - A status write keeps the generation.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

/// The kinds that Pinkeeper's pods use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Pin,
    ClusterPeer,
    ConfigMap,
    Namespace,
    VolumeClaim,
    Definition,
    Event,
    StatefulSet,
}

const KINDS: [(Kind, &str, &str, &str); 8] = [
    (Kind::Pin, "pins", "pinkeeper.dev/v1alpha1", "Pin"),
    (Kind::ClusterPeer, "clusterpeers", "pinkeeper.dev/v1alpha1", "ClusterPeer"),
    (Kind::ConfigMap, "configmaps", "v1", "ConfigMap"),
    (Kind::Namespace, "namespaces", "v1", "Namespace"),
    (Kind::VolumeClaim, "persistentvolumeclaims", "v1", "PersistentVolumeClaim"),
    (
        Kind::Definition,
        "customresourcedefinitions",
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
    ),
    (Kind::Event, "events", "events.k8s.io/v1", "Event"),
    (Kind::StatefulSet, "statefulsets", "apps/v1", "StatefulSet"),
];

impl Kind {
    pub fn of(resource: &str) -> Option<Self> {
        KINDS.iter().find(|row| row.1 == resource).map(|row| row.0)
    }

    fn row(self) -> (Self, &'static str, &'static str, &'static str) {
        *KINDS.iter().find(|row| row.0 == self).unwrap()
    }

    pub fn resource(self) -> &'static str {
        self.row().1
    }

    pub fn api_version(self) -> &'static str {
        self.row().2
    }

    pub fn name(self) -> &'static str {
        self.row().3
    }
}

/// Kind, namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub kind: Kind,
    /// Empty for kinds without namespaces.
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.kind.name(), self.namespace, self.name)
    }
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    Added,
    Modified,
    Deleted,
}

/// One change; a deletion has the last object, with the revision of its deletion.
#[derive(Clone, Debug)]
pub struct Change {
    pub revision: u64,
    pub happened: Happened,
    pub key: Key,
    pub object: Arc<Value>,
}

/// An error answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    /// Seconds.
    pub retry_after: Option<u32>,
    /// The name of the missing object, as the API server itself reports it.
    pub name: Option<String>,
}

impl Refusal {
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), retry_after: None, name: None }
    }

    fn not_found(key: &Key) -> Self {
        let name = Some(key.name.clone());
        Self { name, ..Self::new(404, "NotFound", format!("{key} not found")) }
    }

    fn conflict(key: &Key) -> Self {
        Self::new(409, "Conflict", format!("{key}: the object has been modified"))
    }

    pub fn expired() -> Self {
        Self::new(410, "Expired", "too old resource version")
    }
}

pub type Objects = BTreeMap<Key, Arc<Value>>;

/// The store of one Kubernetes cluster.
#[derive(Debug)]
pub struct Store {
    /// Prefix of every UID.
    prefix: &'static str,
    revision: u64,
    objects: Objects,
    history: Vec<Change>,
    /// The oldest revision that is served.
    compacted: u64,
    uids: u64,
}

impl Store {
    pub fn new(prefix: &'static str) -> Self {
        Self {
            prefix,
            revision: 1,
            objects: Objects::new(),
            history: Vec::new(),
            compacted: 0,
            uids: 0,
        }
    }

    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn get(&self, key: &Key) -> Result<Arc<Value>, Refusal> {
        self.objects.get(key).cloned().ok_or_else(|| Refusal::not_found(key))
    }

    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// All objects as they were at a revision that is still served.
    pub fn at(&self, revision: u64) -> Result<Objects, Refusal> {
        if revision < self.compacted || revision > self.revision {
            return Err(Refusal::expired());
        }
        let mut objects = Objects::new();
        for change in self.history.iter().take_while(|change| change.revision <= revision) {
            match change.happened {
                Happened::Deleted => objects.remove(&change.key),
                _ => objects.insert(change.key.clone(), change.object.clone()),
            };
        }
        Ok(objects)
    }

    /// The changes after a revision.
    pub fn since(&self, revision: u64) -> Result<&[Change], Refusal> {
        if revision < self.compacted {
            return Err(Refusal::expired());
        }
        let first = self.history.partition_point(|change| change.revision <= revision);
        Ok(&self.history[first..])
    }

    /// The oldest revision that is served.
    pub fn compacted(&self) -> u64 {
        self.compacted
    }

    /// Drops all earlier revisions.
    pub fn compact(&mut self) {
        self.compacted = self.revision;
    }

    /// Restores the state of a revision, as from a backup. Watches from a later revision get no
    /// events until that revision is passed, as with a real API server.
    pub fn set_back(&mut self, revision: u64) -> Result<(), Refusal> {
        self.objects = self.at(revision)?;
        self.history.retain(|change| change.revision <= revision);
        self.revision = revision;
        Ok(())
    }

    /// Adds an object that exists from the beginning, without a revision.
    pub fn provide(&mut self, key: Key) {
        let object = json!({
            "apiVersion": key.kind.api_version(), "kind": key.kind.name(),
            "metadata": {"name": key.name, "namespace": key.namespace, "resourceVersion": "1"},
        });
        self.objects.insert(key, Arc::new(object));
    }

    pub fn create(&mut self, key: &Key, mut object: Value) -> Result<Arc<Value>, Refusal> {
        if self.objects.contains_key(key) {
            return Err(Refusal::new(409, "AlreadyExists", format!("{key} already exists")));
        }
        self.uids += 1;
        let meta = &mut object["metadata"];
        meta["name"] = key.name.clone().into();
        if !key.namespace.is_empty() {
            meta["namespace"] = key.namespace.clone().into();
        }
        meta["uid"] = format!("{}-{:04}", self.prefix, self.uids).into();
        meta["generation"] = 1.into();
        object["apiVersion"] = key.kind.api_version().into();
        object["kind"] = key.kind.name().into();
        if key.kind == Kind::Pin {
            // The definition's defaults.
            object["status"] = json!({"observedGeneration": -1});
            let policy = object["spec"]["deletionPolicy"].take();
            object["spec"]["deletionPolicy"] =
                if policy.is_null() { "Unpin".into() } else { policy };
        }
        self.note(Happened::Added, key, Some(object));
        self.get(key)
    }

    /// Replaces the version that `object` names.
    pub fn replace(&mut self, key: &Key, object: Value) -> Result<Arc<Value>, Refusal> {
        let now = self.get(key)?;
        check_version(key, &now, &object)?;
        self.put(key, &now, object)
    }

    /// Server-side apply of a status that one manager owns: omitted fields are removed.
    pub fn apply_status(&mut self, key: &Key, body: &Value) -> Result<Arc<Value>, Refusal> {
        let now = self.get(key)?;
        check_version(key, &now, body)?;
        let mut next = Value::clone(&now);
        next["status"] = body["status"].clone();
        self.put(key, &now, next)
    }

    /// Merges a patch into an object; null removes a field.
    pub fn merge(&mut self, key: &Key, patch: &Value) -> Result<Arc<Value>, Refusal> {
        let now = self.get(key)?;
        let mut next = Value::clone(&now);
        merge(&mut next, patch);
        if next["spec"] != now["spec"] {
            next["metadata"]["generation"] =
                (now["metadata"]["generation"].as_i64().unwrap_or(0) + 1).into();
        }
        self.put(key, &now, next)
    }

    pub fn delete(&mut self, key: &Key) -> Result<(), Refusal> {
        self.get(key)?;
        self.note(Happened::Deleted, key, None);
        Ok(())
    }

    fn put(&mut self, key: &Key, now: &Value, next: Value) -> Result<Arc<Value>, Refusal> {
        if next != *now {
            self.note(Happened::Modified, key, Some(next));
        }
        self.get(key)
    }

    fn note(&mut self, happened: Happened, key: &Key, object: Option<Value>) {
        let before = self.objects.remove(key);
        let Some(mut object) = object.or_else(|| before.as_deref().cloned()) else { return };
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let object = Arc::new(object);
        if happened != Happened::Deleted {
            self.objects.insert(key.clone(), object.clone());
        }
        self.history.push(Change { revision: self.revision, happened, key: key.clone(), object });
    }
}

/// Checks the version and the UID that a write names, if any.
fn check_version(key: &Key, now: &Value, body: &Value) -> Result<(), Refusal> {
    let differs = |field: &str| {
        let asked = &body["metadata"][field];
        !asked.is_null() && *asked != now["metadata"][field]
    };
    if differs("resourceVersion") || differs("uid") { Err(Refusal::conflict(key)) } else { Ok(()) }
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        match (value, target.as_object_mut()) {
            (Value::Null, Some(object)) => {
                object.remove(name);
            }
            (value, _) => merge(&mut target[name], value),
        }
    }
}
