//! Serves the requests of other peers.
//!
//! Who may ask what is decided here, from [`crate::types::Request::policy`], before anything is done.

use std::sync::Arc;

use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{Cluster, FatalError};
use crate::{
    consensus::ProposeError,
    rpc::Inbound,
    types::{CallerPolicy, Envelope, Metrics, PeerId, Refusal, Request, Response},
};

/// Requests served at once; more wait in the transport's queue.
const IN_WORK_MAX: usize = 1024;
/// Pins in one page.
pub(super) const PAGE_LEN: usize = 1000;
/// Pins and their claims in one page: so many are copied while the state is held.
pub(super) const PAGE_RECORDS_MAX: usize = 3000;
/// Bytes of a page: with long names, or with errors of many peers, fewer pins stay in a frame.
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
                // The caller may have given up; then nobody waits for the answer.
                let _ = reply.send(cluster.answer(from, envelope).await);
                drop(slot);
            });
        }
        in_work.shutdown().await;
        Ok(())
    }

    fn check_caller(&self, from: PeerId, envelope: &Envelope) -> Result<(), Refusal> {
        let own = self.consensus().cluster();
        let same_cluster = own.is_some() && own == envelope.cluster;
        match envelope.request.policy() {
            CallerPolicy::Anybody => Ok(()),
            _ if !same_cluster => Err(Refusal::OtherCluster(own.map(|(id, _)| id))),
            CallerPolicy::SameCluster => Ok(()),
            CallerPolicy::Members if self.members().contains_key(&from) => Ok(()),
            CallerPolicy::Members => Err(Refusal::NotMember),
        }
    }

    async fn answer(&self, from: PeerId, envelope: Envelope) -> Response {
        if let Err(refusal) = self.check_caller(from, &envelope) {
            return Response::Refused(refusal);
        }
        match envelope.request {
            Request::Hello(hello) => self.answer_hello(from, hello).await,
            Request::Raft(message) => self.consensus().serve(message).await,
            Request::Snapshot(chunk) => self.consensus().serve_snapshot(chunk).await,
            Request::CollectHere(run) => {
                self.collect_here(from, run).await.unwrap_or_else(Response::Refused)
            }
            request => match self.answer_as_leader(from, request).await {
                Ok(response) => response,
                Err(refusal) => Response::Refused(refusal),
            },
        }
    }

    /// Requests that only the leader can answer.
    pub(super) async fn answer_as_leader(
        &self,
        from: PeerId,
        request: Request,
    ) -> Result<Response, Refusal> {
        let leadership = *self.0.leadership.borrow();
        if !leadership.local {
            return Err(Refusal::NotLeader(leadership.leader.filter(|id| *id != self.id())));
        }
        match request {
            Request::Statuses(batch) => Ok(Response::Statuses(self.0.board.take(from, batch))),
            Request::Metrics(metrics) => self.take_metrics(from, metrics),
            Request::Writes(writes) => self.write_here(writes).await.map(Response::Written),
            Request::ReadIndex => {
                self.consensus().read_index().await.map(Response::Position).map_err(refusal)
            }
            Request::PinView(cid) => {
                self.catch_up().await?;
                let pin = self.state().read(|pins| pins.get(&cid).cloned());
                Ok(Response::PinView(pin.map(|pin| self.view(&self.silent(), &cid, pin))))
            }
            Request::PinViews(after) => {
                self.catch_up().await?;
                Ok(Response::PinViews(self.page(after)))
            }
            Request::CollectGarbage(run, only) => self.collect_as_leader(run, only).await,
            Request::Hello(_)
            | Request::Raft(_)
            | Request::Snapshot(_)
            | Request::CollectHere(_) => {
                Err(Refusal::Invalid("not a question to the leader".to_owned()))
            }
        }
    }

    fn take_metrics(&self, from: PeerId, metrics: Metrics) -> Result<Response, Refusal> {
        self.learn_addresses([(from, metrics.addresses.clone())].into());
        self.0.monitor.take(from, metrics).map_err(|taken| Refusal::DaemonTaken(taken.0))?;
        let daemons = self
            .peer_metrics()
            .into_iter()
            .filter(|(peer, _)| *peer != from)
            .filter_map(|(_, metrics)| metrics.daemon)
            .collect();
        let mut addresses = self.0.parts.addresses.all();
        addresses.insert(self.id(), self.member().addresses.clone());
        Ok(Response::Known(daemons, addresses))
    }
}

/// What a peer is told when consensus could not do it.
pub(super) fn refusal(error: ProposeError) -> Refusal {
    match error {
        ProposeError::NotLeader(leader) => Refusal::NotLeader(leader),
        other => Refusal::Failed(other.to_string()),
    }
}
