//! What waits for a time.

use std::{collections::BTreeMap, time::Duration};

use super::{Machine, Phase, Turn};
use crate::types::Cid;

/// Time for the daemon to finish a cancelled operation: a question or an unpin sent at once could come
/// too early.
pub(super) const CANCEL_TIME: Duration = Duration::from_secs(1);

/// A place in [`Timers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Timer {
    due: Duration,
    number: u64,
}

/// CIDs in the order in which they are due.
#[derive(Debug, Default)]
pub(super) struct Timers {
    cids: BTreeMap<Timer, Cid>,
    /// Number of the last timer.
    number: u64,
}

impl Timers {
    /// A new timer, behind the others of that time.
    pub(super) fn timer(&mut self, due: Duration) -> Timer {
        self.number += 1;
        Timer { due, number: self.number }
    }

    pub(super) fn insert(&mut self, timer: Timer, cid: Cid) {
        self.cids.insert(timer, cid);
    }

    pub(super) fn remove(&mut self, timer: Timer) {
        self.cids.remove(&timer);
    }

    pub(super) fn cids(&self) -> impl Iterator<Item = Cid> {
        self.cids.values().copied()
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.cids.first_key_value().map(|(timer, _)| timer.due)
    }

    #[cfg(test)]
    pub(super) fn get(&self, timer: Timer) -> Option<Cid> {
        self.cids.get(&timer).copied()
    }

    fn due(&self, now: Duration) -> Vec<Cid> {
        self.cids.range(..=Timer { due: now, number: u64::MAX }).map(|(_, cid)| *cid).collect()
    }
}

impl Machine {
    pub(super) fn run_timers(&mut self) {
        for cid in self.timers.due(self.now.at) {
            match self.phase(&cid) {
                Some(Phase::Unsure { turn, .. }) => {
                    // Lists up to now may describe the time before the attempt ended.
                    self.overrule_lists(&cid);
                    self.enqueue(cid, turn);
                }
                Some(Phase::Waiting(_)) => self.enqueue(cid, Turn::Retry),
                Some(Phase::UnpinWaiting(_)) => self.enqueue_unpin(cid),
                _ => {}
            }
        }
    }

    /// An attempt of ours, or an unpin, ended, and the daemon may still be finishing it: ask a moment
    /// later, in that turn.
    pub(super) fn be_unsure(&mut self, cid: Cid, turn: Turn) {
        self.be_unsure_for(cid, turn, CANCEL_TIME);
    }

    pub(super) fn be_unsure_for(&mut self, cid: Cid, turn: Turn, time: Duration) {
        let timer = self.timers.timer(self.now.at + time);
        self.enter(cid, Phase::Unsure { turn, timer });
    }

    pub(super) fn unpin_later(&mut self, cid: Cid, time: Duration) {
        let timer = self.timers.timer(self.now.at + time);
        self.enter(cid, Phase::UnpinWaiting(timer));
    }
}
