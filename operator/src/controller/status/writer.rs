//! One status write.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    controller::{events::Note, leading::Leading, objects::PinObject},
    crd,
    kubernetes::{
        RawPin,
        api::{self, Failure},
        pins_in,
    },
};

/// Wait before an object is checked again after a conflict, if no watch event comes.
const STALE_AGAIN: Duration = Duration::from_secs(2);
/// Wait before a rejected status is tried again; only a newer definition would accept it.
const REFUSED_AGAIN: Duration = Duration::from_secs(300);

/// A status to write, and the version of the object that it was computed from.
#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) object: Arc<PinObject>,
    pub(super) status: crd::PinStatus,
    pub(super) note: Option<Note>,
}

/// Result of a status write.
#[derive(Debug)]
pub(super) enum Written {
    /// The object as it is now.
    Done(Option<Box<PinObject>>),
    /// The object has changed or is gone; the watch will report it.
    Stale,
    /// The API server rejected this status.
    Refused(String),
    /// Temporary failure: the wait that the server asked for, and the reason.
    Later(Option<Duration>, String),
    /// This peer no longer leads.
    Deposed,
}

impl Written {
    fn of(answer: Result<RawPin, kube::Error>) -> Self {
        match answer {
            Ok(raw) => Self::Done(PinObject::read(raw).map(Box::new)),
            Err(error) => match api::failure(&error) {
                Failure::Gone | Failure::Conflict => Self::Stale,
                Failure::Refused => Self::Refused(error.to_string()),
                Failure::Later(after) => Self::Later(after, error.to_string()),
            },
        }
    }

    /// Whether the API server gave a conclusive answer.
    pub(super) fn is_answer(&self) -> bool {
        !matches!(self, Self::Later(..) | Self::Deposed)
    }

    /// Wait before the object is checked again without an event. After a temporary failure,
    /// [`Failures`](super::failures::Failures) decides.
    pub(super) fn again(&self) -> Option<Duration> {
        match self {
            Self::Done(_) | Self::Later(..) => None,
            Self::Stale | Self::Deposed => Some(STALE_AGAIN),
            Self::Refused(_) => Some(REFUSED_AGAIN),
        }
    }
}

/// The object as the reference of an Event.
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

/// Applies the status, if this peer still leads and the object still has the expected version.
pub(super) async fn write(lead: &Leading, write: &Write) -> Written {
    if !lead.holds() {
        return Written::Deposed;
    }
    let key = &write.object.key;
    let body = body(write);
    let api = pins_in(&lead.context.client, &key.namespace);
    let params = PatchParams::apply(api::FIELD_MANAGER).force();
    let patch = Patch::Apply(&body);
    let applied = api.patch_status(&key.name, &params, &patch);
    let Ok(result) = timeout(api::DEADLINE, applied).await else {
        return Written::Later(None, "no answer in time".into());
    };
    lead.context.reach.note(&result);
    Written::of(result)
}

/// The status on that very version of that very object.
fn body(write: &Write) -> Value {
    let object = &write.object;
    json!({
        "apiVersion": format!("{}/v1alpha1", crd::GROUP),
        "kind": "Pin",
        "metadata": {
            "namespace": object.key.namespace,
            "name": object.key.name,
            "uid": object.uid.0,
            "resourceVersion": object.resource_version,
        },
        "status": write.status,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::controller::objects::tests::{DOCS, pin};

    fn raw(version: &str) -> RawPin {
        let raw = json!({
            "apiVersion": "pinkeeper.dev/v1alpha1", "kind": "Pin",
            "metadata": {"namespace": "web", "name": "docs", "uid": "u", "generation": 1,
                "resourceVersion": version},
            "spec": {"cid": DOCS},
        });
        serde_json::from_value(raw).unwrap()
    }

    fn error(code: u16, after: u32) -> kube::Error {
        let reason = if code == 404 { "NotFound" } else { "" };
        let details = json!({"name": "docs", "retryAfterSeconds": after});
        let status = json!({"code": code, "reason": reason, "details": details});
        kube::Error::Api(serde_json::from_value(status).unwrap())
    }

    #[test]
    fn what_became_of_a_write_and_when_it_is_tried_again() {
        // The answer; whether it is conclusive, the result, and the wait.
        type Of = fn(&Written) -> bool;
        let stale: Of = |written| matches!(written, Written::Stale);
        let refused: Of = |written| matches!(written, Written::Refused(_));
        let later: Of = |written| matches!(written, Written::Later(None, _));
        let asked: Of =
            |written| matches!(written, Written::Later(Some(after), _) if after.as_secs() == 7);
        let cases = [
            (error(404, 0), stale, true, Some(STALE_AGAIN)),
            (error(409, 0), stale, true, Some(STALE_AGAIN)),
            (error(422, 0), refused, true, Some(REFUSED_AGAIN)),
            (error(400, 0), refused, true, Some(REFUSED_AGAIN)),
            (error(403, 0), later, false, None),
            (error(429, 7), asked, false, None),
            (error(503, 0), later, false, None),
        ];
        for (error, is_expected, is_answer, again) in cases {
            let what = error.to_string();
            let written = Written::of(Err(error));
            assert!(is_expected(&written), "{what}: {written:?}");
            assert_eq!((written.is_answer(), written.again()), (is_answer, again), "{what}");
        }
        let done = Written::of(Ok(raw("9")));
        assert_eq!((done.is_answer(), done.again()), (true, None));
        let Written::Done(Some(object)) = done else { panic!("{done:?}") };
        assert_eq!(*object, pin("docs", "u", 9, DOCS));
        let deposed = Written::Deposed;
        assert_eq!((deposed.is_answer(), deposed.again()), (false, Some(STALE_AGAIN)));
    }

    #[test]
    fn a_status_is_for_the_very_version_that_it_was_decided_on() {
        let status = crd::PinStatus { observed_generation: Some(4), ..Default::default() };
        let object = Arc::new(pin("docs", "u", 7, DOCS));
        let body = body(&Write { object: object.clone(), status: status.clone(), note: None });
        let metadata =
            json!({"namespace": "web", "name": "docs", "uid": "u", "resourceVersion": "7"});
        assert_eq!(body["metadata"], metadata);
        assert_eq!(body["status"], serde_json::to_value(status).unwrap());
        assert_eq!(
            (&body["kind"], &body["apiVersion"]),
            (&"Pin".into(), &"pinkeeper.dev/v1alpha1".into())
        );
        assert!(body.get("spec").is_none(), "it belongs to people");
        let reference = reference(&object);
        assert_eq!(reference.uid.as_deref(), Some("u"));
        assert_eq!(reference.resource_version.as_deref(), Some("7"));
    }
}
