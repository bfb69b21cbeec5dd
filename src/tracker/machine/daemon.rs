//! The daemon's connection, and its list of pins compared with what the machine believes.

use std::{mem, time::Duration};

use super::{Action, Daemon, Machine, Origin, Phase, Turn, growing, pinning::CANCEL_TIME};
use crate::{ipfs::IpfsError, types::Cid};

/// Wait after the first list that failed.
const LIST_RETRY_MIN: Duration = Duration::from_secs(10);
/// An abandoned unpin may take effect for so long and remove content that is wanted again.
const LATE_MAX: Duration = Duration::from_secs(300);
/// Time between two lists meanwhile.
const LATE_PERIOD: Duration = Duration::from_secs(10);

impl Machine {
    pub(super) fn probed(&mut self, result: Result<String, IpfsError>) {
        self.probing = false;
        match result {
            Ok(id) => {
                self.heard = self.now;
                self.probe_at = self.now.at + self.config.probe_period;
                match &self.daemon {
                    Daemon::Up { id: known } | Daemon::Binding { id: known } if *known == id => {}
                    Daemon::Up { .. } | Daemon::Binding { .. } => {
                        self.daemon_down("another daemon is in its place");
                        self.meet(id);
                    }
                    Daemon::Down { .. } => self.meet(id),
                }
            }
            Err(error) => {
                let (IpfsError::Down(reason)
                | IpfsError::Slow(reason)
                | IpfsError::Failed(reason)
                | IpfsError::Refused(reason)
                | IpfsError::Unpinnable(reason)) = error;
                self.daemon_down(&reason);
                self.probe_at = self.now.at + self.config.down_probe_period;
            }
        }
    }

    fn meet(&mut self, id: String) {
        if self.binding.is_none() && !self.former && self.bound.as_ref() == Some(&id) {
            self.daemon_up(id);
        } else {
            self.daemon = Daemon::Binding { id };
        }
    }

    pub(super) fn was_bound(&mut self, result: Result<bool, String>) {
        let Some(id) = self.binding.take() else { return };
        match result {
            Ok(void) => {
                self.write_error = None;
                self.former = false;
                // A bind that was reported as failed may have voided the entries on disk.
                if void || self.bound.as_ref().is_some_and(|bound| *bound != id) {
                    self.void_entries();
                }
                self.bound = Some(id.clone());
                // The daemon may have been replaced again; then the ledger is bound again.
                if self.daemon == (Daemon::Binding { id: id.clone() }) {
                    self.daemon_up(id);
                }
            }
            Err(reason) => self.ledger_failed(reason),
        }
    }

    /// Drops everything known of the former daemon's pins.
    fn void_entries(&mut self) {
        self.to_write.clear();
        for cid in self.all(|_| true) {
            self.take_out(&cid);
            self.clear_failure(&cid);
            self.update(&cid, |entry| {
                entry.origin = None;
                entry.attempted = false;
            });
            match self.entries.get(&cid) {
                Some(entry) if entry.wanted => self.enqueue(cid, Turn::Again),
                _ => self.remove(&cid),
            }
        }
    }

    fn daemon_up(&mut self, id: String) {
        self.daemon = Daemon::Up { id };
        self.up_sequence = self.next_sequence();
        self.list_at = self.now.at;
        if mem::take(&mut self.away_shown) {
            for cid in self.all(|entry| entry.phase == Phase::Pinned) {
                self.update(&cid, |entry| entry.phase = Phase::Recheck);
            }
            self.touch_all();
        }
    }

    /// The daemon does not answer: everything under way with it is void.
    pub(super) fn daemon_down(&mut self, reason: &str) {
        let was_up = !matches!(self.daemon, Daemon::Down { .. });
        self.daemon = Daemon::Down { reason: reason.into() };
        if !was_up {
            return;
        }
        // A daemon that hangs was away before the machine noticed it.
        self.away_since = self.heard;
        self.probe_at = self.probe_at.min(self.now.at + self.config.down_probe_period);
        self.actions.push(Action::CancelDaemon);
        if self.is_collecting() {
            self.end_gc(Err(format!("the daemon is away: {reason}")));
        }
        self.listing = false;
        self.list_owed = true;
        (self.asks, self.asking, self.unpinning) = (0, 0, 0);
        let under_way = self.all(|entry| {
            matches!(
                entry.phase,
                Phase::Asking | Phase::Ready | Phase::Pinning | Phase::Confirmed | Phase::Unpinning
            )
        });
        for cid in under_way {
            self.take_out(&cid);
            let entry = &self.entries[&cid];
            match (entry.phase, entry.wanted) {
                (Phase::Confirmed, false) => self.enqueue_unpin(cid),
                (Phase::Unpinning, false) => {
                    self.start_timer(cid, Phase::UnpinWaiting, self.now.at + CANCEL_TIME);
                }
                (Phase::Unpinning, true) => {
                    self.unpin_is_lost();
                    self.be_unsure(cid, Turn::Fresh);
                }
                (Phase::Pinning, true) => {
                    let turn = entry.turn;
                    self.be_unsure(cid, turn);
                }
                (_, true) => {
                    let turn = entry.turn;
                    self.enqueue(cid, turn);
                }
                (_, false) => self.let_go(cid),
            }
        }
    }

    /// An abandoned unpin may still remove content that is wanted again.
    pub(super) fn unpin_is_lost(&mut self) {
        self.unpin_lost_at = Some(self.now.at);
        self.list_at = self.list_at.min(self.now.at + LATE_PERIOD);
    }

    pub(super) fn listed(&mut self, cids: &[Cid]) {
        let number = self.list_number;
        for cid in cids {
            let Some(entry) = self.entries.get_mut(cid) else { continue };
            // Later information than the start of the list takes precedence over it.
            if entry.seen >= number {
                continue;
            }
            entry.seen = number;
            match entry.phase {
                Phase::Recheck | Phase::Queued | Phase::Ready | Phase::Waiting if entry.wanted => {
                    self.take_out(cid);
                    self.is_pinned(*cid);
                }
                // The answer that led here is outdated: ask again after the write.
                Phase::WritingOurs | Phase::WritingDirect => entry.sequence = 0,
                _ => {}
            }
        }
    }

    pub(super) fn list_ended(&mut self, result: Result<(), IpfsError>) {
        if !mem::take(&mut self.listing) {
            return;
        }
        let number = self.list_number;
        self.settled |= !matches!(result, Err(IpfsError::Down(_)));
        let unseen_count = match result {
            Ok(()) => {
                self.list_failures = 0;
                self.list_owed = false;
                let is_late = self.unpin_lost_at.is_some_and(|at| self.now.at < at + LATE_MAX);
                let period = if is_late { LATE_PERIOD } else { self.config.compare_period };
                self.list_at = self.now.at + period.min(self.config.compare_period);
                self.forget_former(number);
                self.ask_again(|entry| entry.seen < number)
            }
            Err(IpfsError::Down(reason)) => return self.daemon_down(&reason),
            Err(error) => {
                tracing::warn!(%error, "listing the daemon's pins failed");
                self.list_failures = self.list_failures.saturating_add(1);
                let period = self.config.compare_period;
                self.list_at = self.now.at + growing(LIST_RETRY_MIN, self.list_failures, period);
                // Without a list, the CIDs it would have covered are asked one by one.
                let owed = mem::take(&mut self.list_owed);
                self.ask_again(|entry| {
                    entry.seen < number && (owed || entry.phase == Phase::Recheck)
                })
            }
        };
        if unseen_count > 0 {
            tracing::info!(count = unseen_count, "pins are not in the daemon's list; asking again");
        }
    }

    /// Forgets what a former peer pinned and the daemon no longer holds: a later pin of it is foreign.
    fn forget_former(&mut self, list: u32) {
        let gone = self.all(|entry| {
            entry.origin == Some(Origin::Former)
                && entry.phase == Phase::Unknown
                && entry.seen < list
        });
        for cid in gone {
            self.record(cid, Phase::Forgetting);
        }
    }

    fn ask_again(&mut self, which: impl Fn(&super::Tracked) -> bool) -> usize {
        let cids = self.all(|entry| {
            entry.wanted && matches!(entry.phase, Phase::Pinned | Phase::Recheck) && which(entry)
        });
        for cid in &cids {
            self.enqueue(*cid, Turn::Again);
        }
        cids.len()
    }

    fn all(&self, which: impl Fn(&super::Tracked) -> bool) -> Vec<Cid> {
        self.entries.iter().filter(|(_, entry)| which(entry)).map(|(cid, _)| cid).collect()
    }
}
