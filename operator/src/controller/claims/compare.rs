//! Claims against the list of objects: finds Pins that were deleted while nobody watched.
//!
//! Invariant: a claim is dropped only if, in this order, a whole list did not contain its object, a
//! GET of its name answered 404 or another UID, and the UIDs of the namespace kube-system and of the
//! Pins' definition are those seen first. An error is never an answer, and neither is "forbidden".

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use k8s_openapi::{
    api::core::v1::Namespace,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{Api, core::PartialObjectMeta};

use super::{Missing, missing};
use crate::{
    controller::{
        api::{self, Failure},
        leading::{Leading, Work},
        queue::Lane,
    },
    founding::record::{self, Anchors, RecordError},
};

/// How often all claims are compared, beside each relist.
const EVERY: Duration = Duration::from_secs(600);
/// After a comparison that could not prove something.
const AGAIN: Duration = Duration::from_secs(5);
/// GETs at a time.
const GETS_MAX: usize = 8;
/// The definition of Pins.
const DEFINITION: &str = "pins.pinkeeper.dev";

/// Why nothing was dropped.
#[derive(Debug, thiserror::Error)]
enum Unproven {
    #[error("the API server: {0}")]
    Api(#[from] kube::Error),
    #[error("the record: {0}")]
    Record(#[from] RecordError),
    #[error("no answer in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
    #[error("the definition {DEFINITION} is being deleted")]
    Deleting,
    #[error(
        "the {what} is not the one that the Pins were claimed under (UID {now}, not {first}): \
         another Kubernetes cluster, or the definition was deleted and made anew. If that is meant, \
         remove {key} from the ConfigMap {record}"
    )]
    Other { what: &'static str, key: &'static str, first: String, now: String, record: String },
}

/// Runs until the leadership ends.
pub(in crate::controller) async fn run(lead: Arc<Leading>) {
    loop {
        let complete = lead.objects().is_complete();
        let compared = if complete { compare(&lead).await } else { Ok(0) };
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
    // Noted at the start of each leadership, while all is well, to compare with later.
    check_anchors(lead).await?;
    if missing.is_empty() {
        return Ok(0);
    }
    let all = missing.len();
    let proven: Vec<Missing> = stream::iter(missing)
        .map(|missing| async move { is_gone(lead, &missing).await.then_some(missing) })
        .buffer_unordered(GETS_MAX)
        .filter_map(std::future::ready)
        .collect()
        .await;
    // After the GETs: a definition made anew in between answers 404 for everything.
    check_anchors(lead).await?;
    let doubtful = all - proven.len();
    for Missing { uid, key } in proven {
        tracing::info!(pin = %key, %uid, "a Pin was deleted while nobody watched");
        // Behind the objects that are waiting to be claimed.
        lead.claims.push(Lane::Later, Work::Gone(uid, 0));
    }
    Ok(doubtful)
}

/// Whether a GET proves that the object is gone.
async fn is_gone(lead: &Leading, missing: &Missing) -> bool {
    let api = api::pins_in(&lead.shared.client, &missing.key.namespace);
    match tokio::time::timeout(api::DEADLINE, api.get(&missing.key.name)).await {
        Ok(Ok(found)) => {
            lead.shared.reach.answered();
            found.metadata.uid.is_some_and(|uid| uid != missing.uid.0)
        }
        Ok(Err(error)) => {
            let failure = api::failure(&error);
            if failure != Failure::Gone {
                tracing::warn!(pin = %missing.key, %error, "cannot tell whether a Pin is gone");
            }
            failure == Failure::Gone
        }
        Err(_) => false,
    }
}

/// Reads the anchors and compares them with those seen first, here and in the record.
async fn check_anchors(lead: &Leading) -> Result<(), Unproven> {
    let client = &lead.shared.client;
    let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(client.clone());
    let definitions: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(client.clone());
    let read = async {
        let system = namespaces.get("kube-system").await?;
        let definition = definitions.get(DEFINITION).await?;
        Ok::<_, kube::Error>((system, definition))
    };
    let (system, definition) = tokio::time::timeout(api::DEADLINE, read).await??;
    lead.shared.reach.answered();
    if definition.metadata.deletion_timestamp.is_some() {
        return Err(Unproven::Deleting);
    }
    let now = Anchors {
        system: system.metadata.uid.unwrap_or_default(),
        definition: definition.metadata.uid.unwrap_or_default(),
    };
    let settings = &lead.shared.settings;
    let first = record::anchors(client, settings, &now).await?;
    for (what, key, first, now) in [
        ("cluster", record::SYSTEM_UID, first.system, now.system),
        ("definition of Pins", record::DEFINITION_UID, first.definition, now.definition),
    ] {
        if first != now {
            return Err(Unproven::Other { what, key, first, now, record: settings.record() });
        }
    }
    Ok(())
}
