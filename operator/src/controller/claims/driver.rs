//! Proposes what [`decide`](super::decide) decides, in batches: one Raft entry for many objects.

use std::{sync::Arc, time::Duration};

use pinkeeper::{
    state::{Op, Outcome, Refused},
    types::Uid,
};
use tokio::time::sleep;

use super::{Basis, Decision, decide, release};
use crate::controller::{
    api::Backoff,
    leading::{Leading, Work},
    objects::ObjectKey,
    queue::Lane,
};

/// Events are collected this long into one batch: far below what people notice, far above the time
/// between two objects of one `kubectl apply`.
const COLLECT: Duration = Duration::from_millis(3);
/// Ops in one Raft entry: some 150 kB.
const BATCH_LEN_MAX: usize = 512;
/// Waits between attempts when the cluster does not take a batch.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Runs until the leadership ends.
pub(in crate::controller) async fn run(lead: Arc<Leading>) {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        tokio::select! {
            biased;
            () = lead.token.cancelled() => return,
            () = lead.claims.pushed() => {}
        }
        while !lead.claims.is_empty() {
            if lead.claims.len() < BATCH_LEN_MAX {
                sleep(COLLECT).await;
            }
            let batch = collect(&lead);
            if batch.is_empty() {
                continue;
            }
            tokio::select! {
                biased;
                () = lead.token.cancelled() => return,
                taken = propose(&lead, batch) => match taken {
                    true => backoff.reset(),
                    false => sleep(backoff.wait()).await,
                },
            }
        }
    }
}

/// One op and where it came from.
#[derive(Debug)]
struct Proposal {
    work: Work,
    uid: Uid,
    generation: i64,
    key: Option<ObjectKey>,
    op: Op,
}

/// The next batch: claims first, then releases.
fn collect(lead: &Leading) -> Vec<Proposal> {
    let mut claims = Vec::new();
    let mut releases = Vec::new();
    while claims.len() + releases.len() < BATCH_LEN_MAX {
        let Some((_, work)) = lead.claims.pop(true) else { break };
        let basis = Basis {
            term: lead.term,
            default_replicas: lead.shared.settings.default_replicas,
            now: lead.shared.clock.now(),
        };
        match &work {
            Work::Object(key) => claims.extend(claim_of(lead, key, basis)),
            Work::Gone(uid, generation) => {
                let state = lead.shared.cluster.state();
                let op = state.read(|pins| release(uid, *generation, pins, basis));
                let (uid, generation) = (uid.clone(), *generation);
                releases.extend(op.map(|op| Proposal { work, uid, generation, key: None, op }));
            }
        }
    }
    claims.append(&mut releases);
    claims
}

fn claim_of(lead: &Leading, key: &ObjectKey, basis: Basis) -> Option<Proposal> {
    let object = lead.objects().get(key)?.clone();
    let cid = object.cid.as_ref().ok()?;
    let cluster = &lead.shared.cluster;
    // The candidates look at the state too, so it must not be locked meanwhile.
    let pin = cluster.state().read(|pins| pins.get(cid).cloned());
    match decide(&object, pin.as_ref(), basis, |cid, wanted| cluster.candidates(cid, wanted)) {
        Decision::Claim(op) => Some(Proposal {
            work: Work::Object(key.clone()),
            uid: object.uid.clone(),
            generation: object.generation,
            key: Some(key.clone()),
            op: *op,
        }),
        Decision::Same | Decision::Unusable => None,
    }
}

/// Submits a batch; false when it must be tried again, for which it is back in the queue.
async fn propose(lead: &Leading, batch: Vec<Proposal>) -> bool {
    let ops = batch.iter().map(|proposal| proposal.op.clone()).collect();
    let outcomes = match lead.shared.cluster.submit(lead.term, ops).await {
        Ok(outcomes) => outcomes,
        Err(error) => {
            tracing::warn!(%error, ops = batch.len(), "the cluster did not take claims; trying again");
            batch.into_iter().for_each(|proposal| lead.claims.push(Lane::Fresh, proposal.work));
            return false;
        }
    };
    let mut other_term = false;
    for (proposal, outcome) in batch.into_iter().zip(outcomes) {
        lead.shared.counters.claims.inc();
        match outcome {
            Outcome::Changed | Outcome::Unchanged => lead.refused(&proposal.uid, None),
            Outcome::Refused(Refused::OtherTerm) => {
                other_term = true;
                lead.claims.push(Lane::Fresh, proposal.work);
                continue;
            }
            Outcome::Refused(why @ (Refused::OtherCid | Refused::TooManyClaims)) => {
                lead.refused(&proposal.uid, Some((proposal.generation, why)));
            }
            // The object has changed meanwhile; its new version is in the queue.
            Outcome::Refused(why) => tracing::debug!(uid = %proposal.uid, %why, "a claim is stale"),
        }
        if let Some(key) = proposal.key {
            lead.statuses.push(Lane::Fresh, key);
        }
    }
    !other_term
}
