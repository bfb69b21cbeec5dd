//! Proves that Pins are gone. A "not found" counts only if the API server is still the one that the
//! Pins were claimed under: its anchors are the UIDs of `kube-system` and of the definition of
//! Pins.
//!
//! Invariant: an answer that an object is gone is released only after the anchors were read again.

use std::{collections::BTreeSet, future::ready};

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::{
    api::core::v1::Namespace,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api,
    core::{ObjectMeta, PartialObjectMeta},
};
use pinkeeper::types::Uid;
use tokio::time::timeout;

use super::Missing;
use crate::{
    controller::leading::Leading,
    kubernetes::{
        RawPin,
        api::{self, Failure},
        pins_in,
        record::{self, Anchors, RecordError},
    },
};

/// Concurrent GETs.
const GETS_MAX: usize = 8;
/// The definition of Pins.
const DEFINITION: &str = "pins.pinkeeper.dev";

/// Why no claim was dropped.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unproven {
    #[error("the API server: {0}")]
    Api(#[from] kube::Error),
    #[error("the record: {0}")]
    Record(#[from] RecordError),
    #[error("the API server did not answer in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
    #[error("the definition {DEFINITION} is being deleted")]
    Deleting,
    #[error(
        "the {what} is not the one that the Pins were claimed under (UID {now}, not {first}): \
         this is another Kubernetes cluster, or the definition was deleted and created again. If \
         this is intended, remove {key} from the ConfigMap {record}"
    )]
    Other { what: &'static str, key: &'static str, first: String, now: String, record: String },
}

impl Unproven {
    /// Whether a retry may succeed without a person.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Api(error) => matches!(api::failure(error), Failure::Later(_)),
            Self::Record(_) | Self::Timeout(_) => true,
            Self::Deleting | Self::Other { .. } => false,
        }
    }

    /// Whether it lasts until a person acts.
    pub(super) fn needs_a_person(&self) -> bool {
        matches!(self, Self::Other { .. })
    }
}

/// Reads the anchors and compares them with those seen first, in this process and in the record.
pub(super) async fn check(lead: &Leading) -> Result<(), Unproven> {
    let client = &lead.context.client;
    let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(client.clone());
    let definitions: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(client.clone());
    let read = async {
        let system = namespaces.get("kube-system").await?;
        let definition = definitions.get(DEFINITION).await?;
        Ok::<_, kube::Error>((system, definition))
    };
    let (system, definition) = timeout(api::DEADLINE, read).await??;
    lead.context.reach.answered();
    let now = standing(system.metadata, definition.metadata)?;
    let settings = &lead.context.settings;
    let known = lead.context.anchors.get();
    let first = record::anchors(client, settings, &now, known.as_ref()).await?;
    lead.context.anchors.note(&first);
    same(first, now, settings.record())
}

/// The present anchors. A definition that is being deleted takes all Pins with it.
fn standing(system: ObjectMeta, definition: ObjectMeta) -> Result<Anchors, Unproven> {
    if definition.deletion_timestamp.is_some() {
        return Err(Unproven::Deleting);
    }
    Ok(Anchors {
        system: system.uid.unwrap_or_default(),
        definition: definition.uid.unwrap_or_default(),
    })
}

/// Compares the present anchors with those seen first.
fn same(first: Anchors, now: Anchors, record: String) -> Result<(), Unproven> {
    for (what, key, first, now) in [
        ("cluster", record::SYSTEM_UID, first.system, now.system),
        ("definition of Pins", record::DEFINITION_UID, first.definition, now.definition),
    ] {
        if first != now {
            let first = match first.as_str() {
                record::UNKNOWN => "the previous UID, which was lost with the record".to_owned(),
                _ => first,
            };
            return Err(Unproven::Other { what, key, first, now, record });
        }
    }
    Ok(())
}

/// An unproven answer of the API server about objects that may be gone. If the definition is
/// deleted and created again meanwhile, the API server answers 404 for every Pin.
#[must_use]
pub(super) struct Said<T>(T);

impl<T> Said<T> {
    /// The answer, if the anchors are still those seen first.
    ///
    /// # Errors
    /// When they differ or cannot be read.
    pub(super) async fn proven(self, lead: &Leading) -> Result<T, Unproven> {
        check(lead).await?;
        Ok(self.0)
    }
}

/// The objects that are gone. An object without a clear answer counts as present.
pub(super) async fn absent(lead: &Leading, objects: Vec<Missing>) -> Said<Vec<Missing>> {
    let absent = stream::iter(objects)
        .map(|of| async {
            let gone = is_gone(lead, &of).await.unwrap_or_else(|error| {
                tracing::warn!(pin = %of.key, %error, "cannot determine whether a Pin is gone");
                false
            });
            gone.then_some(of)
        })
        .buffer_unordered(GETS_MAX)
        .filter_map(ready);
    Said(absent.collect().await)
}

/// The objects that exist.
///
/// # Errors
/// As soon as one of them has no clear answer.
pub(super) async fn alive(
    lead: &Leading,
    objects: Vec<Missing>,
) -> Result<Said<BTreeSet<Uid>>, Unproven> {
    let alive = stream::iter(objects)
        .map(|of| async { Ok::<_, Unproven>((!is_gone(lead, &of).await?).then_some(of.uid)) })
        .buffer_unordered(GETS_MAX)
        .try_filter_map(|of| ready(Ok(of)));
    Ok(Said(alive.try_collect().await?))
}

async fn is_gone(lead: &Leading, missing: &Missing) -> Result<bool, Unproven> {
    let api = pins_in(&lead.context.client, &missing.key.namespace);
    let found = timeout(api::DEADLINE, api.get(&missing.key.name)).await?;
    lead.context.reach.note(&found);
    Ok(says_gone(found, &missing.uid)?)
}

/// Whether the answer to a GET of its name says that an object is gone. One without a UID says nothing.
fn says_gone(found: kube::Result<RawPin>, uid: &Uid) -> kube::Result<bool> {
    let is_another = |found: RawPin| found.metadata.uid.is_some_and(|now| now != uid.0);
    Ok(api::if_there(found)?.is_none_or(is_another))
}

#[cfg(test)]
mod tests;
