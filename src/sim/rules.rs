//! The allowed effects of an op on a pin, stated independently of the state's code. The history comes
//! from that code, so a replica that matches it may still be wrong.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    state::{Op, Outcome, Refused, Ruling},
    types::{Allocation, Claim, Owner, PeerId, Pin},
};

/// One op, and its effect on one pin.
#[derive(Debug)]
pub(super) struct Applied<'a> {
    pub(super) op: &'a Op,
    pub(super) outcome: Outcome,
    pub(super) before: Option<&'a Pin>,
    pub(super) after: Option<&'a Pin>,
}

impl Applied<'_> {
    /// Checks the op's effect.
    ///
    /// # Errors
    /// The effect that it must not have.
    pub(super) fn check(&self) -> Result<(), String> {
        let wrong = self.wrong_claims().or_else(|| self.wrong_allocations());
        wrong.map_or(Ok(()), |what| Err(format!("{what}: {self:?}")))
    }

    fn is_refused(&self) -> bool {
        matches!(self.outcome, Outcome::Refused(_))
    }

    fn wrong_claims(&self) -> Option<&'static str> {
        if self.is_refused() {
            return (self.before != self.after).then_some("a refused op changed something");
        }
        let (before, after) = (claims(self.before), claims(self.after));
        if self.owners_after(&before) != after.keys().copied().cloned().collect() {
            return Some("a claim was wrongly added or removed");
        }
        let own = self.owners();
        let others = before.iter().filter(|(owner, _)| !own.contains(owner));
        let changed = others.into_iter().any(|(owner, claim)| {
            after.get(owner).is_some_and(|now| now != claim && **owner != Owner::Retained)
        });
        changed.then_some("the claim of another owner was changed")
    }

    /// The owners that the op is about.
    fn owners(&self) -> BTreeSet<Owner> {
        match self.op {
            Op::Claim { owner, .. } | Op::Release { owner, .. } => [owner.clone()].into(),
            Op::Gone { uid, .. } => {
                [Owner::Object(uid.clone()), Owner::Waiting(uid.clone())].into()
            }
            _ => BTreeSet::new(),
        }
    }

    /// The owners with a claim afterwards.
    fn owners_after(&self, before: &BTreeMap<&Owner, &Claim>) -> BTreeSet<Owner> {
        let mut owners: BTreeSet<Owner> = before.keys().copied().cloned().collect();
        let mut leave = |owner: &Owner| {
            let retains = before.get(owner).is_some_and(|claim| claim.options.retain);
            let left = owners.remove(owner);
            owners.extend((left && retains).then_some(Owner::Retained));
            left && owners.is_empty()
        };
        match self.op {
            Op::Claim { owner, .. } => {
                if !before.contains_key(owner) {
                    owners.retain(|of| !is_ownerless(of));
                }
                owners.insert(owner.clone());
            }
            Op::Release { owner, .. } => {
                leave(owner);
            }
            Op::Gone { uid, ruling, .. } => {
                let waiting = Owner::Waiting(uid.clone());
                let waits = matches!(ruling, Ruling::Wait(_));
                if before.contains_key(&waiting) {
                    if !waits {
                        leave(&waiting);
                    }
                } else if leave(&Owner::Object(uid.clone())) && waits {
                    owners.insert(waiting);
                }
            }
            Op::Allow { .. } => owners.retain(|of| !matches!(of, Owner::Waiting(_))),
            _ => {}
        }
        owners
    }

    fn wrong_allocations(&self) -> Option<&'static str> {
        let (before, Some(after)) = (allocations(self.before), self.after) else { return None };
        let after_all = allocations(Some(after));
        if after_all.len() != after.allocations.len() {
            return Some("a peer has two allocations");
        }
        let gone = before.iter().any(|(peer, was)| {
            let may = match self.op {
                Op::LetGo { peer: of, .. } => of == peer && was.leaving,
                Op::Transfer { from, to, .. } => from == peer && after_all.contains_key(to),
                _ => false,
            };
            !after_all.contains_key(peer) && !may
        });
        if gone {
            return Some("an allocation was wrongly removed");
        }
        let adds = matches!(self.op, Op::Claim { .. } | Op::Allocate { .. } | Op::Move { .. });
        // The allocation of a peer's predecessor.
        let inherited = |peer: &PeerId| match self.op {
            Op::Transfer { from, to, .. } if to == peer => before.get(from),
            _ => None,
        };
        let wrong = after_all.iter().any(|(peer, now)| match before.get(peer) {
            None => {
                let fits = inherited(peer).is_some_and(|was| was.leaving == now.leaving);
                !fits && (!adds || now.leaving)
            }
            Some(was) if was == now => false,
            Some(was) if was.leaving => {
                let stays = matches!(self.op, Op::Stay { peer: of, .. } if of == peer);
                (!adds && !stays && inherited(peer).is_none()) || was.at_entry != now.at_entry
            }
            Some(_) => match self.op {
                Op::Leave { peers, .. } => !peers.contains(peer),
                Op::Move { from, .. } => from != peer,
                _ => true,
            },
        });
        if wrong {
            return Some("an allocation was wrongly added or changed");
        }
        let Op::Move { from, candidates, .. } = self.op else { return None };
        let new: Vec<&PeerId> =
            after_all.keys().filter(|peer| !before.contains_key(peer)).collect();
        let moved = matches!(new[..], [to] if candidates.contains(to))
            && after_all.get(from).is_some_and(|copy| copy.leaving);
        (before != after_all && !moved).then_some("a copy left without a successor")
    }

    /// Rare situations that it reaches.
    pub(super) fn met(&self) -> Vec<&'static str> {
        let mut met: Vec<&'static str> = Vec::new();
        if self.outcome != Outcome::Changed {
            return met;
        }
        let (before, after) = (claims(self.before), claims(self.after));
        let had = |is: fn(&Owner) -> bool| before.keys().any(|owner| is(owner));
        let has = |is: fn(&Owner) -> bool| after.keys().any(|owner| is(owner));
        for (is, came, taken_up) in [
            (is_retained as fn(&Owner) -> bool, "retained", "retained, and taken up again"),
            (is_waiting, "waits for a person", "waited, and is taken up again"),
        ] {
            met.extend((!had(is) && has(is)).then_some(came));
            let claimed = matches!(self.op, Op::Claim { .. });
            met.extend((claimed && had(is) && !has(is)).then_some(taken_up));
        }
        match self.op {
            Op::Claim { owner, .. } if before.contains_key(owner) && had(is_retained) => {
                met.push("a claim beside a retained one changes");
            }
            Op::Gone { ruling: Ruling::Take(_), .. } => met.push("gone"),
            Op::Gone { ruling: Ruling::Wait(_), .. } => met.push("the deletion guard holds"),
            Op::Allow { .. } => met.push("allowed"),
            Op::Leave { .. } => met.push("leaves"),
            Op::Transfer { .. } => met.push("a successor takes over"),
            Op::Move { .. } => met.push("a copy moves"),
            Op::Stay { .. } => met.push("a leaving copy stays"),
            _ => {}
        }
        let Some(pin) = self.after else { return met };
        let leaving = pin.allocations.iter().any(|allocation| allocation.leaving);
        let wanted = pin.replication().wanted(LEAST_PEERS).min(LEAST_PEERS);
        met.extend(
            (leaving && pin.holders().count() < wanted).then_some("leaves while one is missing"),
        );
        met
    }
}

/// Number of peers in the smallest world.
const LEAST_PEERS: usize = 3;

fn claims(pin: Option<&Pin>) -> BTreeMap<&Owner, &Claim> {
    pin.into_iter().flat_map(|pin| pin.claims.iter()).collect()
}

fn allocations(pin: Option<&Pin>) -> BTreeMap<PeerId, Allocation> {
    pin.into_iter().flat_map(|pin| &pin.allocations).map(|of| (of.peer, *of)).collect()
}

pub(super) fn is_ownerless(owner: &Owner) -> bool {
    is_retained(owner) || is_waiting(owner)
}

pub(super) fn is_retained(owner: &Owner) -> bool {
    *owner == Owner::Retained
}

pub(super) fn is_waiting(owner: &Owner) -> bool {
    matches!(owner, Owner::Waiting(_))
}

pub(super) fn refused(why: Refused) -> &'static str {
    match why {
        Refused::OtherTerm => "refused: another term",
        Refused::OlderGeneration => "refused: an older generation",
        Refused::OtherCid => "refused: another CID",
        Refused::NoSuchPin => "refused: no such pin",
        Refused::TooFewConfirmed => "refused: too few confirmed",
        Refused::TooManyClaims => "refused: too many claims",
        Refused::OtherDigest => "refused: another digest",
        Refused::HasCopies => "refused: has copies",
        Refused::Removed => "refused: removed",
        Refused::NoCandidate => "refused: no candidate",
    }
}
