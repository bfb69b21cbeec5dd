//! The read barrier: after it, this peer's state includes every write that was acknowledged before.

use std::time::Duration;

use crate::{
    consensus::{Consensus, ProposeError},
    rpc::{CallError, SharedTransport},
    types::{Envelope, Request, Response},
};

/// Time the leader has to answer.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// Time the answered position has to be applied here.
const APPLY_DEADLINE: Duration = Duration::from_secs(30);

/// Passes read barriers for one peer.
#[derive(Clone)]
pub struct ReadBarrier {
    /// Agreement.
    pub consensus: Consensus,
    /// The way to the leader.
    pub transport: SharedTransport,
}

impl std::fmt::Debug for ReadBarrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadBarrier").finish_non_exhaustive()
    }
}

/// Why a barrier was not passed; nothing that depends on it may be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BarrierError {
    /// No leader is known.
    #[error("no leader is known")]
    NoLeader,
    /// The leader did not answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The leader did not confirm its leadership, or the position was not applied in time.
    #[error(transparent)]
    Consensus(#[from] ProposeError),
    /// The leader refused.
    #[error("the leader refused: {0}")]
    Refused(String),
}

impl ReadBarrier {
    /// Asks the current leader for its position, confirmed with a majority, and waits until it is
    /// applied here.
    ///
    /// # Errors
    /// See [`BarrierError`].
    pub async fn pass(&self) -> Result<(), BarrierError> {
        let leader = self.consensus.leadership().leader.ok_or(BarrierError::NoLeader)?;
        let index = if leader == self.consensus.id() {
            self.consensus.read_index().await?
        } else {
            let envelope =
                Envelope { cluster: self.consensus.cluster(), request: Request::ReadIndex };
            match self.transport.call(leader, envelope, CALL_DEADLINE).await? {
                Response::Position(index) => index,
                other => return Err(BarrierError::Refused(format!("{other:?}"))),
            }
        };
        Ok(self.consensus.wait_applied(index, APPLY_DEADLINE).await?)
    }
}
