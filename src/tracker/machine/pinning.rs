//! From question to pin: answers, intents, progress, failures.

use std::{sync::Arc, time::Duration};

use super::{
    Action, Machine, Origin, Phase, Turn, growing,
    tracked::{Failure, Kind},
};
use crate::{
    ipfs::{Held, IpfsError},
    types::{Cid, Progress},
};

/// Time for the daemon to finish a cancelled operation: a question or an unpin sent at once could come
/// too early.
pub(super) const CANCEL_TIME: Duration = Duration::from_secs(1);
/// Shortest time between two progress reports of a pin.
const TELL_PERIOD: Duration = Duration::from_secs(5);
/// The reason shown for a stalled pin.
pub(super) const NO_PROGRESS: &str = "no progress";
/// Number of first failures logged per [`LOG_PERIOD`].
const LOGGED_MAX: u32 = 10;
const LOG_PERIOD: Duration = Duration::from_secs(60);

/// Logs the first failure of each pin, up to a limit.
#[derive(Debug, Default)]
pub(super) struct FailureLog {
    since: Duration,
    logged: u32,
    left_out: u64,
}

impl FailureLog {
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
    pub(super) fn asked(&mut self, cids: &[Cid], result: Result<Vec<Held>, IpfsError>) {
        self.asks = self.asks.saturating_sub(1);
        self.asking = self.asking.saturating_sub(cids.len());
        match result {
            Ok(answers) if answers.len() == cids.len() => {
                for (cid, held) in cids.iter().zip(answers) {
                    self.answered(*cid, held);
                }
            }
            Ok(_) => {
                let error =
                    IpfsError::Failed("it answered the wrong number of questions".to_owned());
                self.ask_failed(cids, &error);
            }
            Err(IpfsError::Down(reason)) => self.daemon_down(&reason),
            Err(error) => self.ask_failed(cids, &error),
        }
    }

    fn answered(&mut self, cid: Cid, held: Held) {
        let (sequence, number, now) = (self.next_sequence(), self.listing.number(), self.now.at);
        let Some(entry) = self.entries.get(&cid) else { return };
        if entry.phase != Phase::Asking {
            return;
        }
        let (wanted, origin) = (entry.wanted, entry.origin);
        let in_vain = entry.turn == Turn::Check && entry.failed.is_some();
        self.update(&cid, |entry| {
            entry.sequence = sequence;
            entry.seen = number;
            entry.due = now;
            entry.attempted &= held == Held::Recursive;
            entry.turn = entry.turn.max(Turn::Fresh);
        });
        match (wanted, held, origin) {
            (false, ..) => self.let_go(cid),
            (true, Held::Recursive, _) => self.is_pinned(cid),
            (true, Held::No, Some(Origin::Ours)) if in_vain => {
                self.record(cid, Phase::Withdrawing);
            }
            (true, Held::No, Some(Origin::Ours)) | (true, Held::Direct, Some(Origin::Foreign)) => {
                self.make_ready(cid);
            }
            // Foreign pins too: they are gone, so a new pin will be ours.
            (true, Held::No, _) => self.record(cid, Phase::WritingOurs),
            (true, Held::Direct, _) => self.record(cid, Phase::WritingDirect),
        }
    }

    fn ask_failed(&mut self, cids: &[Cid], error: &IpfsError) {
        for cid in cids {
            if self.phase(cid) != Some(Phase::Asking) {
                continue;
            }
            let (wanted, turn) = (self.entries[cid].wanted, self.entries[cid].turn);
            if cids.len() > 1 && !matches!(error, IpfsError::Slow(_)) {
                // One of them makes the question fail for all: find out which.
                self.enqueue(*cid, turn);
                self.alone.insert(*cid);
            } else if turn == Turn::Check {
                let due = self.now.at + self.config.retry_min;
                self.start_timer(*cid, Phase::Unsure, due);
            } else if wanted {
                self.fail(*cid, kind_of(error), &error.to_string());
            } else {
                self.let_go(*cid);
            }
        }
    }

    /// The daemon says that it holds the pin. The entry must be in no container.
    pub(super) fn is_pinned(&mut self, cid: Cid) {
        let sequence = self.next_sequence();
        self.update(&cid, |entry| entry.sequence = sequence);
        let Some(entry) = self.entries.get(&cid) else { return };
        match (entry.origin, entry.whose()) {
            (Some(Origin::Former), _) => self.record(cid, Phase::TakingOver),
            (_, None) => self.record(cid, Phase::WritingForeign),
            _ => {
                self.clear_failure(&cid);
                self.update(&cid, |entry| entry.phase = Phase::Pinned);
            }
        }
    }

    pub(super) fn make_ready(&mut self, cid: Cid) {
        let sequence = self.next_sequence();
        self.update(&cid, |entry| {
            entry.phase = Phase::Ready;
            entry.sequence = sequence;
        });
        let turn = self.entries[&cid].turn;
        self.ready.insert((turn, sequence), cid);
    }

    pub(super) fn progressed(&mut self, cid: Cid, progress: Progress) {
        let now = self.now.at;
        let Some(flight) = self.flights.get_mut(&cid) else { return };
        if progress.blocks <= flight.progress.blocks && progress.bytes <= flight.progress.bytes {
            return;
        }
        flight.progress = progress;
        flight.progressed_at = now;
        let tell = now.saturating_sub(flight.told_at) >= TELL_PERIOD;
        if tell {
            flight.told_at = now;
        }
        let news = self.failures.get(&cid).is_none_or(|failure| {
            progress.blocks > failure.progress.blocks || progress.bytes > failure.progress.bytes
        });
        if news {
            // It got further than before: the last failure no longer applies.
            self.update(&cid, |entry| entry.failed = None);
        }
        if tell {
            self.touch(cid);
        }
    }

    pub(super) fn pin_done(&mut self, cid: Cid, result: Result<(), IpfsError>) {
        if self.phase(&cid) != Some(Phase::Pinning) {
            return;
        }
        match result {
            Ok(()) => {
                self.take_out(&cid);
                let number = self.listing.number();
                self.update(&cid, |entry| entry.seen = number);
                self.is_pinned(cid);
            }
            Err(error) => {
                self.fail(cid, kind_of(&error), &error.to_string());
                if let IpfsError::Down(reason) = error {
                    self.daemon_down(&reason);
                }
            }
        }
    }

    /// Stops a pin without progress.
    pub(super) fn give_up(&mut self, cid: Cid) {
        self.actions.push(Action::CancelPin(cid));
        self.fail(cid, Kind::Stalled, NO_PROGRESS);
    }

    /// Handles a failure: wait, then try again behind fresh work. After an attempt of ours, first ask
    /// what it achieved.
    pub(super) fn fail(&mut self, cid: Cid, kind: Kind, reason: &str) {
        let progress = self.flights.get(&cid).map(|flight| flight.progress).unwrap_or_default();
        self.take_out(&cid);
        let Some(entry) = self.entries.get(&cid) else { return };
        let ours = entry.phase == Phase::Pinning && entry.origin == Some(Origin::Ours);
        let number = self.listing.number();
        *self.failed_attempts.entry(kind.shown()).or_default() += 1;
        if entry.attempts == 0 {
            self.failure_log.tell(self.now.at, &cid, reason);
        }
        self.update(&cid, |entry| {
            entry.failed = Some(kind);
            entry.attempts = entry.attempts.saturating_add(1);
            entry.seen = number;
        });
        if ours {
            self.be_unsure(cid, Turn::Check);
        } else {
            self.wait(cid);
        }
        let reason: Arc<str> = reason.into();
        self.set_failure(cid, Failure { reason, progress });
    }

    /// Waits for the next attempt.
    pub(super) fn wait(&mut self, cid: Cid) {
        let Some(entry) = self.entries.get(&cid) else { return };
        let wait = match entry.failed {
            Some(Kind::Refused | Kind::Unpinnable) => self.config.retry_max,
            _ => growing(self.config.retry_min, entry.attempts, self.config.retry_max),
        };
        self.start_timer(cid, Phase::Waiting, self.now.at + wait);
    }

    /// An attempt of ours, or an unpin, ended, and the daemon may still be finishing it: ask a moment
    /// later, in that turn.
    pub(super) fn be_unsure(&mut self, cid: Cid, turn: Turn) {
        self.update(&cid, |entry| entry.turn = turn);
        self.start_timer(cid, Phase::Unsure, self.now.at + CANCEL_TIME);
    }
}

pub(super) fn kind_of(error: &IpfsError) -> Kind {
    match error {
        IpfsError::Refused(_) => Kind::Refused,
        IpfsError::Unpinnable(_) => Kind::Unpinnable,
        IpfsError::Down(_) | IpfsError::Slow(_) | IpfsError::Failed(_) => Kind::Failed,
    }
}
