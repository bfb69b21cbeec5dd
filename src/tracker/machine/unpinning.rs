//! Releasing what is ours and no longer wanted: first a read barrier, then the unpin.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    time::Duration,
};

use super::{Action, Machine, Phase, Turn, growing, pinning::ANSWER_AGE_MAX};
use crate::{ipfs::IpfsError, types::Cid};

/// CIDs covered by one barrier.
const CONFIRM_LEN: usize = 64;
/// Wait after the first failed barrier; doubles with each further one.
const CONFIRM_RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest wait after a failed barrier.
const CONFIRM_RETRY_MAX: Duration = Duration::from_secs(30);

/// What is to be unpinned, from the wish to the unpin. One barrier at a time.
#[derive(Debug)]
pub(super) struct Unpins {
    /// To be confirmed by a barrier.
    pub(super) queue: Line,
    barrier: Barrier,
    /// Barriers that failed since the last one that was passed.
    failures: u32,
    /// Confirmed by a barrier as not wanted.
    pub(super) confirmed: Line,
    /// Being unpinned.
    under_way: BTreeSet<Cid>,
}

#[derive(Debug)]
enum Barrier {
    /// The next one may be asked for then.
    Due(Duration),
    /// It covers these, of which some may have been wanted again since.
    UnderWay(Vec<Cid>),
}

/// CIDs in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Line {
    cids: BTreeMap<u64, Cid>,
    /// Number of the last place.
    number: u64,
}

impl Line {
    /// A new place, behind all others.
    fn place(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    pub(super) fn insert(&mut self, number: u64, cid: Cid) {
        self.cids.insert(number, cid);
    }

    pub(super) fn remove(&mut self, number: u64) {
        self.cids.remove(&number);
    }

    fn first(&self, len: usize) -> Vec<Cid> {
        self.cids.values().take(len).copied().collect()
    }

    #[cfg(test)]
    pub(super) fn get(&self, number: u64) -> Option<Cid> {
        self.cids.get(&number).copied()
    }
}

impl Unpins {
    pub(super) fn new() -> Self {
        Self {
            queue: Line::default(),
            barrier: Barrier::Due(Duration::ZERO),
            failures: 0,
            confirmed: Line::default(),
            under_way: BTreeSet::new(),
        }
    }

    pub(super) fn begin(&mut self, cid: Cid) {
        self.under_way.insert(cid);
    }

    pub(super) fn end(&mut self, cid: &Cid) {
        self.under_way.remove(cid);
    }

    pub(super) fn is_under_way(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// Whether the last barrier failed.
    pub(super) fn barrier_fails(&self) -> bool {
        self.failures > 0
    }

    /// When a barrier may be asked for, if one is needed.
    pub(super) fn deadline(&self) -> Option<Duration> {
        match self.barrier {
            Barrier::Due(at) if !self.queue.cids.is_empty() => Some(at),
            Barrier::Due(_) | Barrier::UnderWay(_) => None,
        }
    }

    /// The CIDs that the barrier under way covers.
    pub(super) fn confirming(&self) -> &[Cid] {
        match &self.barrier {
            Barrier::UnderWay(cids) => cids,
            Barrier::Due(_) => &[],
        }
    }

    /// The CIDs for the next barrier; none if it is not time for one.
    fn next_to_confirm(&self, now: Duration) -> Vec<Cid> {
        let is_due = matches!(self.barrier, Barrier::Due(at) if at <= now);
        let few_confirmed = self.confirmed.cids.len() < CONFIRM_LEN / 2;
        if is_due && few_confirmed { self.queue.first(CONFIRM_LEN) } else { Vec::new() }
    }

    fn passed(&mut self, now: Duration) {
        self.failures = 0;
        if let Barrier::UnderWay(_) = self.barrier {
            self.barrier = Barrier::Due(now);
        }
    }

    /// Returns the CIDs that the failed barrier was to cover.
    fn failed(&mut self, now: Duration) -> Vec<Cid> {
        self.failures = self.failures.saturating_add(1);
        let wait = growing(CONFIRM_RETRY_MIN, self.failures, CONFIRM_RETRY_MAX);
        match mem::replace(&mut self.barrier, Barrier::Due(now + wait)) {
            Barrier::UnderWay(cids) => cids,
            Barrier::Due(_) => Vec::new(),
        }
    }
}

impl Machine {
    /// Queues a pin of ours for unpinning, which needs a barrier first.
    pub(super) fn enqueue_unpin(&mut self, cid: Cid) {
        let number = self.unpins.queue.place();
        self.enter(cid, Phase::UnpinQueued { number });
    }

    pub(super) fn start_confirm(&mut self) {
        let cids = self.unpins.next_to_confirm(self.now.at);
        if cids.is_empty() {
            return;
        }
        for cid in &cids {
            self.enter(*cid, Phase::Confirming);
        }
        self.unpins.barrier = Barrier::UnderWay(cids.clone());
        self.actions.push(Action::Confirm(cids));
    }

    pub(super) fn were_confirmed(&mut self, answers: Vec<(Cid, bool)>) {
        self.unpins.passed(self.now.at);
        for (cid, wanted) in answers {
            if self.phase(&cid) != Some(Phase::Confirming) {
                continue;
            }
            if wanted {
                self.update(&cid, |entry| entry.wanted = true);
                self.clear_failure(&cid);
                self.enqueue(cid, Turn::Fresh);
            } else {
                let (number, confirmed_at) = (self.unpins.confirmed.place(), self.now.at);
                self.enter(cid, Phase::Confirmed { number, confirmed_at });
            }
        }
    }

    pub(super) fn confirm_failed(&mut self, reason: &str) {
        tracing::debug!(reason, "unpins wait: the read barrier failed");
        for cid in self.unpins.failed(self.now.at) {
            if self.phase(&cid) == Some(Phase::Confirming) {
                self.enqueue_unpin(cid);
            }
        }
    }

    /// The CID may have been wanted since the barrier that denied it: another barrier must confirm it.
    pub(super) fn doubt(&mut self, cid: Cid) {
        if let Some(Phase::Confirming | Phase::Confirmed { .. }) = self.phase(&cid) {
            self.enqueue_unpin(cid);
        }
    }

    pub(super) fn doubt_all(&mut self) {
        let confirming = self.unpins.confirming().iter();
        let cids: Vec<Cid> =
            confirming.chain(self.unpins.confirmed.cids.values()).copied().collect();
        for cid in cids {
            self.doubt(cid);
        }
    }

    pub(super) fn start_unpins(&mut self) {
        while self.unpins.under_way.len() < self.config.unpins_max
            && let Some(cid) = self.unpins.confirmed.first(1).pop()
            && let Some(Phase::Confirmed { confirmed_at, .. }) = self.phase(&cid)
        {
            if self.now.at.saturating_sub(confirmed_at) > ANSWER_AGE_MAX {
                self.enqueue_unpin(cid);
                continue;
            }
            self.enter(cid, Phase::Unpinning);
            self.actions.push(Action::Unpin(cid));
        }
    }

    pub(super) fn unpin_done(&mut self, cid: Cid, result: Result<(), IpfsError>) {
        if self.phase(&cid) != Some(Phase::Unpinning) {
            return;
        }
        self.overrule_lists(&cid);
        let wanted = self.entries[&cid].wanted;
        match result {
            Ok(()) => {
                self.collection.note_unpin();
                self.clear_failure(&cid);
                self.enter(cid, Phase::Forgetting);
            }
            Err(IpfsError::Down(reason)) => self.daemon_down(&reason),
            Err(IpfsError::Slow(_)) if wanted => {
                self.listing.unpin_is_lost(self.now.at);
                self.be_unsure(cid, Turn::Fresh);
            }
            Err(_) if wanted => self.be_unsure(cid, Turn::Fresh),
            Err(error) => self.unpin_failed(cid, &error.to_string()),
        }
    }
}
