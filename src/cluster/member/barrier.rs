//! The read barrier: after it, this peer's state includes every write that was acknowledged before it.

use std::time::Duration;

use crate::{
    cluster::{Cluster, serve::refusal},
    consensus::{Consensus, ProposeError},
    rpc::{self, AskError, SharedTransport},
    types::{PeerId, ReadIndex, Refusal},
};

/// The leader must answer within this time.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// This peer must apply the leader's position within this time.
const APPLY_DEADLINE: Duration = Duration::from_secs(30);

/// Passes read barriers for one peer.
#[derive(Clone)]
pub struct ReadBarrier {
    /// This peer's consensus.
    pub consensus: Consensus,
    /// Reaches the leader.
    pub transport: SharedTransport,
}

impl std::fmt::Debug for ReadBarrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadBarrier").finish_non_exhaustive()
    }
}

/// Why a barrier was not passed. The caller must not do what depends on it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BarrierError {
    /// No leader is known.
    #[error("no leader is known")]
    NoLeader,
    /// The leader did not answer, or refused.
    #[error("the leader does not confirm its position: {0}")]
    Leader(#[from] AskError),
    /// The leader did not confirm its leadership, or the position was not applied in time.
    #[error(transparent)]
    Consensus(#[from] ProposeError),
}

impl ReadBarrier {
    /// Asks the current leader for its position, which it confirms with a majority, and waits until
    /// this peer has applied the log up to it.
    ///
    /// # Errors
    /// See [`BarrierError`].
    pub async fn pass(&self) -> Result<(), BarrierError> {
        let leader = self.consensus.leadership().leader;
        let position = async |of| match of {
            PositionOf::Own => Ok(self.consensus.read_index().await?),
            PositionOf::Leader(leader) => {
                let (transport, cluster) = (&*self.transport, self.consensus.cluster());
                Ok(rpc::ask(transport, leader, cluster, ReadIndex, CALL_DEADLINE).await?)
            }
        };
        let applied = async |index| self.consensus.wait_applied(index, APPLY_DEADLINE).await;
        pass(self.consensus.id(), leader, position, applied).await
    }
}

impl Cluster {
    /// The barrier of the leader's own answers.
    ///
    /// # Errors
    /// When this peer does not lead, or does not apply the position in time.
    pub(in crate::cluster) async fn pass_barrier(&self) -> Result<(), Refusal> {
        let index = self.consensus().read_index().await.map_err(refusal)?;
        self.consensus().wait_applied(index, CALL_DEADLINE).await.map_err(refusal)
    }
}

/// Which peer's position is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PositionOf {
    /// This peer's own, since it seems to lead. A majority has to confirm it.
    Own,
    /// The leader's, which it confirms with a majority before it answers.
    Leader(PeerId),
}

/// The steps of a barrier: find the leader, get its position, and wait until it is applied.
async fn pass(
    own: PeerId,
    leader: Option<PeerId>,
    position: impl AsyncFnOnce(PositionOf) -> Result<Option<u64>, BarrierError>,
    applied: impl AsyncFnOnce(Option<u64>) -> Result<(), ProposeError>,
) -> Result<(), BarrierError> {
    let leader = leader.ok_or(BarrierError::NoLeader)?;
    let of = if leader == own { PositionOf::Own } else { PositionOf::Leader(leader) };
    Ok(applied(position(of).await?).await?)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const OWN: PeerId = PeerId([1; 32]);
    const OTHER: PeerId = PeerId([2; 32]);

    #[tokio::test]
    async fn a_barrier_is_passed_when_the_confirmed_position_is_applied() {
        let late = ProposeError::Late("the disk hangs".to_owned());
        let (lost, refused) =
            (ProposeError::NotLeader(None), BarrierError::from(AskError::from(Refusal::Busy)));
        let (own, leader) = (Some(PositionOf::Own), Some(PositionOf::Leader(OTHER)));
        // The leader, its position, the end of the wait; then the peer asked, the position waited for,
        // and the result.
        let table = [
            (None, Ok(Some(9)), Ok(()), None, None, Err(BarrierError::NoLeader)),
            (Some(OWN), Ok(Some(9)), Ok(()), own, Some(Some(9)), Ok(())),
            (Some(OWN), Err(lost.clone().into()), Ok(()), own, None, Err(lost.into())),
            (Some(OTHER), Ok(Some(9)), Ok(()), leader, Some(Some(9)), Ok(())),
            (Some(OTHER), Ok(None), Ok(()), leader, Some(None), Ok(())),
            (Some(OTHER), Err(refused.clone()), Ok(()), leader, None, Err(refused)),
            (Some(OTHER), Ok(Some(9)), Err(late.clone()), leader, Some(Some(9)), Err(late.into())),
        ];
        for (leader, position, end, asked, waited_for, expected) in table {
            let (was_asked, was_waited_for) = (RefCell::default(), RefCell::default());
            let passed = pass(
                OWN,
                leader,
                async |of| {
                    *was_asked.borrow_mut() = Some(of);
                    position
                },
                async |index| {
                    *was_waited_for.borrow_mut() = Some(index);
                    end
                },
            )
            .await;
            assert_eq!(passed, expected);
            assert_eq!((was_asked.into_inner(), was_waited_for.into_inner()), (asked, waited_for));
        }
    }
}
