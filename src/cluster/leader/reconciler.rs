//! The reconciler keeps each pin on the wanted number of holders.
//!
//! It is level-triggered: it compares the present with the wanted and proposes the difference, so it
//! depends on no event. Applying a proposal twice changes nothing.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{sync::broadcast::error::RecvError, time::Instant};

use super::{Leader, sight::with_daemon};
use crate::{
    allocate::{self, Fleet, Need, Plan},
    cluster::{Cluster, FatalError, SubmitError},
    state::{Changed, Op},
    types::{Cid, PackedCid, PeerId, Pin},
};

/// Time between two checks of changed pins.
const PERIOD: Duration = Duration::from_millis(500);
/// Time between two checks of all pins, with or without changes.
const FULL_PERIOD: Duration = Duration::from_secs(30);
/// Pins checked in one go, so that other tasks get their turn.
const BATCH_LEN: usize = 500;
/// Bound on the CIDs that wait for a check. With more, all pins are checked.
const WORK_MAX: usize = 256 * 1024;

/// The pins that wait for a check.
struct Work {
    all: bool,
    /// In order of arrival, with duplicates.
    cids: Vec<PackedCid>,
}

impl Cluster {
    pub(super) async fn reconcile(self, leader: Arc<Leader>) -> Result<(), FatalError> {
        let mut state_changes = self.state().subscribe();
        let mut report_changes = leader.reports.subscribe();
        let mut work = Work::everything();
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut before = (BTreeSet::new(), BTreeSet::new());
        let mut full_due = Instant::now();
        loop {
            tokio::select! {
                biased;
                changed = state_changes.recv() => work.add(changed),
                changed = report_changes.recv() => work.add(changed),
                _ = ticks.tick() => {
                    let departing = self.state().read(|pins| pins.departing().clone());
                    let now = (self.with_daemon(), departing);
                    work.all |= now != before || Instant::now() >= full_due;
                    before = now;
                    if !self.0.leadership.borrow().local {
                        work = Work::everything();
                        continue;
                    }
                    if work.all {
                        full_due = Instant::now() + FULL_PERIOD;
                    }
                    self.settle(&mut work).await;
                }
            }
        }
    }

    fn with_daemon(&self) -> BTreeSet<PeerId> {
        with_daemon(&self.peer_metrics(), &self.members())
    }

    /// Proposes the ops that the pins in `work` need.
    async fn settle(&self, work: &mut Work) {
        let cids = std::mem::take(&mut work.cids);
        let settled = match std::mem::take(&mut work.all) {
            true => self.settle_all().await,
            false => self.settle_these(cids).await,
        };
        if let Err(error) = settled {
            tracing::debug!(%error, "allocations were not changed");
            work.all = true;
        }
    }

    async fn settle_all(&self) -> Result<(), SubmitError> {
        let mut after = None;
        loop {
            let batch: Vec<Cid> = self.state().read(|pins| {
                pins.after(after.as_ref()).take(BATCH_LEN).map(|(cid, _)| cid).collect()
            });
            let Some(last) = batch.last() else { return Ok(()) };
            after = Some(*last);
            self.settle_batch(batch).await?;
        }
    }

    async fn settle_these(&self, mut cids: Vec<PackedCid>) -> Result<(), SubmitError> {
        cids.sort_unstable();
        cids.dedup();
        for batch in cids.chunks(BATCH_LEN) {
            self.settle_batch(batch.iter().map(PackedCid::cid).collect()).await?;
        }
        Ok(())
    }

    async fn settle_batch(&self, cids: Vec<Cid>) -> Result<(), SubmitError> {
        // Read before the reports, so that reports of an earlier term are never used in a later one.
        let term = self.0.leadership.borrow().term;
        let leader = self.leader();
        let (mut fleet, senses) = (self.fleet(), self.senses(&leader));
        let (mut ops, mut released) = (Vec::new(), Vec::new());
        for (cid, pin) in self.unsettled(&fleet, &cids) {
            let plan = allocate::plan(&Need::of(&cid, &pin), &fleet, &senses.of(&cid, &pin));
            self.reserve(&mut fleet, &plan);
            released.extend((!plan.let_go.is_empty()).then_some(cid));
            ops.extend(ops_of(cid, plan));
        }
        leader.releases.add(released);
        if ops.is_empty() {
            tokio::task::yield_now().await;
            return Ok(());
        }
        self.submit(term, ops).await.map(drop)
    }

    /// The pins among `cids` that are not settled.
    fn unsettled(&self, fleet: &Fleet, cids: &[Cid]) -> Vec<(Cid, Pin)> {
        self.state().read(|pins| {
            let pins = cids.iter().filter_map(|cid| Some((*cid, pins.get(cid)?)));
            let unsettled = pins.filter(|(cid, pin)| !Need::of(cid, pin).is_met(fleet));
            unsettled.map(|(cid, pin)| (cid, pin.clone())).collect()
        })
    }
}

impl Work {
    fn everything() -> Self {
        Self { all: true, cids: Vec::new() }
    }

    fn add(&mut self, changed: Result<Changed, RecvError>) {
        match changed {
            Ok(Changed::Cids(cids)) if !self.all && self.cids.len() < WORK_MAX => {
                self.cids.extend(cids.iter().map(PackedCid::from));
            }
            _ => *self = Self::everything(),
        }
    }
}

/// The ops that carry out a plan; moves and releases are other tasks'.
fn ops_of(cid: Cid, plan: Plan) -> Vec<Op> {
    let Plan { add, leave, stay, .. } = plan;
    let mut ops = Vec::new();
    if !add.is_empty() {
        ops.push(Op::Allocate { cid, candidates: add });
    }
    if !leave.is_empty() {
        ops.push(Op::Leave { cid, peers: leave });
    }
    ops.extend(stay.into_iter().map(|peer| Op::Stay { cid, peer }));
    ops
}

#[cfg(test)]
mod tests;
