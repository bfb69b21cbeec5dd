//! Leadership as one peer can know it.
//!
//! Invariant: a leader that no majority has answered for a while stops acting as leader, since another
//! may have been elected.

use std::{error::Error as _, time::Duration};

use openraft::{
    RaftMetrics,
    alias::WatchReceiverOf,
    async_runtime::{instant::Instant as _, watch::WatchReceiver},
    errors::Fatal,
};
use tokio::time::sleep;

use super::raft_types::TypeConfig;
use crate::types::PeerId;

/// In longest election timeouts: a leader that no majority has answered for so long stops acting as
/// leader, since another may have been elected.
const UNANSWERED_MAX: u32 = 2;

type Metrics = WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>;

/// Leadership as this peer knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The leader, if known.
    pub leader: Option<PeerId>,
    /// The term.
    pub term: u64,
    /// This peer leads, has applied everything acknowledged in earlier terms, and a majority answered
    /// it recently.
    pub local: bool,
}

/// Follows leadership, membership and progress.
pub struct ConsensusWatch {
    id: PeerId,
    patience: Duration,
    metrics: Metrics,
}

impl std::fmt::Debug for ConsensusWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConsensusWatch").field("id", &self.id).finish_non_exhaustive()
    }
}

impl ConsensusWatch {
    pub(super) fn new(id: PeerId, lease: Duration, metrics: Metrics) -> Self {
        Self { id, patience: lease * UNANSWERED_MAX, metrics }
    }

    /// Waits for a change.
    ///
    /// # Errors
    /// When consensus has stopped; gives the reason.
    pub async fn changed(&mut self) -> Result<(), String> {
        let rest = self.leadership().local.then(|| self.rest()).flatten();
        tokio::select! {
            biased;
            changed = self.metrics.changed() => changed.map_err(|_| "it has ended".to_owned())?,
            () = sleep(rest.unwrap_or_default()), if rest.is_some() => {}
        }
        match &self.metrics.borrow_watched().running_state {
            Ok(()) => Ok(()),
            Err(Fatal::Stopped) => Err("it was stopped".to_owned()),
            // The source names the disk's error; the rest is openraft's wording.
            Err(Fatal::StorageError(error)) => {
                Err(error.source().map_or_else(|| error.to_string(), ToString::to_string))
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// The current leadership.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        leadership_of(&self.metrics.borrow_watched(), self.id, self.patience)
    }

    /// Time until this leader has been unanswered for too long; unlimited for the only voter.
    fn rest(&self) -> Option<Duration> {
        let metrics = self.metrics.borrow_watched();
        let answered = metrics.last_quorum_acked.filter(|_| !is_only_voter(&metrics));
        answered.map(|at| self.patience.saturating_sub(at.into_inner().elapsed()))
    }
}

fn leadership_of(metrics: &RaftMetrics<TypeConfig>, id: PeerId, patience: Duration) -> Leadership {
    let term = metrics.current_term;
    // A leader's first entry is of its own term; once it is applied, so are all earlier ones.
    let caught_up = metrics.last_applied.is_some_and(|applied| *applied.leader_id == term);
    let answered = metrics.last_quorum_acked.is_some_and(|at| at.into_inner().elapsed() < patience);
    let leader = metrics.current_leader;
    let leads = leader == Some(id) && metrics.state.is_leader();
    Leadership { leader, term, local: leads && caught_up && (answered || is_only_voter(metrics)) }
}

fn is_only_voter(metrics: &RaftMetrics<TypeConfig>) -> bool {
    metrics.membership_config.voter_ids().count() == 1
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{collections::BTreeMap, sync::Arc};

    use openraft::{Membership, ServerState, alias::InstantOf};
    use tokio::time::advance;

    use super::{super::raft_types::position_in, *};
    use crate::{
        consensus::raft_types::RaftMembership,
        types::{LogPosition, Member},
    };

    const OWN: PeerId = PeerId([1; 32]);
    const OTHER: PeerId = PeerId([2; 32]);
    const PATIENCE: Duration = Duration::from_secs(4);

    fn ago(time: Duration) -> Option<openraft::metrics::SerdeInstant<InstantOf<TypeConfig>>> {
        Some((InstantOf::<TypeConfig>::now() - time).into())
    }

    /// A leader of the third term in perfect order.
    fn leads(voters: &[PeerId]) -> RaftMetrics<TypeConfig> {
        let mut metrics = RaftMetrics::new_initial(OWN);
        metrics.current_term = 3;
        metrics.state = ServerState::Leader;
        metrics.current_leader = Some(OWN);
        metrics.last_applied = Some(position_in(LogPosition { term: 3, index: 8 }));
        metrics.last_quorum_acked = ago(Duration::ZERO);
        let member = Member { name: String::new(), addresses: Vec::new() };
        let members: BTreeMap<_, _> = voters.iter().map(|peer| (*peer, member.clone())).collect();
        let voters = vec![voters.iter().copied().collect()];
        let membership = Membership::new(voters, members).unwrap();
        metrics.membership_config = Arc::new(RaftMembership::new(None, membership));
        metrics
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_acts_as_one_only_caught_up_and_answered() {
        let applied = |term| Some(position_in(LogPosition { term, index: 8 }));
        advance(PATIENCE * 2).await;
        let nearly = PATIENCE - Duration::from_millis(1);
        type Change = Box<dyn Fn(&mut RaftMetrics<TypeConfig>)>;
        let cases: Vec<(&str, Change, bool, bool)> = vec![
            // Whether it acts as leader among two voters, and as the only voter.
            ("all is right", Box::new(|_| ()), true, true),
            ("it follows", Box::new(|m| m.state = ServerState::Follower), false, false),
            ("another leads", Box::new(|m| m.current_leader = Some(OTHER)), false, false),
            ("nobody leads", Box::new(|m| m.current_leader = None), false, false),
            ("nothing is applied", Box::new(|m| m.last_applied = None), false, false),
            ("not of its term", Box::new(move |m| m.last_applied = applied(2)), false, false),
            ("never answered", Box::new(|m| m.last_quorum_acked = None), false, true),
            ("long ago", Box::new(move |m| m.last_quorum_acked = ago(PATIENCE)), false, true),
            ("not yet long ago", Box::new(move |m| m.last_quorum_acked = ago(nearly)), true, true),
        ];
        for (case, change, among_two, alone) in cases {
            for (voters, acts) in [(&[OWN, OTHER][..], among_two), (&[OWN], alone)] {
                let mut metrics = leads(voters);
                change(&mut metrics);
                let found = leadership_of(&metrics, OWN, PATIENCE);
                let expected = Leadership { leader: metrics.current_leader, term: 3, local: acts };
                assert_eq!(found, expected, "{case}, {} voters", voters.len());
            }
        }
    }
}
