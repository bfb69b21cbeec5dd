//! Asks this peer's daemon for the leader whether it still holds pins. The leader does so before a copy
//! elsewhere is released: what a peer reported may be minutes old.

use super::gc::check_from_leader;
use crate::{
    cluster::Cluster,
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
        let tracker = &self.0.parts.tracker;
        let is_pinned =
            |cid: &Cid| tracker.status(cid).is_some_and(|status| status.state == PinState::Pinned);
        let cids: Vec<Cid> = cids.into_iter().filter(is_pinned).collect();
        if cids.is_empty() {
            return Ok(cids);
        }
        let answers = self.0.parts.ipfs.pinned(cids.clone()).await;
        let answers = answers.map_err(|error| Refusal::Failed(error.to_string()))?;
        let answered = cids.into_iter().zip(answers);
        let (held, missing): (Vec<_>, Vec<_>) =
            answered.partition(|(_, answer)| *answer == Held::Recursive);
        if !missing.is_empty() {
            tracing::warn!(count = missing.len(), "the daemon has lost pins");
            tracker.are_missing(missing.into_iter().map(|(cid, _)| cid).collect());
        }
        // An unpin may have begun meanwhile.
        Ok(held.into_iter().map(|(cid, _)| cid).filter(is_pinned).collect())
    }
}
