//! Drops the claims of objects that are gone, or lets them wait for a person.
//!
//! A watched deletion is a person's wish only while the definition of Pins stands: whoever deletes
//! the definition deletes all Pins, and each of these deletions is watched. So the anchors are read
//! after the deletions were seen; what they do not prove is left to the comparison, which keeps the
//! claims until a person has said what is meant.

use std::collections::BTreeSet;

use pinkeeper::{
    state::{Op, Outcome, Refused, Ruling},
    types::Owner,
};

use super::{Deletion, anchors, driver::BATCH_LEN_MAX, rule};
use crate::controller::{leading::Leading, queue::Lane};

/// Rules on deletions; false when it must be tried again.
pub(super) async fn release(lead: &Leading, deletions: &[Deletion]) -> bool {
    let state = lead.shared.cluster.state();
    let mut claimed: Vec<Deletion> = state.read(|pins| {
        deletions.iter().filter(|gone| pins.cid_of(&gone.uid).is_some()).cloned().collect()
    });
    if claimed.is_empty() {
        return true;
    }
    let namespaces: BTreeSet<String> = claimed.iter().map(|gone| gone.namespace.clone()).collect();
    let gone = anchors::gone(lead, namespaces).await;
    match anchors::check(lead).await {
        Ok(()) => {}
        Err(error) if error.is_passing() => {
            tracing::warn!(%error, pins = claimed.len(), "deleted Pins keep their claims for now");
            return false;
        }
        Err(error) => {
            tracing::warn!(%error, pins = claimed.len(), "deleted Pins keep their claims");
            lead.listed.notify_one();
            return true;
        }
    }
    // Whoever has set the API server's data back has brought them back to life meanwhile.
    claimed.retain(|gone| !lead.objects().contains(&gone.uid));
    let ops = state.read(|pins| rule(pins, &claimed, &gone, lead.term, lead.brake_time.now()));
    submit(lead, ops).await
}

/// Proposes ops in batches; false when something must be tried again.
pub(super) async fn submit(lead: &Leading, ops: Vec<Op>) -> bool {
    for batch in ops.chunks(BATCH_LEN_MAX) {
        let outcomes = match lead.shared.cluster.submit(lead.term, batch.to_vec()).await {
            Ok(outcomes) => outcomes,
            Err(error) => {
                tracing::warn!(%error, ops = batch.len(), "the cluster did not take releases");
                return false;
            }
        };
        for (op, outcome) in batch.iter().zip(outcomes) {
            lead.shared.counters.claims.inc();
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
        lead.claims.push(Lane::Fresh, key);
    }
}

/// People who are to decide find here what waits, one by one.
fn tell(lead: &Leading, op: &Op) {
    let Op::Gone { cid, uid, ruling: Ruling::Wait(_), .. } = op else { return };
    let name = lead.shared.cluster.state().read(|pins| {
        let claim = pins.get(cid)?.claims.get(&Owner::Waiting(uid.clone()))?;
        Some(claim.options.name.clone())
    });
    if let Some(pin) = name {
        tracing::info!(pin, %cid, %uid, "the content of a deleted Pin waits for a person");
    }
}
