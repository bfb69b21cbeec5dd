//! State shared by the controllers of one leadership.
//!
//! A leadership holds as long as this peer leads in its term, and nothing of it lives longer. The
//! controllers check that it holds before each write.

use std::collections::BTreeMap;

use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use pinkeeper::{
    cluster::Leadership,
    state::Refused,
    types::{Cid, Uid},
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{
    deletions::Deletions,
    guard_time::GuardTime,
    objects::{ObjectKey, Objects},
    queue::WorkQueue,
};
use crate::kubernetes::Context;

/// One leadership: ends when the term or the leader changes.
#[derive(Debug)]
pub(super) struct Leading {
    pub(super) context: Context,
    pub(super) term: u64,
    /// Ends this leadership's tasks.
    pub(super) token: CancellationToken,
    leadership: watch::Receiver<Leadership>,
    objects: RwLock<Objects>,
    /// Clock of the deletion guard.
    pub(super) guard_time: GuardTime,
    /// Objects whose claim has to be checked.
    pub(super) claims: WorkQueue<ObjectKey>,
    /// Deleted objects whose claim has to be dropped.
    pub(super) deletions: Deletions,
    /// Objects whose status has to be checked.
    pub(super) statuses: WorkQueue<ObjectKey>,
    /// A complete list was read.
    pub(super) listed: Notify,
    /// Claims that the state refused, by object, with generation and reason.
    refusals: Mutex<BTreeMap<Uid, (i64, Refused)>>,
}

impl Leading {
    pub(super) fn new(context: Context, term: u64, token: CancellationToken) -> Self {
        let counted = context.cluster.state().read(|pins| pins.window().latest());
        Self {
            leadership: context.cluster.leadership(),
            guard_time: GuardTime::begin(context.clock.now(), counted),
            context,
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

    /// Whether this peer still leads in this term. Checked before each write.
    pub(super) fn holds(&self) -> bool {
        let now = *self.leadership.borrow();
        now.local && now.term == self.term && !self.token.is_cancelled()
    }

    pub(super) fn objects(&self) -> RwLockReadGuard<'_, Objects> {
        self.objects.read()
    }

    pub(super) fn objects_mut(&self) -> RwLockWriteGuard<'_, Objects> {
        self.objects.write()
    }

    fn refusals(&self) -> MutexGuard<'_, BTreeMap<Uid, (i64, Refused)>> {
        self.refusals.lock()
    }

    /// Records that an object's claim was refused, or no longer is.
    pub(super) fn refused(&self, uid: &Uid, refusal: Option<(i64, Refused)>) {
        match refusal {
            Some(refusal) => self.refusals().insert(uid.clone(), refusal),
            None => self.refusals().remove(uid),
        };
    }

    /// Drops the refusals of objects that are gone.
    pub(super) fn forget_refusals(&self) {
        let objects = self.objects();
        self.refusals().retain(|uid, _| objects.contains(uid));
    }

    /// Objects of a CID with a refused claim.
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
}
