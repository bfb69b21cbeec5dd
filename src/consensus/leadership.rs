//! Who leads, as one peer can know it.
//!
//! Invariant: a leader that no majority has answered for a while does not act as one, since another may
//! have been elected.

use std::time::Duration;

use openraft::{
    RaftMetrics,
    alias::WatchReceiverOf,
    async_runtime::{instant::Instant as _, watch::WatchReceiver},
    errors::Fatal,
};
use tokio::time::sleep;

use super::raft_types::TypeConfig;
use crate::types::PeerId;

/// Of the longest election timeout: a leader that no majority has answered for so many of them acts as
/// one no more, since another may have been elected.
const UNANSWERED_MAX: u32 = 2;

type Metrics = WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>;

/// Who leads, as this peer knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The leader.
    pub leader: Option<PeerId>,
    /// The term.
    pub term: u64,
    /// This peer leads, has applied everything that was acknowledged in earlier terms, and was answered
    /// by a majority lately.
    pub local: bool,
}

/// Follows what consensus knows.
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
    /// When consensus has stopped; says why.
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
            Err(error) => Err(error.to_string()),
        }
    }

    /// Who leads, now.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        leadership_of(&self.metrics.borrow_watched(), self.id, self.patience)
    }

    /// Time until this leader is unanswered for too long; without end for the only voter.
    fn rest(&self) -> Option<Duration> {
        let metrics = self.metrics.borrow_watched();
        let answered = metrics.last_quorum_acked.filter(|_| !is_only_voter(&metrics));
        answered.map(|at| self.patience.saturating_sub(at.into_inner().elapsed()))
    }
}

fn leadership_of(metrics: &RaftMetrics<TypeConfig>, id: PeerId, patience: Duration) -> Leadership {
    let term = metrics.current_term;
    // A leader's first entry is of its own term; once applied, so is everything before it.
    let caught_up = metrics.last_applied.is_some_and(|applied| *applied.leader_id == term);
    let answered = metrics.last_quorum_acked.is_some_and(|at| at.into_inner().elapsed() < patience);
    let leader = metrics.current_leader;
    let leads = leader == Some(id) && metrics.state.is_leader();
    Leadership { leader, term, local: leads && caught_up && (answered || is_only_voter(metrics)) }
}

fn is_only_voter(metrics: &RaftMetrics<TypeConfig>) -> bool {
    metrics.membership_config.voter_ids().count() == 1
}
