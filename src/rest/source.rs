//! The HTTP servers' access to the peer; the only place here that calls its use cases.

use std::collections::BTreeMap;

#[cfg(test)]
use super::tests::stand_in::StandIn;
use crate::{
    cluster::{Cluster, Counters, Leadership, Listed, UseCaseError},
    types::{
        Cid, DaemonInfo, GcCounters, GcResults, Member, Metrics, PeerId, Pin, PinEntry, PinRequest,
    },
};

/// The peer.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Cluster(Cluster),
    #[cfg(test)]
    StandIn(StandIn),
}

/// Calls the same method on either variant.
macro_rules! ask {
    ($source:expr, $peer:ident => $answer:expr) => {
        match $source {
            Source::Cluster($peer) => $answer,
            #[cfg(test)]
            Source::StandIn($peer) => $answer,
        }
    };
}

impl Source {
    pub(super) fn id(&self) -> PeerId {
        ask!(self, peer => peer.id())
    }

    pub(super) fn member(&self) -> &Member {
        ask!(self, peer => peer.member())
    }

    /// All members; only this peer while it has not joined.
    pub(super) fn members(&self) -> BTreeMap<PeerId, Member> {
        let members = ask!(self, peer => peer.members());
        let mut members: BTreeMap<PeerId, Member> =
            members.into_iter().map(|(peer, view)| (peer, view.member)).collect();
        for (peer, addresses) in ask!(self, peer => peer.addresses()) {
            if let Some(member) = members.get_mut(&peer) {
                member.addresses = addresses;
            }
        }
        members.insert(self.id(), self.member().clone());
        members
    }

    /// Number of voters.
    pub(super) fn voters(&self) -> usize {
        ask!(self, peer => peer.members()).values().filter(|view| view.voter).count()
    }

    /// The daemons of the peers that are up.
    pub(super) fn daemons(&self) -> BTreeMap<PeerId, DaemonInfo> {
        ask!(self, peer => peer.daemons())
    }

    pub(super) fn local_metrics(&self) -> Metrics {
        ask!(self, peer => peer.local_metrics().borrow().clone())
    }

    /// Totals of this peer's garbage collections.
    pub(super) fn collections(&self) -> GcCounters {
        ask!(self, peer => peer.collections())
    }

    pub(super) async fn run_gc(&self, local: bool) -> Result<GcResults, UseCaseError> {
        ask!(self, peer => peer.run_gc(local).await)
    }

    /// The leader, as far as this peer knows.
    pub(super) fn leadership(&self) -> Leadership {
        *ask!(self, peer => peer.leadership()).borrow()
    }

    /// The tracker's counters.
    pub(super) fn counters(&self) -> Counters {
        ask!(self, peer => peer.counters())
    }

    /// The cluster's level, and that of this program.
    pub(super) fn levels(&self) -> (u32, u32) {
        ask!(self, peer => peer.levels())
    }

    /// Number of pins with a leaving peer.
    pub(super) fn pins_leaving(&self) -> usize {
        ask!(self, peer => peer.pins_leaving())
    }

    /// Why the peer is not ready, if it is not.
    pub(super) fn readiness(&self) -> Result<(), String> {
        ask!(self, peer => peer.readiness())
    }

    /// The members, with what a list of them shows.
    pub(super) fn roster(&self) -> BTreeMap<PeerId, Listed> {
        ask!(self, peer => peer.roster())
    }

    pub(super) async fn depart(&self, peer: PeerId, departs: bool) -> Result<u64, UseCaseError> {
        ask!(self, of => of.depart(peer, departs).await)
    }

    pub(super) async fn pin(&self, request: PinRequest) -> Result<Pin, UseCaseError> {
        ask!(self, peer => peer.pin(request).await)
    }

    /// One result for each, in order; at most [`crate::types::Write::BATCH_LEN_MAX`].
    pub(super) async fn pin_all(
        &self,
        requests: Vec<PinRequest>,
    ) -> Vec<Result<Pin, UseCaseError>> {
        ask!(self, peer => peer.pin_all(requests).await)
    }

    pub(super) async fn unpin(&self, cid: Cid) -> Result<Pin, UseCaseError> {
        ask!(self, peer => peer.unpin(cid).await)
    }

    /// One pin; with `local`, only as this peer knows it, which needs no leader.
    pub(super) async fn pin_entry(
        &self,
        cid: Cid,
        local: bool,
    ) -> Result<Option<PinEntry>, UseCaseError> {
        match local {
            true => Ok(ask!(self, peer => peer.local_entry(cid))),
            false => ask!(self, peer => peer.pin_entry(cid).await),
        }
    }

    /// The next pins after a CID; `local` as for one pin.
    pub(super) async fn pins_after(
        &self,
        after: Option<Cid>,
        local: bool,
    ) -> Result<Vec<PinEntry>, UseCaseError> {
        match local {
            true => Ok(ask!(self, peer => peer.local_pins_after(after))),
            false => ask!(self, peer => peer.pins_after(after).await),
        }
    }
}
