//! The daemon's list of pins, compared with what the machine believes.

use std::{mem, time::Duration};

use super::{
    Action, Config, Machine, Origin, Phase, Turn, entries::Tracked, growing, phase::Finding,
};
use crate::{ipfs::IpfsError, types::Cid};

/// Wait after the first list that failed.
const LIST_RETRY_MIN: Duration = Duration::from_secs(10);
/// An abandoned unpin may take effect for so long and remove content that is wanted again.
const LATE_MAX: Duration = Duration::from_secs(300);
/// Time between two lists meanwhile.
const LATE_PERIOD: Duration = Duration::from_secs(10);

/// When the daemon's pins are listed. One list at a time; each has a number, so that an entry can say
/// which lists are old news of it.
#[derive(Debug)]
pub(super) struct Listing {
    stage: Stage,
    /// Number of the last list that was begun.
    number: u32,
    /// Lists that failed since the last complete one.
    failures: u32,
    /// The daemon was away after the last complete list.
    owed: bool,
    /// When an unpin of content that is wanted again was last abandoned.
    unpin_lost_at: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// The next list begins then.
    Due(Duration),
    UnderWay,
}

impl Listing {
    pub(super) fn new(now: Duration) -> Self {
        let stage = Stage::Due(now);
        Self { stage, number: 0, failures: 0, owed: true, unpin_lost_at: None }
    }

    pub(super) fn is_under_way(&self) -> bool {
        matches!(self.stage, Stage::UnderWay)
    }

    /// Number of the last list that was begun.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// Whether a later list than that one has ended and none is under way.
    pub(super) fn has_ended_since(&self, number: u32) -> bool {
        !self.is_under_way() && number < self.number
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        match self.stage {
            Stage::Due(at) => Some(at),
            Stage::UnderWay => None,
        }
    }

    /// The next list begins then at the latest.
    pub(super) fn hasten(&mut self, at: Duration) {
        if let Stage::Due(due) = &mut self.stage {
            *due = at.min(*due);
        }
    }

    /// An abandoned unpin may still remove content that is wanted again.
    pub(super) fn unpin_is_lost(&mut self, now: Duration) {
        self.unpin_lost_at = Some(now);
        self.hasten(now + LATE_PERIOD);
    }

    /// The daemon is away: no list of it is under way, and another one must follow.
    pub(super) fn abandon(&mut self, now: Duration) {
        self.end(now);
        self.owed = true;
    }

    /// Begins a list if it is time for one.
    fn begin(&mut self, now: Duration) -> bool {
        let begins = matches!(self.stage, Stage::Due(at) if at <= now);
        if begins {
            self.stage = Stage::UnderWay;
            self.number += 1;
        }
        begins
    }

    /// Ends the list under way; false if none is.
    fn end(&mut self, now: Duration) -> bool {
        let ends = self.is_under_way();
        if ends {
            self.stage = Stage::Due(now);
        }
        ends
    }

    fn completed(&mut self, now: Duration, config: &Config) {
        self.failures = 0;
        self.owed = false;
        let is_late = self.unpin_lost_at.is_some_and(|at| now < at + LATE_MAX);
        let period = if is_late { LATE_PERIOD } else { config.compare_period };
        self.stage = Stage::Due(now + period.min(config.compare_period));
    }

    /// Returns whether the list was the first since the daemon was away.
    fn failed(&mut self, now: Duration, config: &Config) -> bool {
        self.failures = self.failures.saturating_add(1);
        let wait = growing(LIST_RETRY_MIN, self.failures, config.compare_period);
        self.stage = Stage::Due(now + wait);
        mem::take(&mut self.owed)
    }
}

impl Machine {
    pub(super) fn start_list(&mut self) {
        if self.listing.begin(self.now.at) {
            self.actions.push(Action::List);
        }
    }

    pub(super) fn listed(&mut self, cids: &[Cid]) {
        for cid in cids {
            let Some(entry) = self.entries.named(cid, self.listing.number()) else { continue };
            match entry.phase() {
                phase @ (Phase::Queued(_)
                | Phase::Ready { .. }
                | Phase::Recheck
                | Phase::Waiting(_))
                    if entry.wanted =>
                {
                    self.is_pinned(*cid, phase.turn().unwrap_or(Turn::Fresh));
                }
                // The answer that led here is outdated: ask again after the write.
                Phase::Writing { finding: Finding::Ours | Finding::Direct, .. } => {
                    self.entries.outdate(cid);
                }
                _ => {}
            }
        }
    }

    /// What is known of it now is later than all lists so far.
    pub(super) fn overrule_lists(&mut self, cid: &Cid) {
        let number = self.listing.number();
        self.update(cid, |entry| entry.seen = number);
    }

    /// Whether the list under way has named it.
    pub(super) fn is_listed(&self, cid: &Cid) -> bool {
        self.listing.is_under_way() && self.entries[cid].seen == self.listing.number()
    }

    pub(super) fn list_ended(&mut self, result: Result<(), IpfsError>) {
        let now = self.now.at;
        if !self.listing.end(now) {
            return;
        }
        let number = self.listing.number();
        self.settled |= !matches!(result, Err(IpfsError::Down(_)));
        let unseen_count = match result {
            Ok(()) => {
                self.listing.completed(now, &self.config);
                self.forget_former(number);
                self.ask_again(|entry| entry.seen < number)
            }
            Err(IpfsError::Down(reason)) => return self.daemon_down(&reason),
            Err(error) => {
                tracing::warn!(%error, "listing the daemon's pins failed");
                // Without a list, the CIDs it would have covered are asked one by one.
                let owed = self.listing.failed(now, &self.config);
                self.ask_again(|entry| {
                    entry.seen < number && (owed || entry.phase() == Phase::Recheck)
                })
            }
        };
        if unseen_count > 0 {
            tracing::info!(count = unseen_count, "pins are not in the daemon's list; asking again");
        }
    }

    /// Asks again about pins that the daemon should hold.
    pub(super) fn are_missing(&mut self, cids: &[Cid]) {
        for cid in cids {
            let entry = self.entries.get(cid);
            if entry.is_some_and(|entry| entry.wanted && entry.phase() == Phase::Pinned) {
                self.enqueue(*cid, Turn::Again);
            }
        }
    }

    /// Forgets what a former peer pinned and the daemon no longer holds: a later pin of it is foreign.
    fn forget_former(&mut self, list: u32) {
        let gone = self.entries.find(|entry| {
            entry.origin == Some(Origin::Former)
                && entry.phase() == Phase::Unknown
                && entry.seen < list
        });
        for cid in gone {
            self.enter(cid, Phase::Forgetting);
        }
    }

    fn ask_again(&mut self, which: impl Fn(&Tracked) -> bool) -> usize {
        let cids = self.entries.find(|entry| {
            entry.wanted && matches!(entry.phase(), Phase::Pinned | Phase::Recheck) && which(entry)
        });
        for cid in &cids {
            self.enqueue(*cid, Turn::Again);
        }
        cids.len()
    }
}
