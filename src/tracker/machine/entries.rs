//! What the machine knows of each CID, and its moves from phase to phase.

use std::{collections::BTreeMap, mem, ops::Deref};

use super::{
    Changes, Machine, Now, Origin, Phase, failures::Kind, ledger::LedgerEntry, turns::Place,
};
use crate::types::{Cid, CidMap, PinState, Timestamp};

/// Changes kept one by one before they become "everything".
pub(super) const CHANGES_MAX: usize = 16 * 1024;

/// What is known of one CID.
#[derive(Clone, Debug)]
pub(super) struct Tracked {
    /// Only [`Machine::enter`] changes it.
    phase: Phase,
    pub(super) wanted: bool,
    pub(super) origin: Option<Origin>,
    /// An attempt was, or may have been, begun since the daemon last said that it is not pinned. A pin
    /// found without an attempt is foreign, whatever was intended.
    pub(super) attempted: bool,
    /// Shown until there is better news than another attempt.
    pub(super) failed: Option<Kind>,
    /// Number of the last list that says nothing new of it: the list named it, or something later is
    /// known.
    pub(super) seen: u32,
    /// Since when the visible state holds.
    pub(super) since: Timestamp,
}

/// A peer may have millions of them.
const _: () = assert!(size_of::<Tracked>() <= 48);

impl Tracked {
    pub(super) fn new(phase: Phase, now: Now) -> Self {
        Self {
            phase,
            wanted: false,
            origin: None,
            attempted: false,
            failed: None,
            seen: 0,
            since: now.wall,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// The origin of the pin, if it is pinned. An intent makes it ours only with an attempt. A former
    /// peer's pin has none until it is taken over.
    pub(super) fn whose(&self) -> Option<Origin> {
        self.origin.filter(|origin| *origin == Origin::Foreign || self.attempted)
    }

    /// The visible state while the daemon is there; none if there is nothing to report.
    pub(super) fn state(&self) -> Option<PinState> {
        if !self.wanted {
            return match self.phase {
                Phase::UnpinQueued { .. }
                | Phase::Confirming
                | Phase::Confirmed { .. }
                | Phase::Unpinning
                | Phase::UnpinWaiting(_) => Some(self.unpin_state()),
                // First the daemon is asked what the attempt achieved.
                Phase::Unsure { .. } | Phase::Queued(_) | Phase::Asking { .. }
                    if self.whose() == Some(Origin::Ours) =>
                {
                    Some(PinState::Unpinning)
                }
                Phase::Forgetting if self.origin == Some(Origin::Ours) => Some(PinState::Unpinning),
                _ => None,
            };
        }
        Some(match (self.phase, self.failed) {
            (Phase::Pinned, _) => PinState::Pinned,
            (_, Some(kind)) => kind.shown(),
            (Phase::Pinning { .. }, None) => PinState::Pinning,
            (Phase::Recheck, None) => PinState::Rechecking,
            _ => PinState::Queued,
        })
    }

    fn unpin_state(&self) -> PinState {
        if self.failed.is_some() { PinState::UnpinFailed } else { PinState::Unpinning }
    }
}

/// All that is known, by CID. Whoever reads it reads a map. It changes only by the methods here, so that
/// others are told of each change of a visible state.
#[derive(Debug, Default)]
pub(super) struct Entries {
    map: CidMap<Tracked>,
    /// How many are in each visible state.
    counts: BTreeMap<PinState, usize>,
    changes: Changes,
}

impl Deref for Entries {
    type Target = CidMap<Tracked>;

    fn deref(&self) -> &CidMap<Tracked> {
        &self.map
    }
}

impl Entries {
    /// What the ledger knew when this peer started.
    pub(super) fn of_ledger(ledger: Vec<(Cid, LedgerEntry)>, now: Now) -> Self {
        let entries = ledger.into_iter().map(|(cid, known)| {
            let (origin, attempted) = (Some(known.origin), known.origin == Origin::Ours);
            (cid, Tracked { origin, attempted, ..Tracked::new(Phase::Unknown, now) })
        });
        Self { map: entries.collect(), ..Self::default() }
    }

    pub(super) fn find(&self, which: impl Fn(&Tracked) -> bool) -> Vec<Cid> {
        self.map.iter().filter(|(_, entry)| which(entry)).map(|(cid, _)| cid).collect()
    }

    /// A list names it; returns what is known of it, unless that is later than the start of the list.
    pub(super) fn named(&mut self, cid: &Cid, list: u32) -> Option<&Tracked> {
        let entry = self.map.get_mut(cid).filter(|entry| entry.seen < list)?;
        entry.seen = list;
        Some(entry)
    }

    /// The answer that led to the write of its origin no longer counts.
    pub(super) fn outdate(&mut self, cid: &Cid) {
        let phase = self.map.get_mut(cid).map(|entry| &mut entry.phase);
        if let Some(Phase::Writing { outdated, .. }) = phase {
            *outdated = true;
        }
    }

    /// How many are in each visible state.
    pub(super) fn counts(&self) -> &BTreeMap<PinState, usize> {
        &self.counts
    }

    /// Notes that the status of this CID has changed.
    pub(super) fn touch(&mut self, cid: Cid) {
        if self.changes.cids.len() < CHANGES_MAX {
            self.changes.cids.push(cid);
        } else {
            self.touch_all();
        }
    }

    pub(super) fn touch_all(&mut self) {
        self.changes.cids.clear();
        self.changes.everything = true;
    }

    pub(super) fn take_changes(&mut self) -> Changes {
        mem::take(&mut self.changes)
    }

    fn change(&mut self, cid: &Cid, wall: Timestamp, change: impl FnOnce(&mut Tracked)) {
        let Some(entry) = self.map.get_mut(cid) else { return };
        let before = entry.state();
        change(entry);
        let after = entry.state();
        if before == after {
            return;
        }
        entry.since = wall;
        self.count(before, after);
        self.touch(*cid);
    }

    fn count(&mut self, before: Option<PinState>, after: Option<PinState>) {
        if let Some(before) = before
            && let Some(count) = self.counts.get_mut(&before)
        {
            *count = count.saturating_sub(1);
        }
        if let Some(after) = after {
            *self.counts.entry(after).or_default() += 1;
        }
    }
}

impl Machine {
    pub(super) fn phase(&self, cid: &Cid) -> Option<Phase> {
        self.entries.get(cid).map(Tracked::phase)
    }

    /// Changes what is known of a CID, except its phase.
    pub(super) fn update(&mut self, cid: &Cid, change: impl FnOnce(&mut Tracked)) {
        self.entries.change(cid, self.now.wall, change);
    }

    /// Moves a CID to another phase, and from the part that holds it to the one that does then.
    pub(super) fn enter(&mut self, cid: Cid, phase: Phase) {
        let Some(entry) = self.entries.get(&cid) else { return };
        self.take_out(&cid, entry.phase);
        self.put_in(cid, phase);
        self.entries.change(&cid, self.now.wall, |entry| entry.phase = phase);
    }

    pub(super) fn insert(&mut self, cid: Cid, entry: Tracked) {
        self.put_in(cid, entry.phase);
        self.entries.count(None, entry.state());
        // The leader treats an unreported pin as queued, so most pins are reported only once.
        let expected = self
            .status_of(&cid, &entry)
            .is_some_and(|status| status.state == PinState::Queued && status.message.is_empty());
        self.entries.map.insert(&cid, entry);
        if !expected {
            self.entries.touch(cid);
        }
    }

    pub(super) fn remove(&mut self, cid: Cid) {
        self.clear_failure(&cid);
        let Some(entry) = self.entries.map.remove(&cid) else { return };
        self.take_out(&cid, entry.phase);
        self.entries.count(entry.state(), None);
        self.entries.touch(cid);
    }

    fn put_in(&mut self, cid: Cid, phase: Phase) {
        match phase {
            Phase::Unknown | Phase::Recheck | Phase::Pinned => {}
            Phase::Queued(place) => self.questions.queue.insert(place, &cid),
            Phase::Asking { .. } => self.questions.asking += 1,
            Phase::Writing { finding, .. } => self.writer.insert(cid, Some(finding.origin())),
            Phase::Withdrawing | Phase::Forgetting => self.writer.insert(cid, None),
            Phase::Ready { turn, number, .. } => {
                self.pins.ready.insert(Place { turn, number }, &cid);
            }
            Phase::Pinning { .. } => self.pins.begin(cid, self.now.at),
            Phase::Unsure { timer, .. } | Phase::Waiting(timer) | Phase::UnpinWaiting(timer) => {
                self.timers.insert(timer, cid);
            }
            Phase::UnpinQueued { number } => self.unpins.queue.insert(number, cid),
            // The barrier under way keeps its CIDs until it ends.
            Phase::Confirming => {}
            Phase::Confirmed { number, .. } => self.unpins.confirmed.insert(number, cid),
            Phase::Unpinning => self.unpins.begin(cid),
        }
    }

    fn take_out(&mut self, cid: &Cid, phase: Phase) {
        match phase {
            Phase::Unknown | Phase::Recheck | Phase::Pinned | Phase::Confirming => {}
            Phase::Queued(place) => self.questions.queue.remove(place),
            Phase::Asking { .. } => self.questions.asking -= 1,
            Phase::Writing { .. } | Phase::Withdrawing | Phase::Forgetting => {
                self.writer.remove(cid);
            }
            Phase::Ready { turn, number, .. } => self.pins.ready.remove(Place { turn, number }),
            Phase::Pinning { .. } => self.pins.end(cid),
            Phase::Unsure { timer, .. } | Phase::Waiting(timer) | Phase::UnpinWaiting(timer) => {
                self.timers.remove(timer);
            }
            Phase::UnpinQueued { number } => self.unpins.queue.remove(number),
            Phase::Confirmed { number, .. } => self.unpins.confirmed.remove(number),
            Phase::Unpinning => self.unpins.end(cid),
        }
    }
}
