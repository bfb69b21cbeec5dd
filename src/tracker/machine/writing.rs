//! Changes of the ledger: they wait, are written, and what waited for them goes on.

use std::{collections::BTreeMap, mem, sync::Arc, time::Duration};

use super::{
    Action, Change, Machine, Now, Origin, Phase, Turn, ledger::LedgerEntry, phase::Finding,
};
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

    pub(super) fn remove(&mut self, cid: &Cid) {
        self.waiting.remove(cid);
    }

    /// The CIDs whose changes wait or are being written.
    pub(super) fn cids(&self) -> impl Iterator<Item = Cid> {
        self.waiting.keys().chain(self.writing().iter().map(|(cid, _)| cid)).copied()
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
    /// Writes the origin of a pin by an answer of the daemon that has just come. Its turn is the one in
    /// which it is asked about again, should the answer be outdated by then.
    pub(super) fn write_origin(&mut self, cid: Cid, finding: Finding, turn: Turn) {
        let answered_at = self.now.at;
        self.enter(cid, Phase::Writing { finding, turn, answered_at, outdated: false });
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
                self.entries.touch(cid);
            }
            return;
        }
        for (cid, change) in self.writer.written() {
            self.update(&cid, |entry| {
                entry.origin = change.map(|entry| entry.origin);
                entry.attempted |=
                    matches!(entry.phase(), Phase::Writing { finding: Finding::Former, .. });
            });
            self.go_on(cid);
        }
    }

    /// A change of its ledger entry is on disk.
    fn go_on(&mut self, cid: Cid) {
        let Some(entry) = self.entries.get(&cid) else { return };
        match (entry.phase(), entry.wanted) {
            // Since that answer, the daemon was away or listed all its pins: ask again.
            (Phase::Writing { turn, outdated, .. }, true)
                if outdated || self.listing.has_ended_since(entry.seen) =>
            {
                self.enqueue(cid, turn);
            }
            (Phase::Writing { finding, turn, answered_at, .. }, true) => match finding {
                Finding::Ours | Finding::Direct => self.make_ready(cid, turn, answered_at),
                Finding::Foreign | Finding::Former => self.is_pinned(cid, turn),
            },
            (Phase::Writing { finding: Finding::Former, .. }, false) => self.let_go(cid),
            // Written for a pin that never started, or foreign: nothing to unpin.
            (Phase::Writing { .. }, false) => self.enter(cid, Phase::Forgetting),
            (Phase::Withdrawing, true) => self.wait(cid),
            (Phase::Forgetting, true) => self.enqueue(cid, Turn::Fresh),
            (Phase::Withdrawing | Phase::Forgetting, false) => self.remove(cid),
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
        for cid in self.entries.find(|_| true) {
            self.clear_failure(&cid);
            self.update(&cid, |entry| {
                entry.origin = None;
                entry.attempted = false;
            });
            if self.entries[&cid].wanted {
                self.enqueue(cid, Turn::Again);
            } else {
                self.remove(cid);
            }
        }
    }
}
