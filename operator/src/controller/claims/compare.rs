//! Compares claims with the list of Pins, to find Pins that were deleted while no leader watched.
//!
//! Invariant: a claim is dropped only if, in this order,
//! 1. a complete list did not contain its object,
//! 2. a GET of its name found nothing or another UID,
//! 3. the anchors (UIDs of `kube-system` and of the definition of Pins) are those seen first.
//!
//! An error proves nothing, and neither does "forbidden" or a 404 that does not name the object.

use std::{sync::Arc, time::Duration};

use pinkeeper::state::Found;

use super::{
    Missing,
    anchors::{self, Unproven},
    missing,
};
use crate::controller::{deletions::Deletion, leading::Leading};

/// How often all claims are compared, in addition to each relist.
const EVERY: Duration = Duration::from_secs(600);
/// Wait after a comparison that left claims in doubt.
const AGAIN: Duration = Duration::from_secs(5);

/// Runs until the leadership ends.
pub(in crate::controller) async fn run(lead: Arc<Leading>) {
    compare_all(&lead).await;
    // The next leader decides for itself.
    lead.context.held.set(None);
}

async fn compare_all(lead: &Arc<Leading>) {
    loop {
        let complete = lead.objects().is_complete();
        let compared = tokio::select! {
            biased;
            () = lead.token.cancelled() => return,
            compared = compare(lead), if complete => compared,
            () = std::future::ready(()), if !complete => Ok(0),
        };
        lead.context.held.set(match &compared {
            Err(error) if error.needs_a_person() => Some(error.to_string()),
            _ => None,
        });
        let wait = match compared {
            Ok(0) => EVERY,
            Ok(_) => AGAIN,
            Err(error) => {
                tracing::warn!(%error, "claims without an object are kept for now");
                AGAIN
            }
        };
        tokio::select! {
            biased;
            () = lead.token.cancelled() => return,
            () = lead.listed.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Compares once; returns the number of claims still in doubt.
async fn compare(lead: &Arc<Leading>) -> Result<usize, Unproven> {
    let missing = {
        let objects = lead.objects();
        lead.context.cluster.state().read(|pins| missing(pins, &objects))
    };
    // Also with nothing in doubt: a record that was created again gets the anchors back.
    anchors::check(lead).await?;
    if missing.is_empty() {
        return Ok(0);
    }
    let all = missing.len();
    let absent = anchors::absent(lead, missing).await.proven(lead).await?;
    let doubtful = all - absent.len();
    // In one push, so that the deletion guard decides on them together.
    lead.deletions.push(absent.into_iter().map(unseen));
    Ok(doubtful)
}

/// The deletion of an object that no watch reported.
fn unseen(Missing { uid, key }: Missing) -> Deletion {
    tracing::info!(pin = %key, %uid, "found a Pin that was deleted while no leader watched");
    Deletion { uid, generation: 0, found: Found::Compared, retain: None, is_old: false }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use pinkeeper::types::Uid;
    use serde_json::json;

    use super::*;
    use crate::{
        controller::stand::{DEFINITION, RECORD, SYSTEM, Stand, missing as of},
        kubernetes::answers::{error, there},
    };

    /// The deletions found after some time.
    async fn found(lead: &Leading) -> Vec<Deletion> {
        tokio::time::sleep(Duration::from_secs(1)).await;
        lead.deletions.take()
    }

    #[test]
    fn only_what_is_proven_is_ruled_on_and_as_found_by_the_comparison() {
        Stand::test(async |stand| {
            for uid in ["alive", "gone", "untold"] {
                stand.claim(uid).await;
            }
            assert_eq!(compare(&stand.lead).await.unwrap(), 0, "no list was whole");
            stand.list_nothing();
            stand.api.set("alive", [there("alive")]);
            stand.api.set("untold", [error(404)]);
            assert_eq!(compare(&stand.lead).await.unwrap(), 2);
            let (uid, retain) = (Uid("gone".into()), None);
            let gone =
                Deletion { uid, generation: 0, found: Found::Compared, retain, is_old: false };
            assert_eq!(unseen(of("gone")), gone);
            assert_eq!(found(&stand.lead).await, [gone]);
        });
    }

    #[test]
    fn what_is_held_until_a_person_looks_is_told_as_long_as_it_is_so() {
        Stand::test(async |stand| {
            stand.claim("gone").await;
            stand.list_nothing();
            anchors::check(&stand.lead).await.unwrap();
            stand.api.set(DEFINITION, [there("anew")]);
            let held = &stand.lead.context.held;
            let running = tokio::spawn(run(stand.lead.clone()));
            tokio::time::sleep(AGAIN).await;
            let told = held.get().unwrap();
            assert!(told.contains("pinDefinitionUID"), "{told}");
            stand.api.set(DEFINITION, [there(DEFINITION)]);
            tokio::time::sleep(AGAIN * 2).await;
            assert_eq!(held.get(), None);
            stand.api.set(DEFINITION, [there("anew")]);
            stand.lead.listed.notify_one();
            tokio::time::sleep(AGAIN).await;
            assert!(held.get().is_some());
            stand.lead.token.cancel();
            running.await.unwrap();
            assert_eq!(held.get(), None, "the next leader decides for itself");
        });
    }

    #[test]
    fn a_definition_made_anew_between_list_and_get_drops_no_claim() {
        Stand::test(async |stand| {
            stand.claim("gone").await;
            stand.list_nothing();
            stand.api.set(DEFINITION, [there(DEFINITION), there("anew")]);
            assert!(matches!(compare(&stand.lead).await, Err(Unproven::Other { .. })));
            assert_eq!(found(&stand.lead).await, []);
        });
    }

    #[test]
    fn anchors_are_noted_also_while_nothing_is_in_doubt() {
        Stand::test(async |stand| {
            assert_eq!(compare(&stand.lead).await.unwrap(), 0);
            let noted = json!({"kubeSystemUID": SYSTEM, "pinDefinitionUID": DEFINITION});
            assert_eq!(stand.api.last(RECORD)["data"], noted);
        });
    }
}
