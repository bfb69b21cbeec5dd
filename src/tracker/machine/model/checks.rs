//! What must hold at any moment, and once everything has settled.

use super::*;

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
        let place = (entry.turn, entry.sequence);
        let timer = machine.timers.get(&(entry.due, entry.sequence)) == Some(cid);
        let ours = entry.whose() == Some(Origin::Ours);
        let right = match entry.phase {
            Phase::Unknown => !entry.wanted,
            Phase::Recheck => entry.wanted,
            Phase::Pinned => entry.wanted && entry.whose().is_some(),
            Phase::Queued => machine.queue.get(&place).is_some_and(|queued| queued.cid() == *cid),
            Phase::Asking => self.under_way.iter().any(asked),
            Phase::Ready => entry.wanted && machine.ready.get(&place) == Some(cid),
            Phase::Pinning => entry.wanted && under_way(Action::Pin(*cid)),
            Phase::Unsure => timer,
            Phase::Waiting => entry.wanted && timer,
            Phase::UnpinWaiting => !entry.wanted && ours && timer,
            Phase::UnpinQueued => {
                !entry.wanted && ours && machine.unpin_queue.contains_key(&entry.sequence)
            }
            Phase::Confirming => !entry.wanted && machine.confirming.contains(cid),
            Phase::Confirmed => !entry.wanted && machine.confirmed.contains_key(&entry.sequence),
            Phase::Unpinning => under_way(Action::Unpin(*cid)),
            Phase::WritingOurs
            | Phase::WritingDirect
            | Phase::WritingForeign
            | Phase::TakingOver
            | Phase::Withdrawing
            | Phase::Forgetting => machine.writer.covers(cid),
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
