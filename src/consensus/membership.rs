//! The members of the cluster in Raft's terms: who they are, who votes, and changes of that.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use openraft::{
    ChangeMembers,
    async_runtime::{instant::Instant as _, watch::WatchReceiver},
};

use super::{Consensus, MemberView, ProposeError, errors::write_error};
use crate::types::{Member, PeerId};

impl Consensus {
    /// All members according to this peer's log.
    #[must_use]
    pub fn members(&self) -> BTreeMap<PeerId, MemberView> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let voters: BTreeSet<PeerId> = metrics.membership_config.voter_ids().collect();
        metrics
            .membership_config
            .nodes()
            .map(|(id, member)| {
                (*id, MemberView { member: member.clone(), voter: voters.contains(id) })
            })
            .collect()
    }

    /// The voters of an unfinished change, as they were proposed last. Until it is finished, two sets of
    /// voters must agree to everything.
    #[must_use]
    pub fn joint(&self) -> Option<BTreeSet<PeerId>> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        match metrics.membership_config.membership().get_joint_config().as_slice() {
            [_, .., last] => Some(last.clone()),
            _ => None,
        }
    }

    /// Whether an applied entry makes this peer a member. An entry that is only in its log may still be
    /// replaced.
    #[must_use]
    pub fn is_member(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = &metrics.membership_config;
        let applied = membership.log_id().is_some_and(|at| metrics.last_applied >= Some(at));
        applied && membership.nodes().any(|(id, _)| *id == self.id)
    }

    /// On the leader: entries that a member lacks; absent if it was never reached.
    #[must_use]
    pub fn lag(&self, peer: PeerId) -> Option<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.as_ref()?.get(&peer)?.as_ref()?.index;
        Some(metrics.last_log_index.unwrap_or_default().saturating_sub(matched))
    }

    /// On the leader: the time since each other member answered it, if it did in this term.
    #[must_use]
    pub fn answered(&self) -> BTreeMap<PeerId, Duration> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let answered = metrics.heartbeat.iter().flatten();
        answered.filter_map(|(peer, at)| Some((*peer, (*at)?.into_inner().elapsed()))).collect()
    }

    /// On the leader: adds a peer as a learner, or updates its name and addresses.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn add_learner(&self, id: PeerId, member: Member) -> Result<(), ProposeError> {
        let known = self.members().contains_key(&id);
        let nodes = BTreeMap::from([(id, member)]);
        let change =
            if known { ChangeMembers::SetNodes(nodes) } else { ChangeMembers::AddNodes(nodes) };
        self.change_membership(change).await
    }

    /// On the leader: makes exactly these members voters; the others become learners.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn set_voters(&self, voters: BTreeSet<PeerId>) -> Result<(), ProposeError> {
        self.change_membership(ChangeMembers::ReplaceAllVoters(voters)).await
    }

    /// On the leader: takes a member that does not vote out of the membership.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn remove_member(&self, peer: PeerId) -> Result<(), ProposeError> {
        self.change_membership(ChangeMembers::RemoveNodes(BTreeSet::from([peer]))).await
    }

    async fn change_membership(
        &self,
        change: ChangeMembers<PeerId, Member>,
    ) -> Result<(), ProposeError> {
        match self.raft.change_membership(change, true).await {
            Ok(_) => Ok(()),
            Err(error) => Err(write_error(error, true)),
        }
    }
}
