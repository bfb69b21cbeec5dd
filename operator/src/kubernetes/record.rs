//! The record: a ConfigMap that names the cluster of this installation.
//!
//! It also holds the anchors: the UIDs of the namespace `kube-system` and of the definition of Pins
//! that the Pins were claimed under. A person's approval is an annotation on it.
//!
//! Invariant: a write either creates the record or replaces exactly the version that was read, so
//! two peers cannot both win it.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{ConfigMap, ObjectReference},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, Resource};
use pinkeeper::types::ClusterId;
use tokio::time::timeout;

use super::{
    api::{self, DEADLINE, Failure, post_params},
    settings::Settings,
};

const CLUSTER_ID: &str = "clusterID";
const EPOCH: &str = "epoch";
const FOUNDER: &str = "founder";
const FORMED: &str = "formed";
/// Key of the UID of the namespace kube-system that the Pins were claimed under.
pub(crate) const SYSTEM_UID: &str = "kubeSystemUID";
/// Key of the UID of the definition that the Pins were claimed under.
pub(crate) const DEFINITION_UID: &str = "pinDefinitionUID";
/// Placeholder for a UID in a restored record: the noted UID was lost with the previous record.
pub(crate) const UNKNOWN: &str = "";

/// The annotation by which a person approves waiting deletions; its value is their digest.
pub(crate) const ALLOW_UNPIN: &str = "pinkeeper.dev/allow-unpin";

/// The record as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Name of the ConfigMap.
    pub name: String,
    /// The version read.
    pub version: String,
    /// The cluster.
    pub cluster: ClusterId,
    /// Its epoch.
    pub epoch: u64,
    /// The pod that founds it, or founded it.
    pub founder: String,
    /// The cluster exists.
    pub formed: bool,
}

/// UIDs that identify the Kubernetes cluster and the definition that the Pins are stored under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchors {
    /// UID of the namespace kube-system.
    pub system: String,
    /// UID of the definition of Pins.
    pub definition: String,
}

/// Why the record cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// The API server's answer.
    #[error("the API server: {0}")]
    Api(#[from] kube::Error),
    /// It did not answer.
    #[error("the API server did not answer in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
    /// The record has another version than the one read, or is gone.
    #[error("the record was changed or deleted meanwhile")]
    Lost,
    /// It lacks what peers write.
    #[error("the ConfigMap {name} is not a valid record: {what} is missing or invalid")]
    Malformed {
        /// The ConfigMap.
        name: String,
        /// The key.
        what: &'static str,
    },
}

impl Record {
    /// The record of another cluster, which `founder` is to found.
    pub(crate) fn taken_over(&self, cluster: ClusterId, founder: &str) -> Self {
        Self { cluster, founder: founder.to_owned(), ..self.clone() }
    }

    /// The record of the same cluster, marked as formed.
    pub(crate) fn formed(&self) -> Self {
        Self { formed: true, ..self.clone() }
    }

    fn read(map: &ConfigMap) -> Result<Self, RecordError> {
        let name = map.metadata.name.clone().unwrap_or_default();
        let get = |what: &'static str| {
            let value = map.data.as_ref().and_then(|data| data.get(what));
            value.ok_or_else(|| RecordError::Malformed { name: name.clone(), what })
        };
        let bad = |what| RecordError::Malformed { name: name.clone(), what };
        Ok(Self {
            version: map.metadata.resource_version.clone().unwrap_or_default(),
            cluster: get(CLUSTER_ID)?.parse().map_err(|_| bad(CLUSTER_ID))?,
            epoch: get(EPOCH)?.parse().map_err(|_| bad(EPOCH))?,
            founder: get(FOUNDER)?.clone(),
            formed: get(FORMED)?.parse().map_err(|_| bad(FORMED))?,
            name,
        })
    }
}

fn maps(client: &Client, settings: &Settings) -> Api<ConfigMap> {
    Api::namespaced(client.clone(), &settings.namespace)
}

async fn get_map(client: &Client, settings: &Settings) -> Result<Option<ConfigMap>, RecordError> {
    let answer = timeout(DEADLINE, maps(client, settings).get(&settings.record())).await?;
    Ok(api::if_there(answer)?)
}

/// Reads the record.
///
/// # Errors
/// When the API server does not answer, or the ConfigMap is not a valid record.
pub(crate) async fn get(
    client: &Client,
    settings: &Settings,
) -> Result<Option<Record>, RecordError> {
    get_map(client, settings).await?.map(|map| Record::read(&map)).transpose()
}

/// Creates the record.
///
/// # Errors
/// [`RecordError::Lost`] when it exists already.
pub(crate) async fn create(
    client: &Client,
    settings: &Settings,
    cluster: ClusterId,
    epoch: u64,
    formed: bool,
) -> Result<Record, RecordError> {
    let map = first_version(settings, cluster, epoch, formed);
    created(timeout(DEADLINE, maps(client, settings).create(&post_params(), &map)).await?)
}

fn first_version(settings: &Settings, cluster: ClusterId, epoch: u64, formed: bool) -> ConfigMap {
    let mut data = BTreeMap::from([
        (CLUSTER_ID.into(), cluster.to_string()),
        (EPOCH.into(), epoch.to_string()),
        (FOUNDER.into(), settings.pod.clone()),
        (FORMED.into(), formed.to_string()),
    ]);
    if formed {
        data.extend([SYSTEM_UID, DEFINITION_UID].map(|key| (key.into(), UNKNOWN.into())));
    }
    ConfigMap {
        metadata: ObjectMeta { name: Some(settings.record()), ..ObjectMeta::default() },
        data: Some(data),
        ..ConfigMap::default()
    }
}

/// Interprets the answer to a creation; an existing record belongs to another peer.
fn created(answer: Result<ConfigMap, kube::Error>) -> Result<Record, RecordError> {
    match answer {
        Ok(map) => Record::read(&map),
        Err(error) if api::failure(&error) == Failure::Conflict => Err(RecordError::Lost),
        Err(error) => Err(error.into()),
    }
}

/// Replaces the version `read` of the record; other keys stay.
///
/// # Errors
/// [`RecordError::Lost`] when it no longer has that version.
pub(crate) async fn replace(
    client: &Client,
    settings: &Settings,
    read: &Record,
    next: &Record,
) -> Result<Record, RecordError> {
    let map = of_version(get_map(client, settings).await?, read)?;
    Record::read(&put(client, settings, map, &values(next)).await?)
}

/// The ConfigMap, if it is still the version that was read.
fn of_version(map: Option<ConfigMap>, read: &Record) -> Result<ConfigMap, RecordError> {
    map.filter(|map| map.metadata.resource_version.as_deref() == Some(read.version.as_str()))
        .ok_or(RecordError::Lost)
}

fn values(record: &Record) -> [(&'static str, String); 4] {
    [
        (CLUSTER_ID, record.cluster.to_string()),
        (EPOCH, record.epoch.to_string()),
        (FOUNDER, record.founder.clone()),
        (FORMED, record.formed.to_string()),
    ]
}

/// A person's approval, as read from one version of the record.
#[derive(Debug)]
pub(crate) struct Approval {
    /// The record, for Events.
    pub(crate) record: ObjectReference,
    /// The annotation's value.
    pub(crate) word: Option<String>,
    map: ConfigMap,
}

impl Approval {
    fn read(map: ConfigMap) -> Self {
        let annotations = map.metadata.annotations.as_ref();
        let word = annotations.and_then(|all| all.get(ALLOW_UNPIN)).cloned();
        Self { record: map.object_ref(&()), word, map }
    }

    /// Removes the annotation.
    fn take_word(&mut self) {
        if let Some(annotations) = &mut self.map.metadata.annotations {
            annotations.remove(ALLOW_UNPIN);
        }
    }
}

/// Reads the approval.
///
/// # Errors
/// When the record does not exist or cannot be read.
pub(crate) async fn approval(
    client: &Client,
    settings: &Settings,
) -> Result<Approval, RecordError> {
    let map = get_map(client, settings).await?.ok_or(RecordError::Lost)?;
    Ok(Approval::read(map))
}

/// Removes a used approval from the version that it was read from.
///
/// # Errors
/// [`RecordError::Lost`] when the record no longer has that version.
pub(crate) async fn used(
    client: &Client,
    settings: &Settings,
    mut approval: Approval,
) -> Result<(), RecordError> {
    approval.take_word();
    put(client, settings, approval.map, &[]).await.map(drop)
}

/// Replaces the version of the ConfigMap that `map` is, with `values` set.
async fn put(
    client: &Client,
    settings: &Settings,
    map: ConfigMap,
    values: &[(&str, String)],
) -> Result<ConfigMap, RecordError> {
    let (maps, map) = (maps(client, settings), with(map, values));
    replaced(timeout(DEADLINE, maps.replace(&settings.record(), &post_params(), &map)).await?)
}

/// The ConfigMap with `values` set; other keys stay.
fn with(mut map: ConfigMap, values: &[(&str, String)]) -> ConfigMap {
    let data = map.data.get_or_insert_default();
    data.extend(values.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    map
}

fn replaced(answer: Result<ConfigMap, kube::Error>) -> Result<ConfigMap, RecordError> {
    match answer {
        Ok(map) => Ok(map),
        Err(error) => match api::failure(&error) {
            Failure::Gone | Failure::Conflict => Err(RecordError::Lost),
            _ => Err(error.into()),
        },
    }
}

fn first(noted: &Option<String>, known: Option<&String>, now: &str) -> String {
    match noted.as_deref() {
        None => now.to_owned(),
        Some(UNKNOWN) => known.cloned().unwrap_or_default(),
        Some(noted) => noted.to_owned(),
    }
}

/// The anchors in the record. Missing ones are set to `now`, and those that were lost with a
/// previous record to `known`. Without `known` they stay [`UNKNOWN`] until a person removes the
/// keys.
///
/// # Errors
/// When the record does not exist, or cannot be read or written.
pub(crate) async fn anchors(
    client: &Client,
    settings: &Settings,
    now: &Anchors,
    known: Option<&Anchors>,
) -> Result<Anchors, RecordError> {
    let map = get_map(client, settings).await?.ok_or(RecordError::Lost)?;
    let (first, values) = noted(&map, now, known);
    if let Some(values) = values {
        put(client, settings, map, &values).await?;
    }
    Ok(first)
}

/// The anchors, and the values to write if the ConfigMap does not have them yet.
fn noted(
    map: &ConfigMap,
    now: &Anchors,
    known: Option<&Anchors>,
) -> (Anchors, Option<[(&'static str, String); 2]>) {
    let noted = |key: &str| map.data.as_ref()?.get(key).cloned();
    let (system, definition) = (noted(SYSTEM_UID), noted(DEFINITION_UID));
    let first = Anchors {
        system: first(&system, known.map(|known| &known.system), &now.system),
        definition: first(&definition, known.map(|known| &known.definition), &now.definition),
    };
    let is_noted =
        system.as_ref() == Some(&first.system) && definition.as_ref() == Some(&first.definition);
    let values = [(SYSTEM_UID, first.system.clone()), (DEFINITION_UID, first.definition.clone())];
    (first, (!is_noted).then_some(values))
}

#[cfg(test)]
mod read_any;
#[cfg(test)]
mod tests;
