//! What must hold at any moment, and once everything has settled.

use super::*;
use crate::tracker::machine::{entries::Tracked, turns::Place};

impl Model {
    /// A collection and a pin would wait for each other.
    pub(super) fn check_lock(&self, action: &Action) {
        let changes = |a: &Action| matches!(a, Action::Pin(_) | Action::Unpin(_));
        let collects = |a: &Action| *a == Action::RunGc;
        let beside = |which: &dyn Fn(&Action) -> bool| self.under_way.iter().any(which);
        assert!(!(changes(action) && beside(&collects)), "{action:?} beside a collection");
        assert!(!(collects(action) && beside(&changes)), "{:?}", self.under_way);
    }

    pub(super) fn check(&self) {
        for (cid, entry) in self.machine.entries.iter() {
            self.check_place(&cid, entry);
        }
        for n in 0..CIDS {
            let cid = cid(n);
            if self.machine.status(&cid).is_some_and(|s| s.state == PinState::Pinned) {
                assert_eq!(self.told.get(&cid), Some(&true), "{n} is not pinned");
            }
        }
        let counters = self.machine.counters();
        let wanted = self.machine.entries.values().filter(|entry| entry.wanted).count();
        assert_eq!(counters.pinned + counters.queued, wanted);
    }

    /// Whether an entry is in the container of its phase, or an action under way covers it.
    pub(super) fn check_place(&self, cid: &Cid, entry: &Tracked) {
        let machine = &self.machine;
        let under_way = |action: Action| self.under_way.contains(&action);
        let asked = |action: &Action| matches!(action, Action::Ask(cids) if cids.contains(cid));
        let timed = |timer| machine.timers.get(timer) == Some(*cid);
        let ours = entry.whose() == Some(Origin::Ours);
        let right = match entry.phase() {
            Phase::Unknown => !entry.wanted,
            Phase::Recheck => entry.wanted,
            Phase::Pinned => entry.wanted && entry.whose().is_some(),
            Phase::Queued(place) => machine.questions.queue.get(place) == Some(*cid),
            Phase::Asking { .. } => self.under_way.iter().any(asked),
            Phase::Ready { turn, number, .. } => {
                entry.wanted && machine.pins.ready.get(Place { turn, number }) == Some(*cid)
            }
            Phase::Pinning { .. } => entry.wanted && under_way(Action::Pin(*cid)),
            Phase::Unsure { timer, .. } => timed(timer),
            Phase::Waiting(timer) => entry.wanted && timed(timer),
            Phase::UnpinWaiting(timer) => !entry.wanted && ours && timed(timer),
            Phase::UnpinQueued { number } => {
                !entry.wanted && ours && machine.unpins.queue.get(number) == Some(*cid)
            }
            Phase::Confirming => !entry.wanted && machine.unpins.confirming().contains(cid),
            Phase::Confirmed { number, .. } => {
                !entry.wanted && machine.unpins.confirmed.get(number) == Some(*cid)
            }
            Phase::Unpinning => under_way(Action::Unpin(*cid)),
            Phase::Writing { .. } | Phase::Withdrawing | Phase::Forgetting => {
                machine.writer.cids().any(|written| written == *cid)
            }
        };
        assert!(right, "{cid} is lost: {entry:?}");
    }

    /// What is still wrong once everything has settled.
    pub(super) fn wrong(&self) -> Option<String> {
        if self.local != self.committed || !self.under_way.is_empty() || self.collecting {
            return Some(format!("under way: {:?}", self.under_way));
        }
        (0..CIDS).find_map(|n| {
            let cid = cid(n);
            let state = self.machine.status(&cid).map(|status| status.state);
            let (held, on_disk) = (self.held.contains(&cid), self.disk.contains_key(&cid));
            let right = if self.committed.contains(&cid) {
                state == Some(PinState::Pinned) && held && on_disk && !self.direct.contains(&cid)
            } else if self.is_written(&cid, Origin::Former) {
                state.is_none()
            } else {
                state.is_none() && !on_disk && held == self.foreign.contains(&cid)
            };
            (!right).then(|| format!("{n}: {state:?}, held {held}, on disk {on_disk}"))
        })
    }
}
