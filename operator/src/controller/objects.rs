//! Cache of all Pins as last seen, the input of the controllers.
//!
//! Invariants:
//! - An older version never replaces a newer one.
//! - An object that cannot be parsed still exists, so its claim is not missing.
//! - Only a complete list sets `complete`.
//!
//! Only the fields needed for decisions are kept: a million Pins must fit into memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub use pinkeeper::types::ObjectKey;
use pinkeeper::types::{Cid, CidError, Uid};

use crate::{crd, kubernetes::RawPin};

/// One version of a Pin object.
#[derive(Clone, Debug, PartialEq)]
pub struct PinObject {
    /// Namespace and name.
    pub key: ObjectKey,
    /// UID; a re-created Pin has another.
    pub uid: Uid,
    /// Counts changes of the spec.
    pub generation: i64,
    /// The resource version read.
    pub resource_version: String,
    /// The spec; absent if this program cannot parse it.
    pub spec: Option<crd::PinSpec>,
    /// `spec.cid` as a CID, or why it is invalid.
    pub cid: Result<Cid, CidError>,
    /// The status as last seen.
    pub status: Option<crd::PinStatus>,
}

impl PinObject {
    /// Extracts the needed fields; absent if the metadata of a stored object is missing.
    #[must_use]
    pub fn read(raw: RawPin) -> Option<Self> {
        let key = ObjectKey { namespace: raw.metadata.namespace?, name: raw.metadata.name? };
        let spec = serde_json::from_value::<crd::PinSpec>(raw.spec.unwrap_or_default());
        if let Err(error) = &spec {
            tracing::warn!(pin = %key, %error, "this version of pinkeeper cannot read a Pin");
        }
        let spec = spec.ok();
        let cid = spec.as_ref().map_or("", |spec| spec.cid.as_str()).parse();
        Some(Self {
            key,
            uid: Uid(raw.metadata.uid?),
            generation: raw.metadata.generation.unwrap_or_default(),
            resource_version: raw.metadata.resource_version?,
            spec,
            cid,
            status: raw.status.and_then(|status| serde_json::from_value(status).ok()),
        })
    }

    /// Whether `other` is a later version of the same object. Resource versions of one resource are
    /// growing decimal numbers; any other form counts as later.
    fn is_older_than(&self, other: &Self) -> bool {
        let number = |object: &Self| object.resource_version.parse::<u64>().ok();
        match (number(self), number(other)) {
            (Some(mine), Some(theirs)) => mine < theirs,
            _ => false,
        }
    }

    /// Whether the object's status is about its present spec.
    #[must_use]
    pub fn is_observed(&self) -> bool {
        let observed = self.status.as_ref().and_then(|status| status.observed_generation);
        observed == Some(self.generation)
    }
}

/// What changed with a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// An object or a spec not seen before.
    Spec,
    /// Another version with the same spec.
    Other,
    /// Nothing new.
    Known,
}

/// All Pins, by name, with indexes by UID and by CID.
#[derive(Debug, Default)]
pub struct Objects {
    by_key: BTreeMap<ObjectKey, Arc<PinObject>>,
    by_uid: BTreeMap<Uid, ObjectKey>,
    by_cid: BTreeMap<Cid, BTreeSet<ObjectKey>>,
    complete: bool,
}

impl Objects {
    /// The object of that name.
    #[must_use]
    pub fn get(&self, key: &ObjectKey) -> Option<&Arc<PinObject>> {
        self.by_key.get(key)
    }

    /// Whether an object with that UID exists.
    #[must_use]
    pub fn contains(&self, uid: &Uid) -> bool {
        self.by_uid.contains_key(uid)
    }

    /// Names of the objects with that CID, in order.
    pub fn of(&self, cid: &Cid) -> impl Iterator<Item = &ObjectKey> {
        self.by_cid.get(cid).into_iter().flatten()
    }

    /// All objects, in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<PinObject>> {
        self.by_key.values()
    }

    /// Number of objects.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there are no objects.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Whether a complete list has been read since the start.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Stores a version. Ignores it if a newer one is known.
    pub fn upsert(&mut self, object: PinObject) -> Seen {
        let seen = match self.by_key.get(&object.key) {
            Some(known) if known.uid != object.uid => Seen::Spec,
            Some(known) if known.resource_version == object.resource_version => return Seen::Known,
            Some(known) if object.is_older_than(known) => return Seen::Known,
            Some(known) if known.generation == object.generation => Seen::Other,
            _ => Seen::Spec,
        };
        self.forget(&object.key);
        self.by_uid.insert(object.uid.clone(), object.key.clone());
        if let Ok(cid) = object.cid {
            self.by_cid.entry(cid).or_default().insert(object.key.clone());
        }
        self.by_key.insert(object.key.clone(), Arc::new(object));
        seen
    }

    /// Stores the version that a write returned, if the object is still known.
    pub fn refresh(&mut self, object: PinObject) {
        if self.by_key.get(&object.key).is_some_and(|known| known.uid == object.uid) {
            self.upsert(object);
        }
    }

    /// Removes a deleted object. Another object of that name stays.
    pub fn remove(&mut self, key: &ObjectKey, uid: &Uid) {
        if self.by_key.get(key).is_some_and(|known| known.uid == *uid) {
            self.forget(key);
        }
    }

    /// Ends a complete list: forgets and returns the objects that it did not contain. That does not
    /// prove that they were deleted.
    pub fn list_done(&mut self, listed: &BTreeSet<Uid>) -> Vec<ObjectKey> {
        let gone: Vec<ObjectKey> = self
            .by_uid
            .iter()
            .filter(|(uid, _)| !listed.contains(*uid))
            .map(|(_, key)| key.clone())
            .collect();
        gone.iter().for_each(|key| self.forget(key));
        self.complete = true;
        gone
    }

    fn forget(&mut self, key: &ObjectKey) {
        let Some(object) = self.by_key.remove(key) else { return };
        self.by_uid.remove(&object.uid);
        if let Ok(cid) = &object.cid
            && let Some(keys) = self.by_cid.get_mut(cid)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.by_cid.remove(cid);
            }
        }
    }
}

#[cfg(test)]
mod read_any;
#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use pinkeeper::{
        allocate::Fleet,
        types::{DaemonInfo, Metrics, PeerId},
    };

    use super::*;

    pub(crate) const DOCS: &str = "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi";

    pub(crate) fn pin(name: &str, uid: &str, version: u64, cid: &str) -> PinObject {
        let raw: RawPin = serde_json::from_value(serde_json::json!({
            "apiVersion": "pinkeeper.dev/v1alpha1", "kind": "Pin",
            "metadata": {"namespace": "web", "name": name, "uid": uid, "generation": 1,
                "resourceVersion": version.to_string()},
            "spec": {"cid": cid},
        }))
        .unwrap();
        PinObject::read(raw).unwrap()
    }

    /// A fleet of these members, each with space.
    pub(crate) fn roomy(peers: &[PeerId]) -> Fleet {
        let daemon = DaemonInfo { id: "d".into(), agent: "kubo".into(), addresses: vec![] };
        let free_space = Some(u64::MAX);
        let metrics = Metrics { daemon: Some(daemon), free_space, ..Metrics::default() };
        let metrics = peers.iter().map(|peer| (*peer, metrics.clone())).collect();
        let peers = peers.iter().copied().collect();
        Fleet::new(&peers, &BTreeSet::new(), &metrics, &BTreeMap::new())
    }

    #[test]
    fn an_older_version_never_replaces_a_newer_one() {
        let mut objects = Objects::default();
        assert_eq!(objects.upsert(pin("docs", "a", 10, DOCS)), Seen::Spec);
        assert_eq!(objects.upsert(pin("docs", "a", 10, DOCS)), Seen::Known);
        assert_eq!(objects.upsert(pin("docs", "a", 9, DOCS)), Seen::Known);
        assert_eq!(objects.upsert(pin("docs", "a", 11, DOCS)), Seen::Other);
        assert_eq!(objects.upsert(pin("docs", "b", 12, DOCS)), Seen::Spec);
        assert!(!objects.contains(&Uid("a".into())));
        objects.remove(&pin("docs", "a", 1, DOCS).key, &Uid("a".into()));
        assert_eq!(objects.len(), 1);
        objects.remove(&pin("docs", "b", 1, DOCS).key, &Uid("b".into()));
        assert!(objects.is_empty() && objects.by_cid.is_empty() && objects.by_uid.is_empty());
    }

    #[test]
    fn a_late_answer_neither_brings_an_object_back_nor_sets_it_back() {
        let mut objects = Objects::default();
        objects.refresh(pin("docs", "a", 10, DOCS));
        assert!(objects.is_empty(), "it was deleted meanwhile");
        objects.upsert(pin("docs", "b", 12, DOCS));
        for late in [pin("docs", "a", 13, DOCS), pin("docs", "b", 11, DOCS)] {
            objects.refresh(late.clone());
            assert_eq!(objects.get(&late.key).unwrap().resource_version, "12");
        }
        objects.refresh(pin("docs", "b", 13, DOCS));
        assert_eq!(objects.iter().next().unwrap().resource_version, "13");
    }

    #[test]
    fn the_end_of_an_object_is_not_that_of_another_of_its_name() {
        let mut objects = Objects::default();
        objects.upsert(pin("docs", "b", 12, DOCS));
        objects.remove(&pin("docs", "a", 1, DOCS).key, &Uid("a".into()));
        assert!(objects.contains(&Uid("b".into())));
    }

    #[test]
    fn versions_are_compared_as_numbers_where_they_are_numbers() {
        let version =
            |text: &str| PinObject { resource_version: text.into(), ..pin("x", "a", 1, DOCS) };
        let cases = [
            ("9", "10", Seen::Other),
            ("10", "9", Seen::Known),
            ("10", "10", Seen::Known),
            ("b", "a", Seen::Other),
            ("10", "a", Seen::Other),
        ];
        for (known, next, expected) in cases {
            let mut objects = Objects::default();
            objects.upsert(version(known));
            assert_eq!(objects.upsert(version(next)), expected, "{known} {next}");
            let now = if expected == Seen::Known { known } else { next };
            assert_eq!(objects.iter().next().unwrap().resource_version, now);
        }
    }

    #[test]
    fn a_changed_spec_is_told_from_another_version_of_the_same() {
        let mut objects = Objects::default();
        objects.upsert(pin("docs", "a", 1, "no CID"));
        let changed = PinObject { generation: 2, ..pin("docs", "a", 2, DOCS) };
        assert_eq!(objects.upsert(changed.clone()), Seen::Spec);
        assert_eq!(objects.of(&DOCS.parse().unwrap()).collect::<Vec<_>>(), [&changed.key]);
        let told = PinObject { generation: 2, ..pin("docs", "a", 3, DOCS) };
        assert_eq!(objects.upsert(told), Seen::Other);
        assert_eq!(objects.of(&DOCS.parse().unwrap()).count(), 1);
        objects.upsert(PinObject { generation: 3, ..pin("docs", "a", 4, "no CID") });
        assert_eq!(objects.of(&DOCS.parse().unwrap()).next(), None, "it claims another content");
    }

    #[test]
    fn a_whole_list_forgets_what_it_does_not_contain() {
        let mut objects = Objects::default();
        objects.upsert(pin("a", "1", 1, DOCS));
        objects.upsert(pin("b", "2", 2, DOCS));
        assert!(!objects.is_complete());
        let gone = objects.list_done(&BTreeSet::from([Uid("2".into())]));
        assert_eq!(gone, [pin("a", "1", 1, DOCS).key]);
        assert!(objects.is_complete());
        assert_eq!(objects.of(&DOCS.parse().unwrap()).count(), 1);
    }

    #[test]
    fn an_object_that_cannot_be_read_is_still_there() {
        let metadata = serde_json::json!(
            {"namespace": "web", "name": "x", "uid": "u", "resourceVersion": "1"}
        );
        for mut object in [
            serde_json::json!({"spec": {"cid": DOCS, "deletionPolicy": "FromTheFuture"}}),
            serde_json::json!({"spec": null}),
            serde_json::json!({}),
        ] {
            object["metadata"] = metadata.clone();
            let raw: RawPin = serde_json::from_value(object).unwrap();
            let object = PinObject::read(raw).unwrap();
            assert!(object.spec.is_none() && object.cid.is_err());
            let mut objects = Objects::default();
            objects.upsert(object);
            assert!(objects.contains(&Uid("u".into())));
        }
    }
}
