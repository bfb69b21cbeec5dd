//! Serves the requests of other peers.
//!
//! Before anything else, it checks that the caller may send the request, by
//! [`crate::types::Request::policy`].

use std::sync::Arc;

use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{Cluster, FatalError, Leadership};
use crate::{
    consensus::ProposeError,
    rpc::Inbound,
    types::{
        CallerPolicy, ClusterId, ConfirmNow, Envelope, LeaderRequest, Metrics, MetricsReply,
        OnePin, PeerId, PinsAfter, ReadIndex, Refusal, Request, Response, RunGc, RunGcHere, Writes,
    },
};

/// Bound on requests served at once. More of them wait in the transport's queue.
const IN_WORK_MAX: usize = 1024;
/// Bound on the pins in one page.
pub(super) const PAGE_LEN: usize = 1000;
/// Bound on the pins and claims in one page, since they are copied while the state is locked.
pub(super) const PAGE_RECORDS_MAX: usize = 3000;
/// Bound on the bytes of a page, so that it fits into a frame even with long names or many errors.
pub(super) const PAGE_BYTES_MAX: usize = 2 * 1024 * 1024;

impl Cluster {
    pub(super) async fn serve_all(
        self,
        mut inbound: mpsc::Receiver<Inbound>,
        token: CancellationToken,
    ) -> Result<(), FatalError> {
        let slots = Arc::new(Semaphore::new(IN_WORK_MAX));
        let mut in_work = JoinSet::new();
        loop {
            let request = tokio::select! {
                biased;
                () = token.cancelled() => break,
                request = inbound.recv() => request,
            };
            let Some(Inbound { from, envelope, reply }) = request else { break };
            while in_work.try_join_next().is_some() {}
            let slot = token.run_until_cancelled(slots.clone().acquire_owned()).await;
            let Some(Ok(slot)) = slot else { break };
            let cluster = self.clone();
            in_work.spawn(async move {
                // Sending fails only if the caller has given up.
                let _ = reply.send(cluster.answer(from, envelope).await);
                drop(slot);
            });
        }
        in_work.shutdown().await;
        Ok(())
    }

    fn check_caller(&self, from: PeerId, envelope: &Envelope) -> Result<(), Refusal> {
        let own = self.consensus().cluster();
        let is_member = || self.members().contains_key(&from);
        let policy = envelope.request.policy();
        let checked =
            check_caller(policy, own, envelope.cluster, is_member, || self.is_known(&from));
        if policy == CallerPolicy::Known && checked == Err(Refusal::NotMember) {
            self.ask_about_unknown();
        }
        checked
    }

    async fn answer(&self, from: PeerId, envelope: Envelope) -> Response {
        self.try_answer(from, envelope).await.unwrap_or_else(Response::Refused)
    }

    async fn try_answer(&self, from: PeerId, envelope: Envelope) -> Result<Response, Refusal> {
        self.check_caller(from, &envelope)?;
        match envelope.request {
            Request::Hello(hello) => {
                let of = envelope.cluster.map(|(cluster, _)| cluster);
                self.answer_hello(from, of, hello).await.map(Response::Hello)
            }
            Request::Raft(message) => {
                self.consensus().serve(from, message).await.map(Response::Raft)
            }
            Request::Snapshot(chunk) => {
                self.consensus().serve_snapshot(from, chunk).await.map(Response::Snapshot)
            }
            Request::RunGcHere(RunGcHere { run }) => {
                self.run_gc_here(from, run).await.map(Response::GcHere)
            }
            Request::ConfirmNow(ConfirmNow { cids }) => {
                self.confirm_here(from, cids).await.map(Response::Held)
            }
            Request::Leader(request) => self.answer_as_leader(from, request).await,
        }
    }

    /// Answers a request to the leader.
    pub(super) async fn answer_as_leader(
        &self,
        from: PeerId,
        request: LeaderRequest,
    ) -> Result<Response, Refusal> {
        check_leads(self.id(), *self.0.leadership.borrow())?;
        match request {
            LeaderRequest::Statuses(batch) => {
                Ok(Response::Statuses(self.leader().reports.take(from, batch)))
            }
            LeaderRequest::Metrics(metrics) => {
                self.take_metrics(from, metrics).map(Response::Metrics)
            }
            LeaderRequest::Writes(Writes(writes)) => {
                self.write_here(writes).await.map(Response::Written)
            }
            LeaderRequest::ReadIndex(ReadIndex) => {
                self.consensus().read_index().await.map(Response::Position).map_err(refusal)
            }
            LeaderRequest::OnePin(OnePin { cid }) => {
                self.pass_barrier().await?;
                Ok(Response::Pins(self.entry(cid).into_iter().collect()))
            }
            LeaderRequest::PinsAfter(PinsAfter { after }) => {
                self.pass_barrier().await?;
                Ok(Response::Pins(self.page(after)))
            }
            LeaderRequest::RunGc(RunGc { run, only }) => {
                self.run_gc_as_leader(run, only).await.map(Response::Gc)
            }
            LeaderRequest::Depart(depart) => {
                self.depart_as_leader(depart).await.map(Response::Copies)
            }
        }
    }

    fn take_metrics(&self, from: PeerId, metrics: Metrics) -> Result<MetricsReply, Refusal> {
        metrics.check().map_err(|error| Refusal::Invalid(error.to_string()))?;
        self.check_program(metrics.level)?;
        let leader = self.leader();
        leader.levels.note(from, metrics.level);
        self.learn_addresses([(from, metrics.addresses.clone())].into());
        leader.metrics.take(from, metrics).map_err(|taken| Refusal::DaemonTaken(taken.0))?;
        let daemons = self
            .peer_metrics()
            .into_iter()
            .filter(|(peer, _)| *peer != from)
            .filter_map(|(peer, metrics)| Some((peer, metrics.daemon?)))
            .collect();
        let mut addresses = self.0.parts.addresses.all();
        addresses.insert(self.id(), self.member().addresses.clone());
        Ok(MetricsReply { daemons, addresses })
    }
}

/// Checks that a caller with this cluster and epoch may send a request with this policy.
fn check_caller(
    policy: CallerPolicy,
    own: Option<(ClusterId, u64)>,
    of_caller: Option<(ClusterId, u64)>,
    is_member: impl FnOnce() -> bool,
    is_known: impl FnOnce() -> bool,
) -> Result<(), Refusal> {
    let same_cluster = own.is_some() && own == of_caller;
    match policy {
        CallerPolicy::Anybody => Ok(()),
        _ if !same_cluster => Err(Refusal::OtherCluster(own.map(|(id, _)| id))),
        CallerPolicy::Known if is_known() => Ok(()),
        CallerPolicy::Members if is_member() => Ok(()),
        CallerPolicy::Known | CallerPolicy::Members => Err(Refusal::NotMember),
    }
}

/// Checks that this peer acts as the leader; else the refusal names the leader.
fn check_leads(own: PeerId, leadership: Leadership) -> Result<(), Refusal> {
    match leadership.local {
        true => Ok(()),
        false => Err(Refusal::NotLeader(leadership.leader.filter(|id| *id != own))),
    }
}

/// The refusal for an error of consensus.
pub(super) fn refusal(error: ProposeError) -> Refusal {
    match error {
        ProposeError::NotLeader(leader) => Refusal::NotLeader(leader),
        ProposeError::TooLong(_) => Refusal::Invalid(error.to_string()),
        ProposeError::TooEarly { .. } => Refusal::NotYet(error.to_string()),
        other => Refusal::Failed(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_of_another_cluster_or_epoch_may_only_say_hello() {
        let (one, other) = (ClusterId([1; 16]), ClusterId([2; 16]));
        let (own, older) = (Some((one, 2)), Some((one, 1)));
        let foreign = || Err(Refusal::OtherCluster(Some(one)));
        let blank = || Err(Refusal::OtherCluster(None));
        // The receiver's cluster and epoch, the caller's, whether the caller is a member by the log and
        // whether it is known; the answer under the policy Known, and under the policy Members.
        let table = [
            (own, own, (true, true), Ok(()), Ok(())),
            (own, own, (false, true), Ok(()), Err(Refusal::NotMember)),
            (own, own, (false, false), Err(Refusal::NotMember), Err(Refusal::NotMember)),
            (own, older, (true, true), foreign(), foreign()),
            (own, Some((one, 3)), (true, true), foreign(), foreign()),
            (own, Some((other, 2)), (true, true), foreign(), foreign()),
            (own, None, (true, true), foreign(), foreign()),
            (None, own, (true, true), blank(), blank()),
            (None, None, (true, true), blank(), blank()),
        ];
        for (own, of_caller, (is_member, is_known), of_known, of_members) in table {
            let check = |policy| check_caller(policy, own, of_caller, || is_member, || is_known);
            let given = format!("{own:?}, caller {of_caller:?}, member {is_member} {is_known}");
            assert_eq!(check(CallerPolicy::Anybody), Ok(()), "{given}");
            assert_eq!(check(CallerPolicy::Known), of_known, "{given}");
            assert_eq!(check(CallerPolicy::Members), of_members, "{given}");
        }
    }

    #[test]
    fn only_a_leader_with_a_majority_answers_as_one() {
        let (own, other) = (PeerId([1; 32]), PeerId([2; 32]));
        let table = [
            (Some(own), true, Ok(())),
            (Some(own), false, Err(Refusal::NotLeader(None))),
            (Some(other), false, Err(Refusal::NotLeader(Some(other)))),
            (None, false, Err(Refusal::NotLeader(None))),
        ];
        for (leader, local, expected) in table {
            let leadership = Leadership { leader, term: 3, local };
            assert_eq!(check_leads(own, leadership), expected, "{leadership:?}");
        }
    }

    #[test]
    fn a_refusal_shows_whether_a_write_may_have_taken_effect() {
        let text = || "why".to_owned();
        let leader = Some(PeerId([2; 32]));
        assert_eq!(refusal(ProposeError::NotLeader(leader)), Refusal::NotLeader(leader));
        let too_early = ProposeError::TooEarly { op: 2, cluster: 1 };
        for certain in [ProposeError::TooLong(9), too_early] {
            assert!(!refusal(certain.clone()).is_uncertain(), "{certain:?}");
        }
        let uncertain = [
            ProposeError::Unknown,
            ProposeError::Late(text()),
            ProposeError::Stopped(text()),
            ProposeError::Membership(text()),
        ];
        for error in uncertain {
            assert!(refusal(error.clone()).is_uncertain(), "{error:?}");
        }
    }
}
