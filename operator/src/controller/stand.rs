//! A leadership to test on: of a peer that is alone, with an API server that says what it is told to.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    Router,
    body::to_bytes,
    extract::Request,
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use kube::{Client, client::Body};
use pinkeeper::{
    clock::Clock,
    cluster::JoinPolicy,
    sim::{
        host::{Host, Make},
        network::SimNetwork,
        run_seeded,
    },
    state::{Fence, Found, Limits, Op, Outcome, PinSet},
    types::{Cid, ClaimOptions, Factor, Member, Owner, PeerId, Replication, Timestamp, Uid},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    HeldDeletions, KnownAnchors, Settings, Shared,
    api::Reach,
    claims::{Deletion, Missing},
    counters::Counters,
    leading::Leading,
    objects::ObjectKey,
};

/// Names of what is asked for.
pub(super) const SYSTEM: &str = "kube-system";
pub(super) const DEFINITION: &str = "pins.pinkeeper.dev";
pub(super) const RECORD: &str = "sim-cluster";
/// The generation that claims are of.
pub(super) const GENERATION: i64 = 4;

/// The API server: the answers to each name, whatever its kind. The last one stays; what it knows
/// nothing of is not there.
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

    /// What is there at last.
    pub(super) fn last(&self, name: &str) -> Value {
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
pub(super) fn going(uid: &str) -> Answer {
    let (code, mut object) = there(uid);
    object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    (code, object)
}

/// An error without the object's name, as proxies answer.
pub(crate) fn error(code: u16) -> Answer {
    let (kind, reason) = ("Status", if code == 404 { "NotFound" } else { "Simulated" });
    (code, json!({"kind": kind, "status": "Failure", "reason": reason, "code": code}))
}

/// An object that is not there, as the API server itself says it.
pub(crate) fn absent(name: &str) -> Answer {
    let (code, mut status) = error(404);
    status["details"] = json!({"name": name});
    (code, status)
}

pub(super) struct Stand {
    pub(super) lead: Arc<Leading>,
    pub(super) api: Answers,
    _host: Host,
}

impl Stand {
    /// Tests on one, in virtual time.
    pub(super) fn test(test: impl AsyncFnOnce(Stand)) {
        run_seeded(1, async { test(Self::new().await).await });
    }

    async fn new() -> Self {
        let member = Member { name: "pod-0".into(), addresses: Vec::new() };
        let (sync_time, pin_time) = (Duration::ZERO, Duration::ZERO);
        let make = Make { id: PeerId([1; 32]), member, sync_time, pin_time };
        let mut host = Host::new(make, SimNetwork::new(1));
        host.start(JoinPolicy::Wait).await.unwrap();
        let cluster = host.peer.as_ref().unwrap().cluster.clone();
        cluster.found("00112233445566778899aabbccddeeff".parse().unwrap(), 1).await.unwrap();
        let term = cluster.leadership().wait_for(|now| now.local).await.unwrap().term;
        let api = Answers::default();
        for name in [SYSTEM, DEFINITION, RECORD, "web"] {
            api.set(name, [there(name)]);
        }
        let shared = Shared {
            client: api.client(),
            cluster,
            clock: Clock::Simulated(host.clock.clone()),
            settings: Arc::new(Settings {
                namespace: "pinkeeper".into(),
                pod: "pod-0".into(),
                release: "sim".into(),
                initial_peers: 1,
                default_replicas: 1,
                limits: Limits::default(),
            }),
            reach: Reach::default(),
            anchors: KnownAnchors::default(),
            held: HeldDeletions::default(),
            counters: Counters::default(),
        };
        let lead = Arc::new(Leading::new(shared, term, CancellationToken::new()));
        Self { lead, api, _host: host }
    }

    /// A leadership that is over, or was never this peer's.
    pub(super) fn of_another_term(&self) -> Leading {
        Leading::new(self.lead.shared.clone(), self.lead.term + 1, CancellationToken::new())
    }

    /// The object of this UID and name claims a content of its own.
    pub(super) async fn claim(&self, uid: &str) {
        let ops = vec![self.claim_of(uid, Owner::Object(Uid(uid.into())), false)];
        let outcomes = self.lead.shared.cluster.submit(self.lead.term, ops).await;
        assert_eq!(outcomes.unwrap(), [Outcome::Changed]);
    }

    pub(super) fn claim_of(&self, content: &str, owner: Owner, retain: bool) -> Op {
        let one = Factor::Count(1);
        let replication = Replication { min: one, max: one };
        Op::Claim {
            cid: cid(content),
            owner,
            options: ClaimOptions { replication, retain, name: format!("web/{content}") },
            candidates: Vec::new(),
            at: Timestamp(0),
            fence: Some(Fence { term: self.lead.term, generation: GENERATION }),
        }
    }

    /// A whole list was read, with nothing in it.
    pub(super) fn list_nothing(&self) {
        self.lead.objects_mut().list_done(&BTreeSet::new());
    }

    pub(super) fn read<R>(&self, read: impl FnOnce(&PinSet) -> R) -> R {
        self.lead.shared.cluster.state().read(read)
    }

    /// Whether an object still has its claim.
    pub(super) fn is_claimed(&self, uid: &str) -> bool {
        self.read(|pins| pins.cid_of(&Uid(uid.into())).is_some())
    }
}

/// The content that the object of this UID claims.
pub(super) fn cid(uid: &str) -> Cid {
    let hash = cid::multihash::Multihash::<64>::wrap(0, uid.as_bytes()).unwrap();
    cid::Cid::new_v1(0x55, hash).into()
}

pub(super) fn missing(uid: &str) -> Missing {
    let (namespace, name) = ("web".into(), uid.into());
    Missing { uid: Uid(uid.into()), key: ObjectKey { namespace, name } }
}

/// A deletion that was watched.
pub(super) fn watched(uid: &str) -> Deletion {
    let (uid, found) = (Uid(uid.into()), Found::Watched);
    Deletion { uid, generation: GENERATION, found, retain: Some(false), is_old: false }
}
