//! What the machine believes, as statuses for others.

use super::{
    Counters, Machine, Now, Phase,
    daemon::Absence,
    entries::Tracked,
    failures::{Failure, Kind},
};
use crate::types::{Cid, PinState, PinStatus, Progress};

/// Longest message in characters.
const MESSAGE_LEN_MAX: usize = 400;

impl Machine {
    /// The status of a CID; none if there is nothing to do for it.
    #[must_use]
    pub fn status(&self, cid: &Cid) -> Option<PinStatus> {
        self.status_of(cid, self.entries.get(cid)?)
    }

    /// The next statuses after a CID, in order, at most `max`, and the CID to continue after (none at
    /// the end).
    #[must_use]
    pub fn statuses(
        &self,
        after: Option<&Cid>,
        max: usize,
    ) -> (Vec<(Cid, PinStatus)>, Option<Cid>) {
        let mut statuses = Vec::new();
        for (n, (cid, entry)) in self.entries.range(after, None).enumerate() {
            statuses.extend(self.status_of(&cid, entry).map(|status| (cid, status)));
            if n + 1 >= max {
                return (statuses, Some(cid));
            }
        }
        (statuses, None)
    }

    /// The CIDs that the machine knows after a CID, in order, at most `max`.
    #[must_use]
    pub fn known_after(&self, after: Option<&Cid>, max: usize) -> Vec<Cid> {
        self.entries.range(after, None).take(max).map(|(cid, _)| cid).collect()
    }

    /// Numbers for Prometheus metrics.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let counts = self.entries.counts();
        let count = |state| counts.get(&state).copied().unwrap_or_default();
        let failing =
            count(PinState::NotFound) + count(PinState::Failed) + count(PinState::Unpinnable);
        Counters {
            pinned: count(PinState::Pinned),
            queued: count(PinState::Queued)
                + count(PinState::Rechecking)
                + count(PinState::Pinning)
                + failing,
            pinning: self.pins.in_flight().len(),
            failing,
            unpinning: count(PinState::Unpinning) + count(PinState::UnpinFailed),
            states: counts.iter().filter(|(_, n)| **n > 0).map(|(s, n)| (*s, *n)).collect(),
            failures: self.failures.counts().clone(),
        }
    }

    pub(super) fn status_of(&self, cid: &Cid, entry: &Tracked) -> Option<PinStatus> {
        let state = entry.state()?;
        if entry.wanted
            && let Some((absence, since)) = self.watch.shown_absence()
        {
            return Some(self.away(absence, since));
        }
        let message = self.message(cid, entry, state);
        let message = message.chars().take(MESSAGE_LEN_MAX).collect();
        let attempts = self.failures.attempts(cid);
        Some(PinStatus { state, since: entry.since, message, attempts })
    }

    fn away(&self, absence: &Absence, since: Now) -> PinStatus {
        let message = match (absence, self.writer.error()) {
            (Absence::Binding { .. }, Some(error)) => {
                format!("the ledger cannot be bound to the daemon: {error}")
            }
            _ => absence.to_string(),
        };
        PinStatus {
            state: PinState::DaemonDown,
            since: since.wall,
            message: message.chars().take(MESSAGE_LEN_MAX).collect(),
            attempts: 0,
        }
    }

    fn message(&self, cid: &Cid, entry: &Tracked, state: PinState) -> String {
        match state {
            PinState::Pinning => self.pins.progress(cid).map(amount).unwrap_or_default(),
            PinState::NotFound
            | PinState::Failed
            | PinState::Unpinnable
            | PinState::UnpinFailed => {
                self.failures.get(cid).map_or_else(String::new, |f| self.failure(entry, f))
            }
            PinState::Unpinning if self.unpins.barrier_fails() => {
                "waits until the leader confirms that it is no longer wanted".to_owned()
            }
            PinState::Rechecking => "asks the daemon whether it still holds the pin".to_owned(),
            PinState::Queued => self.queued_because(entry),
            _ => String::new(),
        }
    }

    fn queued_because(&self, entry: &Tracked) -> String {
        match (entry.phase(), self.writer.error()) {
            (Phase::Writing { .. } | Phase::Forgetting, Some(error)) => error.to_owned(),
            _ if self.collection.is_under_way() => {
                "waits until the daemon has collected garbage".to_owned()
            }
            _ => String::new(),
        }
    }

    fn failure(&self, entry: &Tracked, failure: &Failure) -> String {
        let Failure { reason, progress, .. } = failure;
        // No times and no counts of attempts: each change of the text costs a write.
        match entry.failed {
            Some(Kind::Stalled) if progress.blocks == 0 => {
                format!("{reason}: no connected daemon provides it; trying again")
            }
            Some(Kind::Stalled) => {
                let amount = amount(*progress);
                format!(
                    "{reason} after {amount}: no connected daemon provides the rest; trying again"
                )
            }
            _ => format!("{reason}; trying again"),
        }
    }
}

/// As in "1204 blocks, 310.0 MB".
fn amount(progress: Progress) -> String {
    if progress == Progress::default() {
        return String::new();
    }
    let blocks = progress.blocks;
    let unit = if blocks == 1 { "block" } else { "blocks" };
    format!("{blocks} {unit}, {}", bytes(progress.bytes))
}

fn bytes(count: u64) -> String {
    let units = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return format!("{count} B");
    }
    // Tenths of the unit, rounded down, without floats.
    let (mut tenths, mut unit) = (count / 100, 0);
    while tenths >= 10_000 && unit + 1 < units.len() {
        tenths /= 1000;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, units[unit])
}
