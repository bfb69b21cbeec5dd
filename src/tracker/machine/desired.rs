//! What is wanted on this peer.

use super::{Action, Machine, Origin, Phase, Turn, entries::Tracked};
use crate::types::Cid;

impl Machine {
    pub(super) fn desired_range(&mut self, after: Option<Cid>, until: Option<Cid>, wanted: &[Cid]) {
        let mut rest = wanted.iter().peekable();
        // Both sides are sorted: one walk finds the entries that are not wanted.
        let unwanted: Vec<Cid> = self
            .entries
            .range(after.as_ref(), until.as_ref())
            .filter(|(cid, entry)| {
                while rest.next_if(|wanted| *wanted < cid).is_some() {}
                rest.peek() != Some(&cid) && (entry.wanted || entry.phase() == Phase::Unknown)
            })
            .map(|(cid, _)| cid)
            .collect();
        for cid in unwanted {
            self.desired(cid, false);
        }
        for cid in wanted {
            self.desired(*cid, true);
        }
    }

    /// The wish for each of these may have changed.
    pub(super) fn changed(&mut self, cids: &[(Cid, bool)]) {
        for (cid, wanted) in cids {
            let known = self.phase(cid).is_some();
            self.desired(*cid, *wanted);
            if !known {
                continue;
            }
            self.doubt(*cid);
            // It may have been released and allocated again at once: then earlier reports no longer
            // count.
            if *wanted {
                self.entries.touch(*cid);
            }
        }
    }

    fn desired(&mut self, cid: Cid, wanted: bool) {
        match self.entries.get(&cid) {
            None if wanted => {
                let place = self.questions.queue.place(Turn::Fresh);
                let mut new = Tracked::new(Phase::Queued(place), self.now);
                (new.wanted, new.seen) = (wanted, self.listing.number());
                self.insert(cid, new);
            }
            Some(entry) if entry.wanted != wanted || entry.phase() == Phase::Unknown => {
                self.update(&cid, |entry| entry.wanted = wanted);
                if wanted { self.want(cid) } else { self.release(cid) }
            }
            _ => {}
        }
    }

    /// A tracked entry has become wanted.
    fn want(&mut self, cid: Cid) {
        match self.phase(&cid) {
            // The list under way has already named it and will not name it again.
            Some(Phase::Unknown) if self.is_listed(&cid) => self.is_pinned(cid, Turn::Fresh),
            Some(Phase::Unknown) => {
                self.enter(cid, Phase::Recheck);
                self.listing.hasten(self.now.at);
            }
            Some(Phase::UnpinWaiting(_)) => {
                self.clear_failure(&cid);
                self.listing.unpin_is_lost(self.now.at);
                self.be_unsure(cid, Turn::Fresh);
            }
            Some(Phase::UnpinQueued { .. } | Phase::Confirming | Phase::Confirmed { .. }) => {
                self.clear_failure(&cid);
                self.enqueue(cid, Turn::Fresh);
            }
            // The other phases read `wanted` when their operation ends.
            _ => {}
        }
    }

    /// An entry is no longer wanted.
    fn release(&mut self, cid: Cid) {
        match self.phase(&cid) {
            Some(
                Phase::Unknown
                | Phase::Recheck
                | Phase::Queued(_)
                | Phase::Ready { .. }
                | Phase::Pinned
                | Phase::Waiting(_),
            ) => self.let_go(cid),
            Some(Phase::Pinning { .. }) => {
                self.actions.push(Action::CancelPin(cid));
                if self.entries[&cid].origin == Some(Origin::Foreign) {
                    self.let_go(cid);
                } else {
                    self.clear_failure(&cid);
                    self.be_unsure(cid, Turn::Check);
                }
            }
            // It is let go after that question.
            Some(Phase::Unsure { timer, .. }) => {
                self.clear_failure(&cid);
                self.enter(cid, Phase::Unsure { turn: Turn::Check, timer });
            }
            _ => {}
        }
    }

    /// Unpins what is ours, forgets what is foreign, and keeps a former peer's entry.
    pub(super) fn let_go(&mut self, cid: Cid) {
        self.clear_failure(&cid);
        let Some(entry) = self.entries.get(&cid) else { return };
        match (entry.origin, entry.whose()) {
            (None, _) => self.remove(cid),
            (Some(Origin::Former), _) => self.enter(cid, Phase::Unknown),
            (_, Some(Origin::Ours)) => self.enqueue_unpin(cid),
            (Some(_), _) => self.enter(cid, Phase::Forgetting),
        }
    }
}
