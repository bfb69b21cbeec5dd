//! Proposes the claims that [`decide`](super::decide) decides, in batches: one Raft entry for many
//! objects. Deleted objects come after all pending claims.

use std::{sync::Arc, time::Duration};

use pinkeeper::{
    allocate::Fleet,
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
use crate::{
    controller::{leading::Leading, objects::ObjectKey, queue::Priority},
    kubernetes::Backoff,
};

/// Events are collected this long into one batch: too short for people to notice, and much longer
/// than the time between two objects of one `kubectl apply`.
const COLLECT: Duration = Duration::from_millis(3);
/// Ops in one Raft entry: some 150 kB.
pub(super) const BATCH_LEN_MAX: usize = 512;
/// Waits between attempts to propose a batch.
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
                () = async {
                    match propose(&lead, batch).await {
                        true => backoff.reset(),
                        false => sleep(backoff.wait()).await,
                    }
                } => {}
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

/// Waits until the anchors are noted. A claim made earlier could belong to a previous definition.
/// If that definition was deleted and created again, the loss of the Pin would look like its own
/// deletion.
async fn anchored(lead: &Leading) {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    let mut told = String::new();
    while lead.context.anchors.get().is_none() {
        let reason = match anchors::check(lead).await {
            // The noted anchors differ from the present ones: claims made under them are held.
            Ok(()) | Err(Unproven::Other { .. }) => return,
            Err(error) => error.to_string(),
        };
        if reason != told {
            tracing::warn!(%reason, "waiting to verify the API server before claiming Pins");
            told = reason;
        }
        sleep(backoff.wait()).await;
    }
}

/// An op and its object.
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
    let mut fleet = lead.context.cluster.fleet();
    while claims.len() < BATCH_LEN_MAX {
        let Some((_, key)) = lead.claims.pop(true) else { break };
        let basis = Basis {
            term: lead.term,
            default_replicas: lead.context.settings.default_replicas,
            now: lead.context.clock.now(),
        };
        claims.extend(claim_of(lead, &key, basis, &mut fleet));
    }
    claims
}

fn claim_of(lead: &Leading, key: &ObjectKey, basis: Basis, fleet: &mut Fleet) -> Option<Proposal> {
    let object = lead.objects().get(key)?.clone();
    let cid = object.cid.as_ref().ok()?;
    let cluster = &lead.context.cluster;
    let decision = cluster.state().read(|pins| decide(&object, pins.get(cid), basis, fleet));
    let Decision::Claim(op, plan) = decision else { return None };
    cluster.reserve(fleet, &plan);
    let (uid, generation) = (object.uid.clone(), object.generation);
    Some(Proposal { key: key.clone(), uid, generation, op: *op })
}

/// Submits a batch. Returns false if it must be tried again; then it is back in the queue.
async fn propose(lead: &Leading, batch: Vec<Proposal>) -> bool {
    let ops = batch.iter().map(|proposal| proposal.op.clone()).collect();
    let outcomes = match lead.context.cluster.submit(lead.term, ops).await {
        Ok(outcomes) => outcomes,
        Err(error) => {
            tracing::warn!(%error, ops = batch.len(), "cannot propose claims; trying again");
            batch.into_iter().for_each(|proposal| lead.claims.push(Priority::Fresh, proposal.key));
            return false;
        }
    };
    let mut other_term = false;
    for (proposal, outcome) in batch.into_iter().zip(outcomes) {
        lead.context.counters.claims.inc();
        match outcome {
            Outcome::Changed | Outcome::Unchanged => lead.refused(&proposal.uid, None),
            Outcome::Refused(Refused::OtherTerm) => {
                other_term = true;
                lead.claims.push(Priority::Fresh, proposal.key);
                continue;
            }
            Outcome::Refused(why @ (Refused::OtherCid | Refused::TooManyClaims)) => {
                lead.refused(&proposal.uid, Some((proposal.generation, why)));
            }
            // The object has changed since; its new version is in the queue.
            Outcome::Refused(why) => tracing::debug!(uid = %proposal.uid, %why, "claim is stale"),
        }
        lead.statuses.push(Priority::Fresh, proposal.key);
    }
    !other_term
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use pinkeeper::types::Owner;
    use serde_json::json;

    use super::*;
    use crate::{
        controller::{
            objects::{PinObject, tests::pin},
            stand::{DEFINITION, GENERATION, RECORD, Stand, cid, watched},
        },
        kubernetes::answers::{error, going, there},
    };

    /// A proposal of the object of this name and UID for a content.
    fn proposal(stand: &Stand, uid: &str, content: &str) -> Proposal {
        let PinObject { key, uid, .. } = pin(uid, uid, 1, "");
        let op = stand.claim_of(content, Owner::Object(uid.clone()), false);
        Proposal { key, uid, generation: GENERATION, op }
    }

    #[test]
    fn a_refusal_is_told_and_what_became_old_is_not() {
        Stand::test(async |stand| {
            let lead = &stand.lead;
            for uid in ["other-cid", "stale"] {
                stand.claim(uid).await;
            }
            let mut stale = proposal(&stand, "stale", "stale");
            let Op::Claim { fence: Some(fence), .. } = &mut stale.op else { panic!() };
            fence.generation -= 1;
            let mut other_term = proposal(&stand, "other-term", "other-term");
            let Op::Claim { fence: Some(fence), .. } = &mut other_term.op else { panic!() };
            fence.term += 1;
            let uids = ["new", "other-cid", "stale", "other-term"].map(|uid| Uid(uid.into()));
            // An earlier refusal.
            lead.refused(&uids[0], Some((GENERATION, Refused::TooManyClaims)));
            let new = proposal(&stand, "new", "new");
            let other_cid = proposal(&stand, "other-cid", "another content");
            assert!(!propose(lead, vec![new, other_cid, stale, other_term]).await);
            let refusals = uids.map(|uid| lead.refusal(&uid, GENERATION));
            assert_eq!(refusals, [None, Some(Refused::OtherCid), None, None]);
            // A refusal is for its generation only.
            assert_eq!(lead.refusal(&Uid("other-cid".into()), GENERATION + 1), None);
            assert!(stand.is_claimed("new"));
            // One object is claimed again, the others get a status.
            let again: Vec<_> = std::iter::from_fn(|| lead.claims.pop(true)).collect();
            assert_eq!(again, [(Priority::Fresh, pin("other-term", "", 1, "").key)]);
            let told: Vec<_> = std::iter::from_fn(|| lead.statuses.pop(true)).collect();
            let told: Vec<&str> = told.iter().map(|(_, key)| key.name.as_str()).collect();
            assert_eq!(told, ["new", "other-cid", "stale"]);
            assert!(propose(lead, vec![proposal(&stand, "second", "second")]).await);
        });
    }

    #[test]
    fn what_the_cluster_does_not_take_is_proposed_again() {
        Stand::test(async |stand| {
            let lead = stand.of_another_term();
            assert!(!propose(&lead, vec![proposal(&stand, "a", "a")]).await);
            assert_eq!(lead.claims.pop(true), Some((Priority::Fresh, pin("a", "", 1, "").key)));
            assert!(lead.statuses.is_empty() && !stand.is_claimed("a"));
        });
    }

    #[test]
    fn the_next_batch_is_what_objects_say_that_the_state_does_not() {
        Stand::test(async |stand| {
            let lead = &stand.lead;
            let all: Vec<PinObject> = (0..BATCH_LEN_MAX + 1)
                .map(|n| pin(&n.to_string(), &n.to_string(), 1, &cid(&n.to_string()).to_string()))
                .chain([pin("no-cid", "no-cid", 1, "no CID")])
                .collect();
            for object in all {
                lead.claims.push(Priority::Fresh, object.key.clone());
                lead.objects_mut().upsert(object);
            }
            lead.claims.push(Priority::Fresh, pin("not-there", "", 1, "").key);
            let mut sizes = Vec::new();
            while !lead.claims.is_empty() {
                let batch = collect(lead);
                sizes.push(batch.len());
                for proposal in &batch {
                    let uid = Owner::Object(proposal.uid.clone());
                    let Op::Claim { owner, cid: of, .. } = &proposal.op else { panic!() };
                    assert_eq!((owner, *of), (&uid, cid(&proposal.uid.0)));
                    assert_eq!(
                        (proposal.key.name.as_str(), proposal.generation),
                        (&*proposal.uid.0, 1)
                    );
                }
                assert!(propose(lead, batch).await);
            }
            assert_eq!(sizes, [BATCH_LEN_MAX, 1]);
        });
    }

    #[test]
    fn content_keeps_a_claim_when_one_pin_takes_the_place_of_another() {
        Stand::test(async |stand| {
            stand.claim("first").await;
            let since = stand.read(|pins| pins.get(&cid("first")).unwrap().created);
            let second = pin("second", "second", 1, &cid("first").to_string());
            stand.lead.deletions.push([watched("first")]);
            stand.lead.deletions.due().await;
            stand.lead.claims.push(Priority::Later, second.key.clone());
            stand.lead.objects_mut().upsert(second);
            // Whatever comes first.
            let running = tokio::spawn(run(stand.lead.clone()));
            sleep(Duration::from_secs(1)).await;
            assert!(stand.is_claimed("second") && !stand.is_claimed("first"));
            let created = stand.read(|pins| pins.get(&cid("first")).unwrap().created);
            assert_eq!(created, since, "it was never unpinned");
            stand.lead.token.cancel();
            running.await.unwrap();
        });
    }

    #[test]
    fn a_deletion_that_cannot_be_ruled_on_is_ruled_on_later() {
        Stand::test(async |stand| {
            stand.claim("docs").await;
            stand.api.set(DEFINITION, [error(503)]);
            stand.lead.deletions.push([watched("docs")]);
            let running = tokio::spawn(run(stand.lead.clone()));
            sleep(Duration::from_secs(10)).await;
            assert!(stand.is_claimed("docs"));
            stand.api.set(DEFINITION, [there(DEFINITION)]);
            sleep(RETRY.1).await;
            assert!(!stand.is_claimed("docs"));
            stand.lead.token.cancel();
            running.await.unwrap();
        });
    }

    #[test]
    fn nothing_is_claimed_before_the_anchors_are_noted() {
        // The first answer for the definition, and whether claims start with it.
        let cases = [(there(DEFINITION), true), (error(404), false), (going(DEFINITION), false)];
        for (answer, expected) in cases {
            Stand::test(async |stand| {
                let case = format!("{answer:?}");
                stand.api.set(DEFINITION, [answer]);
                let docs = pin("docs", "docs", 1, &cid("docs").to_string());
                stand.lead.claims.push(Priority::Fresh, docs.key.clone());
                stand.lead.objects_mut().upsert(docs);
                let running = tokio::spawn(run(stand.lead.clone()));
                sleep(Duration::from_secs(60)).await;
                assert_eq!(stand.is_claimed("docs"), expected, "{case}");
                stand.api.set(DEFINITION, [there(DEFINITION)]);
                sleep(RETRY.1 * 2).await;
                assert!(stand.is_claimed("docs"), "{case}");
                stand.lead.token.cancel();
                running.await.unwrap();
            });
        }
    }

    #[test]
    fn claims_under_other_anchors_than_the_first_do_not_wait_for_a_person() {
        Stand::test(async |stand| {
            let (code, mut record) = there(RECORD);
            // As in a restored record.
            record["data"] = json!({"kubeSystemUID": "", "pinDefinitionUID": ""});
            stand.api.set(RECORD, [(code, record)]);
            tokio::time::timeout(Duration::from_secs(60), anchored(&stand.lead)).await.unwrap();
            assert_eq!(stand.lead.context.anchors.get(), None);
        });
    }
}
