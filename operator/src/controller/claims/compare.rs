//! Claims against the list of objects: finds Pins that were deleted while nobody watched.
//!
//! Invariant: a claim is dropped only if, in this order, a whole list did not contain its object, a
//! GET of its name found nothing or another UID, and the UIDs of the namespace kube-system and of the
//! Pins' definition are those seen first. An error is never an answer, neither is "forbidden", nor a
//! 404 that does not name the object.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use pinkeeper::state::Found;
use tokio::time::timeout;

use super::{
    Deletion, Missing,
    anchors::{self, GETS_MAX, Unproven},
    missing,
};
use crate::controller::{
    api::{self, Failure},
    leading::Leading,
};

/// How often all claims are compared, beside each relist.
const EVERY: Duration = Duration::from_secs(600);
/// After a comparison that could not prove something.
const AGAIN: Duration = Duration::from_secs(5);

/// Runs until the leadership ends.
pub(in crate::controller) async fn run(lead: Arc<Leading>) {
    loop {
        let complete = lead.objects().is_complete();
        let compared = tokio::select! {
            biased;
            () = lead.token.cancelled() => return,
            compared = compare(&lead), if complete => compared,
            () = std::future::ready(()), if !complete => Ok(0),
        };
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

/// One comparison; how many claims are still in doubt.
async fn compare(lead: &Arc<Leading>) -> Result<usize, Unproven> {
    let missing = {
        let objects = lead.objects();
        lead.shared.cluster.state().read(|pins| missing(pins, &objects))
    };
    // Also with nothing in doubt: a record that was made anew has them noted again while all is well.
    anchors::check(lead).await?;
    if missing.is_empty() {
        return Ok(0);
    }
    let all = missing.len();
    let is_gone = async |missing: &Missing| match is_gone(lead, missing).await {
        Ok(gone) => gone,
        Err(error) => {
            tracing::warn!(pin = %missing.key, %error, "cannot tell whether a Pin is gone");
            false
        }
    };
    let proven: Vec<Missing> = stream::iter(missing)
        .map(|missing| async { is_gone(&missing).await.then_some(missing) })
        .buffer_unordered(GETS_MAX)
        .filter_map(std::future::ready)
        .collect()
        .await;
    // After the GETs: a definition made anew in between answers 404 for everything.
    anchors::check(lead).await?;
    let doubtful = all - proven.len();
    // Together, so that they are ruled on together.
    lead.deletions.push(proven.into_iter().map(|Missing { uid, key }| {
        tracing::info!(pin = %key, %uid, "a Pin was deleted while nobody watched");
        let (found, namespace) = (Found::Compared, key.namespace);
        Deletion { uid, generation: 0, namespace, found, retain: None, is_old: false }
    }));
    Ok(doubtful)
}

/// Whether a GET proves that the object is gone.
///
/// # Errors
/// When that cannot be told.
pub(super) async fn is_gone(lead: &Leading, missing: &Missing) -> Result<bool, Unproven> {
    let api = api::pins_in(&lead.shared.client, &missing.key.namespace);
    let found = timeout(api::DEADLINE, api.get(&missing.key.name)).await?;
    lead.shared.reach.note(&found);
    match found {
        Ok(found) => Ok(found.metadata.uid.is_some_and(|uid| uid != missing.uid.0)),
        Err(error) if api::failure(&error) == Failure::Gone => Ok(true),
        Err(error) => Err(error.into()),
    }
}
