//! The requests of users and controllers, with checks that the answers are true.
//!
//! An answer must be true at some position between request and answer. A request without an answer may
//! take effect at any later time.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{judge::Judge, trace::Trace};
use crate::{
    allocate::{self, Need, Sight},
    cluster::{Cluster, UseCaseError},
    state::{Fence, Found, Limits, Lost, Op, PinSet, Ruling, WaitingDigest},
    types::{Cid, ClaimOptions, Owner, Pin, PinEntry, PinRequest, Timestamp, Uid},
};

/// A client of a peer, with limited patience.
#[derive(Clone, Debug)]
pub struct Client {
    /// Checks the answers.
    pub judge: Judge,
    /// Records them.
    pub trace: Trace,
    /// The peer it asks.
    pub cluster: Cluster,
    /// Its longest wait.
    pub patience: Duration,
}

/// A Pin object, as in the world's API server.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its UID.
    pub uid: Uid,
    /// Its CID.
    pub cid: Cid,
    /// The options of its claim.
    pub options: ClaimOptions,
    /// Its generation.
    pub generation: i64,
    /// Whether it was deleted.
    pub deleted: bool,
}

impl Object {
    fn owner(&self) -> Owner {
        Owner::Object(self.uid.clone())
    }

    /// Whether the state agrees with the object.
    #[must_use]
    pub fn is_settled(&self, pin: Option<&Pin>) -> bool {
        match pin.and_then(|pin| pin.claims.get(&self.owner())) {
            Some(claim) => {
                !self.deleted
                    && claim.options == self.options
                    && claim.generation == self.generation
            }
            None => self.deleted,
        }
    }
}

impl Client {
    /// Pins by REST.
    pub async fn pin(self, request: PinRequest) {
        let from = self.judge.begin();
        let PinRequest { cid, options } = request.clone();
        let answer = timeout(self.patience, self.cluster.pin(request)).await;
        if let Ok(Ok(pin)) = &answer {
            self.judge.expect(&format!("a pin of {cid} was acknowledged: {pin:?}"), |history| {
                let is = |op: &Op| {
                    matches!(op, Op::Claim { cid: c, owner: Owner::Rest, options: o, .. }
                        if *c == cid && *o == options)
                };
                history.has_since(from, is)
                    && history.was(from, &cid, |now| {
                        now.is_some_and(|now| now.as_asked_by_rest() == *pin)
                    })
            });
        }
        self.note("pin", &cid, &answer.map(|answer| answer.map(|_| ())));
    }

    /// Releases the REST pin.
    pub async fn unpin(self, cid: Cid) {
        let from = self.judge.begin();
        let answer = timeout(self.patience, self.cluster.unpin(cid)).await;
        match &answer {
            Ok(Ok(pin)) => {
                self.judge.expect(&format!("an unpin of {cid} was acknowledged"), |history| {
                    let is = |op: &Op| {
                        matches!(op, Op::Release { cid: c, owner: Owner::Rest, .. } if *c == cid)
                    };
                    history.has_since(from, is)
                        && history.was(0, &cid, |now| now.is_some_and(|now| now.as_asked_by_rest() == *pin))
                });
            }
            Ok(Err(UseCaseError::NotFound)) => {
                self.judge.expect(&format!("the answer was that {cid} is not pinned"), |history| {
                    // True too if another release came first.
                    history.was(from, &cid, |now| now.is_none_or(|pin| !is_by_rest(pin)))
                });
            }
            Ok(Err(UseCaseError::Invalid(reason))) if reason.contains("not pinned by this API") => {
                self.judge.expect(&format!("the answer was: {reason}"), |history| {
                    history.was(from, &cid, |now| now.is_none_or(|pin| !is_by_rest(pin)))
                });
            }
            _ => {}
        }
        self.note("unpin", &cid, &answer.map(|answer| answer.map(|_| ())));
    }

    /// Reads one pin.
    pub async fn look(self, cid: Cid) {
        let from = self.judge.begin();
        let answer = timeout(self.patience, self.cluster.pin_entry(cid)).await;
        if let Ok(Ok(entry)) = &answer {
            let pin = entry.as_ref().map(|entry| &entry.pin);
            self.judge.expect(&format!("{cid} was shown as {pin:?}"), |history| {
                history.was(from, &cid, |now| now == pin)
            });
        }
        self.note("look", &cid, &answer.map(|answer| answer.map(|_| ())));
    }

    /// Reads all pins (fewer than a page).
    pub async fn list(self) {
        let from = self.judge.begin();
        let answer = timeout(self.patience, self.cluster.pins_after(None)).await;
        if let Ok(Ok(page)) = &answer {
            for PinEntry { cid, pin, .. } in page {
                self.judge.expect(&format!("{cid} was listed as {pin:?}"), |history| {
                    history.was(from, cid, |now| now == Some(pin))
                });
            }
            self.judge.expect("a pin is missing in a list", |history| {
                let listed = |cid: &Cid| page.iter().any(|entry| entry.cid == *cid);
                let mut missing = history.pins().iter().filter(|(cid, _)| !listed(cid));
                missing.all(|(cid, _)| history.was(from, &cid, |now| now.is_none()))
            });
        }
    }

    /// Requests a garbage collection.
    pub async fn collect(self, local: bool) {
        let began = Instant::now();
        let answer = timeout(self.patience, self.cluster.run_gc(local)).await;
        for (peer, result) in answer.iter().flatten().flatten() {
            if result.is_ok() {
                self.judge.expect_gc(*peer, began);
                self.trace.meet("a collection of garbage");
            }
        }
        let name = &self.cluster.member().name;
        self.trace.note(format!("{name} was asked to collect, local {local}: {answer:?}"));
    }

    /// Acts on an object like a controller on this peer, if the peer believes that it leads.
    pub async fn control(self, object: Object, at: Timestamp) {
        let leadership = *self.cluster.leadership().borrow();
        if !leadership.local {
            return;
        }
        let cid = object.cid;
        let fence = Fence { term: leadership.term, generation: object.generation };
        let op = if object.deleted {
            let found = [Found::Watched, Found::Compared][usize::from(at.0.is_multiple_of(3))];
            let ruling = Ruling::Take(found);
            Op::Gone { cid, uid: object.uid.clone(), ruling, at, fence }
        } else {
            self.claim(&object, fence, at)
        };
        let what = format!("object {} of generation {}", object.uid, object.generation);
        self.submit(leadership.term, vec![op], &format!("{what} {cid}")).await;
    }

    fn claim(&self, object: &Object, fence: Fence, at: Timestamp) -> Op {
        let (cid, options) = (object.cid, object.options.clone());
        let mut fleet = self.cluster.fleet();
        let plan = self.cluster.state().read(|pins| {
            let need = Need::with_claim(&cid, pins.get(&cid), options.replication);
            allocate::plan(&need, &fleet, &Sight::default())
        });
        self.cluster.reserve(&mut fleet, &plan);
        let (owner, fence) = (object.owner(), Some(fence));
        Op::Claim { cid, owner, options, candidates: plan.add, at, fence }
    }

    /// A late decision, made on an older generation of an object or under an earlier leader.
    pub async fn control_late(self, object: Object, at: Timestamp, another_term: bool) {
        let leadership = *self.cluster.leadership().borrow();
        if !leadership.local {
            return;
        }
        let fence = Fence {
            term: leadership.term.saturating_sub(u64::from(another_term)),
            generation: object.generation - i64::from(!another_term),
        };
        let op = self.claim(&object, fence, at);
        self.submit(leadership.term, vec![op], &format!("object {} late", object.uid)).await;
    }

    /// Acts on many deleted objects like a controller: rules on all of them together, by the deletion
    /// guard.
    pub async fn sweep(self, gone: Vec<Object>, found: Found, at: Timestamp) {
        let leadership = *self.cluster.leadership().borrow();
        if !leadership.local {
            return;
        }
        let state = self.cluster.state();
        let ops = state.read(|pins| ruled(pins, &gone, found, leadership.term, at));
        if !ops.is_empty() {
            let what = format!("{} objects that are gone, {found:?}", gone.len());
            self.submit(leadership.term, ops, &what).await;
        }
    }

    /// Approves the waiting deletions, as requested by a person.
    pub async fn allow(self, digest: WaitingDigest) {
        let leadership = *self.cluster.leadership().borrow();
        if leadership.local {
            let op = Op::Allow { digest, term: leadership.term };
            self.submit(leadership.term, vec![op], &format!("approval {digest}")).await;
        }
    }

    async fn submit(&self, term: u64, ops: Vec<Op>, what: &str) {
        let from = self.judge.begin();
        let answer = timeout(self.patience, self.cluster.submit(term, ops.clone())).await;
        if let Ok(Ok(outcomes)) = &answer {
            self.judge.expect(&format!("{ops:?} was acknowledged as {outcomes:?}"), |history| {
                history.has_batch_since(from, &ops, outcomes)
            });
        }
        let name = &self.cluster.member().name;
        self.trace.note(format!("{name} was asked: {what}: {answer:?}"));
    }

    fn note(&self, what: &str, cid: &Cid, answer: &impl std::fmt::Debug) {
        let name = &self.cluster.member().name;
        self.trace.note(format!("{name} was asked: {what} {cid}: {answer:?}"));
    }
}

/// The ops that drop the claims of these objects, or make them wait.
fn ruled(pins: &PinSet, gone: &[Object], found: Found, term: u64, at: Timestamp) -> Vec<Op> {
    let claims = |pin: &Pin| gone.iter().filter(|of| pin.claims.contains(&of.owner())).count();
    let is_lost =
        |(_, pin): &(Cid, &Pin)| pin.goes_with_objects() && claims(pin) == pin.claims.len();
    let lost = u64::try_from(pins.iter().filter(is_lost).count()).unwrap_or(u64::MAX);
    let lost = match found {
        Found::Watched => Lost { watched: lost, compared: 0 },
        Found::Compared => Lost { watched: 0, compared: lost },
    };
    let ruling = pins.guard(lost, at, &Limits::default()).ruling(found);
    let op = |of: &Object| {
        let fence = Fence { term, generation: of.generation };
        Op::Gone { cid: of.cid, uid: of.uid.clone(), ruling, at, fence }
    };
    gone.iter().filter(|of| pins.cid_of(&of.uid).is_some()).map(op).collect()
}

fn is_by_rest(pin: &Pin) -> bool {
    pin.claims.contains(&Owner::Rest)
}
