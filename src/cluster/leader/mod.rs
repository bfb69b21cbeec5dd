//! The tasks of the leader, and what peers reported to it.
//!
//! [`Leader`] is made when a term begins and dropped when the next one begins, so it holds nothing of an
//! earlier term. Every peer has one, since any peer may become the leader; only the leader fills it.
//!
//! Nothing here is on disk. Everything that must survive a change of the leader is in the log.

mod absences;
mod gc;
mod levels;
mod members;
mod membership;
mod placement;
mod reconciler;
mod release;
mod relocation;
mod reports;
mod sight;

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::{
    task::{JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub(super) use self::members::LAG_MAX;
pub use self::{absences::MovePolicy, gc::GcPolicy, reports::Reports};
use self::{levels::Levels, placement::Proposed, release::Releases};
use super::{Cluster, FatalError, runs::Runs, until};
use crate::{
    monitor::Monitor,
    types::{GcResults, PeerId},
};

/// What peers reported to the leader in one term.
#[derive(Debug)]
pub(super) struct Leader {
    /// When the term began here.
    since: Instant,
    /// The reports of pins.
    pub(super) reports: Arc<Reports>,
    /// The peer metrics.
    pub(super) metrics: Monitor,
    /// The levels of the peers' programs.
    pub(super) levels: Levels,
    /// Held while it is decided whether a member may leave.
    departures: tokio::sync::Mutex<()>,
    /// Recently proposed allocations.
    proposed: Mutex<Proposed>,
    /// The pins with leaving peers that may let go.
    releases: Releases,
    /// Rounds of garbage collection, over all members or only the given one.
    gc_rounds: Runs<Option<PeerId>, GcResults>,
}

impl Default for Leader {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            reports: Arc::default(),
            metrics: Monitor::default(),
            levels: Levels::default(),
            departures: tokio::sync::Mutex::default(),
            proposed: Mutex::default(),
            releases: Releases::default(),
            gc_rounds: Runs::default(),
        }
    }
}

impl Cluster {
    /// The reports to this peer in the present term; empty unless it leads.
    pub(super) fn leader(&self) -> Arc<Leader> {
        self.0.leader.borrow().clone()
    }

    /// Runs the leader's tasks, one set for each term in which this peer leads.
    pub(super) async fn lead(self, token: CancellationToken) -> Result<(), FatalError> {
        let mut leadership = self.leadership();
        loop {
            let now = *leadership.borrow_and_update();
            if now.local {
                self.lead_in(now.term, token.child_token()).await?;
            }
            let changed = token.run_until_cancelled(leadership.changed()).await;
            if !matches!(changed, Some(Ok(()))) {
                return Ok(());
            }
        }
    }

    /// Runs the tasks of one term until the term ends.
    async fn lead_in(&self, term: u64, token: CancellationToken) -> Result<(), FatalError> {
        let leader = self.leader();
        let mut tasks = JoinSet::new();
        tasks.spawn(until(token.clone(), self.clone().reconcile(leader.clone())));
        tasks.spawn(until(token.clone(), self.clone().keep_members(leader.clone(), term)));
        tasks.spawn(until(token.clone(), self.clone().count_absences(leader.clone(), term)));
        tasks.spawn(until(token.clone(), self.clone().relocate(leader.clone(), term)));
        tasks.spawn(until(token.clone(), self.clone().release_copies(leader.clone(), term)));
        tasks.spawn(until(token.clone(), self.clone().lead_gc(leader.clone())));
        tasks.spawn(until(token.clone(), self.clone().raise_level(leader, term)));
        let mut leadership = self.leadership();
        let ended = tokio::select! {
            biased;
            () = token.cancelled() => Ok(()),
            // An error means that the peer is stopping.
            _ = leadership.wait_for(|now| now.term != term) => Ok(()),
            // No task may end by itself.
            Some(ended) = tasks.join_next() => match of_task(ended) {
                Ok(()) => Err(FatalError::Stopped("a task of the leader has ended".to_owned())),
                error => error,
            },
        };
        token.cancel();
        let mut first = ended;
        while let Some(ended) = tasks.join_next().await {
            first = first.and_then(|()| of_task(ended));
        }
        first
    }
}

/// The result of a task; a panic is an error.
fn of_task(ended: Result<Result<(), FatalError>, JoinError>) -> Result<(), FatalError> {
    ended.unwrap_or_else(|error| Err(FatalError::Stopped(format!("a task of the leader: {error}"))))
}
