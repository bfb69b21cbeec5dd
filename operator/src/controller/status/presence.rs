//! Which peers are heard of, in this leadership.

use std::collections::BTreeMap;

use pinkeeper::{cluster::Cluster, types::PeerId};

use super::{
    graces::Moment,
    judge::{GRACE, PeerView},
};

/// The peers as statuses see them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Presence {
    /// All members.
    pub(super) peers: BTreeMap<PeerId, PeerView>,
}

impl Presence {
    /// Looks anew; peers that are silent keep the time since when.
    pub(super) fn look(&self, cluster: &Cluster, now: Moment) -> Self {
        let alive = cluster.peer_metrics();
        let view = |(id, member): (PeerId, pinkeeper::cluster::MemberView)| {
            let reported = cluster.board().reported(&id);
            let before = self.peers.get(&id).and_then(|peer| peer.silent);
            let heard = reported && (alive.contains_key(&id) || id == cluster.id());
            let silent = (!heard).then(|| before.unwrap_or(now));
            (id, PeerView { name: member.member.name, reported, silent })
        };
        Self { peers: cluster.members().into_iter().map(view).collect() }
    }

    /// What decides about statuses: Pins of a peer need another look when it changes.
    pub(super) fn facts(&self, now: Moment) -> BTreeMap<PeerId, Facts> {
        let gone = |since: Moment| now.at >= since.at.saturating_add(GRACE);
        let facts = |(id, peer): (&PeerId, &PeerView)| {
            (*id, (peer.name.clone(), peer.reported, peer.silent.is_some_and(gone)))
        };
        self.peers.iter().map(facts).collect()
    }
}

/// A peer's name, whether it has reported, and whether it is silent for longer than the grace.
pub(super) type Facts = (String, bool, bool);
