//! The reports of pins that peers sent to this leader.
//!
//! They are kept in memory only: there are none when a leadership begins, and each peer first sends a
//! full set. A missing report means "not reported", never "not pinned". Peers do not report newly
//! queued pins; the leader treats an unreported allocation as queued.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::{sync::broadcast, time::Instant};

use crate::{
    state::Changed,
    types::{Cid, CidMap, PackedCid, PeerId, Pin, PinState, PinStatus, StatusBatch, StatusReply},
};

/// A subscriber that is more than this many batches of changes behind must check everything.
const CHANGES_MAX: usize = 1024;

/// Bound on the pins that one peer fails to make and that are remembered.
const FAILING_MAX: usize = 16 * 1024;
/// A peer that failed to make a pin is not asked for it again within this time.
const FORGIVEN_AFTER: Duration = Duration::from_secs(3600);

/// The reports of all peers to this leader in its term.
#[derive(Debug)]
pub struct Reports {
    peers: Mutex<BTreeMap<PeerId, Reported>>,
    changes: broadcast::Sender<Changed>,
}

/// The status of a pin, with the log length that the peer had seen when it reported.
#[derive(Debug, Clone)]
struct Report {
    status: PinStatus,
    entries: u64,
}

/// The reports of one pin, by peer.
#[derive(Debug, Default)]
pub struct PinReports(Vec<(PeerId, Report)>);

/// What one peer reported.
#[derive(Debug)]
struct Reported {
    stream: u64,
    next_sequence: u64,
    /// The full set has arrived completely.
    complete: bool,
    statuses: CidMap<Report>,
    /// The part of the full set that has arrived, until it is complete.
    arriving: CidMap<Report>,
    /// The pins that the daemon refuses or fails to pin, and since when.
    failing: BTreeMap<PackedCid, Instant>,
    /// When it last failed to pin one, also after it is not wanted there any more.
    failed: BTreeMap<PackedCid, Instant>,
}

impl Default for Reports {
    fn default() -> Self {
        Self { peers: Mutex::default(), changes: broadcast::channel(CHANGES_MAX).0 }
    }
}

impl Reports {
    /// The reports of one pin.
    #[must_use]
    pub fn of_pin(&self, cid: &Cid) -> PinReports {
        let peers = self.lock();
        let of = |(peer, reported): (&PeerId, &Reported)| {
            Some((*peer, reported.statuses.get(cid)?.clone()))
        };
        PinReports(peers.iter().filter_map(of).collect())
    }

    /// Whether a peer's full set has arrived completely in this leadership.
    #[must_use]
    pub fn has_full_set(&self, peer: &PeerId) -> bool {
        self.lock().get(peer).is_some_and(|reported| reported.complete)
    }

    /// Number of CIDs that a peer has to do with; none if it has not reported.
    #[must_use]
    pub fn tracked(&self, peer: &PeerId) -> usize {
        self.lock().get(peer).map_or(0, |reported| reported.statuses.len())
    }

    /// The peers whose daemon has refused or failed to pin a CID for so long.
    #[must_use]
    pub fn failing(&self, cid: &Cid, time: Duration) -> BTreeSet<PeerId> {
        let cid = PackedCid::from(cid);
        self.those(|reported| reported.failing.get(&cid).is_some_and(|at| at.elapsed() >= time))
    }

    /// The peers whose daemon has refused or failed to pin a CID lately.
    #[must_use]
    pub fn failed(&self, cid: &Cid) -> BTreeSet<PeerId> {
        let cid = PackedCid::from(cid);
        let is_recent = |at: &Instant| at.elapsed() < FORGIVEN_AFTER;
        self.those(|reported| reported.failed.get(&cid).is_some_and(is_recent))
    }

    fn those(&self, are: impl Fn(&Reported) -> bool) -> BTreeSet<PeerId> {
        let peers = self.lock();
        peers.iter().filter(|(_, reported)| are(reported)).map(|(peer, _)| *peer).collect()
    }

    /// The next pins after a CID, in order, that a daemon has refused or failed to pin for so long; at most
    /// `most`.
    #[must_use]
    pub fn all_failing(&self, time: Duration, after: Option<&Cid>, most: usize) -> Vec<Cid> {
        let from = after.map_or(Bound::Unbounded, |cid| Bound::Excluded(PackedCid::from(cid)));
        let peers = self.lock();
        let mut next = BTreeSet::new();
        for reported in peers.values() {
            let later = reported.failing.range((from.clone(), Bound::Unbounded));
            let long = later.filter(|(_, since)| since.elapsed() >= time);
            next.extend(long.take(most).map(|(cid, _)| cid.cid()));
        }
        next.into_iter().take(most).collect()
    }

    /// Receives changes from now on. Subscribe before you read the reports, so that none is missed.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Changed> {
        self.changes.subscribe()
    }

    /// Takes a batch from a peer, or asks the peer for a full set.
    pub(in crate::cluster) fn take(&self, from: PeerId, batch: StatusBatch) -> StatusReply {
        let changed = {
            let mut peers = self.lock();
            if batch.sequence == 0 {
                let known = peers.remove(&from);
                peers.insert(from, Reported::begin(batch.stream, known));
            }
            let Some(reported) = peers.get_mut(&from) else { return StatusReply::SendAll };
            if reported.stream != batch.stream || reported.next_sequence != batch.sequence {
                return StatusReply::SendAll;
            }
            reported.take(batch)
        };
        if let Some(changed) = changed {
            self.notify(changed);
        }
        StatusReply::Taken
    }

    fn notify(&self, changed: Changed) {
        // It fails only without subscribers.
        let _ = self.changes.send(changed);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PeerId, Reported>> {
        self.peers.lock()
    }
}

impl PinReports {
    /// The statuses that count for this pin. A report from before the allocation of its peer is ignored,
    /// and so is a report of `Pinned` from a peer without an allocation: both are about an earlier time.
    #[must_use]
    pub fn of(self, pin: Option<&Pin>) -> BTreeMap<PeerId, PinStatus> {
        let counts = |peer: &PeerId, report: &Report| {
            let mut allocations = pin.into_iter().flat_map(|pin| &pin.allocations);
            match allocations.find(|allocation| allocation.peer == *peer) {
                Some(allocation) => allocation.at_entry <= report.entries,
                None => report.status.state != PinState::Pinned,
            }
        };
        let reports = self.0.into_iter().filter(|(peer, report)| counts(peer, report));
        reports.map(|(peer, report)| (peer, report.status)).collect()
    }
}

impl Reported {
    /// A full set begins; what was reported before is shown until it is complete.
    fn begin(stream: u64, before: Option<Self>) -> Self {
        let (statuses, failing, mut failed) = before
            .map(|before| (before.statuses, before.failing, before.failed))
            .unwrap_or_default();
        failed.retain(|_, at| at.elapsed() < FORGIVEN_AFTER);
        let arriving = CidMap::default();
        Self { stream, next_sequence: 0, complete: false, statuses, arriving, failing, failed }
    }

    fn note_failing(&mut self, cid: &Cid, status: Option<&PinStatus>) {
        use PinState::{Failed, NotFound, Pinned, UnpinFailed, Unpinnable, Unpinning};
        let cid = PackedCid::from(cid);
        match status.map(|status| status.state) {
            Some(Failed | Unpinnable) => {
                if self.failed.contains_key(&cid) || self.failed.len() < FAILING_MAX {
                    self.failed.insert(cid.clone(), Instant::now());
                }
                if self.failing.len() < FAILING_MAX {
                    self.failing.entry(cid).or_insert_with(Instant::now);
                }
            }
            // Elsewhere it would not be found either.
            None | Some(Pinned | NotFound | Unpinning | UnpinFailed) => {
                self.failing.remove(&cid);
            }
            // It is tried again, or will be: the time goes on.
            Some(_) => {}
        }
    }

    fn take(&mut self, batch: StatusBatch) -> Option<Changed> {
        self.next_sequence += 1;
        let entries = batch.entries;
        if self.complete {
            if batch.statuses.is_empty() {
                return None;
            }
            let cids: Vec<Cid> = batch.statuses.iter().map(|(cid, _)| *cid).collect();
            for (cid, status) in batch.statuses {
                self.note_failing(&cid, status.as_ref());
                match status {
                    Some(status) => self.statuses.insert(&cid, Report { status, entries }),
                    None => self.statuses.remove(&cid),
                };
            }
            return Some(Changed::Cids(cids.into()));
        }
        for (cid, status) in batch.statuses {
            self.note_failing(&cid, status.as_ref());
            if let Some(status) = status {
                self.arriving.insert(&cid, Report { status, entries });
            }
        }
        if batch.more {
            return None;
        }
        self.statuses = std::mem::take(&mut self.arriving);
        let known = &self.statuses;
        self.failing.retain(|cid, _| known.get(&cid.cid()).is_some());
        self.complete = true;
        Some(Changed::Everything)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::types::{Allocation, Claims, Timestamp};

    const A: PeerId = PeerId([1; 32]);

    fn cid() -> Cid {
        "QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR".parse().unwrap()
    }

    fn batch(stream: u64, sequence: u64, more: bool, status: Option<PinState>) -> StatusBatch {
        let status = status.map(|state| PinStatus {
            state,
            since: Timestamp(1),
            message: String::new(),
            attempts: 0,
        });
        StatusBatch { stream, sequence, more, entries: 1, statuses: vec![(cid(), status)] }
    }

    /// The statuses of the pin, allocated to peer A at log length 1.
    fn statuses(reports: &Reports) -> BTreeMap<PeerId, PinStatus> {
        reports.of_pin(&cid()).of(Some(&pin(1)))
    }

    fn pin(at_entry: u64) -> Pin {
        let allocations = vec![Allocation { peer: A, leaving: false, at_entry }];
        Pin { claims: Claims::default(), allocations, created: Timestamp(1) }
    }

    #[test]
    fn reports_from_before_the_allocation_are_ignored() {
        let reports = Reports::default();
        let report = |sequence, entries, state| {
            let batch = StatusBatch { entries, ..batch(1, sequence, false, Some(state)) };
            reports.take(A, batch);
        };
        let shown = |pin: Option<&Pin>| reports.of_pin(&cid()).of(pin).get(&A).map(|s| s.state);
        report(0, 8, PinState::Pinned);
        assert_eq!(shown(Some(&pin(8))), Some(PinState::Pinned));
        assert_eq!(shown(Some(&pin(9))), None);
        assert_eq!(shown(None), None);
        report(1, 9, PinState::Pinned);
        assert_eq!(shown(Some(&pin(9))), Some(PinState::Pinned));
        report(2, 10, PinState::Unpinning);
        assert_eq!(shown(None), Some(PinState::Unpinning));
    }

    #[test]
    fn a_full_set_counts_once_it_is_complete_and_then_changes_follow() {
        let reports = Reports::default();
        assert_eq!(reports.take(A, batch(1, 3, false, None)), StatusReply::SendAll);
        assert_eq!(reports.take(A, batch(1, 0, true, Some(PinState::Pinned))), StatusReply::Taken);
        assert!(!reports.has_full_set(&A) && statuses(&reports).is_empty());
        assert_eq!(reports.take(A, batch(1, 1, false, Some(PinState::Pinned))), StatusReply::Taken);
        assert!(reports.has_full_set(&A));
        assert_eq!(statuses(&reports)[&A].state, PinState::Pinned);
        assert_eq!(reports.take(A, batch(1, 2, false, None)), StatusReply::Taken);
        assert!(statuses(&reports).is_empty());
    }

    #[test]
    fn an_empty_batch_shows_whether_an_earlier_one_is_missing() {
        let reports = Reports::default();
        let empty =
            |sequence| StatusBatch { statuses: Vec::new(), ..batch(1, sequence, false, None) };
        reports.take(A, batch(1, 0, false, Some(PinState::Pinned)));
        let mut changes = reports.subscribe();
        assert_eq!(reports.take(A, empty(1)), StatusReply::Taken);
        assert!(changes.try_recv().is_err() && reports.has_full_set(&A));
        assert_eq!(reports.take(A, empty(3)), StatusReply::SendAll);
    }

    #[test]
    fn a_full_set_is_demanded_after_a_gap_another_stream_or_a_new_leadership() {
        let reports = Reports::default();
        assert_eq!(reports.take(A, batch(1, 0, false, Some(PinState::Queued))), StatusReply::Taken);
        assert_eq!(reports.take(A, batch(1, 2, false, None)), StatusReply::SendAll);
        assert_eq!(reports.take(A, batch(2, 1, false, None)), StatusReply::SendAll);
        let of_another = Reports::default();
        assert_eq!(of_another.take(A, batch(1, 1, false, None)), StatusReply::SendAll);
    }

    #[test]
    fn a_new_full_set_replaces_the_old_one_and_an_incomplete_one() {
        let other = Cid::from(cid::Cid::new_v1(0x55, Default::default()));
        let third = Cid::from(cid::Cid::new_v1(0x71, Default::default()));
        let reports = Reports::default();
        let report = |stream, sequence, more, of: Cid| {
            let mut batch = batch(stream, sequence, more, Some(PinState::Pinned));
            batch.statuses[0].0 = of;
            assert_eq!(reports.take(A, batch), StatusReply::Taken);
        };
        let shown = || {
            let shown = |cid: &&Cid| !reports.of_pin(cid).of(Some(&pin(1))).is_empty();
            [cid(), other, third].iter().filter(shown).copied().collect::<Vec<_>>()
        };
        report(1, 0, false, cid());
        assert_eq!(shown(), [cid()]);
        // The first CID is in no report any more, as after a restart with another ledger.
        report(2, 0, false, other);
        assert_eq!(shown(), [other]);
        // A set of the same stream begins, and is replaced before it is complete by a set in two parts.
        report(2, 0, true, cid());
        report(3, 0, true, third);
        assert_eq!(shown(), [other]);
        report(3, 1, false, other);
        assert_eq!(shown(), [other, third]);
    }

    #[test]
    fn the_reports_of_one_peer_do_not_change_those_of_another() {
        const B: PeerId = PeerId([2; 32]);
        let reports = Reports::default();
        reports.take(A, batch(1, 0, false, Some(PinState::Pinned)));
        reports.take(B, batch(1, 0, false, None));
        assert!(reports.has_full_set(&A) && reports.has_full_set(&B));
        assert!(statuses(&reports).contains_key(&A));
        assert_eq!(reports.take(B, batch(1, 1, false, Some(PinState::Queued))), StatusReply::Taken);
        assert_eq!(reports.take(B, batch(1, 2, false, None)), StatusReply::Taken);
        assert_eq!(statuses(&reports)[&A].state, PinState::Pinned);
    }

    #[test]
    fn subscribers_receive_each_change_that_was_taken() {
        let reports = Reports::default();
        let mut changes = reports.subscribe();
        let mut received = || changes.try_recv().ok();
        reports.take(A, batch(1, 0, true, Some(PinState::Pinned)));
        assert_eq!(received(), None, "an incomplete full set is not shown");
        reports.take(A, batch(1, 1, false, Some(PinState::Pinned)));
        assert_eq!(received(), Some(Changed::Everything));
        reports.take(A, batch(1, 2, false, None));
        assert_eq!(received(), Some(Changed::Cids([cid()].into())));
        reports.take(A, batch(1, 9, false, None));
        assert_eq!(received(), None, "the batch was not taken");
    }

    #[test]
    fn the_old_full_set_is_shown_but_incomplete_while_a_new_one_arrives() {
        let reports = Reports::default();
        reports.take(A, batch(1, 0, false, Some(PinState::Pinned)));
        reports.take(A, batch(2, 0, true, Some(PinState::Queued)));
        assert!(!reports.has_full_set(&A));
        assert_eq!(statuses(&reports)[&A].state, PinState::Pinned);
    }
}
