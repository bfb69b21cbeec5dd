//! Stands for election as soon as the connection to the leader is gone, without waiting for an
//! election timeout.
//!
//! When a leader's process ends, its connections end at once. This is as safe as waiting: the peer only
//! asks for a pre-vote. Other peers refuse that while they hear the leader within its lease, and a
//! refused pre-vote changes nothing. If the leader's machine fails and its connections stay open,
//! Raft's own timeout finds it.
//!
//! The voters take turns, so that they do not split the vote.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, FatalError, MemberView};
use crate::types::PeerId;

/// Time between two checks, and between two pre-votes.
const LOOK: Duration = Duration::from_millis(25);
/// The head start of each voter over the next; longer than an election takes.
const TURN: Duration = Duration::from_millis(200);
/// Length of a turn. A voter that is not elected within it leaves the election to Raft's own timeouts.
const PATIENCE: Duration = Duration::from_secs(2);

impl Cluster {
    pub(in crate::cluster) async fn stand(
        self,
        token: CancellationToken,
    ) -> Result<(), FatalError> {
        let mut lost: Option<(PeerId, Instant)> = None;
        loop {
            tokio::select! {
                biased;
                () = token.cancelled() => return Ok(()),
                () = sleep(LOOK) => {}
            }
            let leader = self.0.leadership.borrow().leader;
            let gone = gone(self.id(), leader, &self.0.parts.transport.connected());
            lost = lost_since(gone, lost, Instant::now());
            if let Some((leader, since)) = lost
                && self.is_turn(leader, since.elapsed())
                && let Err(error) = self.consensus().stand().await
            {
                tracing::debug!(%error, "this peer does not stand for election");
            }
        }
    }

    /// Whether it is this voter's turn at this time after the leader was lost.
    fn is_turn(&self, leader: PeerId, after: Duration) -> bool {
        let turn = turn(self.id(), leader, &self.members(), self.consensus().lease());
        turn.is_some_and(|turn| turn.contains(&after))
    }
}

/// The leader, if it is another peer and not connected.
fn gone(own: PeerId, leader: Option<PeerId>, connected: &[PeerId]) -> Option<PeerId> {
    leader.filter(|leader| *leader != own && !connected.contains(leader))
}

/// The leader that is gone, and since when.
fn lost_since(
    gone: Option<PeerId>,
    before: Option<(PeerId, Instant)>,
    now: Instant,
) -> Option<(PeerId, Instant)> {
    let leader = gone?;
    Some(before.filter(|(known, _)| *known == leader).unwrap_or((leader, now)))
}

/// When this peer's turn is after the leader was lost; `None` if it is no voter.
fn turn(
    own: PeerId,
    leader: PeerId,
    members: &BTreeMap<PeerId, MemberView>,
    lease: Duration,
) -> Option<Range<Duration>> {
    let mut others = members.iter().filter(|(peer, view)| view.voter && **peer != leader);
    let place = others.position(|(peer, _)| *peer == own)?;
    let place = u32::try_from(place).unwrap_or(u32::MAX);
    // No peer is elected before the leader's lease has ended. The first voter need not wait for that,
    // since it is refused until then.
    let turn = if place == 0 { Duration::ZERO } else { lease + TURN * place };
    Some(turn..turn + PATIENCE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Member;

    fn peer(n: u8) -> PeerId {
        PeerId([n; 32])
    }

    #[test]
    fn another_leader_without_a_connection_is_gone() {
        let table = [
            (None, vec![], None),
            (Some(1), vec![], None), // this peer
            (Some(2), vec![], Some(2)),
            (Some(2), vec![3], Some(2)),
            (Some(2), vec![3, 2], None),
        ];
        for (leader, connected, expected) in table {
            let peers: Vec<PeerId> = connected.iter().copied().map(peer).collect();
            let found = gone(peer(1), leader.map(peer), &peers);
            assert_eq!(found, expected.map(peer), "{leader:?}, connected to {connected:?}");
        }
    }

    #[test]
    fn a_leader_counts_as_lost_from_when_it_was_gone() {
        let before = Instant::now();
        let now = before + Duration::from_secs(1);
        let lost = Some((peer(2), before));
        assert_eq!(lost_since(Some(peer(2)), None, now), Some((peer(2), now)));
        assert_eq!(lost_since(Some(peer(2)), lost, now), lost);
        assert_eq!(lost_since(Some(peer(3)), lost, now), Some((peer(3), now)));
        assert_eq!(lost_since(None, lost, now), None);
    }

    #[test]
    fn voters_take_turns_and_learners_have_none() {
        let lease = Duration::from_secs(1);
        let view = |voter| MemberView { member: Member::default(), voter };
        let votes = [(1, true), (2, false), (3, true), (4, true)];
        let members = votes.map(|(n, voter)| (peer(n), view(voter))).into();
        let begins = |own, leader| {
            let turn = turn(peer(own), peer(leader), &members, lease)?;
            assert_eq!(turn.end, turn.start + PATIENCE);
            Some(turn.start)
        };
        let first = Some(Duration::ZERO);
        // Two voters after the loss of leader 1, then of leader 3.
        assert_eq!((begins(3, 1), begins(4, 1)), (first, Some(lease + TURN)));
        assert_eq!((begins(1, 3), begins(4, 3)), (first, Some(lease + TURN)));
        assert_eq!(begins(4, 9), Some(lease + TURN * 2));
        assert_eq!([begins(2, 1), begins(1, 1), begins(9, 1)], [None; 3]);
    }
}
