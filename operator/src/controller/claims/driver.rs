//! Proposes what [`decide`](super::decide) decides, in batches: one Raft entry for many objects. Gone
//! objects have their turn when nothing is left to claim.

use std::{sync::Arc, time::Duration};

use pinkeeper::{
    state::{Op, Outcome, Refused},
    types::Uid,
};
use tokio::time::sleep;

use super::{
    Basis, Decision,
    anchors::{self, Unproven},
    decide,
    release::release,
};
use crate::controller::{api::Backoff, leading::Leading, objects::ObjectKey, queue::Lane};

/// Events are collected this long into one batch: far below what people notice, far above the time
/// between two objects of one `kubectl apply`.
const COLLECT: Duration = Duration::from_millis(3);
/// Ops in one Raft entry: some 150 kB.
pub(super) const BATCH_LEN_MAX: usize = 512;
/// Waits between attempts when the cluster does not take a batch.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Runs until the leadership ends.
pub(in crate::controller) async fn run(lead: Arc<Leading>) {
    tokio::select! {
        biased;
        () = lead.token.cancelled() => return,
        () = anchored(&lead) => {}
    }
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    let mut releases = Backoff::new(RETRY.0, RETRY.1);
    loop {
        tokio::select! {
            biased;
            () = lead.token.cancelled() => return,
            () = lead.claims.pushed() => {}
            () = lead.deletions.due() => {}
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
        let deletions = lead.deletions.take();
        if deletions.is_empty() {
            continue;
        }
        tokio::select! {
            biased;
            () = lead.token.cancelled() => return,
            done = release(&lead, &deletions) => match done {
                true => releases.reset(),
                false => lead.deletions.put_back(deletions, releases.wait()),
            },
        }
    }
}

/// Waits until the anchors are noted. A claim made before could not be told later from one under
/// these: when its Pin goes with a definition that is deleted and made anew, that would look like the
/// Pin's own deletion.
async fn anchored(lead: &Leading) {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    let mut told = String::new();
    while lead.shared.anchors.get().is_none() {
        let reason = match anchors::check(lead).await {
            // Others than now: what was claimed under them is safe.
            Ok(()) | Err(Unproven::Other { .. }) => return,
            Err(error) => error.to_string(),
        };
        if reason != told {
            tracing::warn!(%reason, "Pins are claimed when the API server is known");
            told = reason;
        }
        sleep(backoff.wait()).await;
    }
}

/// One op and the object it is of.
#[derive(Debug)]
struct Proposal {
    key: ObjectKey,
    uid: Uid,
    generation: i64,
    op: Op,
}

/// The next batch.
fn collect(lead: &Leading) -> Vec<Proposal> {
    let mut claims = Vec::new();
    while claims.len() < BATCH_LEN_MAX {
        let Some((_, key)) = lead.claims.pop(true) else { break };
        let basis = Basis {
            term: lead.term,
            default_replicas: lead.shared.settings.default_replicas,
            now: lead.shared.clock.now(),
        };
        claims.extend(claim_of(lead, &key, basis));
    }
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
            key: key.clone(),
            uid: object.uid.clone(),
            generation: object.generation,
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
            batch.into_iter().for_each(|proposal| lead.claims.push(Lane::Fresh, proposal.key));
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
                lead.claims.push(Lane::Fresh, proposal.key);
                continue;
            }
            Outcome::Refused(why @ (Refused::OtherCid | Refused::TooManyClaims)) => {
                lead.refused(&proposal.uid, Some((proposal.generation, why)));
            }
            // The object has changed meanwhile; its new version is in the queue.
            Outcome::Refused(why) => tracing::debug!(uid = %proposal.uid, %why, "a claim is stale"),
        }
        lead.statuses.push(Lane::Fresh, proposal.key);
    }
    !other_term
}
