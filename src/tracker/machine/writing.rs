//! Changes of the ledger: they wait, are written, and what waited for them goes on.

use std::{collections::BTreeMap, mem, sync::Arc, time::Duration};

use super::{Action, Change, Machine, Now, Origin, Phase, Turn, ledger::LedgerEntry};
use crate::types::Cid;

/// Changes in one ledger transaction.
const WRITE_LEN: usize = 4096;
/// Wait after a ledger write failed.
const WRITE_RETRY: Duration = Duration::from_secs(1);

/// Access to the ledger. It does one job at a time, so that the changes of a CID reach the disk in order
/// and none of them gets into another daemon's ledger. A write that failed is repeated before anything
/// else.
#[derive(Debug)]
pub(super) struct Writer {
    /// By CID, the origin to write; none to forget the CID.
    waiting: BTreeMap<Cid, Option<Origin>>,
    job: Job,
    /// A job failed, and nothing begins before.
    retry_at: Option<Duration>,
    /// Why it failed.
    error: Option<Arc<str>>,
    /// The daemon that the ledger is bound to.
    bound: Option<String>,
    /// The ledger was a former peer's and must be bound again.
    former: bool,
}

#[derive(Debug)]
enum Job {
    None,
    /// These changes are being written.
    Write(Vec<Change>),
    /// The ledger is being bound to this daemon.
    Bind(String),
}

impl Writer {
    pub(super) fn new(bound: Option<String>) -> Self {
        Self {
            waiting: BTreeMap::new(),
            job: Job::None,
            retry_at: None,
            error: None,
            bound,
            former: false,
        }
    }

    /// The ledger was a former peer's: it is bound again before use.
    pub(super) fn set_former(&mut self) {
        self.former = true;
    }

    pub(super) fn is_bound_to(&self, daemon: &str) -> bool {
        !matches!(self.job, Job::Bind(_)) && !self.former && self.bound.as_deref() == Some(daemon)
    }

    /// Why the last job failed; none if it did not.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.retry_at
    }

    pub(super) fn insert(&mut self, cid: Cid, origin: Option<Origin>) {
        self.waiting.insert(cid, origin);
    }

    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }

    /// Whether a change of it waits or is being written.
    #[cfg(test)]
    pub(super) fn covers(&self, cid: &Cid) -> bool {
        self.waiting.contains_key(cid) || self.writing().iter().any(|(written, _)| written == cid)
    }

    fn writing(&self) -> &[Change] {
        match &self.job {
            Job::Write(changes) => changes,
            Job::None | Job::Bind(_) => &[],
        }
    }

    /// What to do now, if anything: what failed is tried again, then the ledger is bound, then written.
    /// `bind`: the daemon that it must be bound to. `writes`: the daemon is up.
    fn start(&mut self, now: Now, bind: Option<&str>, writes: bool) -> Option<Action> {
        if let Some(at) = self.retry_at {
            if at > now.at {
                return None;
            }
            self.retry_at = None;
            if let Job::Write(changes) = &self.job {
                return Some(Action::Write(changes.clone()));
            }
        }
        if !matches!(self.job, Job::None) {
            return None;
        }
        if let Some(id) = bind {
            self.job = Job::Bind(id.to_owned());
            return Some(Action::Bind(id.to_owned()));
        }
        // Nothing is written for a daemon that may have been replaced.
        let changes = if writes { self.next_changes(now) } else { Vec::new() };
        if changes.is_empty() {
            return None;
        }
        self.job = Job::Write(changes.clone());
        Some(Action::Write(changes))
    }

    fn next_changes(&mut self, now: Now) -> Vec<Change> {
        let mut changes = Vec::new();
        while changes.len() < WRITE_LEN {
            let Some((cid, origin)) = self.waiting.pop_first() else { break };
            changes.push((cid, origin.map(|origin| LedgerEntry { origin, since: now.wall })));
        }
        changes
    }

    /// Takes the changes that were written.
    fn written(&mut self) -> Vec<Change> {
        self.error = None;
        match mem::replace(&mut self.job, Job::None) {
            Job::Write(changes) => changes,
            other => {
                self.job = other;
                Vec::new()
            }
        }
    }

    /// Takes the daemon that the ledger was to be bound to.
    fn bind_ended(&mut self) -> Option<String> {
        match mem::replace(&mut self.job, Job::None) {
            Job::Bind(id) => Some(id),
            other => {
                self.job = other;
                None
            }
        }
    }

    /// Returns whether the entries on disk are void, which the ledger says; it does not say it a second
    /// time after a bind that was reported as failed.
    fn bound(&mut self, id: String, void: bool) -> bool {
        self.error = None;
        self.former = false;
        let known = self.bound.replace(id);
        void || known.is_some_and(|known| self.bound.as_ref() != Some(&known))
    }

    /// A job failed: it is tried again, and logged once.
    fn failed(&mut self, reason: String, now: Duration) {
        if self.error() != Some(&reason) {
            tracing::warn!(%reason, "pins wait for the ledger, which is tried again");
        }
        self.error = Some(reason.into());
        self.retry_at = Some(now + WRITE_RETRY);
    }
}

impl Machine {
    /// Queues a change for the ledger; once it is on disk, the phase decides what follows.
    pub(super) fn record(&mut self, cid: Cid, phase: Phase) {
        let origin = match phase {
            Phase::WritingOurs | Phase::TakingOver => Some(Origin::Ours),
            Phase::WritingForeign | Phase::WritingDirect => Some(Origin::Foreign),
            _ => None,
        };
        self.update(&cid, |entry| entry.phase = phase);
        self.writer.insert(cid, origin);
    }

    pub(super) fn start_write(&mut self) {
        let (bind, writes) = (self.watch.to_bind(), self.watch.is_up());
        let action = self.writer.start(self.now, bind, writes);
        self.actions.extend(action);
    }

    pub(super) fn written(&mut self, result: Result<(), String>) {
        if let Err(reason) = result {
            self.writer.failed(reason, self.now.at);
            for (cid, _) in self.writer.writing().to_vec() {
                self.touch(cid);
            }
            return;
        }
        for (cid, change) in self.writer.written() {
            let origin = change.map(|entry| entry.origin);
            self.update(&cid, |entry| {
                entry.origin = origin;
                entry.attempted |= entry.phase == Phase::TakingOver;
            });
            self.go_on(cid);
        }
    }

    /// Its change is on disk.
    fn go_on(&mut self, cid: Cid) {
        let Some(entry) = self.entries.get(&cid) else { return };
        let outdated = self.listing.has_ended_since(entry.seen)
            || entry.sequence < self.up_sequence
            || !self.watch.is_up();
        match (entry.phase, entry.wanted) {
            // Since that answer, the daemon was away or listed all its pins: ask again.
            (
                Phase::WritingOurs
                | Phase::WritingDirect
                | Phase::WritingForeign
                | Phase::TakingOver,
                true,
            ) if outdated => {
                let turn = entry.turn;
                self.enqueue(cid, turn);
            }
            (Phase::WritingOurs | Phase::WritingDirect, true) => self.make_ready(cid),
            (Phase::WritingForeign | Phase::TakingOver, true) => self.is_pinned(cid),
            (Phase::TakingOver, false) => self.let_go(cid),
            // Written for a pin that never started, or foreign: nothing to unpin.
            (Phase::WritingOurs | Phase::WritingDirect | Phase::WritingForeign, false) => {
                self.record(cid, Phase::Forgetting);
            }
            (Phase::Withdrawing, true) => self.wait(cid),
            (Phase::Forgetting, true) => self.enqueue(cid, Turn::Fresh),
            (Phase::Withdrawing | Phase::Forgetting, false) => self.remove(&cid),
            _ => {}
        }
    }

    pub(super) fn was_bound(&mut self, result: Result<bool, String>) {
        let Some(id) = self.writer.bind_ended() else { return };
        match result {
            Ok(void) => {
                if self.writer.bound(id.clone(), void) {
                    self.void_entries();
                }
                // The daemon may have been replaced again; then the ledger is bound again.
                if self.watch.to_bind() == Some(&id) {
                    self.daemon_up(id);
                }
            }
            Err(reason) => self.writer.failed(reason, self.now.at),
        }
    }

    /// Drops everything known of the former daemon's pins.
    fn void_entries(&mut self) {
        self.writer.clear();
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
}
