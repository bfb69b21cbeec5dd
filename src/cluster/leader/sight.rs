//! What the leader knows of copies now: who is heard, and whose reports count.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Leader, Reports};
use crate::{
    allocate::Sight,
    cluster::{Cluster, MemberView},
    types::{Allocation, Cid, Metrics, PeerId, Pin, PinState, PinStatus},
};

/// What the leader hears at one moment. Gathered once for a batch of pins.
pub(super) struct Senses<'a> {
    reports: &'a Reports,
    /// All members had time to report to this leader.
    all_could_report: bool,
    /// The members whose metrics have not expired.
    heard: BTreeSet<PeerId>,
    /// Those of them whose daemon is up.
    pub(super) with_daemon: BTreeSet<PeerId>,
    /// The peers whose reports may let a copy go: they are heard, their daemon is up, and their full set
    /// is complete. The reports of other peers may be outdated.
    present: BTreeSet<PeerId>,
    /// Other peers try after a holder has failed for this long.
    patience: Duration,
}

impl Cluster {
    pub(super) fn senses<'a>(&self, leader: &'a Leader) -> Senses<'a> {
        Senses {
            all_could_report: leader.metrics.all_could_report(),
            patience: self.0.parts.moves.after,
            ..Senses::new(&leader.reports, leader.metrics.valid(), &self.members())
        }
    }
}

impl<'a> Senses<'a> {
    fn new(
        reports: &'a Reports,
        metrics: BTreeMap<PeerId, Metrics>,
        members: &BTreeMap<PeerId, MemberView>,
    ) -> Self {
        let with_daemon = with_daemon(&metrics, members);
        let mut present = with_daemon.clone();
        present.retain(|peer| reports.has_full_set(peer));
        let heard = metrics.into_keys().collect();
        let (all_could_report, patience) = (true, Duration::MAX);
        Self { reports, all_could_report, heard, with_daemon, present, patience }
    }

    /// What is known of the copies of a pin.
    pub(super) fn of(&self, cid: &Cid, pin: &Pin) -> Sight {
        let statuses = self.statuses(cid, pin);
        let mut failing = self.reports.failing(cid, self.patience);
        // One that can be heard, and that is not just trying again.
        failing.retain(|peer| {
            let state = statuses.get(peer).map(|status| status.state);
            self.with_daemon.contains(peer) && state != Some(PinState::Pinning)
        });
        Sight {
            confirmed: confirmed_by(&statuses, &self.present),
            pending: self.pending_by(pin, &statuses),
            failed: self.reports.failed(cid),
            failing,
            is_complete: self.is_complete(&pin.allocations),
        }
    }

    /// The holders that are still getting a pin.
    pub(super) fn pending(&self, cid: &Cid, pin: &Pin) -> BTreeSet<PeerId> {
        self.pending_by(pin, &self.statuses(cid, pin))
    }

    fn pending_by(&self, pin: &Pin, statuses: &BTreeMap<PeerId, PinStatus>) -> BTreeSet<PeerId> {
        let is_pending =
            |peer: &PeerId| self.with_daemon.contains(peer) && !has_ended(statuses.get(peer));
        pin.holders().filter(is_pending).collect()
    }

    /// The reports that count for a pin.
    fn statuses(&self, cid: &Cid, pin: &Pin) -> BTreeMap<PeerId, PinStatus> {
        self.reports.of_pin(cid).of(Some(pin))
    }

    /// Whether every peer with a copy has reported to this leader, or cannot be heard.
    fn is_complete(&self, allocations: &[Allocation]) -> bool {
        let has_reported = |copy: &Allocation| {
            !self.heard.contains(&copy.peer) || self.reports.has_full_set(&copy.peer)
        };
        self.all_could_report && allocations.iter().all(has_reported)
    }
}

/// The members whose daemon is up.
pub(super) fn with_daemon(
    metrics: &BTreeMap<PeerId, Metrics>,
    members: &BTreeMap<PeerId, MemberView>,
) -> BTreeSet<PeerId> {
    metrics
        .iter()
        .filter(|(peer, metrics)| metrics.daemon.is_some() && members.contains_key(peer))
        .map(|(peer, _)| *peer)
        .collect()
}

/// Whether a peer with this report does not get the content any more, or not for now.
fn has_ended(status: Option<&PinStatus>) -> bool {
    use PinState::{Failed, NotFound, Pinned, Unpinnable};
    status.is_some_and(|status| matches!(status.state, Pinned | NotFound | Failed | Unpinnable))
}

/// The present peers that report the pin as pinned.
fn confirmed_by(
    statuses: &BTreeMap<PeerId, PinStatus>,
    present: &BTreeSet<PeerId>,
) -> BTreeSet<PeerId> {
    let pinned = statuses.iter().filter(|(_, status)| status.state == PinState::Pinned);
    pinned.map(|(peer, _)| *peer).filter(|peer| present.contains(peer)).collect()
}

#[cfg(test)]
mod tests;
