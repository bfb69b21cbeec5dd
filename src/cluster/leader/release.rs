//! Releases the copies of leaving peers. The daemons of the other holders are asked first: a report may be
//! minutes old, and with the last copy gone the content would be lost.
//!
//! Invariant: an op `LetGo` names only holders whose daemon has just said that it holds the pin.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Leader;
use crate::{
    allocate::{self, Need, Plan},
    cluster::{Cluster, FatalError, SubmitError},
    ipfs::ASK_LEN_MAX,
    rpc::AskError,
    state::Op,
    types::{Cid, ConfirmNow, PackedCid, PeerId, Pin},
};

/// Bound on the pins that wait for a release. The reconciler names the others again.
const WAITING_MAX: usize = 64 * 1024;

/// The pins with leaving peers that may let go, by what was reported.
#[derive(Debug, Default)]
pub(super) struct Releases {
    waiting: Mutex<BTreeSet<PackedCid>>,
    changed: Notify,
}

impl Releases {
    pub(super) fn add(&self, cids: impl IntoIterator<Item = Cid>) {
        let mut waiting = self.waiting.lock();
        let room = WAITING_MAX.saturating_sub(waiting.len());
        waiting.extend(cids.into_iter().take(room).map(|cid| PackedCid::from(&cid)));
        self.changed.notify_one();
    }

    async fn next(&self) -> Vec<Cid> {
        loop {
            {
                let mut waiting = self.waiting.lock();
                let mut cids = Vec::new();
                while cids.len() < ASK_LEN_MAX
                    && let Some(cid) = waiting.pop_first()
                {
                    cids.push(cid.cid());
                }
                if !cids.is_empty() {
                    return cids;
                }
            }
            self.changed.notified().await;
        }
    }
}

impl Cluster {
    pub(super) async fn release_copies(
        self,
        leader: Arc<Leader>,
        term: u64,
    ) -> Result<(), FatalError> {
        loop {
            let cids = leader.releases.next().await;
            if let Err(error) = self.release_these(&leader, term, &cids).await {
                tracing::debug!(%error, "copies were not released");
            }
        }
    }

    async fn release_these(
        &self,
        leader: &Leader,
        term: u64,
        cids: &[Cid],
    ) -> Result<(), SubmitError> {
        let mut questions: BTreeMap<PeerId, Vec<Cid>> = BTreeMap::new();
        for (cid, plan) in self.release_plans(leader, cids, |_, _| true) {
            for holder in plan.confirmed {
                questions.entry(holder.peer).or_default().push(cid);
            }
        }
        let ask = |(peer, cids)| async move { (peer, self.still_held(peer, cids).await) };
        let answers = join_all(questions.into_iter().map(ask)).await;
        let held: BTreeMap<PeerId, BTreeSet<Cid>> = answers.into_iter().collect();
        let holds = |peer: &PeerId, cid: &Cid| held.get(peer).is_some_and(|of| of.contains(cid));
        let plans = self.release_plans(leader, cids, holds);
        let ops: Vec<Op> = plans.into_iter().flat_map(|(cid, plan)| ops_of(cid, plan)).collect();
        if ops.is_empty() { Ok(()) } else { self.submit(term, ops).await.map(drop) }
    }

    /// The plans for these pins, if only peers that `hold` one are confirmed.
    fn release_plans(
        &self,
        leader: &Leader,
        cids: &[Cid],
        hold: impl Fn(&PeerId, &Cid) -> bool,
    ) -> Vec<(Cid, Plan)> {
        let (senses, fleet) = (self.senses(leader), self.fleet());
        let plan_of = |cid: &Cid| {
            let pin: Pin = self.state().read(|pins| pins.get(cid).cloned())?;
            let mut sight = senses.of(cid, &pin);
            sight.confirmed.retain(|peer| hold(peer, cid));
            Some((*cid, allocate::plan(&Need::of(cid, &pin), &fleet, &sight)))
        };
        cids.iter().filter_map(plan_of).collect()
    }

    /// Those of the CIDs that a member's daemon holds now; none if it does not answer.
    async fn still_held(&self, peer: PeerId, cids: Vec<Cid>) -> BTreeSet<Cid> {
        let answer = if peer == self.id() {
            self.confirm_here(peer, cids).await.map_err(AskError::from)
        } else {
            self.ask_peer(peer, ConfirmNow { cids }).await
        };
        match answer {
            Ok(held) => held.into_iter().collect(),
            Err(error) => {
                tracing::debug!(%error, %peer, "a member did not say what it still holds");
                BTreeSet::new()
            }
        }
    }
}

/// The ops that release copies.
fn ops_of(cid: Cid, plan: Plan) -> impl Iterator<Item = Op> {
    let Plan { let_go, confirmed, .. } = plan;
    let_go.into_iter().map(move |peer| Op::LetGo { cid, peer, confirmed: confirmed.clone() })
}
