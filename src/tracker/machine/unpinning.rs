//! Releasing what is ours and no longer wanted.

use super::{
    Machine, Phase, Turn, growing,
    tracked::{Failure, Kind},
};
use crate::{ipfs::IpfsError, types::Cid};

impl Machine {
    pub(super) fn were_confirmed(&mut self, answers: Vec<(Cid, bool)>) {
        self.confirming.clear();
        self.confirm_failures = 0;
        for (cid, wanted) in answers {
            if self.phase(&cid) != Some(Phase::Confirming) {
                continue;
            }
            if wanted {
                self.update(&cid, |entry| entry.wanted = true);
                self.clear_failure(&cid);
                self.enqueue(cid, Turn::Fresh);
                continue;
            }
            let (sequence, now) = (self.next_sequence(), self.now.at);
            self.update(&cid, |entry| {
                entry.phase = Phase::Confirmed;
                entry.sequence = sequence;
                entry.due = now;
            });
            self.confirmed.insert(sequence, cid);
        }
    }

    pub(super) fn confirm_failed(&mut self, reason: &str) {
        self.confirm_failures = self.confirm_failures.saturating_add(1);
        let wait = growing(
            super::pump::CONFIRM_RETRY_MIN,
            self.confirm_failures,
            super::pump::CONFIRM_RETRY_MAX,
        );
        self.confirm_at = self.now.at + wait;
        tracing::debug!(reason, "unpins wait: the read barrier failed");
        for cid in std::mem::take(&mut self.confirming) {
            if self.phase(&cid) == Some(Phase::Confirming) {
                self.enqueue_unpin(cid);
            }
        }
    }

    /// The CID may have been wanted since the barrier that denied it: another barrier must confirm it.
    pub(super) fn doubt(&mut self, cid: Cid) {
        if let Some(Phase::Confirming | Phase::Confirmed) = self.phase(&cid) {
            self.take_out(&cid);
            self.enqueue_unpin(cid);
        }
    }

    pub(super) fn doubt_all(&mut self) {
        let cids: Vec<Cid> =
            self.confirming.iter().chain(self.confirmed.values()).copied().collect();
        for cid in cids {
            self.doubt(cid);
        }
    }

    /// Queues a pin of ours for unpinning, which needs a barrier first.
    pub(super) fn enqueue_unpin(&mut self, cid: Cid) {
        let sequence = self.next_sequence();
        self.update(&cid, |entry| {
            entry.phase = Phase::UnpinQueued;
            entry.sequence = sequence;
        });
        self.unpin_queue.insert(sequence, cid);
    }

    pub(super) fn unpin_done(&mut self, cid: Cid, result: Result<(), IpfsError>) {
        self.unpinning = self.unpinning.saturating_sub(1);
        if self.phase(&cid) != Some(Phase::Unpinning) {
            return;
        }
        let number = self.listing.number();
        self.update(&cid, |entry| entry.seen = number);
        match result {
            Ok(()) => {
                self.collection.note_unpin();
                self.clear_failure(&cid);
                self.record(cid, Phase::Forgetting);
            }
            Err(IpfsError::Down(reason)) => self.daemon_down(&reason),
            Err(IpfsError::Slow(_)) if self.entries[&cid].wanted => {
                self.listing.unpin_is_lost(self.now.at);
                self.be_unsure(cid, Turn::Fresh);
            }
            Err(_) if self.entries[&cid].wanted => self.be_unsure(cid, Turn::Fresh),
            Err(error) => {
                let attempts = self.entries[&cid].attempts.saturating_add(1);
                self.update(&cid, |entry| {
                    entry.failed = Some(Kind::Failed);
                    entry.attempts = attempts;
                });
                let wait = growing(self.config.retry_min, attempts, self.config.retry_max);
                self.start_timer(cid, Phase::UnpinWaiting, self.now.at + wait);
                let reason = error.to_string().into();
                self.set_failure(cid, Failure { reason, progress: Default::default() });
            }
        }
    }
}
