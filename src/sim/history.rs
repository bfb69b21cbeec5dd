//! The agreed history: every entry applied by any peer, in order, and the state after each.
//!
//! It is the oracle. Once a peer has applied an entry, all others must have the same entry there; an
//! answer to a user must be true at some position between request and answer.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hasher as _},
    time::Duration,
};

use minicbor::Encode;
use tokio::time::Instant;

use super::{log::SimLog, rules, trace::Trace};
use crate::{
    state::{Op, Outcome, PinSet},
    types::{Cid, LogPosition, PeerId, Pin, encoding},
};

/// What the world knows besides the logs.
pub struct Facts<'a> {
    /// When a peer's daemon last confirmed a pin that it was not asked to remove since.
    pub confirmed: &'a dyn Fn(PeerId, &Cid) -> Option<Instant>,
    /// When a peer's process ended, if it does not run.
    pub ended: &'a dyn Fn(PeerId) -> Option<Instant>,
    /// When an entry was first written to a log.
    pub proposed: &'a dyn Fn(LogPosition) -> Option<Instant>,
}

impl std::fmt::Debug for Facts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Facts").finish_non_exhaustive()
    }
}

/// Longest time from a daemon's answer to the release that relies on it: a call between peers takes no
/// longer.
const ANSWER_AGE_MAX: Duration = Duration::from_secs(6);
/// A leader does not hear a peer any more whose process ended so long ago.
const SILENT_AFTER: Duration = Duration::from_millis(6_500);
/// An entry may be applied so much later than it was decided, and the next one at once.
const LATE_MAX: Duration = Duration::from_secs(30);

/// The history; positions are counts of entries.
#[derive(Debug)]
pub struct History {
    pins: PinSet,
    entries: Vec<Applied>,
    /// The versions of each CID's pin, with the number of entries after which each held.
    versions: BTreeMap<Cid, Vec<(u64, Option<Pin>)>>,
    /// When the last entry was first applied, and the number of entries before that instant.
    last: (Instant, u64),
    /// Copies move off a member that has been away for so long.
    grace: Duration,
    /// When each member's absence was last noted, and when it was last away beyond the grace.
    noted: BTreeMap<PeerId, (Instant, Option<Instant>)>,
    began: Instant,
    trace: Trace,
}

#[derive(Debug)]
struct Applied {
    position: LogPosition,
    ops: Vec<Op>,
    outcomes: Vec<Outcome>,
    /// Hash of the pins after the entry, and of the other state.
    hash: u64,
    beside: u64,
}

/// Hash of one pin. The XOR of the hashes of all pins does not depend on their order.
#[must_use]
pub fn hash_of(cid: &Cid, pin: Option<&Pin>) -> u64 {
    pin.map_or(0, |pin| hash(&(cid, pin)))
}

/// The hash of the state besides the pins.
#[must_use]
pub fn beside_of(pins: &PinSet) -> u64 {
    hash(pins.beside())
}

fn hash(of: &impl Encode<()>) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(&encoding::to_vec(of));
    hasher.finish()
}

impl History {
    /// An empty history. Rare situations are counted in the trace.
    #[must_use]
    pub fn new(trace: Trace) -> Self {
        Self {
            pins: PinSet::default(),
            entries: Vec::new(),
            versions: BTreeMap::new(),
            last: (Instant::now(), 0),
            grace: Duration::ZERO,
            noted: BTreeMap::new(),
            began: Instant::now(),
            trace,
        }
    }

    /// Number of entries applied by any peer.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Whether no entry was applied.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Number of entries applied before the current instant of virtual time, since events of one instant
    /// have no order.
    #[must_use]
    pub fn len_before_now(&self) -> u64 {
        if self.last.0 == Instant::now() { self.last.1 } else { self.len() }
    }

    /// The state after all entries.
    #[must_use]
    pub fn pins(&self) -> &PinSet {
        &self.pins
    }

    /// The hashes of the pins after so many entries, and of the other state.
    #[must_use]
    pub fn hashes(&self, count: u64) -> (u64, u64) {
        let index = usize::try_from(count).unwrap_or(usize::MAX);
        let last = index.checked_sub(1).and_then(|last| self.entries.get(last));
        last.map_or_else(|| (0, beside_of(&PinSet::default())), |last| (last.hash, last.beside))
    }

    /// Sets the grace of members that are away.
    pub fn set_grace(&mut self, grace: Duration) {
        self.grace = grace;
    }

    /// Adds the entries `from..until`, applied by a peer from its log, or, `by_snapshot`, as far as
    /// they are known.
    ///
    /// # Errors
    /// When another peer applied another entry there, or a copy was given up too early.
    pub fn extend(
        &mut self,
        log: &SimLog,
        (from, until): (u64, u64),
        by_snapshot: bool,
        facts: &Facts<'_>,
    ) -> Result<(), String> {
        for index in from..until {
            let known = self.entries.get(usize::try_from(index).unwrap_or(usize::MAX));
            match (log.entry(index), known) {
                // Entries in this peer's own log were never applied there.
                (_, Some(_)) if by_snapshot => {}
                (Some((position, ops)), Some(known)) => {
                    if known.position != position || known.ops != ops {
                        return Err(format!(
                            "entry {index} is {position:?} {ops:?}, and was {:?} {:?} elsewhere",
                            known.position, known.ops
                        ));
                    }
                }
                (Some((position, ops)), None) => self.apply(position, ops, facts)?,
                (None, _) => return Err(format!("entry {index} was applied but is in no log")),
            }
        }
        Ok(())
    }

    fn apply(
        &mut self,
        position: LogPosition,
        ops: Vec<Op>,
        facts: &Facts<'_>,
    ) -> Result<(), String> {
        if self.last.0 != Instant::now() {
            self.last = (Instant::now(), self.len());
        }
        let (mut hash, _) = self.hashes(self.len());
        let count = self.len() + 1;
        let mut outcomes = Vec::new();
        let proposed = || (facts.proposed)(position).unwrap_or_else(Instant::now);
        for op in &ops {
            let mut cids = Vec::new();
            self.pins.touched(op, &mut cids);
            let before = cids.into_iter().map(|cid| (cid, self.pins.get(&cid).cloned()));
            let before: Vec<(Cid, Option<Pin>)> = before.collect();
            self.check_absence(op)?;
            let outcome = self.pins.apply(position, op);
            outcomes.push(outcome);
            if let Outcome::Refused(why) = outcome {
                self.trace.meet(rules::refused(why));
            }
            for (cid, before) in before {
                let after = self.pins.get(&cid);
                let step = rules::Applied { op, outcome, before: before.as_ref(), after };
                step.check()?;
                step.met().into_iter().for_each(|what| self.trace.meet(what));
                if before.as_ref() == after {
                    continue;
                }
                hash ^= hash_of(&cid, before.as_ref()) ^ hash_of(&cid, after);
                self.versions.entry(cid).or_default().push((count, after.cloned()));
                match (op, before) {
                    (Op::LetGo { peer, .. }, Some(pin)) => {
                        self.may_let_go(&cid, &pin, *peer, proposed(), facts)?;
                    }
                    (Op::Move { from, .. }, _) => self.may_move(&cid, *from, proposed(), facts)?,
                    _ => {}
                }
            }
        }
        self.meet_both();
        let beside = beside_of(&self.pins);
        self.entries.push(Applied { position, ops, outcomes, hash, beside });
        Ok(())
    }

    /// Counts retained content beside content that waits for a person.
    fn meet_both(&self) {
        let retained = |(_, pin): (_, &Pin)| pin.claims.owners().any(rules::is_retained);
        if self.pins.waiting().is_some() && self.pins.iter().any(retained) {
            self.trace.meet("retained beside waiting");
        }
    }

    /// Whether an entry after the first `from` contains an op that `is` it and was not refused.
    pub fn has_since(&self, from: u64, is: impl Fn(&Op) -> bool) -> bool {
        self.since(from).any(|entry| {
            let ops = entry.ops.iter().zip(&entry.outcomes);
            ops.into_iter().any(|(op, out)| is(op) && !matches!(out, Outcome::Refused(_)))
        })
    }

    /// Whether an entry after the first `from` contains exactly these ops with these outcomes.
    #[must_use]
    pub fn has_batch_since(&self, from: u64, ops: &[Op], outcomes: &[Outcome]) -> bool {
        self.since(from).any(|entry| {
            let mut places = entry.ops.windows(ops.len()).zip(entry.outcomes.windows(ops.len()));
            places.any(|(at, out)| at == ops && out == outcomes)
        })
    }

    fn since(&self, from: u64) -> impl Iterator<Item = &Applied> {
        self.entries.iter().skip(usize::try_from(from).unwrap_or(usize::MAX))
    }

    /// Whether `so` held for a CID's pin at any time between the first `from` entries and now.
    pub fn was(&self, from: u64, cid: &Cid, so: impl Fn(Option<&Pin>) -> bool) -> bool {
        let versions = self.versions.get(cid).map(Vec::as_slice).unwrap_or_default();
        let later = versions.partition_point(|(count, _)| *count <= from);
        let at_first = later.checked_sub(1).and_then(|n| versions[n].1.as_ref());
        so(at_first) || versions[later..].iter().any(|(_, pin)| so(pin.as_ref()))
    }

    /// Checks that a peer may release a pin: enough others must have confirmed it just before.
    fn may_let_go(
        &self,
        cid: &Cid,
        pin: &Pin,
        peer: PeerId,
        proposed: Instant,
        facts: &Facts<'_>,
    ) -> Result<(), String> {
        let confirmed = |holder: &PeerId| {
            (facts.confirmed)(*holder, cid).is_some_and(|at| at + ANSWER_AGE_MAX >= proposed)
        };
        let others = pin.holders().filter(confirmed).count();
        let departs = self.pins.departing().contains(&peer);
        let needed = pin.replication().needed_beside(pin.holders().count(), departs);
        if others < needed {
            return Err(format!(
                "{cid} was released on {peer} while {others} others hold it, {needed} must"
            ));
        }
        Ok(())
    }

    /// Checks that a copy may move off a peer that does not run: it departs or was away for long. (One that
    /// runs may fail to make it.)
    fn may_move(
        &self,
        cid: &Cid,
        from: PeerId,
        proposed: Instant,
        facts: &Facts<'_>,
    ) -> Result<(), String> {
        let gone = self.noted.get(&from).and_then(|(_, gone)| *gone);
        let was_gone = gone.is_some_and(|at| at + LATE_MAX > proposed);
        let is_silent = (facts.ended)(from).is_some_and(|at| at + SILENT_AFTER < proposed);
        if was_gone || !is_silent || self.pins.departing().contains(&from) {
            return Ok(());
        }
        Err(format!("{cid} moves off {from}, which was not away for long"))
    }

    /// Checks that an absence is not counted as longer than it was.
    fn check_absence(&mut self, op: &Op) -> Result<(), String> {
        let Op::Away { peer, away, .. } = op else { return Ok(()) };
        let known = self.pins.away().get(peer).map_or(0, |away| away.seconds);
        let (before, mut gone) = self.noted.get(peer).copied().unwrap_or((self.began, None));
        let now = away.as_ref().map_or(0, |away| away.seconds);
        let counted = Duration::from_secs(now.saturating_sub(known).into());
        if counted > before.elapsed() + LATE_MAX {
            return Err(format!("{counted:?} of an absence of {peer} in {:?}", before.elapsed()));
        }
        if Duration::from_secs(now.max(known).into()) >= self.grace {
            gone = Some(Instant::now());
        }
        self.noted.insert(*peer, (Instant::now(), gone));
        Ok(())
    }
}
