//! What each peer reported of its pins to this leader.
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
    types::{Cid, CidMap, PeerId, PinState, PinStatus, StatusBatch, StatusReply},
};

/// Batches of changes a slow subscriber may be behind before it must look at everything.
const CHANGES_MAX: usize = 1024;

/// The board.
#[derive(Debug)]
pub struct Board {
    peers: Mutex<BTreeMap<PeerId, Reported>>,
    changes: broadcast::Sender<Changed>,
}

#[derive(Debug)]
struct Reported {
    stream: u64,
    next_sequence: u64,
    /// The full set has arrived.
    complete: bool,
    statuses: CidMap<PinStatus>,
    /// A full set that is still arriving.
    arriving: CidMap<PinStatus>,
}

impl Default for Board {
    fn default() -> Self {
        Self { peers: Mutex::default(), changes: broadcast::channel(CHANGES_MAX).0 }
    }
}

impl Board {
    /// What peers reported of one pin.
    #[must_use]
    pub fn statuses(&self, cid: &Cid) -> BTreeMap<PeerId, PinStatus> {
        self.lock()
            .iter()
            .filter_map(|(peer, reported)| Some((*peer, reported.statuses.get(cid)?.clone())))
            .collect()
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

    /// Who says that it holds which pin, of those named; of all without names.
    pub(super) fn pinned(&self, cids: Option<&[Cid]>) -> Vec<(PeerId, Cid)> {
        let is_pinned = |status: &PinStatus| status.state == PinState::Pinned;
        let mut found = Vec::new();
        for (peer, reported) in self.lock().iter() {
            let all = &reported.statuses;
            match cids {
                Some(cids) => {
                    let pinned = |cid: &&Cid| all.get(cid).is_some_and(is_pinned);
                    found.extend(cids.iter().filter(pinned).map(|cid| (*peer, *cid)));
                }
                None => {
                    let pinned = all.iter().filter(|(_, status)| is_pinned(status));
                    found.extend(pinned.map(|(cid, _)| (*peer, cid)));
                }
            }
        }
        found
    }

    /// Forgets statuses: what a peer tells next of such a pin counts again.
    pub(super) fn forget(&self, statuses: &[(PeerId, Cid)]) {
        let mut peers = self.lock();
        for (peer, cid) in statuses {
            if let Some(reported) = peers.get_mut(peer) {
                reported.statuses.remove(cid);
            }
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        self.lock().clear();
        self.tell(Changed::Everything);
    }

    /// Takes a batch of a peer.
    pub(super) fn take(&self, from: PeerId, batch: StatusBatch) -> StatusReply {
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

impl Reported {
    fn begin(stream: u64, statuses: CidMap<PinStatus>) -> Self {
        let arriving = CidMap::default();
        Self { stream, next_sequence: 0, complete: false, statuses, arriving }
    }

    fn take(&mut self, batch: StatusBatch) -> Option<Changed> {
        self.next_sequence += 1;
        if self.complete {
            if batch.statuses.is_empty() {
                return None;
            }
            let cids: Vec<Cid> = batch.statuses.iter().map(|(cid, _)| *cid).collect();
            for (cid, status) in batch.statuses {
                match status {
                    Some(status) => self.statuses.insert(&cid, status),
                    None => self.statuses.remove(&cid),
                };
            }
            return Some(Changed::Cids(cids.into()));
        }
        for (cid, status) in batch.statuses {
            if let Some(status) = status {
                self.arriving.insert(&cid, status);
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
    use crate::types::Timestamp;

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
        StatusBatch { stream, sequence, more, statuses: vec![(cid(), status)] }
    }

    #[test]
    fn a_full_set_counts_when_it_is_whole_and_then_changes_follow() {
        let board = Board::default();
        assert_eq!(board.take(A, batch(1, 3, false, None)), StatusReply::SendAll);
        assert_eq!(board.take(A, batch(1, 0, true, Some(PinState::Pinned))), StatusReply::Taken);
        assert!(!board.reported(&A) && board.statuses(&cid()).is_empty());
        assert_eq!(board.take(A, batch(1, 1, false, Some(PinState::Pinned))), StatusReply::Taken);
        assert!(board.reported(&A));
        assert_eq!(board.statuses(&cid())[&A].state, PinState::Pinned);
        assert_eq!(board.take(A, batch(1, 2, false, None)), StatusReply::Taken);
        assert!(board.statuses(&cid()).is_empty());
    }

    #[test]
    fn an_empty_batch_asks_whether_anything_is_missing() {
        let board = Board::default();
        let empty =
            |sequence| StatusBatch { stream: 1, sequence, more: false, statuses: Vec::new() };
        board.take(A, batch(1, 0, false, Some(PinState::Pinned)));
        let mut changes = board.subscribe();
        assert_eq!(board.take(A, empty(1)), StatusReply::Taken);
        assert!(changes.try_recv().is_err() && board.reported(&A));
        assert_eq!(board.take(A, empty(3)), StatusReply::SendAll);
    }

    #[test]
    fn a_gap_another_stream_or_a_new_leadership_asks_for_everything() {
        let board = Board::default();
        assert_eq!(board.take(A, batch(1, 0, false, Some(PinState::Queued))), StatusReply::Taken);
        assert_eq!(board.take(A, batch(1, 2, false, None)), StatusReply::SendAll);
        assert_eq!(board.take(A, batch(2, 1, false, None)), StatusReply::SendAll);
        board.clear();
        assert_eq!(board.take(A, batch(1, 1, false, None)), StatusReply::SendAll);
    }

    #[test]
    fn while_a_new_full_set_arrives_the_old_one_is_shown_but_not_complete() {
        let board = Board::default();
        board.take(A, batch(1, 0, false, Some(PinState::Pinned)));
        board.take(A, batch(2, 0, true, Some(PinState::Queued)));
        assert!(!board.reported(&A));
        assert_eq!(board.statuses(&cid())[&A].state, PinState::Pinned);
    }
}
