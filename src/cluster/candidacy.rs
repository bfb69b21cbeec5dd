//! Stands for election as soon as the connection to the leader is gone, without waiting for its
//! silence.
//!
//! When a leader's process ends, its connections do at once, and the others need not wait for a
//! timeout to know. Nothing is less safe: this only asks for a pre-vote, which other peers refuse as
//! long as they hear the leader within its lease, and a refused one changes nothing. A leader whose
//! machine is gone without a word is found by Raft's own timeout.
//!
//! The voters take turns, so that two do not take each other's votes.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Cluster, FatalError};
use crate::types::PeerId;

/// Between two looks, and between two pre-votes.
const LOOK: Duration = Duration::from_millis(25);
/// Longer than an election takes: the head start of each voter over the next.
const TURN: Duration = Duration::from_millis(200);

impl Cluster {
    pub(super) async fn stand(self, token: CancellationToken) -> Result<(), FatalError> {
        let mut lost: Option<(PeerId, Instant)> = None;
        loop {
            tokio::select! {
                biased;
                () = token.cancelled() => return Ok(()),
                () = sleep(LOOK) => {}
            }
            let gone = self.0.leadership.borrow().leader.filter(|leader| self.is_gone(leader));
            lost = match (gone, lost) {
                (Some(leader), Some((known, since))) if known == leader => Some((leader, since)),
                (Some(leader), _) => Some((leader, Instant::now())),
                (None, _) => None,
            };
            if let Some((leader, since)) = lost
                && self.head_start(leader).is_some_and(|wait| since.elapsed() >= wait)
                && let Err(error) = self.consensus().stand().await
            {
                tracing::debug!(%error, "this peer does not stand for election");
            }
        }
    }

    fn is_gone(&self, leader: &PeerId) -> bool {
        *leader != self.id() && !self.0.parts.transport.connected().contains(leader)
    }

    /// How long this voter lets others go first after the leader is lost; none when it does not vote.
    fn head_start(&self, leader: PeerId) -> Option<Duration> {
        let members = self.members();
        let mut voters = members
            .iter()
            .filter(|(peer, view)| view.voter && **peer != leader)
            .map(|(peer, _)| peer);
        let turn = u32::try_from(voters.position(|peer| *peer == self.id())?).unwrap_or(u32::MAX);
        // Nobody is elected before the leader's lease has ended; the first needs not wait for it.
        Some(if turn == 0 { Duration::ZERO } else { self.consensus().lease() + TURN * turn })
    }
}
