//! The replicated state: `apply` is deterministic and has no side effects.
//!
//! Invariants: every pin has a claim; no peer is allocated twice to a pin; an object claims one CID;
//! a leaving peer is removed only when the pin's minimum of other holders was confirmed.

use std::collections::BTreeMap;

use super::op::{Applied, Fence, Op, Outcome, Refused};
use crate::types::{Allocation, Cid, Claim, ClaimOptions, Owner, PeerId, Pin, Timestamp, Uid};

/// Claims one pin may have: bounds a record's size.
const CLAIMS_MAX: usize = 1024;

/// Every pin, by its binary CID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PinSet {
    pins: BTreeMap<Cid, Pin>,
    /// Derived: what each object claims.
    objects: BTreeMap<Uid, Cid>,
    /// Derived: how many pins are on each peer.
    allocations: BTreeMap<PeerId, u64>,
}

impl PinSet {
    /// The pin of a CID.
    #[must_use]
    pub fn get(&self, cid: &Cid) -> Option<&Pin> {
        self.pins.get(cid)
    }

    /// All pins, in order of their CIDs.
    pub fn iter(&self) -> impl Iterator<Item = (&Cid, &Pin)> {
        self.pins.iter()
    }

    /// Pins after `cid`, in order.
    pub fn after(&self, cid: Option<&Cid>) -> impl Iterator<Item = (&Cid, &Pin)> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.pins.range((cid.map_or(Unbounded, |c| Excluded(*c)), Unbounded))
    }

    /// How many pins there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pins.len()
    }

    /// Whether there is no pin.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pins.is_empty()
    }

    /// The CID an object claims.
    #[must_use]
    pub fn cid_of(&self, uid: &Uid) -> Option<Cid> {
        self.objects.get(uid).copied()
    }

    /// All objects with a claim, and what they claim.
    pub fn objects(&self) -> impl Iterator<Item = (&Uid, &Cid)> {
        self.objects.iter()
    }

    /// How many pins are on each peer, leaving ones included.
    #[must_use]
    pub fn allocations_by_peer(&self) -> &BTreeMap<PeerId, u64> {
        &self.allocations
    }

    /// Puts back a pin as it was stored.
    pub fn restore(&mut self, cid: Cid, pin: Pin) {
        count(&mut self.allocations, Some(&pin), 1);
        for owner in pin.claims.keys() {
            if let Owner::Object(uid) = owner {
                self.objects.insert(uid.clone(), cid);
            }
        }
        self.pins.insert(cid, pin);
    }

    /// Applies an op of a log entry written in `term`, and shows the pin to users of the REST API.
    pub fn apply_shown(&mut self, term: u64, op: &Op) -> Applied {
        let shown = |pins: &Self| pins.get(&op.cid()).map(Pin::as_asked_by_rest);
        let before = match op {
            Op::Release { owner: Owner::Rest, .. } => shown(self),
            _ => None,
        };
        let outcome = self.apply(term, op);
        let pin = match op {
            Op::Claim { owner: Owner::Rest, .. } => shown(self),
            _ => before,
        };
        Applied { outcome, pin }
    }

    /// Applies an op of a log entry written in `term`.
    pub fn apply(&mut self, term: u64, op: &Op) -> Outcome {
        let cid = op.cid();
        count(&mut self.allocations, self.pins.get(&cid), -1);
        let result = match op {
            Op::Claim { cid, owner, options, candidates, at, fence } => {
                self.claim(term, *cid, owner, options, candidates, *at, *fence)
            }
            Op::Release { cid, owner, at, fence } => self.release(term, *cid, owner, *at, *fence),
            Op::Allocate { cid, candidates } => self.allocate(*cid, candidates),
            Op::Leave { cid, peers } => self.leave(*cid, peers),
            Op::LetGo { cid, peer, confirmed } => self.let_go(*cid, *peer, confirmed),
        };
        count(&mut self.allocations, self.pins.get(&cid), 1);
        result.unwrap_or_else(Outcome::Refused)
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one op")]
    fn claim(
        &mut self,
        term: u64,
        cid: Cid,
        owner: &Owner,
        options: &ClaimOptions,
        candidates: &[PeerId],
        at: Timestamp,
        fence: Option<Fence>,
    ) -> Result<Outcome, Refused> {
        check_term(term, fence)?;
        let generation = fence.map_or(0, |f| f.generation);
        if let Owner::Object(uid) = owner
            && self.objects.get(uid).is_some_and(|claimed| *claimed != cid)
        {
            return Err(Refused::OtherCid);
        }
        let known = self.pins.get(&cid).and_then(|pin| pin.claims.get(owner));
        if known.is_some_and(|claim| generation < claim.generation) {
            return Err(Refused::OlderGeneration);
        }
        if known.is_none() && self.pins.get(&cid).is_some_and(|pin| pin.claims.len() >= CLAIMS_MAX)
        {
            return Err(Refused::TooManyClaims);
        }
        let known_since = known.map(|claim| claim.since);
        let since = known_since.unwrap_or(at);
        let claim = Claim { options: options.clone(), generation, since };
        let same = known == Some(&claim);
        let pin = self.pins.entry(cid).or_insert_with(|| Pin {
            claims: BTreeMap::new(),
            allocations: Vec::new(),
            created: at,
        });
        pin.claims.insert(owner.clone(), claim);
        // An owner that takes kept content up again decides on it from then on.
        let adopted = known_since.is_none()
            && *owner != Owner::Retained
            && pin.claims.remove(&Owner::Retained).is_some();
        let grown = top_up(pin, candidates);
        if let Owner::Object(uid) = owner {
            self.objects.insert(uid.clone(), cid);
        }
        Ok(if same && !adopted && !grown { Outcome::Unchanged } else { Outcome::Changed })
    }

    fn release(
        &mut self,
        term: u64,
        cid: Cid,
        owner: &Owner,
        at: Timestamp,
        fence: Option<Fence>,
    ) -> Result<Outcome, Refused> {
        check_term(term, fence)?;
        let pin = self.pins.get_mut(&cid).ok_or(Refused::NoSuchPin)?;
        let Some(claim) = pin.claims.get(owner) else { return Ok(Outcome::Unchanged) };
        if fence.is_some_and(|f| f.generation < claim.generation) {
            return Err(Refused::OlderGeneration);
        }
        let claim = pin.claims.remove(owner);
        if let Owner::Object(uid) = owner {
            self.objects.remove(uid);
        }
        match claim {
            Some(claim) if claim.options.retain => {
                pin.claims.insert(Owner::Retained, Claim { generation: 0, since: at, ..claim });
            }
            _ if pin.claims.is_empty() => {
                self.pins.remove(&cid);
            }
            _ => {}
        }
        Ok(Outcome::Changed)
    }

    fn allocate(&mut self, cid: Cid, candidates: &[PeerId]) -> Result<Outcome, Refused> {
        let pin = self.pins.get_mut(&cid).ok_or(Refused::NoSuchPin)?;
        Ok(if top_up(pin, candidates) { Outcome::Changed } else { Outcome::Unchanged })
    }

    fn leave(&mut self, cid: Cid, peers: &[PeerId]) -> Result<Outcome, Refused> {
        let pin = self.pins.get_mut(&cid).ok_or(Refused::NoSuchPin)?;
        let mut outcome = Outcome::Unchanged;
        for allocation in &mut pin.allocations {
            if peers.contains(&allocation.peer) && !allocation.leaving {
                allocation.leaving = true;
                outcome = Outcome::Changed;
            }
        }
        Ok(outcome)
    }

    fn let_go(&mut self, cid: Cid, peer: PeerId, confirmed: &[PeerId]) -> Result<Outcome, Refused> {
        let pin = self.pins.get_mut(&cid).ok_or(Refused::NoSuchPin)?;
        let Some(index) = pin.allocations.iter().position(|a| a.peer == peer && a.leaving) else {
            return Ok(Outcome::Unchanged);
        };
        let holders: Vec<PeerId> = pin.holders().collect();
        let confirmed = holders.iter().filter(|holder| confirmed.contains(holder)).count();
        if confirmed < pin.replication().min.of(holders.len()) {
            return Err(Refused::TooFewConfirmed);
        }
        pin.allocations.remove(index);
        Ok(Outcome::Changed)
    }
}

fn count(allocations: &mut BTreeMap<PeerId, u64>, pin: Option<&Pin>, by: i64) {
    for allocation in pin.iter().flat_map(|pin| &pin.allocations) {
        let number = allocations.entry(allocation.peer).or_default();
        *number = number.saturating_add_signed(by);
        if *number == 0 {
            allocations.remove(&allocation.peer);
        }
    }
}

fn check_term(term: u64, fence: Option<Fence>) -> Result<(), Refused> {
    match fence {
        Some(fence) if fence.term != term => Err(Refused::OtherTerm),
        _ => Ok(()),
    }
}

/// Adds candidates while there are fewer holders than wanted; one that was leaving stays instead.
fn top_up(pin: &mut Pin, candidates: &[PeerId]) -> bool {
    let mut holders = pin.holders().count();
    let wanted = pin.replication().max.of(usize::MAX);
    let mut changed = false;
    for candidate in candidates {
        if holders >= wanted {
            break;
        }
        match pin.allocations.iter_mut().find(|a| a.peer == *candidate) {
            Some(allocation) if allocation.leaving => allocation.leaving = false,
            Some(_) => continue,
            None => pin.allocations.push(Allocation { peer: *candidate, leaving: false }),
        }
        holders += 1;
        changed = true;
    }
    changed
}
