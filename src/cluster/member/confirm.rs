//! Asks this peer's daemon for the leader whether it still holds pins. The leader does so before a copy
//! elsewhere is released: what a peer reported may be minutes old.

use tokio::time::timeout;

use super::gc::check_from_leader;
use crate::{
    cluster::{CALL_DEADLINE, Cluster},
    ipfs::{ASK_LEN_MAX, Held},
    types::{Cid, PeerId, PinState, Refusal},
};

impl Cluster {
    /// Those of the CIDs that this peer tracks as pinned, and that its daemon holds now. The tracker
    /// looks after the others at once.
    pub(in crate::cluster) async fn confirm_here(
        &self,
        from: PeerId,
        cids: Vec<Cid>,
    ) -> Result<Vec<Cid>, Refusal> {
        check_from_leader(from, self.0.leadership.borrow().leader)?;
        if cids.len() > ASK_LEN_MAX {
            return Err(Refusal::Invalid(format!("more than {ASK_LEN_MAX} CIDs in one question")));
        }
        let cids: Vec<Cid> = cids.into_iter().filter(|cid| self.has_pinned(cid)).collect();
        if cids.is_empty() {
            return Ok(cids);
        }
        let asked = timeout(CALL_DEADLINE, self.0.parts.ipfs.pinned(cids.clone())).await;
        let why = match asked {
            Ok(Ok(answers)) => return Ok(self.take_answers(cids, answers)),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the daemon did not answer in time".to_owned(),
        };
        // The daemon may have said that it lacks them, and the answer was lost.
        self.0.parts.tracker.are_missing(cids);
        Err(Refusal::Failed(why))
    }

    /// The CIDs that the daemon holds, by its answers. The tracker asks about the others again.
    fn take_answers(&self, cids: Vec<Cid>, answers: Vec<Held>) -> Vec<Cid> {
        let answered = cids.into_iter().zip(answers);
        let (held, missing): (Vec<_>, Vec<_>) =
            answered.partition(|(_, answer)| *answer == Held::Recursive);
        if !missing.is_empty() {
            tracing::warn!(count = missing.len(), "the daemon has lost pins");
            self.0.parts.tracker.are_missing(missing.into_iter().map(|(cid, _)| cid).collect());
        }
        // An unpin may have begun meanwhile.
        held.into_iter().map(|(cid, _)| cid).filter(|cid| self.has_pinned(cid)).collect()
    }

    fn has_pinned(&self, cid: &Cid) -> bool {
        let status = self.0.parts.tracker.status(cid);
        status.is_some_and(|status| status.state == PinState::Pinned)
    }
}
