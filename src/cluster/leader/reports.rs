//! The peers' reports of their pins to this leader.
//!
//! Soft state: empty when a leadership begins, and filled by the peers' full sets. Absent means "not
//! reported", never "not pinned".

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::broadcast;

use crate::{
    state::Changed,
    types::{Cid, CidMap, PeerId, Pin, PinState, PinStatus, StatusBatch, StatusReply},
};

/// Batches of changes a slow subscriber may be behind before it must look at everything.
const CHANGES_MAX: usize = 1024;

/// The reports of all peers in this leadership.
#[derive(Debug)]
pub struct Reports {
    peers: Mutex<BTreeMap<PeerId, Reported>>,
    changes: broadcast::Sender<Changed>,
}

/// A status, and how many entries of the log its peer had seen when it told it.
#[derive(Debug, Clone)]
struct Report {
    status: PinStatus,
    entries: u64,
}

/// What peers reported of one pin.
#[derive(Debug, Default)]
pub struct PinReports(Vec<(PeerId, Report)>);

#[derive(Debug)]
struct Reported {
    stream: u64,
    next_sequence: u64,
    /// The full set has arrived.
    complete: bool,
    statuses: CidMap<Report>,
    /// A full set that is still arriving.
    arriving: CidMap<Report>,
}

impl Default for Reports {
    fn default() -> Self {
        Self { peers: Mutex::default(), changes: broadcast::channel(CHANGES_MAX).0 }
    }
}

impl Reports {
    /// What peers reported of one pin.
    #[must_use]
    pub fn of_pin(&self, cid: &Cid) -> PinReports {
        let peers = self.lock();
        let of = |(peer, reported): (&PeerId, &Reported)| {
            Some((*peer, reported.statuses.get(cid)?.clone()))
        };
        PinReports(peers.iter().filter_map(of).collect())
    }

    /// Whether a peer's full set has arrived in this leadership.
    #[must_use]
    pub fn reported(&self, peer: &PeerId) -> bool {
        self.lock().get(peer).is_some_and(|reported| reported.complete)
    }

    /// Told of changes from now on. Subscribe first, then read everything.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Changed> {
        self.changes.subscribe()
    }

    /// Takes a batch of a peer.
    pub(in crate::cluster) fn take(&self, from: PeerId, batch: StatusBatch) -> StatusReply {
        let changed = {
            let mut peers = self.lock();
            if batch.sequence == 0 {
                let known = peers.remove(&from).map(|known| known.statuses).unwrap_or_default();
                peers.insert(from, Reported::begin(batch.stream, known));
            }
            let Some(reported) = peers.get_mut(&from) else { return StatusReply::SendAll };
            if reported.stream != batch.stream || reported.next_sequence != batch.sequence {
                return StatusReply::SendAll;
            }
            reported.take(batch)
        };
        if let Some(changed) = changed {
            self.tell(changed);
        }
        StatusReply::Taken
    }

    fn tell(&self, changed: Changed) {
        // Without subscribers there is nobody to tell.
        let _ = self.changes.send(changed);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PeerId, Reported>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PinReports {
    /// What counts now that the pin is this: what a peer told before it saw that the pin was given to
    /// it is of an earlier time, and so is that it holds what is not given to it.
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
    fn begin(stream: u64, statuses: CidMap<Report>) -> Self {
        let arriving = CidMap::default();
        Self { stream, next_sequence: 0, complete: false, statuses, arriving }
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
                match status {
                    Some(status) => self.statuses.insert(&cid, Report { status, entries }),
                    None => self.statuses.remove(&cid),
                };
            }
            return Some(Changed::Cids(cids.into()));
        }
        for (cid, status) in batch.statuses {
            if let Some(status) = status {
                self.arriving.insert(&cid, Report { status, entries });
            }
        }
        if batch.more {
            return None;
        }
        self.statuses = std::mem::take(&mut self.arriving);
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

    /// Of the pin, given to a peer by the first entry.
    fn statuses(reports: &Reports) -> BTreeMap<PeerId, PinStatus> {
        reports.of_pin(&cid()).of(Some(&pin(1)))
    }

    fn pin(since: u64) -> Pin {
        let allocations = vec![Allocation { peer: A, leaving: false, at_entry: since }];
        Pin { claims: Claims::default(), allocations, created: Timestamp(1) }
    }

    #[test]
    fn what_was_told_before_the_pin_was_given_to_the_peer_does_not_count() {
        let reports = Reports::default();
        let told = |sequence, entries, state| {
            let batch = StatusBatch { entries, ..batch(1, sequence, false, Some(state)) };
            reports.take(A, batch);
        };
        let shown = |pin: Option<&Pin>| reports.of_pin(&cid()).of(pin).get(&A).map(|s| s.state);
        told(0, 8, PinState::Pinned);
        assert_eq!(shown(Some(&pin(8))), Some(PinState::Pinned));
        assert_eq!(shown(Some(&pin(9))), None);
        assert_eq!(shown(None), None);
        told(1, 9, PinState::Pinned);
        assert_eq!(shown(Some(&pin(9))), Some(PinState::Pinned));
        told(2, 10, PinState::Unpinning);
        assert_eq!(shown(None), Some(PinState::Unpinning));
    }

    #[test]
    fn a_full_set_counts_when_it_is_whole_and_then_changes_follow() {
        let reports = Reports::default();
        assert_eq!(reports.take(A, batch(1, 3, false, None)), StatusReply::SendAll);
        assert_eq!(reports.take(A, batch(1, 0, true, Some(PinState::Pinned))), StatusReply::Taken);
        assert!(!reports.reported(&A) && statuses(&reports).is_empty());
        assert_eq!(reports.take(A, batch(1, 1, false, Some(PinState::Pinned))), StatusReply::Taken);
        assert!(reports.reported(&A));
        assert_eq!(statuses(&reports)[&A].state, PinState::Pinned);
        assert_eq!(reports.take(A, batch(1, 2, false, None)), StatusReply::Taken);
        assert!(statuses(&reports).is_empty());
    }

    #[test]
    fn an_empty_batch_asks_whether_anything_is_missing() {
        let reports = Reports::default();
        let empty =
            |sequence| StatusBatch { statuses: Vec::new(), ..batch(1, sequence, false, None) };
        reports.take(A, batch(1, 0, false, Some(PinState::Pinned)));
        let mut changes = reports.subscribe();
        assert_eq!(reports.take(A, empty(1)), StatusReply::Taken);
        assert!(changes.try_recv().is_err() && reports.reported(&A));
        assert_eq!(reports.take(A, empty(3)), StatusReply::SendAll);
    }

    #[test]
    fn a_gap_another_stream_or_a_new_leadership_asks_for_everything() {
        let reports = Reports::default();
        assert_eq!(reports.take(A, batch(1, 0, false, Some(PinState::Queued))), StatusReply::Taken);
        assert_eq!(reports.take(A, batch(1, 2, false, None)), StatusReply::SendAll);
        assert_eq!(reports.take(A, batch(2, 1, false, None)), StatusReply::SendAll);
        let of_another = Reports::default();
        assert_eq!(of_another.take(A, batch(1, 1, false, None)), StatusReply::SendAll);
    }

    #[test]
    fn a_new_full_set_takes_the_place_of_the_old_one_and_of_one_that_was_broken_off() {
        let other = Cid::from(cid::Cid::new_v1(0x55, Default::default()));
        let third = Cid::from(cid::Cid::new_v1(0x71, Default::default()));
        let reports = Reports::default();
        let told = |stream, sequence, more, of: Cid| {
            let mut batch = batch(stream, sequence, more, Some(PinState::Pinned));
            batch.statuses[0].0 = of;
            assert_eq!(reports.take(A, batch), StatusReply::Taken);
        };
        let shown = || {
            let shown = |cid: &&Cid| !reports.of_pin(cid).of(Some(&pin(1))).is_empty();
            [cid(), other, third].iter().filter(shown).copied().collect::<Vec<_>>()
        };
        told(1, 0, false, cid());
        assert_eq!(shown(), [cid()]);
        // It is told of no more: as after a restart with another ledger.
        told(2, 0, false, other);
        assert_eq!(shown(), [other]);
        // Also of the same stream, and in parts, of which the first has to be told again.
        told(2, 0, true, cid());
        told(3, 0, true, third);
        assert_eq!(shown(), [other]);
        told(3, 1, false, other);
        assert_eq!(shown(), [other, third]);
    }

    #[test]
    fn a_peer_is_told_of_for_itself_and_a_status_that_is_over_is_in_no_full_set() {
        const B: PeerId = PeerId([2; 32]);
        let reports = Reports::default();
        reports.take(A, batch(1, 0, false, Some(PinState::Pinned)));
        reports.take(B, batch(1, 0, false, None));
        assert!(reports.reported(&A) && reports.reported(&B));
        assert!(statuses(&reports).contains_key(&A));
        assert_eq!(reports.take(B, batch(1, 1, false, Some(PinState::Queued))), StatusReply::Taken);
        assert_eq!(reports.take(B, batch(1, 2, false, None)), StatusReply::Taken);
        assert_eq!(statuses(&reports)[&A].state, PinState::Pinned);
    }

    #[test]
    fn whoever_listens_is_told_what_changed() {
        let reports = Reports::default();
        let mut changes = reports.subscribe();
        let mut told = || changes.try_recv().ok();
        reports.take(A, batch(1, 0, true, Some(PinState::Pinned)));
        assert_eq!(told(), None, "half of a full set is not shown");
        reports.take(A, batch(1, 1, false, Some(PinState::Pinned)));
        assert_eq!(told(), Some(Changed::Everything));
        reports.take(A, batch(1, 2, false, None));
        assert_eq!(told(), Some(Changed::Cids([cid()].into())));
        reports.take(A, batch(1, 9, false, None));
        assert_eq!(told(), None, "that was not taken");
    }

    #[test]
    fn while_a_new_full_set_arrives_the_old_one_is_shown_but_not_complete() {
        let reports = Reports::default();
        reports.take(A, batch(1, 0, false, Some(PinState::Pinned)));
        reports.take(A, batch(2, 0, true, Some(PinState::Queued)));
        assert!(!reports.reported(&A));
        assert_eq!(statuses(&reports)[&A].state, PinState::Pinned);
    }
}
