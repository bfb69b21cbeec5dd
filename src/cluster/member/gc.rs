//! Garbage collection of this peer's daemon on request of the leader.

use crate::{
    cluster::{Cluster, FatalError},
    types::{GcProgress, GcResult, PeerId, Refusal, Run},
};

impl Cluster {
    /// Begins a run on this peer's daemon for the leader, or answers with its progress.
    pub(in crate::cluster) async fn run_gc_here(
        &self,
        from: PeerId,
        run: Run,
    ) -> Result<GcProgress<GcResult>, Refusal> {
        check_from_leader(from, self.0.leadership.borrow().leader)?;
        let own = &self.0.own_gc;
        own.ask(run, ())?;
        Ok(own.outcome(run.ticket).await.map_or(GcProgress::Running, GcProgress::Ended))
    }

    /// Does each run that was requested.
    pub(in crate::cluster) async fn run_own_gc(self) -> Result<(), FatalError> {
        let own = &self.0.own_gc;
        loop {
            own.next().await;
            own.end(self.0.parts.tracker.run_gc().await);
        }
    }
}

/// A peer obeys only the leader that it knows.
pub(super) fn check_from_leader(from: PeerId, leader: Option<PeerId>) -> Result<(), Refusal> {
    if leader == Some(from) { Ok(()) } else { Err(Refusal::NotLeader(leader)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_obeys_only_the_leader_that_it_knows() {
        let peer = |n| PeerId([n; 32]);
        assert_eq!(check_from_leader(peer(1), Some(peer(1))), Ok(()));
        for leader in [None, Some(peer(2))] {
            assert_eq!(check_from_leader(peer(1), leader), Err(Refusal::NotLeader(leader)));
        }
    }
}
