//! The replicated state: `apply` is deterministic and has no side effects.
//!
//! Invariants:
//! - Every pin has a claim.
//! - A pin has at most one allocation for each peer.
//! - An object claims at most one CID.
//! - A leaving peer is removed only when the pin's minimum of other holders is confirmed.
//! - A waiting claim is the only claim of its pin.
//! - The level never falls.
//! - A removed peer has no allocation.

mod peers;

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use minicbor::{Decode, Encode};

use self::peers::Removed;
pub use self::peers::{Away, Page};
use super::{
    deletion_guard::{AtStake, Holds, Limits, Lost, Ruling, Waiting, WaitingDigest, Window},
    derived::{Derived, waiting_uid},
    op::{Applied, Fence, Op, Outcome, Refused},
};
use crate::types::{
    Allocation, Cid, CidMap, Claim, ClaimOptions, Claims, FIRST_LEVEL, LogPosition, Owner,
    PackedCid, PeerId, Pin, Timestamp, Uid,
};

/// Most claims of one pin; bounds the size of its record.
const CLAIMS_MAX: usize = 1024;

/// The state: all pins by their binary CIDs, and [`Beside`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PinSet {
    pins: CidMap<Pin>,
    /// Derived: the CID that each object claims.
    objects: BTreeMap<Uid, PackedCid>,
    derived: Derived,
    beside: Beside,
}

/// The state besides the pins.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Beside {
    /// The counts of the deletion guard.
    #[n(0)]
    window: Window,
    /// The cluster's level.
    #[n(1)]
    level: u32,
    /// The peers that were removed for good.
    #[n(2)]
    #[cbor(default)]
    removed: Removed,
    /// The members that give their copies away.
    #[n(3)]
    #[cbor(default)]
    departing: BTreeSet<PeerId>,
    /// The members that are away, or were lately.
    #[n(4)]
    #[cbor(default)]
    away: BTreeMap<PeerId, Away>,
    /// The departing members whose pods were scaled in.
    #[n(5)]
    #[cbor(default)]
    scaled_in: BTreeSet<PeerId>,
}

impl Default for Beside {
    fn default() -> Self {
        Self {
            window: Window::default(),
            level: FIRST_LEVEL,
            removed: Removed::default(),
            departing: BTreeSet::new(),
            away: BTreeMap::new(),
            scaled_in: BTreeSet::new(),
        }
    }
}

impl PinSet {
    /// The pin of a CID.
    #[must_use]
    pub fn get(&self, cid: &Cid) -> Option<&Pin> {
        self.pins.get(cid)
    }

    /// All pins, in order of their CIDs.
    pub fn iter(&self) -> impl Iterator<Item = (Cid, &Pin)> {
        self.pins.iter()
    }

    /// Pins after `cid`, in order; from the first if it is absent.
    pub fn after(&self, cid: Option<&Cid>) -> impl Iterator<Item = (Cid, &Pin)> {
        self.pins.range(cid, None)
    }

    /// Number of pins.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pins.len()
    }

    /// Whether there is no pin.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pins.is_empty()
    }

    /// The CID that an object claims.
    #[must_use]
    pub fn cid_of(&self, uid: &Uid) -> Option<Cid> {
        self.objects.get(uid).map(PackedCid::cid)
    }

    /// All objects with a claim, and their CIDs.
    pub fn objects(&self) -> impl Iterator<Item = (&Uid, Cid)> {
        self.objects.iter().map(|(uid, cid)| (uid, cid.cid()))
    }

    /// Number of pins allocated to each peer, leaving allocations included.
    #[must_use]
    pub fn allocations_by_peer(&self) -> &BTreeMap<PeerId, u64> {
        &self.derived.allocations
    }

    /// Number of pins allocated to a peer, leaving allocations included.
    #[must_use]
    pub fn copies_of(&self, peer: PeerId) -> u64 {
        self.derived.allocations.get(&peer).copied().unwrap_or_default()
    }

    /// The pins with a leaving peer.
    pub fn moving(&self) -> impl Iterator<Item = Cid> + '_ {
        self.derived.moving.iter().map(PackedCid::cid)
    }

    /// Number of pins with a leaving peer.
    #[must_use]
    pub fn moving_len(&self) -> usize {
        self.derived.moving.len()
    }

    /// The waiting claims, if any.
    #[must_use]
    pub fn waiting(&self) -> Option<Waiting> {
        self.derived.waiting.summary(&self.beside.window)
    }

    /// The deleted objects whose claims wait, and their CIDs.
    pub fn waiting_objects(&self) -> impl Iterator<Item = (&Uid, &Cid)> {
        self.derived.waiting.iter()
    }

    /// The counts of the deletion guard.
    #[must_use]
    pub fn window(&self) -> &Window {
        &self.beside.window
    }

    /// Whether last claims that are about to end must wait for a person. `at` is the leader's time,
    /// `limits` are its settings.
    #[must_use]
    pub fn guard(&self, lost: Lost, at: Timestamp, limits: &Limits) -> Holds {
        let at_stake =
            AtStake { cids: self.derived.at_stake, waiting: self.derived.waiting.cids() };
        self.beside.window.holds(lost, at_stake, at, limits)
    }

    /// The cluster's level. No op of a higher level is proposed.
    #[must_use]
    pub fn level(&self) -> u32 {
        self.beside.level
    }

    /// The state besides the pins.
    #[must_use]
    pub fn beside(&self) -> &Beside {
        &self.beside
    }

    /// Restores the state besides the pins.
    pub fn restore_beside(&mut self, beside: Beside) {
        self.beside = beside;
    }

    /// Restores a stored pin.
    pub fn restore(&mut self, cid: Cid, pin: Pin) {
        for owner in pin.claims.owners() {
            if let Owner::Object(uid) = owner {
                self.objects.insert(uid.clone(), (&cid).into());
            }
        }
        self.derived.put_in(cid, &pin);
        self.pins.insert(&cid, pin);
    }

    /// Adds the CIDs whose pins an op may change.
    pub fn touched(&self, op: &Op, cids: &mut Vec<Cid>) {
        match op {
            Op::Allow { .. } => cids.extend(self.derived.waiting.iter().map(|(_, cid)| *cid)),
            Op::Transfer { from, page, .. } => cids.extend(self.allocated_in(page, *from)),
            op => cids.extend(op.cid()),
        }
    }

    /// Like [`Self::apply`]; also returns the pin for the answer of REST.
    pub fn apply_shown(&mut self, position: LogPosition, op: &Op) -> Applied {
        let shown = |pins: &Self| pins.get(&op.cid()?).map(Pin::as_asked_by_rest);
        let before = match op {
            Op::Release { owner: Owner::Rest, .. } => shown(self),
            _ => None,
        };
        let outcome = self.apply(position, op);
        let pin = match op {
            Op::Claim { owner: Owner::Rest, .. } => shown(self),
            _ => before,
        };
        Applied { outcome, pin }
    }

    /// Applies an op of the log entry at `position`.
    pub fn apply(&mut self, position: LogPosition, op: &Op) -> Outcome {
        let term = position.term;
        let result = match op {
            Op::Claim { cid, owner, options, candidates, at, fence } => {
                self.claim(position, *cid, owner, options, candidates, *at, *fence)
            }
            Op::Release { cid, owner, at, fence } => self.release(term, *cid, owner, *at, *fence),
            Op::Allocate { cid, candidates } => self.change_allocations(*cid, |pin, beside| {
                Ok(Outcome::of_change(top_up(pin, candidates, beside, position)))
            }),
            Op::Leave { cid, peers } => {
                self.change_allocations(*cid, |pin, _| Ok(Outcome::of_change(leave(pin, peers))))
            }
            Op::LetGo { cid, peer, confirmed } => {
                self.change_allocations(*cid, |pin, beside| let_go(pin, *peer, beside, confirmed))
            }
            Op::Gone { cid, uid, ruling, at, fence } => {
                self.gone(term, *cid, uid, *ruling, *at, *fence)
            }
            Op::Allow { digest, term: decided_in } => self.allow(term, *digest, *decided_in),
            Op::Raise { level, term: decided_in } => self.raise(term, *level, *decided_in),
            Op::Transfer { from, to, page, term: decided_in } => {
                self.transfer(position, (*from, *to), *page, *decided_in)
            }
            Op::Remove { peer, term: decided_in } => self.remove(term, *peer, *decided_in),
            Op::Depart { peer, departs, term: decided_in, scaled_in } => {
                self.depart(term, *peer, (*departs, *scaled_in), *decided_in)
            }
            Op::Move { cid, from, candidates } => self.change_allocations(*cid, |pin, beside| {
                move_copy(pin, *from, candidates, beside, position)
            }),
            Op::Stay { cid, peer } => {
                self.change_allocations(*cid, |pin, _| Ok(Outcome::of_change(stay(pin, *peer))))
            }
            Op::Away { peer, away, term: decided_in } => {
                self.note_away(term, *peer, away.as_ref(), *decided_in)
            }
            #[cfg(any(test, feature = "simulation", feature = "next-level"))]
            Op::Next => Ok(Outcome::Unchanged),
        };
        result.unwrap_or_else(Outcome::Refused)
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one op")]
    fn claim(
        &mut self,
        position: LogPosition,
        cid: Cid,
        owner: &Owner,
        options: &ClaimOptions,
        candidates: &[PeerId],
        at: Timestamp,
        fence: Option<Fence>,
    ) -> Result<Outcome, Refused> {
        check_term(position.term, fence)?;
        let generation = fence.map_or(0, |f| f.generation);
        if let Owner::Object(uid) = owner
            && self.cid_of(uid).is_some_and(|claimed| claimed != cid)
        {
            return Err(Refused::OtherCid);
        }
        let entry = self.pins.entry(&cid);
        let pin = match &entry {
            Entry::Occupied(pin) => Some(pin.get()),
            Entry::Vacant(_) => None,
        };
        let known = pin.and_then(|pin| pin.claims.get(owner));
        if known.is_some_and(|claim| generation < claim.generation) {
            return Err(Refused::OlderGeneration);
        }
        if known.is_none() && pin.is_some_and(|pin| pin.claims.len() >= CLAIMS_MAX) {
            return Err(Refused::TooManyClaims);
        }
        let known_since = known.map(|claim| claim.since);
        let since = known_since.unwrap_or(at);
        let claim = Claim { options: options.clone(), generation, since };
        let same = known == Some(&claim);
        let only_live_objects_wanted = pin.is_some_and(only_live_objects_want);
        let pin = match entry {
            Entry::Occupied(pin) => {
                self.derived.take_out(cid, pin.get());
                pin.into_mut()
            }
            Entry::Vacant(place) => {
                let (claims, allocations) = (Claims::default(), Vec::new());
                place.insert(Pin { claims, allocations, created: at })
            }
        };
        pin.claims.insert(owner.clone(), claim);
        // A new owner replaces the retained or waiting claim.
        let before = pin.claims.len();
        if known_since.is_none() {
            let ownerless = |of: &Owner| matches!(of, Owner::Retained | Owner::Waiting(_));
            pin.claims.retain(|of| of == owner || !ownerless(of));
        }
        let adopted = pin.claims.len() < before;
        let grown = top_up(pin, candidates, &self.beside, position);
        self.derived.put_in(cid, pin);
        if let Owner::Object(uid) = owner {
            self.objects.insert(uid.clone(), (&cid).into());
            if !only_live_objects_wanted && only_live_objects_want(pin) {
                self.beside.window.gain();
            }
        }
        Ok(Outcome::of_change(!same || adopted || grown))
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
        let Entry::Occupied(mut entry) = self.pins.entry(&cid) else {
            return Err(Refused::NoSuchPin);
        };
        let Some(claim) = entry.get().claims.get(owner) else { return Ok(Outcome::Unchanged) };
        if fence.is_some_and(|f| f.generation < claim.generation) {
            return Err(Refused::OlderGeneration);
        }
        self.derived.take_out(cid, entry.get());
        let pin = entry.get_mut();
        let claim = pin.claims.remove(owner);
        if let Owner::Object(uid) = owner {
            self.objects.remove(uid);
        }
        if let Some(mut claim) = claim.filter(|claim| claim.options.retain) {
            // A pin has at most one retained claim, which keeps the larger counts.
            if let Some(before) = pin.claims.get(&Owner::Retained) {
                let options = &mut claim.options;
                options.replication = options.replication.larger(before.options.replication);
            }
            pin.claims.insert(Owner::Retained, Claim { generation: 0, since: at, ..claim });
        }
        if pin.claims.is_empty() {
            entry.remove();
        } else {
            self.derived.put_in(cid, pin);
        }
        Ok(Outcome::Changed)
    }

    fn gone(
        &mut self,
        term: u64,
        cid: Cid,
        uid: &Uid,
        ruling: Ruling,
        at: Timestamp,
        fence: Fence,
    ) -> Result<Outcome, Refused> {
        check_term(term, Some(fence))?;
        let pin = self.pins.get_mut(&cid).ok_or(Refused::NoSuchPin)?;
        let waiting = Owner::Waiting(uid.clone());
        if pin.claims.contains(&waiting) {
            // It already counted, and only an approval ends it.
            return Ok(Outcome::Unchanged);
        }
        let owner = Owner::Object(uid.clone());
        let Some(claim) = pin.claims.get(&owner) else { return Ok(Outcome::Unchanged) };
        if fence.generation < claim.generation {
            return Err(Refused::OlderGeneration);
        }
        let unpins = pin.claims.len() == 1 && !claim.options.retain;
        match ruling {
            Ruling::Wait(found) if unpins => {
                self.beside.window.count(at, found, true);
                self.derived.take_out(cid, pin);
                if let Some(claim) = pin.claims.remove(&owner) {
                    pin.claims.insert(waiting, claim);
                }
                self.derived.put_in(cid, pin);
                self.objects.remove(uid);
                return Ok(Outcome::Changed);
            }
            Ruling::Take(found) if unpins => self.beside.window.count(at, found, false),
            Ruling::Take(_) | Ruling::Wait(_) => {}
        }
        self.release(term, cid, &owner, at, Some(fence))
    }

    fn allow(
        &mut self,
        term: u64,
        digest: WaitingDigest,
        decided_in: u64,
    ) -> Result<Outcome, Refused> {
        check_decided_in(term, decided_in)?;
        if self.waiting().map(|waiting| waiting.digest) != Some(digest) {
            return Err(Refused::OtherDigest);
        }
        let cids: Vec<Cid> = self.waiting_objects().map(|(_, cid)| *cid).collect();
        for cid in cids {
            if let Some(pin) = self.pins.remove(&cid) {
                self.derived.take_out(cid, &pin);
            }
        }
        self.beside.window.begin_anew();
        Ok(Outcome::Changed)
    }

    fn raise(&mut self, term: u64, level: u32, decided_in: u64) -> Result<Outcome, Refused> {
        check_decided_in(term, decided_in)?;
        if level <= self.beside.level {
            return Ok(Outcome::Unchanged);
        }
        self.beside.level = level;
        Ok(Outcome::Changed)
    }

    /// Changes the allocations of a pin.
    fn change_allocations(
        &mut self,
        cid: Cid,
        change: impl FnOnce(&mut Pin, &Beside) -> Result<Outcome, Refused>,
    ) -> Result<Outcome, Refused> {
        let pin = self.pins.get_mut(&cid).ok_or(Refused::NoSuchPin)?;
        self.derived.take_out(cid, pin);
        let outcome = change(pin, &self.beside);
        self.derived.put_in(cid, pin);
        outcome
    }
}

/// Whether only existing objects want it, without Retain.
fn only_live_objects_want(pin: &Pin) -> bool {
    pin.goes_with_objects() && waiting_uid(pin).is_none()
}

fn leave(pin: &mut Pin, peers: &[PeerId]) -> bool {
    let mut changed = false;
    for allocation in &mut pin.allocations {
        if peers.contains(&allocation.peer) && !allocation.leaving {
            allocation.leaving = true;
            changed = true;
        }
    }
    changed
}

/// Makes a leaving peer a holder again.
fn stay(pin: &mut Pin, peer: PeerId) -> bool {
    let leaving = pin.allocations.iter_mut().find(|a| a.peer == peer && a.leaving);
    leaving.map(|allocation| allocation.leaving = false).is_some()
}

/// Nothing leaves without a successor.
fn move_copy(
    pin: &mut Pin,
    from: PeerId,
    candidates: &[PeerId],
    beside: &Beside,
    position: LogPosition,
) -> Result<Outcome, Refused> {
    let Some(index) = pin.allocations.iter().position(|a| a.peer == from && !a.leaving) else {
        return Ok(Outcome::Unchanged);
    };
    let can_take = |peer: &&PeerId| {
        !pin.is_on(**peer) && !beside.removed.contains(**peer) && !beside.departing.contains(*peer)
    };
    let to = *candidates.iter().find(can_take).ok_or(Refused::NoCandidate)?;
    pin.allocations[index].leaving = true;
    let at_entry = position.index + 1;
    pin.allocations.push(Allocation { peer: to, leaving: false, at_entry });
    Ok(Outcome::Changed)
}

/// A member that departs may go when all others hold the pin, however many copies it needs.
fn let_go(
    pin: &mut Pin,
    peer: PeerId,
    beside: &Beside,
    confirmed: &[Allocation],
) -> Result<Outcome, Refused> {
    let Some(index) = pin.allocations.iter().position(|a| a.peer == peer && a.leaving) else {
        return Ok(Outcome::Unchanged);
    };
    let confirmed = pin.allocations.iter().filter(|a| !a.leaving && confirmed.contains(a)).count();
    let (holders, departs) = (pin.holders().count(), beside.departing.contains(&peer));
    if confirmed < pin.replication().needed_beside(holders, departs) {
        return Err(Refused::TooFewConfirmed);
    }
    pin.allocations.remove(index);
    Ok(Outcome::Changed)
}

fn check_decided_in(term: u64, decided_in: u64) -> Result<(), Refused> {
    if decided_in == term { Ok(()) } else { Err(Refused::OtherTerm) }
}

fn check_term(term: u64, fence: Option<Fence>) -> Result<(), Refused> {
    fence.map_or(Ok(()), |fence| check_decided_in(term, fence.term))
}

/// Allocates candidates while there are fewer holders than wanted. A leaving candidate becomes a holder
/// again; a removed one gets nothing.
fn top_up(pin: &mut Pin, candidates: &[PeerId], beside: &Beside, position: LogPosition) -> bool {
    let mut holders = pin.holders().count();
    let wanted = pin.replication().wanted(usize::MAX);
    let mut changed = false;
    if pin.allocations.is_empty() {
        pin.allocations.reserve_exact(wanted.min(candidates.len()));
    }
    for candidate in candidates.iter().filter(|peer| !beside.removed.contains(**peer)) {
        if holders >= wanted {
            break;
        }
        match pin.allocations.iter_mut().find(|a| a.peer == *candidate) {
            Some(allocation) if allocation.leaving => allocation.leaving = false,
            Some(_) => continue,
            None => {
                let at_entry = position.index + 1;
                pin.allocations.push(Allocation { peer: *candidate, leaving: false, at_entry });
            }
        }
        holders += 1;
        changed = true;
    }
    changed
}
