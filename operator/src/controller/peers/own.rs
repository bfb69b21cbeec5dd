//! Keeps this peer's own ClusterPeer: made once, its status written when it has changed.

use std::{sync::Arc, time::Duration};

use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use pinkeeper::types::Metrics;
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    directory::{Directory, Listed, PeerError, RawPeer, peers_in, read_now},
    status::{Situation, own_status, steady},
};
use crate::{
    controller::{
        api::{self, Backoff, Failure},
        claims,
        leading::Shared,
    },
    crd::{self, ClusterPeerStatus},
};

/// Between two writes of one peer.
const WRITE_EVERY: Duration = Duration::from_secs(3);
/// Between two writes that only change numbers (pins, queue, space).
const NUMBERS_EVERY: Duration = Duration::from_secs(15);
/// How often the situation is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Waits after the API server has not taken a write.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

struct Own {
    shared: Shared,
    api: Api<RawPeer>,
    /// Numbers as last shown.
    free_space: Option<u64>,
    repository_size: Option<u64>,
    written: Option<Instant>,
    /// The object since the last write, and the version that the watch had told by then: it may hang,
    /// and what it tells next is news again.
    newer: Option<(String, Listed)>,
}

/// Runs until `token` ends it. `waiting` says what a blank peer waits for.
pub async fn run(
    shared: Shared,
    mut directory: watch::Receiver<Arc<Directory>>,
    waiting: watch::Receiver<String>,
    token: CancellationToken,
) {
    let api = peers_in(&shared.client, &shared.settings.namespace);
    let mut own =
        Own { shared, api, free_space: None, repository_size: None, written: None, newer: None };
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    let mut not_before = Instant::now();
    loop {
        if directory.borrow().complete && Instant::now() >= not_before {
            let listed = directory.borrow().peers.get(&own.shared.settings.pod).cloned();
            let waiting = waiting.borrow().clone();
            let kept = tokio::select! {
                biased;
                () = token.cancelled() => return,
                kept = own.keep(listed, &waiting) => kept,
            };
            match kept {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    tracing::warn!(%error, "this peer's ClusterPeer was not written; trying again");
                    not_before = Instant::now() + backoff.wait();
                }
            }
        }
        tokio::select! {
            biased;
            () = token.cancelled() => return,
            changed = directory.changed() => if changed.is_err() { return },
            () = sleep(LOOK_EVERY) => {}
        }
    }
}

impl Own {
    async fn keep(&mut self, listed: Option<Listed>, waiting: &str) -> Result<(), PeerError> {
        let Some(listed) = listed else {
            return self.create().await;
        };
        let told = listed.resource_version.clone();
        let listed = match &self.newer {
            Some((since, newer)) if *since == told => newer.clone(),
            _ => listed,
        };
        let status = self.status(&listed.status, waiting);
        if status == listed.status {
            return Ok(());
        }
        let every = if status.cluster_id != listed.status.cluster_id {
            Duration::ZERO // the record waits for it
        } else if without_numbers(&status) == without_numbers(&listed.status) {
            NUMBERS_EVERY
        } else {
            WRITE_EVERY
        };
        if self.written.is_some_and(|written| written.elapsed() < every) {
            return Ok(());
        }
        let newer = self.write(&listed.resource_version, &status).await?;
        self.newer = newer.map(|newer| (told, newer));
        Ok(())
    }

    fn status(&mut self, before: &ClusterPeerStatus, waiting: &str) -> ClusterPeerStatus {
        let cluster = &self.shared.cluster;
        let mut metrics: Metrics = cluster.local_metrics().borrow().clone();
        self.free_space = steady(self.free_space, metrics.free_space);
        self.repository_size = steady(self.repository_size, metrics.repository_size);
        metrics.free_space = self.free_space;
        metrics.repository_size = self.repository_size;
        let members = cluster.members();
        let unpins = cluster.state().read(|pins| claims::message(pins, &self.shared.settings));
        let situation = Situation {
            id: cluster.id(),
            member: cluster.member(),
            standing: cluster.standing(),
            leadership: *cluster.leadership().borrow(),
            led: cluster.is_led(),
            membership: members.get(&cluster.id()),
            metrics: &metrics,
            waiting,
            unpins: unpins.as_deref(),
            now: self.shared.clock.now(),
        };
        own_status(situation, before)
    }

    /// Makes the object, with an empty spec that is never applied again: it belongs to people.
    async fn create(&self) -> Result<(), PeerError> {
        let object = crd::ClusterPeer::new(&self.shared.settings.pod, crd::ClusterPeerSpec {});
        let raw: RawPeer =
            serde_json::from_value(serde_json::to_value(&object).unwrap_or_default())
                .map_err(kube::Error::SerdeError)?;
        let params = PostParams { field_manager: Some(api::FIELD_MANAGER.into()), dry_run: false };
        let created = timeout(api::DEADLINE, self.api.create(&params, &raw)).await?;
        self.shared.reach.note(&created);
        match created {
            // Seen by the watch, which goes on with its status.
            Ok(_) => Ok(()),
            Err(error) if api::failure(&error) == Failure::Conflict => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes the status to that version; says what there is then.
    async fn write(
        &mut self,
        version: &str,
        status: &ClusterPeerStatus,
    ) -> Result<Option<Listed>, PeerError> {
        let name = &self.shared.settings.pod;
        let applied = apply_status(&self.api, name, version, status).await?;
        self.shared.reach.note(&applied);
        match applied {
            Ok(raw) => {
                self.written = Some(Instant::now());
                Ok(Listed::read(raw).map(|(_, listed)| listed))
            }
            Err(error) if matches!(api::failure(&error), Failure::Gone | Failure::Conflict) => {
                read_now(&self.shared, name).await
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Applies a ClusterPeer's status to the version it was decided on.
pub(super) async fn apply_status(
    api: &Api<RawPeer>,
    name: &str,
    version: &str,
    status: &ClusterPeerStatus,
) -> Result<Result<RawPeer, kube::Error>, tokio::time::error::Elapsed> {
    let body = json!({
        "apiVersion": format!("{}/v1alpha1", crd::GROUP),
        "kind": "ClusterPeer",
        "metadata": {"name": name, "resourceVersion": version},
        "status": status,
    });
    let params = PatchParams::apply(api::FIELD_MANAGER).force();
    let patch = Patch::Apply(&body);
    timeout(api::DEADLINE, api.patch_status(name, &params, &patch)).await
}

fn without_numbers(status: &ClusterPeerStatus) -> ClusterPeerStatus {
    ClusterPeerStatus {
        repository_size: None,
        free_space: None,
        pins: None,
        queue: None,
        ..status.clone()
    }
}
