//! Watches the Pins of all namespaces, on the leader only, and queues them for claims and statuses.
//!
//! Invariant: only a watched deletion is queued as a deletion. The comparison checks objects that a
//! list does not contain.

use std::{collections::BTreeSet, sync::Arc};

use kube::runtime::watcher;
use pinkeeper::{state::Found, types::Uid};

use super::{
    deletions::Deletion,
    leading::Leading,
    objects::{ObjectKey, PinObject, Seen},
    queue::Priority,
};
use crate::{
    crd::DeletionPolicy,
    kubernetes::{RawPin, Watching, all_pins},
};

/// Runs until the leadership ends, or until the API server's data is set back: then the caller
/// restarts the controllers, which read all Pins again.
pub(super) async fn run(lead: Arc<Leading>) {
    let mut watching =
        Watching::new("Pins", all_pins(&lead.context.client), lead.context.reach.clone());
    let mut listed = BTreeSet::new();
    while let Some(Some(event)) = lead.token.run_until_cancelled(watching.next()).await {
        take(&lead, event, &mut listed);
    }
}

fn take(lead: &Leading, event: watcher::Event<RawPin>, listed: &mut BTreeSet<Uid>) {
    match event {
        watcher::Event::Init => listed.clear(),
        watcher::Event::InitApply(raw) => {
            if let Some(object) = PinObject::read(raw) {
                listed.insert(object.uid.clone());
                see(lead, object);
            }
        }
        watcher::Event::InitDone => {
            let gone = lead.objects_mut().list_done(listed);
            gone.into_iter().for_each(|key| forget(lead, key));
            lead.forget_refusals();
            listed.clear();
            lead.listed.notify_one();
        }
        watcher::Event::Apply(raw) => {
            if let Some(object) = PinObject::read(raw) {
                see(lead, object);
            }
        }
        watcher::Event::Delete(raw) => {
            if let Some(object) = PinObject::read(raw) {
                lead.objects_mut().remove(&object.key, &object.uid);
                lead.refused(&object.uid, None);
                forget(lead, object.key);
                lead.deletions.push([Deletion {
                    uid: object.uid,
                    generation: object.generation,
                    found: Found::Watched,
                    retain: object.spec.map(|spec| spec.deletion_policy == DeletionPolicy::Retain),
                    is_old: false,
                }]);
            }
        }
    }
}

/// Makes the statuses' task drop its memory of the object.
fn forget(lead: &Leading, key: ObjectKey) {
    lead.statuses.push(Priority::Later, key);
}

/// Stores and queues an object, new Pins before those with an up-to-date status.
fn see(lead: &Leading, object: PinObject) {
    let key = object.key.clone();
    let priority = if object.is_observed() { Priority::Later } else { Priority::Fresh };
    let seen = lead.objects_mut().upsert(object);
    if seen == Seen::Spec {
        lead.claims.push(priority, key.clone());
    }
    if seen != Seen::Known {
        lead.statuses.push(priority, key);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::FutureExt as _;
    use pinkeeper::state::Refused;
    use serde_json::json;
    use watcher::Event;

    use super::*;
    use crate::controller::{objects::tests::DOCS, stand::Stand};

    /// A Pin whose name is also its UID, with this policy, which may be invalid.
    fn raw(name: &str, policy: &str) -> RawPin {
        let metadata = json!({"namespace": "web", "name": name, "uid": name, "generation": 3,
            "resourceVersion": "7"});
        let spec = json!({"cid": DOCS, "deletionPolicy": policy});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey { namespace: "web".into(), name: name.into() }
    }

    #[test]
    fn a_watched_deletion_carries_what_the_object_said_last() {
        let cases = [("Retain", Some(true)), ("Unpin", Some(false)), ("FromTheFuture", None)];
        for (policy, retain) in cases {
            Stand::test(async |stand| {
                let lead = &stand.lead;
                for name in ["gone", "stays"] {
                    take(lead, Event::Apply(raw(name, "Unpin")), &mut BTreeSet::new());
                    lead.refused(&Uid(name.into()), Some((3, Refused::OtherCid)));
                }
                while lead.statuses.pop(true).is_some() {}
                take(lead, Event::Delete(raw("gone", policy)), &mut BTreeSet::new());
                let looked_at: Vec<_> = std::iter::from_fn(|| lead.statuses.pop(true))
                    .map(|(_, key)| key.name)
                    .collect();
                assert_eq!(looked_at, ["gone"], "so that nothing is kept of it");
                lead.deletions.due().await;
                let (uid, generation, found) = (Uid("gone".into()), 3, Found::Watched);
                let gone = Deletion { uid, generation, found, retain, is_old: false };
                assert_eq!(lead.deletions.take(), [gone]);
                let left = ["gone", "stays"].map(|name| {
                    let uid = Uid(name.into());
                    (lead.objects().contains(&uid), lead.refusal(&uid, 3).is_some())
                });
                assert_eq!(left, [(false, false), (true, true)]);
            });
        }
    }

    #[test]
    fn a_whole_list_drops_no_claim_and_holds_what_cannot_be_read() {
        Stand::test(async |stand| {
            let (lead, listed) = (&stand.lead, &mut BTreeSet::new());
            for name in ["gone", "stays", "unreadable"] {
                take(lead, Event::Apply(raw(name, "Unpin")), listed);
                lead.refused(&Uid(name.into()), Some((3, Refused::OtherCid)));
            }
            // From an interrupted list.
            take(lead, Event::Init, listed);
            take(lead, Event::InitApply(raw("gone", "Unpin")), listed);
            take(lead, Event::Init, listed);
            take(lead, Event::InitApply(raw("stays", "Unpin")), listed);
            take(lead, Event::InitApply(raw("unreadable", "FromTheFuture")), listed);
            assert!(!lead.objects().is_complete());
            take(lead, Event::InitDone, listed);
            assert!(lead.objects().is_complete());
            let names = ["gone", "stays", "unreadable"].map(|name| Uid(name.into()));
            assert_eq!(names.clone().map(|uid| lead.objects().contains(&uid)), [false, true, true]);
            assert_eq!(names.map(|uid| lead.refusal(&uid, 3).is_some()), [false, true, true]);
            assert!(lead.listed.notified().now_or_never().is_some());
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            assert_eq!(lead.deletions.take(), []);
        });
    }

    #[test]
    fn new_pins_are_looked_at_before_known_ones() {
        Stand::test(async |stand| {
            let mut observed = raw("observed", "Unpin");
            observed.status = Some(json!({"observedGeneration": 3}));
            for raw in [observed, raw("new", "Unpin")] {
                see(&stand.lead, PinObject::read(raw).unwrap());
            }
            for queue in [&stand.lead.claims, &stand.lead.statuses] {
                assert_eq!(queue.pop(true), Some((Priority::Fresh, key("new"))));
                assert_eq!(queue.pop(true), Some((Priority::Later, key("observed"))));
            }
            let again = |version: &str| {
                let mut raw = raw("new", "Unpin");
                raw.metadata.resource_version = Some(version.into());
                see(&stand.lead, PinObject::read(raw).unwrap());
                (stand.lead.claims.len(), stand.lead.statuses.len())
            };
            assert_eq!(again("7"), (0, 0), "nothing new");
            assert_eq!(again("8"), (0, 1), "the same spec, and somebody has written a status");
        });
    }
}
