//! A stand-in for the Kubernetes API server: in memory, on virtual time, behind kube's own client.
//!
//! It answers the requests of Pinkeeper's pods like the real one (tests against a real one are in
//! `controllers.rs` and `admission.rs`): lists in pages with continue tokens, watches with
//! bookmarks and 410, versions and conflicts, server-side apply of a status. It does not validate,
//! convert or authorise. [`faults`] has what goes wrong on the way. Any other request fails the
//! world.

pub mod faults;
mod http;
pub mod store;
mod watch;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::Request, response::Response};
use parking_lot::{Mutex, MutexGuard};
use pinkeeper::sim::trace::Trace;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio::{
    sync::{oneshot, watch as channel},
    time::{sleep, timeout},
};

use self::{
    faults::{End, Fate, Faults, WatchFate},
    http::{Call, From},
    store::{Key, Kind, Objects, Refusal, Store},
    watch::Watch,
};

/// Default read timeout of kube's client.
const READ_TIMEOUT: Duration = Duration::from_secs(295);

/// Observes the statuses that pods write.
pub trait Witness: Send + Sync {
    /// A pod sends a status for the present `object`. Returns the term that it is sent in.
    fn sent(&self, pod: usize, key: &Key, body: &Value, object: Option<&Value>) -> u64;
    /// A status of that term, sent at that revision, was accepted.
    fn taken(&self, term: u64, sent_at: u64, object: &Value);
}

/// The API server; clones share it.
#[derive(Clone)]
pub struct SimApi {
    server: Arc<Mutex<Server>>,
    changed: channel::Sender<u64>,
    trace: Trace,
}

/// State of the API server.
pub struct Server {
    /// The cluster's own store, and that of another cluster that pods may reach by mistake.
    stores: [Store; 2],
    elsewhere: bool,
    pub faults: Faults,
    random: StdRng,
    /// Most objects in a page of a list.
    page_max: usize,
    /// Pods that cannot reach the server.
    cut: BTreeSet<usize>,
    /// All requests wait.
    pub held_up: bool,
    /// The present process of each pod; requests of earlier processes get no answer.
    lives: Vec<u64>,
    /// Raised to break all connections.
    connections: u64,
    /// Writes that pods sent.
    pub writes: u64,
    /// Requests that it does not understand.
    pub unknown: Vec<String>,
    witness: Option<Arc<dyn Witness>>,
}

/// Data about a status in flight.
struct Evidence {
    witness: Arc<dyn Witness>,
    term: u64,
    /// The revision when it was sent.
    sent_at: u64,
}

/// One process's connection to the server.
#[derive(Clone)]
pub struct Door {
    api: SimApi,
    pod: usize,
    life: u64,
}

impl SimApi {
    pub fn new(seed: u64, pods: usize, trace: Trace) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let server = Server {
            stores: [Store::new("uid"), Store::new("other")],
            elsewhere: false,
            faults: Faults::default(),
            page_max: random.random_range(3..60),
            random,
            cut: BTreeSet::new(),
            held_up: false,
            lives: vec![0; pods],
            connections: 0,
            writes: 0,
            unknown: Vec::new(),
            witness: None,
        };
        Self { server: Arc::new(Mutex::new(server)), changed: channel::Sender::new(0), trace }
    }

    pub fn set_witness(&self, witness: Arc<dyn Witness>) {
        self.lock().witness = Some(witness);
    }

    pub fn lock(&self) -> MutexGuard<'_, Server> {
        self.server.lock()
    }

    /// Applies a change of a user, and wakes the watches.
    pub fn change<R>(&self, change: impl FnOnce(&mut Server) -> R) -> R {
        let result = change(&mut self.lock());
        self.changed.send_modify(|changes| *changes += 1);
        result
    }

    /// A client for a new process of a pod.
    pub fn client(&self, pod: usize) -> kube::Client {
        let life = {
            let mut server = self.lock();
            server.lives[pod] += 1;
            server.lives[pod]
        };
        let door = Door { api: self.clone(), pod, life };
        let router = Router::new().fallback(move |request: Request| {
            let door = door.clone();
            async move { door.answer(request).await }
        });
        kube::Client::new(router.into_service::<kube::client::Body>(), "default")
    }

    /// The process is gone; its requests may still arrive.
    pub fn hang_up(&self, pod: usize) {
        self.lock().lives[pod] += 1;
    }
}

impl Server {
    pub fn store(&self) -> &Store {
        &self.stores[usize::from(self.elsewhere)]
    }

    pub fn store_mut(&mut self) -> &mut Store {
        &mut self.stores[usize::from(self.elsewhere)]
    }

    /// The store of the cluster that the world is about.
    pub fn home(&self) -> &Store {
        &self.stores[0]
    }

    pub fn home_mut(&mut self) -> &mut Store {
        &mut self.stores[0]
    }

    /// Switches to another cluster's server, or back to ours.
    pub fn set_elsewhere(&mut self, elsewhere: bool) {
        self.elsewhere = elsewhere;
        self.connections += 1;
    }

    pub fn break_connections(&mut self) {
        self.connections += 1;
    }

    pub fn set_cut(&mut self, pod: usize, cut: bool) {
        if cut {
            self.cut.insert(pod)
        } else {
            self.cut.remove(&pod)
        };
    }

    fn is_cut(&self, door: &Door) -> bool {
        self.cut.contains(&door.pod) || self.lives[door.pod] != door.life
    }

    fn fate_of_event(&mut self) -> (WatchFate, Duration) {
        self.faults.of_event(&mut self.random)
    }

    /// Executes a request that is not a watch.
    fn serve(&mut self, call: &Call, stale: bool) -> Result<Value, Refusal> {
        self.check_defined(call)?;
        let store = self.store_mut();
        let object = match call {
            Call::Get(key) => store.get(key)?,
            Call::List { kind, namespace, limit, from } => {
                return self.list(*kind, namespace, *limit, *from, stale);
            }
            Call::Watch { .. } => return Err(Refusal::new(500, "InternalError", "a watch")),
            Call::Create(key, object) => store.create(key, object.clone())?,
            Call::Replace(key, object) => store.replace(key, object.clone())?,
            Call::ApplyStatus(key, body) => store.apply_status(key, body)?,
            Call::Merge(key, patch) => store.merge(key, patch)?,
        };
        Ok(Value::clone(&object))
    }

    /// Without the definition, requests for Pins fail, lists included.
    fn check_defined(&self, call: &Call) -> Result<(), Refusal> {
        let kind = match call {
            Call::List { kind, .. } | Call::Watch { kind, .. } => *kind,
            Call::Get(key) | Call::Create(key, _) | Call::Replace(key, _) => key.kind,
            Call::ApplyStatus(key, _) | Call::Merge(key, _) => key.kind,
        };
        let definition = Key::new(Kind::Definition, "", "pins.pinkeeper.dev");
        if kind == Kind::Pin && self.store().get(&definition).is_err() {
            return Err(Refusal::new(404, "NotFound", "404 page not found"));
        }
        Ok(())
    }

    fn list(
        &mut self,
        kind: Kind,
        namespace: &str,
        limit: usize,
        from: From,
        stale: bool,
    ) -> Result<Value, Refusal> {
        let (oldest, newest) = (self.store().compacted(), self.store().revision());
        let (revision, offset) = match from {
            From::Continue(revision, offset) => (revision, offset),
            From::Recent if !stale => (newest, 0),
            // Usually slightly outdated, sometimes by far.
            From::Recent | From::Any => {
                let most = if self.random.random_bool(0.7) { 20 } else { newest };
                let behind = self.random.random_range(0..=most);
                (newest.saturating_sub(behind).max(oldest), 0)
            }
        };
        let objects: Objects = self.store().at(revision)?;
        let ours = objects.iter().filter(|(key, _)| {
            key.kind == kind && (namespace.is_empty() || key.namespace == namespace)
        });
        let limit = limit.min(self.page_max);
        let mut items: Vec<&Value> = ours.skip(offset).take(limit + 1).map(|(_, o)| &**o).collect();
        let more = items.len() > limit;
        items.truncate(limit);
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if more {
            metadata["continue"] = format!("{revision}-{}", offset + limit).into();
        }
        Ok(json!({
            "apiVersion": kind.api_version(), "kind": format!("{}List", kind.name()),
            "metadata": metadata, "items": items,
        }))
    }
}

impl Door {
    /// Answers a request, or never answers it. A request in flight continues if the client stops
    /// waiting.
    async fn answer(self, request: Request<Body>) -> Response {
        let line = format!("{} {}", request.method(), request.uri());
        let (reply, answer) = oneshot::channel();
        match Call::read(request).await {
            Some(call) => {
                let (fate, door) = (self.sent(&call), self.clone());
                tokio::spawn(async move {
                    let response = door.carry(call, fate).await;
                    // The client may be gone.
                    let _ = reply.send(response);
                });
            }
            None => self.api.lock().unknown.push(line),
        }
        tokio::select! {
            biased;
            () = self.hang() => http::broken(),
            Ok(Some(response)) = answer => response,
        }
    }

    /// Ends when the connection breaks or the client's timeout expires.
    async fn hang(&self) {
        let mut changed = self.api.changed.subscribe();
        let connection = self.api.lock().connections;
        let broken = changed.wait_for(|_| self.api.lock().connections != connection);
        // The sender lives as long as the door.
        let _ = timeout(READ_TIMEOUT, broken).await;
    }

    fn sent(&self, call: &Call) -> (Fate, Option<Evidence>) {
        let mut server = self.api.lock();
        let Server { faults, random, .. } = &mut *server;
        let mut fate = faults.of_request(random);
        if let Call::Get(Key { kind: Kind::Pin, .. }) = call
            && let Some(refusal) = faults.of_question(random)
        {
            fate.end = End::Refused(refusal);
            self.api.trace.meet("a question for a Pin goes astray");
        }
        server.writes += u64::from(call.is_write());
        let (Call::ApplyStatus(key, body), Some(witness)) = (call, server.witness.clone()) else {
            return (fate, None);
        };
        let (object, sent_at) = (server.store().get(key).ok(), server.store().revision());
        drop(server);
        let term = witness.sent(self.pod, key, body, object.as_deref());
        (fate, Some(Evidence { witness, term, sent_at }))
    }

    /// The answer; absent if the client gets none.
    async fn carry(
        &self,
        call: Call,
        (fate, evidence): (Fate, Option<Evidence>),
    ) -> Option<Response> {
        // The sender lives as long as the door.
        let _ = self.api.changed.subscribe().wait_for(|_| !self.api.lock().held_up).await;
        sleep(fate.delays[0]).await;
        if self.api.lock().cut.contains(&self.pod) {
            return None;
        }
        let response = match fate.end {
            End::Refused(refusal) => http::refused(&refusal),
            End::Lost { effect: false, told } => return told.then(http::broken),
            End::Lost { effect: true, told } => {
                self.serve(call, fate.stale, evidence);
                sleep(fate.delays[1]).await;
                return told.then(http::broken);
            }
            End::Served => self.serve(call, fate.stale, evidence),
        };
        sleep(fate.delays[1]).await;
        (!self.api.lock().is_cut(self)).then_some(response)
    }

    fn serve(&self, call: Call, stale: bool, evidence: Option<Evidence>) -> Response {
        if let Some(watch) = Watch::new(self.clone(), &call) {
            return match self.api.lock().check_defined(&call) {
                Ok(()) => watch.into_response(),
                Err(refusal) => http::refused(&refusal),
            };
        }
        let served = self.api.change(|server| server.serve(&call, stale));
        self.note(&call, &served);
        if let (Some(Evidence { witness, term, sent_at }), Ok(object)) = (evidence, &served) {
            witness.taken(term, sent_at, object);
        }
        match served {
            Ok(object) if matches!(call, Call::Create(..)) => http::answer(201, &object),
            Ok(object) => http::answer(200, &object),
            Err(refusal) => http::refused(&refusal),
        }
    }

    fn note(&self, call: &Call, served: &Result<Value, Refusal>) {
        let result = served.as_ref().err().map_or(200, |refusal| refusal.code);
        let what = match call {
            Call::Get(_) | Call::Watch { .. } => return,
            Call::List { kind, from, .. } => format!("lists {} {from:?}", kind.resource()),
            // The name contains the machine's clock.
            Call::Create(key, event) if key.kind == Kind::Event => {
                format!("tells of {} {}", event["regarding"]["name"], event["reason"])
            }
            Call::Merge(key, event) if key.kind == Kind::Event => {
                format!("tells again of {} {}", event["regarding"]["name"], event["reason"])
            }
            Call::Create(key, _) => format!("creates {key}"),
            Call::Replace(key, object) => format!("replaces {key} by {}", object["data"]),
            Call::Merge(key, patch) => format!("patches {key} with {patch}"),
            Call::ApplyStatus(key, body) => {
                format!(
                    "status of {key} on {}: {}",
                    body["metadata"]["resourceVersion"],
                    brief(&body["status"])
                )
            }
        };
        self.api.trace.note(format!("pod-{} {what}: {result}", self.pod));
    }
}

/// A status in one line.
fn brief(status: &Value) -> String {
    let ready =
        status["conditions"].as_array().and_then(|all| all.iter().find(|c| c["type"] == "Ready"));
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let ready = ready.map(|c| format!("Ready={} {}", text(&c["status"]), text(&c["reason"])));
    let copies: Vec<String> = status["allocations"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|copy| format!("{}={}", text(&copy["peer"]), text(&copy["state"])))
        .collect();
    format!("{} [{}]", ready.unwrap_or_default(), copies.join(" "))
}
