//! One status write.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::time::timeout;

use super::events::Note;
use crate::{
    controller::{
        api::{self, Failure},
        leading::Leading,
        objects::PinObject,
    },
    crd,
};

/// A status to write, and the version of the object it was decided on.
#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) object: Arc<PinObject>,
    pub(super) status: crd::PinStatus,
    pub(super) note: Option<Note>,
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Written {
    /// The object as it is now.
    Done(Option<Box<PinObject>>),
    /// The object has changed or is gone: the watch tells.
    Stale,
    /// The API server refuses this status.
    Refused(String),
    /// Not now.
    Later(Option<std::time::Duration>, String),
    /// This peer leads no more.
    Deposed,
}

/// The object as an Event refers to it.
pub(super) fn reference(object: &PinObject) -> ObjectReference {
    ObjectReference {
        api_version: Some(format!("{}/v1alpha1", crd::GROUP)),
        kind: Some("Pin".into()),
        namespace: Some(object.key.namespace.clone()),
        name: Some(object.key.name.clone()),
        uid: Some(object.uid.0.clone()),
        resource_version: Some(object.resource_version.clone()),
        field_path: None,
    }
}

/// Applies the status, if this peer still leads and the object is still the version decided on.
pub(super) async fn write(lead: &Leading, write: &Write) -> Written {
    if !lead.holds() {
        return Written::Deposed;
    }
    let object = &write.object;
    let body = json!({
        "apiVersion": format!("{}/v1alpha1", crd::GROUP),
        "kind": "Pin",
        "metadata": {
            "namespace": object.key.namespace,
            "name": object.key.name,
            "uid": object.uid.0,
            "resourceVersion": object.resource_version,
        },
        "status": write.status,
    });
    let api = api::pins_in(&lead.shared.client, &object.key.namespace);
    let params = PatchParams::apply(api::FIELD_MANAGER).force();
    let patch = Patch::Apply(&body);
    let applied = api.patch_status(&object.key.name, &params, &patch);
    let Ok(result) = timeout(api::DEADLINE, applied).await else {
        return Written::Later(None, "no answer in time".into());
    };
    lead.shared.reach.note(&result);
    match result {
        Ok(raw) => Written::Done(PinObject::read(raw).map(Box::new)),
        Err(error) => match api::failure(&error) {
            Failure::Gone | Failure::Conflict => Written::Stale,
            Failure::Refused => Written::Refused(error.to_string()),
            Failure::Later(after) => Written::Later(after, error.to_string()),
        },
    }
}
