//! The record: a ConfigMap that says which cluster this installation is.
//!
//! It also holds the anchors: the UIDs of the Kubernetes cluster and of the definition that the Pins
//! were claimed under. A person's approval is an annotation of it.
//!
//! Invariant: the record is created, or the version that was read is replaced. It is never written
//! otherwise, so two peers cannot both win it.

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
/// UID of the namespace kube-system that the Pins were claimed under.
pub(crate) const SYSTEM_UID: &str = "kubeSystemUID";
/// UID of the definition of Pins that they were claimed under.
pub(crate) const DEFINITION_UID: &str = "pinDefinitionUID";
/// Instead of a UID, in a record that was made anew: the one that was noted is lost with the old record.
pub(crate) const UNKNOWN: &str = "";

/// The annotation by which a person lets go what waits: the digest of it.
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
    /// The pod that is to found it, or has.
    pub founder: String,
    /// It exists.
    pub formed: bool,
}

/// The identity of the Kubernetes cluster and of the definition that the Pins are stored under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchors {
    /// UID of the namespace kube-system.
    pub system: String,
    /// UID of the definition of Pins.
    pub definition: String,
}

/// Why the record was not read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// The API server's answer.
    #[error("the API server: {0}")]
    Api(#[from] kube::Error),
    /// It did not answer.
    #[error("no answer from the API server in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
    /// Somebody else was first.
    #[error("somebody else has changed the record first")]
    Lost,
    /// It is not what the peers write.
    #[error("the ConfigMap {name} is not a record: {what} is missing or not readable")]
    Malformed {
        /// The ConfigMap.
        name: String,
        /// The key.
        what: &'static str,
    },
}

impl Record {
    /// Of another cluster, that `founder` is to found.
    pub(crate) fn taken_over(&self, cluster: ClusterId, founder: &str) -> Self {
        Self { cluster, founder: founder.to_owned(), ..self.clone() }
    }

    /// Of the same cluster, which exists.
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
/// When the API server does not answer, or answers something else than a record.
pub(crate) async fn get(
    client: &Client,
    settings: &Settings,
) -> Result<Option<Record>, RecordError> {
    get_map(client, settings).await?.map(|map| Record::read(&map)).transpose()
}

/// Creates the record.
///
/// # Errors
/// [`RecordError::Lost`] when there is one.
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

/// One that is there already is somebody else's, and an answer that does not come is none.
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
/// [`RecordError::Lost`] when it is no longer that version.
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

/// A person's word on what waits, as it is on one version of the record.
#[derive(Debug)]
pub(crate) struct Approval {
    /// The record, for Events.
    pub(crate) record: ObjectReference,
    /// What the annotation says.
    pub(crate) word: Option<String>,
    map: ConfigMap,
}

impl Approval {
    fn read(map: ConfigMap) -> Self {
        let annotations = map.metadata.annotations.as_ref();
        let word = annotations.and_then(|all| all.get(ALLOW_UNPIN)).cloned();
        Self { record: map.object_ref(&()), word, map }
    }

    /// The same version without the word.
    fn take_word(&mut self) {
        if let Some(annotations) = &mut self.map.metadata.annotations {
            annotations.remove(ALLOW_UNPIN);
        }
    }
}

/// Reads the approval.
///
/// # Errors
/// When there is no record, or it cannot be read.
pub(crate) async fn approval(
    client: &Client,
    settings: &Settings,
) -> Result<Approval, RecordError> {
    let map = get_map(client, settings).await?.ok_or(RecordError::Lost)?;
    Ok(Approval::read(map))
}

/// Takes a used approval off the version that it was read from.
///
/// # Errors
/// [`RecordError::Lost`] when the record is no longer that version.
pub(crate) async fn used(
    client: &Client,
    settings: &Settings,
    mut approval: Approval,
) -> Result<(), RecordError> {
    approval.take_word();
    put(client, settings, approval.map, &[]).await.map(drop)
}

/// Sets keys of the version of the ConfigMap that `map` is.
async fn put(
    client: &Client,
    settings: &Settings,
    map: ConfigMap,
    values: &[(&str, String)],
) -> Result<ConfigMap, RecordError> {
    let (maps, map) = (maps(client, settings), with(map, values));
    replaced(timeout(DEADLINE, maps.replace(&settings.record(), &post_params(), &map)).await?)
}

/// The same version with other values; other keys stay.
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

/// The anchors in the record; `now` is noted for those that are not there, `known` for those that were
/// lost with an older record. What is not known stays [`UNKNOWN`] until a person takes it out.
///
/// # Errors
/// When there is no record, or it cannot be read or written.
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

/// The anchors, and what is to be written if the ConfigMap does not say so yet.
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
