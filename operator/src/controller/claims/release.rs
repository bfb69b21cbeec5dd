//! Drops the claims of objects that are gone, or lets them wait for a person.
//!
//! A watched deletion is a person's wish only while the definition of Pins stands: whoever deletes
//! the definition deletes all Pins, and each of these deletions is watched. So the anchors are read
//! after the deletions were seen; what they do not prove is left to the comparison, which keeps the
//! claims until a person has said what is meant. What an object said last of retaining its content is
//! noted before its claim goes.

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

/// Rules on deletions; false when it must be tried again.
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
    // Twice: what is noted may change what is ruled.
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

/// Whoever has set the API server's data back has brought objects back to life; `alive` are those that it
/// says are there again.
fn is_dead(uid: &Uid, alive: &BTreeSet<Uid>, objects: &Objects) -> bool {
    !objects.contains(uid) && !alive.contains(uid)
}

/// The objects that are there again. Deletions that were just seen are not asked about, those that had to
/// wait are: the server's data may have been set back meanwhile.
async fn what_lives(lead: &Leading, deletions: &[Deletion]) -> Result<BTreeSet<Uid>, Unproven> {
    let old = deletions.iter().filter(|deletion| deletion.is_old);
    let old = lead.context.cluster.state().read(|pins| missing_of(pins, old));
    anchors::alive(lead, old).await?.proven(lead).await
}

/// The objects by their names when they were claimed.
fn missing_of<'a>(pins: &PinSet, of: impl Iterator<Item = &'a Deletion>) -> Vec<Missing> {
    let missing = |deletion: &Deletion| {
        let claims = &pins.get(&pins.cid_of(&deletion.uid)?)?.claims;
        let claim = claims.get(&Owner::Object(deletion.uid.clone()))?;
        let key = claim.options.name.object()?.clone();
        Some(Missing { uid: deletion.uid.clone(), key })
    };
    of.filter_map(missing).collect()
}

/// Proposes ops in batches; false when something must be tried again.
pub(super) async fn submit(lead: &Leading, ops: Vec<Op>) -> bool {
    for batch in ops.chunks(BATCH_LEN_MAX) {
        let outcomes = match lead.context.cluster.submit(lead.term, batch.to_vec()).await {
            Ok(outcomes) => outcomes,
            Err(error) => {
                tracing::warn!(%error, ops = batch.len(), "the cluster did not take releases");
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
                Outcome::Refused(why) => tracing::debug!(?op, %why, "a release is stale"),
            }
        }
    }
    true
}

/// A claim was refused while there were too many; now there is room.
fn claim_again(lead: &Leading, op: &Op) {
    let Some(cid) = op.cid() else { return };
    for key in lead.refused_of(&cid) {
        lead.claims.push(Priority::Fresh, key);
    }
}

/// People who are to decide find here what waits, one by one.
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
