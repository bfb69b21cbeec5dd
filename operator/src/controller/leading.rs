//! What the controllers of one leadership share, and what they share with those before and after.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use kube::Client;
use pinkeeper::{
    clock::Clock,
    cluster::{Cluster, Leadership},
    state::{Limits, Refused},
    types::{Cid, Uid},
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{
    api::Reach,
    claims::{BrakeTime, Deletions},
    counters::Counters,
    objects::{ObjectKey, Objects},
    queue::WorkQueue,
};
use crate::founding::record::{self, Anchors};

/// Where this peer is in Kubernetes, and what it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The namespace of the pod: of ClusterPeers and of the record.
    pub namespace: String,
    /// The pod's name: of its ClusterPeer.
    pub pod: String,
    /// The Helm release: the record is called `<release>-cluster`.
    pub release: String,
    /// Peers that the cluster is founded with; a majority of them must have registered.
    pub initial_peers: u16,
    /// Copies of a Pin that names no number.
    pub default_replicas: u16,
    /// What may be unpinned within an hour without a person.
    pub limits: Limits,
}

impl Settings {
    /// The name of the record's ConfigMap.
    #[must_use]
    pub fn record(&self) -> String {
        format!("{}-cluster", self.release)
    }

    /// The pod's ordinal in its StatefulSet.
    #[must_use]
    pub fn ordinal(&self) -> Option<u32> {
        self.pod.rsplit_once('-')?.1.parse().ok()
    }
}

/// The anchors that this process saw last as those of the Pins, which a lost record may not take with
/// it; clones share them.
#[derive(Clone, Debug, Default)]
pub struct KnownAnchors(Arc<Mutex<Option<Anchors>>>);

/// Why deletions of Pins unpin nothing until a person has looked; clones share it.
#[derive(Clone, Debug, Default)]
pub struct HeldDeletions(Arc<Mutex<Option<String>>>);

impl HeldDeletions {
    /// The reason, for people.
    #[must_use]
    pub fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, reason: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }
}

impl KnownAnchors {
    pub(super) fn get(&self) -> Option<Anchors> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes note of what the record says, if it says something of both.
    pub(super) fn note(&self, anchors: &Anchors) {
        if anchors.system != record::UNKNOWN && anchors.definition != record::UNKNOWN {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(anchors.clone());
        }
    }
}

/// What all controllers of this process share; a cheap handle.
#[derive(Clone)]
pub struct Shared {
    /// The API server.
    pub client: Client,
    /// The peer.
    pub cluster: Cluster,
    /// For timestamps.
    pub clock: Clock,
    /// Where this is.
    pub settings: Arc<Settings>,
    /// Whether the API server answers.
    pub reach: Reach,
    /// Which API server the Pins are in.
    pub anchors: KnownAnchors,
    /// Why deletions unpin nothing at the moment, if so.
    pub held: HeldDeletions,
    /// What was done, for Prometheus.
    pub counters: Counters,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// One leadership: ends when the term or the leader changes.
#[derive(Debug)]
pub(super) struct Leading {
    pub(super) shared: Shared,
    pub(super) term: u64,
    /// Ends this leadership's tasks.
    pub(super) token: CancellationToken,
    leadership: watch::Receiver<Leadership>,
    objects: RwLock<Objects>,
    /// The time that the brake counts by.
    pub(super) brake_time: BrakeTime,
    /// For the claims: new objects, changed ones, and those to be looked at again.
    pub(super) claims: WorkQueue<ObjectKey>,
    /// For the claims: objects that are gone.
    pub(super) deletions: Deletions,
    /// For the statuses.
    pub(super) statuses: WorkQueue<ObjectKey>,
    /// A whole list was read.
    pub(super) listed: Notify,
    /// Claims that the state refused, by object: generation and reason.
    refusals: Mutex<BTreeMap<Uid, (i64, Refused)>>,
}

impl Leading {
    pub(super) fn new(shared: Shared, term: u64, token: CancellationToken) -> Self {
        let counted = shared.cluster.state().read(|pins| pins.window().latest());
        Self {
            leadership: shared.cluster.leadership(),
            brake_time: BrakeTime::begin(shared.clock.now(), counted),
            shared,
            term,
            token,
            objects: RwLock::default(),
            claims: WorkQueue::default(),
            deletions: Deletions::default(),
            statuses: WorkQueue::default(),
            listed: Notify::new(),
            refusals: Mutex::default(),
        }
    }

    /// Whether this peer still leads in this term. Asked before each write.
    pub(super) fn holds(&self) -> bool {
        let now = *self.leadership.borrow();
        now.local && now.term == self.term && !self.token.is_cancelled()
    }

    pub(super) fn objects(&self) -> RwLockReadGuard<'_, Objects> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn objects_mut(&self) -> RwLockWriteGuard<'_, Objects> {
        self.objects.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn refusals(&self) -> MutexGuard<'_, BTreeMap<Uid, (i64, Refused)>> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what became of an object's claim.
    pub(super) fn refused(&self, uid: &Uid, refusal: Option<(i64, Refused)>) {
        match refusal {
            Some(refusal) => self.refusals().insert(uid.clone(), refusal),
            None => self.refusals().remove(uid),
        };
    }

    /// Objects of a CID whose claims were refused.
    pub(super) fn refused_of(&self, cid: &Cid) -> Vec<ObjectKey> {
        let (objects, refusals) = (self.objects(), self.refusals());
        let is_refused = |key: &&ObjectKey| {
            objects.get(key).is_some_and(|object| refusals.contains_key(&object.uid))
        };
        objects.of(cid).filter(is_refused).cloned().collect()
    }

    /// Why the claim of an object's generation was refused, if it was.
    pub(super) fn refusal(&self, uid: &Uid, generation: i64) -> Option<Refused> {
        self.refusals().get(uid).filter(|(of, _)| *of == generation).map(|(_, why)| *why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::stand::Stand;

    #[test]
    fn a_leadership_holds_in_its_term_until_it_is_ended() {
        Stand::test(async |stand| {
            assert!(stand.lead.holds() && !stand.of_another_term().holds());
            stand.lead.token.cancel();
            assert!(!stand.lead.holds());
        });
    }

    #[test]
    fn a_refusal_is_of_one_object_and_generation() {
        Stand::test(async |stand| {
            let (lead, uid) = (&stand.lead, Uid("a".into()));
            lead.refused(&uid, Some((3, Refused::OtherCid)));
            lead.refused(&uid, Some((4, Refused::TooManyClaims)));
            let told = |uid: &str, generation| lead.refusal(&Uid(uid.into()), generation);
            assert_eq!(told("a", 4), Some(Refused::TooManyClaims));
            assert_eq!([told("a", 3), told("a", 5), told("b", 4)], [None; 3]);
            lead.refused(&uid, None);
            assert_eq!(told("a", 4), None);
        });
    }

    #[test]
    fn only_anchors_that_are_both_known_are_remembered() {
        let anchors = |system: &str, definition: &str| Anchors {
            system: system.into(),
            definition: definition.into(),
        };
        let known = KnownAnchors::default();
        known.note(&anchors("s", "d"));
        for unknown in [anchors(record::UNKNOWN, "e"), anchors("t", record::UNKNOWN)] {
            known.note(&unknown);
            assert_eq!(known.get(), Some(anchors("s", "d")));
        }
        known.note(&anchors("t", "e"));
        assert_eq!(known.get(), Some(anchors("t", "e")));
    }
}
