//! What a "not found" is worth: whether the API server is still the one that the Pins were in, and
//! which namespaces are gone.

use std::{collections::BTreeSet, future::ready};

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::{
    api::core::v1::Namespace,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{Api, core::PartialObjectMeta};
use tokio::time::timeout;

use crate::{
    controller::{
        api::{self, Failure},
        leading::Leading,
    },
    founding::record::{self, Anchors, RecordError},
};

/// GETs at a time.
pub(super) const GETS_MAX: usize = 8;
/// The definition of Pins.
const DEFINITION: &str = "pins.pinkeeper.dev";

/// Why nothing was dropped.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unproven {
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

impl Unproven {
    /// Whether the same question may have another answer soon, without a person.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Api(error) => matches!(api::failure(error), Failure::Later(_)),
            Self::Record(_) | Self::Timeout(_) => true,
            Self::Deleting | Self::Other { .. } => false,
        }
    }
}

/// Reads the anchors and compares them with those seen first, here and in the record.
pub(super) async fn check(lead: &Leading) -> Result<(), Unproven> {
    let client = &lead.shared.client;
    let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(client.clone());
    let definitions: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(client.clone());
    let read = async {
        let system = namespaces.get("kube-system").await?;
        let definition = definitions.get(DEFINITION).await?;
        Ok::<_, kube::Error>((system, definition))
    };
    let (system, definition) = timeout(api::DEADLINE, read).await??;
    lead.shared.reach.answered();
    if definition.metadata.deletion_timestamp.is_some() {
        return Err(Unproven::Deleting);
    }
    let now = Anchors {
        system: system.metadata.uid.unwrap_or_default(),
        definition: definition.metadata.uid.unwrap_or_default(),
    };
    let settings = &lead.shared.settings;
    let known = lead.shared.anchors.get();
    let first = record::anchors(client, settings, &now, known.as_ref()).await?;
    lead.shared.anchors.note(&first);
    for (what, key, first, now) in [
        ("cluster", record::SYSTEM_UID, first.system, now.system),
        ("definition of Pins", record::DEFINITION_UID, first.definition, now.definition),
    ] {
        if first != now {
            let first = match first.as_str() {
                record::UNKNOWN => "the one before, lost with the last record".to_owned(),
                _ => first,
            };
            return Err(Unproven::Other { what, key, first, now, record: settings.record() });
        }
    }
    Ok(())
}

/// Those of the namespaces that are gone, or going: nothing can stop the end of one that is being
/// deleted. It proves something only if [`check`] succeeds afterwards.
///
/// # Errors
/// As soon as one of them cannot be told.
pub(super) async fn gone(
    lead: &Leading,
    namespaces: BTreeSet<String>,
) -> Result<BTreeSet<String>, Unproven> {
    let api: Api<PartialObjectMeta<Namespace>> = Api::all(lead.shared.client.clone());
    let is_gone = async |name: &str| match timeout(api::DEADLINE, api.get(name)).await? {
        Ok(found) => Ok(found.metadata.deletion_timestamp.is_some()),
        Err(error) if api::failure(&error) == Failure::Gone => Ok(true),
        Err(error) => Err(Unproven::from(error)),
    };
    stream::iter(namespaces)
        .map(|name| async { Ok(is_gone(&name).await?.then_some(name)) })
        .buffer_unordered(GETS_MAX)
        .try_filter_map(|name| ready(Ok(name)))
        .try_collect()
        .await
}
