//! Tracks which peers the leader hears in this leadership.

use std::collections::BTreeMap;

use pinkeeper::{
    cluster::{Cluster, MemberView, Obstacle},
    types::PeerId,
};

use super::graces::{GRACE, Moment};

/// What statuses need to know about a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// Its name.
    pub name: String,
    /// Its reports are complete in this leadership.
    pub reported: bool,
    /// Since when it is silent, if it is.
    pub silent: Option<Moment>,
    /// Why it can take no content now, if it cannot.
    pub obstacle: Option<Obstacle>,
}

/// All peers as statuses see them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Presence {
    /// All members.
    pub(super) peers: BTreeMap<PeerId, PeerView>,
}

impl Presence {
    /// Checks the peers again. Silent peers keep the start of their silence.
    pub(super) fn look(&self, cluster: &Cluster, now: Moment) -> Self {
        let (alive, obstacles) = (cluster.peer_metrics(), cluster.obstacles());
        let heard = |(id, member): (PeerId, MemberView)| {
            let reported = cluster.reports().has_full_set(&id);
            let alive = alive.contains_key(&id) || id == cluster.id();
            let obstacle = obstacles.get(&id).copied();
            (id, Heard { name: member.member.name, reported, alive, obstacle })
        };
        self.then(cluster.members().into_iter().map(heard), now)
    }

    fn then(&self, members: impl Iterator<Item = (PeerId, Heard)>, now: Moment) -> Self {
        let view = |(id, heard): (PeerId, Heard)| {
            let Heard { name, reported, alive, obstacle } = heard;
            let before = self.peers.get(&id).and_then(|peer| peer.silent);
            let silent = (!(reported && alive)).then(|| before.unwrap_or(now));
            (id, PeerView { name, reported, silent, obstacle })
        };
        Self { peers: members.map(view).collect() }
    }

    /// The facts that statuses depend on. When those of a peer change, its Pins are checked again.
    pub(super) fn facts(&self, now: Moment) -> BTreeMap<PeerId, Facts> {
        let gone = |since: Moment| now.at >= since.at.saturating_add(GRACE);
        let facts = |(id, peer): (&PeerId, &PeerView)| {
            (*id, (peer.name.clone(), peer.reported, peer.silent.is_some_and(gone)))
        };
        self.peers.iter().map(facts).collect()
    }
}

/// What the leader knows about a member.
#[derive(Clone, Debug)]
struct Heard {
    name: String,
    /// Its reports are complete.
    reported: bool,
    /// Its peer metrics are current, or it is the leader itself.
    alive: bool,
    obstacle: Option<Obstacle>,
}

/// A peer's name, whether its reports are complete, and whether it is silent for longer than the
/// grace.
pub(super) type Facts = (String, bool, bool);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pinkeeper::types::Timestamp;

    use super::*;

    const ID: PeerId = PeerId([1; 32]);

    fn at(seconds: u64) -> Moment {
        Moment { at: Duration::from_secs(seconds), wall: Timestamp(seconds * 1000 + 7) }
    }

    fn heard(reported: bool, alive: bool) -> Option<Heard> {
        Some(Heard { name: "p-1".into(), reported, alive, obstacle: None })
    }

    #[test]
    fn a_peer_is_silent_from_when_it_was_first_missed_until_it_is_heard_of() {
        // The second, what is heard of a member, and since when it is silent.
        let cases = [
            (0, heard(false, false), Some(0)),
            (3, heard(false, true), Some(0)),
            (4, heard(true, true), None),
            (9, heard(true, true), None),
            (10, heard(true, false), Some(10)),
            (50, heard(false, true), Some(10)),
            (51, heard(true, true), None),
            (60, heard(false, false), Some(60)),
            // A member that was removed and comes back starts over.
            (61, None, None),
            (70, heard(true, false), Some(70)),
        ];
        let mut presence = Presence::default();
        for (second, heard, silent) in cases {
            let member = heard.clone().map(|heard| (ID, heard));
            presence = presence.then(member.into_iter(), at(second));
            let peer = presence.peers.get(&ID);
            assert_eq!(peer.is_some(), heard.is_some());
            let Some((peer, heard)) = peer.zip(heard) else { continue };
            assert_eq!(peer.silent, silent.map(at), "{second} s: {heard:?}");
            assert_eq!((peer.reported, peer.name.as_str()), (heard.reported, "p-1"));
        }
    }

    #[test]
    fn a_silence_is_a_fact_from_the_end_of_its_grace_on() {
        let member = |heard: Option<Heard>| heard.map(|heard| (ID, heard)).into_iter();
        let silent = Presence::default().then(member(heard(true, false)), at(5));
        let end = at(5).at + GRACE;
        let cases = [
            (at(5).at, false),
            (end - Duration::from_millis(1), false),
            (end, true),
            (end * 2, true),
        ];
        for (now, gone) in cases {
            let now = Moment { at: now, wall: Timestamp(0) };
            assert_eq!(silent.facts(now)[&ID], ("p-1".into(), true, gone), "{now:?}");
        }
        let there = Presence::default().then(member(heard(true, true)), at(5));
        assert_eq!(there.facts(at(5000))[&ID], ("p-1".into(), true, false));
    }
}
