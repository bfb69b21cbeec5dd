//! What a "not found" is worth: whether the API server is still the one that the Pins were in, and
//! which objects and namespaces are gone.
//!
//! Invariant: nobody hears that something is gone before the anchors were read after it was said.

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

/// GETs at a time.
const GETS_MAX: usize = 8;
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

    /// Whether it stays so until a person has done something.
    pub(super) fn needs_a_person(&self) -> bool {
        matches!(self, Self::Other { .. })
    }
}

/// Reads the anchors and compares them with those seen first, here and in the record.
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

/// What stands now. A definition that is being deleted takes all Pins with it.
fn standing(system: ObjectMeta, definition: ObjectMeta) -> Result<Anchors, Unproven> {
    if definition.deletion_timestamp.is_some() {
        return Err(Unproven::Deleting);
    }
    Ok(Anchors {
        system: system.uid.unwrap_or_default(),
        definition: definition.uid.unwrap_or_default(),
    })
}

/// Whether what stands `now` is what was seen first.
fn same(first: Anchors, now: Anchors, record: String) -> Result<(), Unproven> {
    for (what, key, first, now) in [
        ("cluster", record::SYSTEM_UID, first.system, now.system),
        ("definition of Pins", record::DEFINITION_UID, first.definition, now.definition),
    ] {
        if first != now {
            let first = match first.as_str() {
                record::UNKNOWN => "the one before, lost with the last record".to_owned(),
                _ => first,
            };
            return Err(Unproven::Other { what, key, first, now, record });
        }
    }
    Ok(())
}

/// What the API server has said of things that may be gone. It is worth nothing yet: a definition that
/// is made anew meanwhile has every Pin answered by 404.
#[must_use]
pub(super) struct Said<T>(T);

impl<T> Said<T> {
    /// What was said, if the anchors still are those seen first.
    ///
    /// # Errors
    /// When they are not, or that cannot be told.
    pub(super) async fn proven(self, lead: &Leading) -> Result<T, Unproven> {
        check(lead).await?;
        Ok(self.0)
    }
}

/// Those of the objects that are gone. What cannot be told of is not.
pub(super) async fn absent(lead: &Leading, objects: Vec<Missing>) -> Said<Vec<Missing>> {
    let absent = stream::iter(objects)
        .map(|of| async {
            let gone = is_gone(lead, &of).await.unwrap_or_else(|error| {
                tracing::warn!(pin = %of.key, %error, "cannot tell whether a Pin is gone");
                false
            });
            gone.then_some(of)
        })
        .buffer_unordered(GETS_MAX)
        .filter_map(ready);
    Said(absent.collect().await)
}

/// Those of the objects that are there.
///
/// # Errors
/// As soon as one of them cannot be told.
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
