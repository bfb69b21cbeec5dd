//! Drops the claims of deleted Pins, or makes them wait for approval.
//!
//! A watched deletion is intended only while the definition of Pins exists: deleting the definition
//! deletes all Pins, and the watch reports each one. So the anchors are read after the deletions
//! were seen. If the anchors do not prove them, the comparison takes over, and keeps the claims
//! until a person decides. The last `deletionPolicy` of a Pin is noted before its claim is dropped.

use std::collections::BTreeSet;

use pinkeeper::{
    state::{Op, Outcome, PinSet, Refused, Ruling},
    types::{Owner, Uid},
};

use super::{
    Missing,
    anchors::{self, Unproven},
    driver::BATCH_LEN_MAX,
    rule::{Next, next},
};
use crate::controller::{deletions::Deletion, leading::Leading, objects::Objects, queue::Priority};

/// Decides on deletions and proposes the result. Returns false if it must be tried again.
pub(super) async fn release(lead: &Leading, deletions: &[Deletion]) -> bool {
    let state = lead.context.cluster.state();
    let mut claimed: Vec<Deletion> = state.read(|pins| {
        deletions.iter().filter(|gone| pins.cid_of(&gone.uid).is_some()).cloned().collect()
    });
    if claimed.is_empty() {
        return true;
    }
    let alive = match what_lives(lead, &claimed).await {
        Ok(alive) => alive,
        Err(error) if error.is_passing() => {
            tracing::warn!(%error, pins = claimed.len(), "deleted Pins keep their claims for now");
            return false;
        }
        Err(error) => {
            tracing::warn!(%error, pins = claimed.len(), "deleted Pins keep their claims");
            lead.listed.notify_one();
            return true;
        }
    };
    claimed.retain(|of| is_dead(&of.uid, &alive, &lead.objects()));
    let limits = &lead.context.settings.limits;
    // Twice: the noted policies may change the decision.
    for _ in 0..2 {
        let at = lead.guard_time.now();
        match state.read(|pins| next(pins, &claimed, lead.term, at, limits)) {
            Next::Note(ops) => {
                if !submit(lead, ops).await {
                    return false;
                }
            }
            Next::Rule(ops) => return submit(lead, ops).await,
        }
    }
    false
}

/// Whether the object is still gone. Restoring a backup of the API server brings objects back;
/// `alive` are those that exist again.
fn is_dead(uid: &Uid, alive: &BTreeSet<Uid>, objects: &Objects) -> bool {
    !objects.contains(uid) && !alive.contains(uid)
}

/// The objects that exist again. Only deletions that had to wait are asked about: the API server's
/// data may have been restored from a backup meanwhile.
async fn what_lives(lead: &Leading, deletions: &[Deletion]) -> Result<BTreeSet<Uid>, Unproven> {
    let old = deletions.iter().filter(|deletion| deletion.is_old);
    let old = lead.context.cluster.state().read(|pins| missing_of(pins, old));
    anchors::alive(lead, old).await?.proven(lead).await
}

/// The objects of deletions, with the names they had when they were claimed.
fn missing_of<'a>(pins: &PinSet, of: impl Iterator<Item = &'a Deletion>) -> Vec<Missing> {
    let missing = |deletion: &Deletion| {
        let claims = &pins.get(&pins.cid_of(&deletion.uid)?)?.claims;
        let claim = claims.get(&Owner::Object(deletion.uid.clone()))?;
        let key = claim.options.name.object()?.clone();
        Some(Missing { uid: deletion.uid.clone(), key })
    };
    of.filter_map(missing).collect()
}

/// Proposes ops in batches. Returns false if something must be tried again.
pub(super) async fn submit(lead: &Leading, ops: Vec<Op>) -> bool {
    for batch in ops.chunks(BATCH_LEN_MAX) {
        let outcomes = match lead.context.cluster.submit(lead.term, batch.to_vec()).await {
            Ok(outcomes) => outcomes,
            Err(error) => {
                tracing::warn!(%error, ops = batch.len(), "cannot propose releases; trying again");
                return false;
            }
        };
        for (op, outcome) in batch.iter().zip(outcomes) {
            lead.context.counters.claims.inc();
            match outcome {
                Outcome::Changed => {
                    tell(lead, op);
                    claim_again(lead, op);
                }
                Outcome::Unchanged => {}
                Outcome::Refused(Refused::OtherTerm) => return false,
                Outcome::Refused(why) => tracing::debug!(?op, %why, "release is stale"),
            }
        }
    }
    true
}

/// Retries claims of this content that were refused because it had too many.
fn claim_again(lead: &Leading, op: &Op) {
    let Some(cid) = op.cid() else { return };
    for key in lead.refused_of(&cid) {
        lead.claims.push(Priority::Fresh, key);
    }
}

/// Logs each Pin that waits, for the person who decides.
fn tell(lead: &Leading, op: &Op) {
    let Op::Gone { cid, uid, ruling: Ruling::Wait(_), .. } = op else { return };
    let name = lead.context.cluster.state().read(|pins| {
        let claim = pins.get(cid)?.claims.get(&Owner::Waiting(uid.clone()))?;
        Some(claim.options.name.to_string())
    });
    if let Some(pin) = name {
        tracing::info!(pin, %cid, %uid, "the content of a deleted Pin waits for a person");
    }
}

#[cfg(test)]
mod tests;
