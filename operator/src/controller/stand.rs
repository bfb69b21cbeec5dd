//! A leadership for tests: a single peer, and an API server with scripted answers.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use pinkeeper::{
    clock::Clock,
    cluster::JoinPolicy,
    sim::{
        host::{Host, Make},
        network::SimNetwork,
        run_seeded,
    },
    state::{Fence, Found, Limits, Op, Outcome, PinSet},
    types::{
        Cid, ClaimName, ClaimOptions, Factor, Member, Owner, PeerId, Replication, Timestamp, Uid,
    },
};
use tokio_util::sync::CancellationToken;

use super::{claims::Missing, deletions::Deletion, leading::Leading, objects::ObjectKey};
use crate::kubernetes::{
    Context, Counters, Settings,
    answers::{Answers, there},
};

/// Names of requested objects.
pub(super) const SYSTEM: &str = "kube-system";
pub(super) const DEFINITION: &str = "pins.pinkeeper.dev";
pub(super) const RECORD: &str = "sim-cluster";
/// Generation of the claims.
pub(super) const GENERATION: i64 = 4;

pub(super) struct Stand {
    pub(super) lead: Arc<Leading>,
    pub(super) api: Answers,
    _host: Host,
}

impl Stand {
    /// Runs a test on one, in virtual time.
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
        let settings = Settings {
            namespace: "pinkeeper".into(),
            pod: "pod-0".into(),
            release: "sim".into(),
            initial_peers: 1,
            default_replicas: 1,
            limits: Limits::default(),
        };
        let clock = Clock::Simulated(host.clock.clone());
        let context = Context::new(api.client(), cluster, clock, settings, Counters::default());
        let lead = Arc::new(Leading::new(context, term, CancellationToken::new()));
        Self { lead, api, _host: host }
    }

    /// A leadership that is over, or of another peer.
    pub(super) fn of_another_term(&self) -> Leading {
        Leading::new(self.lead.context.clone(), self.lead.term + 1, CancellationToken::new())
    }

    /// Claims a distinct CID for the object of this UID and name.
    pub(super) async fn claim(&self, uid: &str) {
        let ops = vec![self.claim_of(uid, Owner::Object(Uid(uid.into())), false)];
        let outcomes = self.lead.context.cluster.submit(self.lead.term, ops).await;
        assert_eq!(outcomes.unwrap(), [Outcome::Changed]);
    }

    pub(super) fn claim_of(&self, content: &str, owner: Owner, retain: bool) -> Op {
        let one = Factor::Count(1);
        let replication = Replication { min: one, max: one };
        Op::Claim {
            cid: cid(content),
            owner,
            options: ClaimOptions { replication, retain, name: name_of(content) },
            candidates: Vec::new(),
            at: Timestamp(0),
            fence: Some(Fence { term: self.lead.term, generation: GENERATION }),
        }
    }

    /// Reads a complete, empty list.
    pub(super) fn list_nothing(&self) {
        self.lead.objects_mut().list_done(&BTreeSet::new());
    }

    pub(super) fn read<R>(&self, read: impl FnOnce(&PinSet) -> R) -> R {
        self.lead.context.cluster.state().read(read)
    }

    /// Whether an object still has its claim.
    pub(super) fn is_claimed(&self, uid: &str) -> bool {
        self.read(|pins| pins.cid_of(&Uid(uid.into())).is_some())
    }
}

fn name_of(object: &str) -> ClaimName {
    ClaimName::Object(Box::new(ObjectKey { namespace: "web".into(), name: object.into() }))
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
