//! Watches the Pins of all namespaces, on the leader only, and says what to look at.
//!
//! Invariant: only a watched deletion says that an object is gone; an object that a list does not
//! contain is left to the comparison.

use std::{collections::BTreeSet, sync::Arc};

use kube::runtime::watcher;
use pinkeeper::{state::Found, types::Uid};

use super::{
    api,
    claims::Deletion,
    leading::Leading,
    objects::{PinObject, RawPin, Seen},
    queue::Lane,
    watching::Watching,
};
use crate::crd::DeletionPolicy;

/// Runs until the leadership ends, or until the API server's data is set back: then all that is known of
/// Pins is to be read anew.
pub(super) async fn run(lead: Arc<Leading>) {
    let api = api::all_pins(&lead.shared.client);
    let mut watching = Watching::new("Pins", api, lead.shared.reach.clone());
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
            lead.objects_mut().list_done(listed);
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
                lead.deletions.push([Deletion {
                    uid: object.uid,
                    generation: object.generation,
                    namespace: object.key.namespace,
                    found: Found::Watched,
                    retain: object.spec.map(|spec| spec.deletion_policy == DeletionPolicy::Retain),
                    is_old: false,
                }]);
            }
        }
    }
}

/// New Pins before those that only have to be looked at again.
fn see(lead: &Leading, object: PinObject) {
    let key = object.key.clone();
    let lane = if object.is_observed() { Lane::Later } else { Lane::Fresh };
    let seen = lead.objects_mut().upsert(object);
    if seen == Seen::Spec {
        lead.claims.push(lane, key.clone());
    }
    if seen != Seen::Known {
        lead.statuses.push(lane, key);
    }
}
