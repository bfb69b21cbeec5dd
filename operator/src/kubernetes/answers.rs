//! An API server for tests, with scripted answers for each name.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Router,
    body::to_bytes,
    extract::Request,
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use kube::{Client, client::Body};
use serde_json::{Value, json};

/// The answers for each name, of any kind. The last answer repeats; an unknown name is not found.
#[derive(Clone, Default)]
pub(crate) struct Answers(Arc<Mutex<BTreeMap<String, VecDeque<Answer>>>>);

type Answer = (u16, Value);

impl Answers {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, VecDeque<Answer>>> {
        self.0.lock().unwrap()
    }

    pub(crate) fn set(&self, name: &str, answers: impl IntoIterator<Item = Answer>) {
        self.all().insert(name.into(), answers.into_iter().collect());
    }

    /// A client of this server.
    pub(crate) fn client(&self) -> Client {
        let answers = self.clone();
        let router = Router::new().fallback(async move |request| answers.answer(request).await);
        Client::new(router.into_service::<Body>(), "default")
    }

    fn next(&self, name: &str) -> Answer {
        match self.all().get_mut(name) {
            Some(answers) if answers.len() > 1 => answers.pop_front().unwrap(),
            Some(answers) => answers[0].clone(),
            None => absent(name),
        }
    }

    /// The last answer for a name.
    pub(crate) fn last(&self, name: &str) -> Value {
        self.all()[name].back().unwrap().1.clone()
    }

    async fn answer(self, request: Request) -> Response {
        let name = request.uri().path().rsplit('/').next().unwrap().to_owned();
        if request.method() == Method::PUT {
            let body = to_bytes(request.into_body(), usize::MAX).await.unwrap();
            self.set(&name, [(200, serde_json::from_slice(&body).unwrap())]);
        }
        let (code, body) = self.next(&name);
        (StatusCode::from_u16(code).unwrap(), body.to_string()).into_response()
    }
}

/// An object with this UID.
pub(crate) fn there(uid: &str) -> Answer {
    let metadata = json!({"name": "it", "namespace": "web", "uid": uid, "resourceVersion": "1"});
    (200, json!({"metadata": metadata, "data": {}}))
}

/// An object that is being deleted.
pub(crate) fn going(uid: &str) -> Answer {
    let (code, mut object) = there(uid);
    object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    (code, object)
}

/// An error without the object's name, as from a proxy.
pub(crate) fn error(code: u16) -> Answer {
    let (kind, reason) = ("Status", if code == 404 { "NotFound" } else { "Simulated" });
    (code, json!({"kind": kind, "status": "Failure", "reason": reason, "code": code}))
}

/// A "not found" of the API server itself.
pub(crate) fn absent(name: &str) -> Answer {
    let (code, mut status) = error(404);
    status["details"] = json!({"name": name});
    (code, status)
}
