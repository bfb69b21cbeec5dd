//! What is wanted on this peer.

use std::time::Duration;

use super::{
    Action, Machine, Origin, Phase, Turn,
    tracked::{Failure, Tracked},
};
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
                rest.peek() != Some(&cid) && (entry.wanted || entry.phase == Phase::Unknown)
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

    pub(super) fn desired(&mut self, cid: Cid, wanted: bool) {
        match self.entries.get(&cid) {
            None if wanted => {
                let (turn, sequence) = (Turn::Fresh, self.next_sequence());
                let seen = self.listing.number();
                let new = Tracked::new(Phase::Queued, self.now);
                self.insert(cid, Tracked { wanted, turn, sequence, seen, ..new });
                self.queue.insert((turn, sequence), (&cid).into());
            }
            Some(entry) if entry.wanted != wanted || entry.phase == Phase::Unknown => {
                self.update(&cid, |entry| entry.wanted = wanted);
                if wanted { self.want(cid) } else { self.release(cid) }
            }
            _ => {}
        }
    }

    /// A tracked entry has become wanted.
    pub(super) fn want(&mut self, cid: Cid) {
        match self.phase(&cid) {
            // The list under way has already named it and will not name it again.
            Some(Phase::Unknown) if self.is_listed(&cid) => {
                self.is_pinned(cid);
            }
            Some(Phase::Unknown) => {
                self.update(&cid, |entry| entry.phase = Phase::Recheck);
                self.listing.hasten(self.now.at);
            }
            Some(Phase::UnpinWaiting) => {
                self.take_out(&cid);
                self.clear_failure(&cid);
                self.listing.unpin_is_lost(self.now.at);
                self.be_unsure(cid, Turn::Fresh);
            }
            Some(Phase::UnpinQueued | Phase::Confirming | Phase::Confirmed) => {
                self.take_out(&cid);
                self.clear_failure(&cid);
                self.enqueue(cid, Turn::Fresh);
            }
            // The other phases read `wanted` when their operation ends.
            _ => {}
        }
    }

    /// An entry is no longer wanted.
    pub(super) fn release(&mut self, cid: Cid) {
        match self.phase(&cid) {
            Some(
                Phase::Unknown
                | Phase::Recheck
                | Phase::Queued
                | Phase::Ready
                | Phase::Pinned
                | Phase::Waiting,
            ) => {
                self.take_out(&cid);
                self.let_go(cid);
            }
            Some(Phase::Pinning) => {
                self.take_out(&cid);
                self.actions.push(Action::CancelPin(cid));
                if self.entries[&cid].origin == Some(Origin::Foreign) {
                    self.let_go(cid);
                    return;
                }
                self.clear_failure(&cid);
                self.be_unsure(cid, Turn::Check);
            }
            // It is let go after that question.
            Some(Phase::Unsure) => {
                self.clear_failure(&cid);
                self.update(&cid, |entry| entry.turn = Turn::Check);
            }
            _ => {}
        }
    }

    /// Unpins what is ours, forgets what is foreign, and keeps a former peer's entry. The entry must be
    /// in no container.
    pub(super) fn let_go(&mut self, cid: Cid) {
        self.clear_failure(&cid);
        let Some(entry) = self.entries.get(&cid) else { return };
        match (entry.origin, entry.whose()) {
            (None, _) => self.remove(&cid),
            (Some(Origin::Former), _) => self.update(&cid, |entry| entry.phase = Phase::Unknown),
            (_, Some(Origin::Ours)) => self.enqueue_unpin(cid),
            (Some(_), _) => self.record(cid, Phase::Forgetting),
        }
    }

    /// Removes an entry from the container of its phase.
    pub(super) fn take_out(&mut self, cid: &Cid) {
        let Some(entry) = self.entries.get(cid) else { return };
        match entry.phase {
            Phase::Queued => {
                self.queue.remove(&(entry.turn, entry.sequence));
            }
            Phase::Ready => {
                self.ready.remove(&(entry.turn, entry.sequence));
            }
            Phase::Pinning => {
                self.flights.remove(cid);
            }
            Phase::Unsure | Phase::Waiting | Phase::UnpinWaiting => {
                self.timers.remove(&(entry.due, entry.sequence));
            }
            Phase::UnpinQueued => {
                self.unpin_queue.remove(&entry.sequence);
            }
            Phase::Confirmed => {
                self.confirmed.remove(&entry.sequence);
            }
            _ => {}
        }
    }

    /// Queues a CID to be asked about.
    pub(super) fn enqueue(&mut self, cid: Cid, turn: Turn) {
        let sequence = self.next_sequence();
        self.update(&cid, |entry| {
            entry.phase = Phase::Queued;
            entry.turn = turn;
            entry.sequence = sequence;
        });
        self.queue.insert((turn, sequence), (&cid).into());
    }

    pub(super) fn start_timer(&mut self, cid: Cid, phase: Phase, due: Duration) {
        let sequence = self.next_sequence();
        self.update(&cid, |entry| {
            entry.phase = phase;
            entry.due = due;
            entry.sequence = sequence;
        });
        self.timers.insert((due, sequence), cid);
    }

    pub(super) fn clear_failure(&mut self, cid: &Cid) {
        self.failures.remove(cid);
        self.alone.remove(cid);
        self.update(cid, |entry| {
            entry.failed = None;
            entry.attempts = 0;
        });
    }

    pub(super) fn set_failure(&mut self, cid: Cid, failure: Failure) {
        self.failures.insert(cid, failure);
        self.touch(cid);
    }
}
