//! Attempts that failed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Machine, Origin, Phase, Turn, growing};
use crate::{
    ipfs::IpfsError,
    types::{Cid, PinState, Progress},
};

/// Number of first failures logged per [`LOG_PERIOD`].
const LOGGED_MAX: u32 = 10;
const LOG_PERIOD: Duration = Duration::from_secs(60);

/// How the last attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// No progress.
    Stalled,
    /// A transient error.
    Failed,
    /// An error that a retry will hardly change.
    Refused,
    /// This daemon cannot pin this CID.
    Unpinnable,
}

impl Kind {
    pub(super) fn of(error: &IpfsError) -> Self {
        match error {
            IpfsError::Refused(_) => Self::Refused,
            IpfsError::Unpinnable(_) => Self::Unpinnable,
            IpfsError::Down(_) | IpfsError::Slow(_) | IpfsError::Failed(_) => Self::Failed,
        }
    }

    /// The state shown for it.
    pub(super) fn shown(self) -> PinState {
        match self {
            Self::Stalled => PinState::NotFound,
            Self::Failed | Self::Refused => PinState::Failed,
            Self::Unpinnable => PinState::Unpinnable,
        }
    }
}

/// The last failure of a CID, as reported.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) reason: Arc<str>,
    /// Progress until then.
    pub(super) progress: Progress,
    /// Attempts that failed so far. The one in flight is not among them, even if it is shown as stalled.
    pub(super) attempts: u32,
}

/// The failures of all CIDs that have not succeeded since.
#[derive(Debug, Default)]
pub(super) struct Failures {
    last: BTreeMap<Cid, Failure>,
    /// Failed attempts to pin since the start, by the state they lead to.
    counts: BTreeMap<PinState, u64>,
    log: Log,
}

impl Failures {
    pub(super) fn get(&self, cid: &Cid) -> Option<&Failure> {
        self.last.get(cid)
    }

    pub(super) fn attempts(&self, cid: &Cid) -> u32 {
        self.get(cid).map_or(0, |failure| failure.attempts)
    }

    /// Failed attempts to pin since the start, by the state they lead to.
    pub(super) fn counts(&self) -> &BTreeMap<PinState, u64> {
        &self.counts
    }
}

/// Logs the first failure of each pin, up to a limit.
#[derive(Debug, Default)]
struct Log {
    since: Duration,
    logged: u32,
    left_out: u64,
}

impl Log {
    fn tell(&mut self, now: Duration, cid: &Cid, reason: &str) {
        if now.saturating_sub(self.since) >= LOG_PERIOD {
            if self.left_out > 0 {
                tracing::warn!(pins = self.left_out, "more pins failed, too many to log each");
            }
            *self = Self { since: now, ..Self::default() };
        }
        if self.logged < LOGGED_MAX {
            self.logged += 1;
            tracing::warn!(%cid, reason, "a pin failed; it is tried again");
        } else {
            self.left_out += 1;
        }
    }
}

impl Machine {
    /// Handles a failure to pin: wait, then try again behind fresh work. After an attempt of ours, first
    /// ask what it achieved.
    pub(super) fn fail(&mut self, cid: Cid, kind: Kind, reason: &str) {
        let Some(entry) = self.entries.get(&cid) else { return };
        let is_attempt = matches!(entry.phase(), Phase::Pinning { .. });
        let ours = is_attempt && entry.origin == Some(Origin::Ours);
        *self.failures.counts.entry(kind.shown()).or_default() += 1;
        if self.failures.attempts(&cid) == 0 {
            self.failures.log.tell(self.now.at, &cid, reason);
        }
        self.overrule_lists(&cid);
        self.show_failure(cid, kind, reason);
        self.count_attempt(&cid);
        if ours {
            self.be_unsure(cid, Turn::Check);
        } else {
            self.wait(cid);
        }
    }

    /// Waits for the next attempt to pin.
    pub(super) fn wait(&mut self, cid: Cid) {
        let Some(entry) = self.entries.get(&cid) else { return };
        let wait = match entry.failed {
            Some(Kind::Refused | Kind::Unpinnable) => self.config.retry_max,
            _ => self.wait_after_failure(&cid),
        };
        let timer = self.timers.timer(self.now.at + wait);
        self.enter(cid, Phase::Waiting(timer));
    }

    /// Handles a failure to unpin: wait, then try again.
    pub(super) fn unpin_failed(&mut self, cid: Cid, reason: &str) {
        self.show_failure(cid, Kind::Failed, reason);
        self.count_attempt(&cid);
        self.unpin_later(cid, self.wait_after_failure(&cid));
    }

    fn wait_after_failure(&self, cid: &Cid) -> Duration {
        growing(self.config.retry_min, self.failures.attempts(cid), self.config.retry_max)
    }

    /// Shows a failure of an attempt.
    pub(super) fn show_failure(&mut self, cid: Cid, kind: Kind, reason: &str) {
        let progress = self.pins.progress(&cid).unwrap_or_default();
        let attempts = self.failures.attempts(&cid);
        self.failures.last.insert(cid, Failure { reason: reason.into(), progress, attempts });
        self.update(&cid, |entry| entry.failed = Some(kind));
        self.entries.touch(cid);
    }

    fn count_attempt(&mut self, cid: &Cid) {
        if let Some(failure) = self.failures.last.get_mut(cid) {
            failure.attempts = failure.attempts.saturating_add(1);
        }
    }

    pub(super) fn clear_failure(&mut self, cid: &Cid) {
        self.failures.last.remove(cid);
        self.questions.clear_failure(cid);
        self.update(cid, |entry| entry.failed = None);
    }
}
