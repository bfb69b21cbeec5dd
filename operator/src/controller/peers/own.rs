//! Keeps this peer's own ClusterPeer: creates it once and writes its status when it changes.

use std::{sync::Arc, time::Duration};

use kube::{
    Api,
    api::{Patch, PatchParams},
};
use pinkeeper::types::Metrics;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::status::{Situation, own_status, steady};
use crate::{
    controller::claims,
    crd::{self, ClusterPeerStatus},
    kubernetes::{
        Backoff, Context, Directory, Listed, PeerError, RawPeer,
        api::{self, Failure},
        peers_in, read_now,
    },
};

/// Shortest time between two writes.
const WRITE_EVERY: Duration = Duration::from_secs(3);
/// Shortest time between two writes that change only numbers (pins, queue, space).
const NUMBERS_EVERY: Duration = Duration::from_secs(15);
/// How often the status is computed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Waits after a failed write.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

struct Own {
    context: Context,
    api: Api<RawPeer>,
    /// Numbers as last written.
    free_space: Option<u64>,
    repository_size: Option<u64>,
    written: Option<Instant>,
    /// The object after the last write, and the version that the watch had delivered by then. The
    /// object is used until the watch, which may hang, delivers another version.
    newer: Option<(String, Listed)>,
}

/// Runs until `token` is cancelled. `waiting` says what a blank peer waits for.
pub async fn run(
    context: Context,
    mut directory: watch::Receiver<Arc<Directory>>,
    waiting: watch::Receiver<String>,
    token: CancellationToken,
) {
    let api = peers_in(&context.client, &context.settings.namespace);
    let mut own =
        Own { context, api, free_space: None, repository_size: None, written: None, newer: None };
    let mut announced = own.context.announced.subscribe();
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    let mut not_before = Instant::now();
    loop {
        if directory.borrow().complete && Instant::now() >= not_before {
            let listed = directory.borrow().peers.get(&own.context.settings.pod).cloned();
            let waiting = waiting.borrow().clone();
            let kept = tokio::select! {
                biased;
                () = token.cancelled() => return,
                kept = own.keep(listed, &waiting) => kept,
            };
            match kept {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    tracing::warn!(%error, "cannot write this peer's ClusterPeer; trying again");
                    not_before = Instant::now() + backoff.wait();
                }
            }
        }
        tokio::select! {
            biased;
            () = token.cancelled() => return,
            changed = directory.changed() => if changed.is_err() { return },
            Ok(()) = announced.changed() => {}
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
        let listed = latest(listed, self.newer.as_ref());
        let status = self.status(&listed, waiting);
        if !is_due(&listed.status, &status, self.written.map(|written| written.elapsed())) {
            return Ok(());
        }
        let newer = self.write(&listed.resource_version, &status).await?;
        self.newer = newer.map(|newer| (told, newer));
        Ok(())
    }

    fn status(&mut self, listed: &Listed, waiting: &str) -> ClusterPeerStatus {
        let cluster = &self.context.cluster;
        let mut metrics: Metrics = cluster.local_metrics().borrow().clone();
        self.free_space = steady(self.free_space, metrics.free_space);
        self.repository_size = steady(self.repository_size, metrics.repository_size);
        metrics.free_space = self.free_space;
        metrics.repository_size = self.repository_size;
        let members = cluster.members();
        let unpins = cluster.state().read(|pins| claims::message(pins, &self.context.settings));
        let held = self.context.held.get();
        let situation = Situation {
            generation: listed.generation,
            id: cluster.id(),
            member: cluster.member(),
            standing: cluster.standing(),
            announced: *self.context.announced.borrow(),
            leadership: *cluster.leadership().borrow(),
            led: cluster.is_led(),
            membership: members.get(&cluster.id()),
            metrics: &metrics,
            waiting,
            unpins: unpins.as_deref(),
            held: held.as_deref(),
            now: self.context.clock.now(),
        };
        own_status(situation, &listed.status)
    }

    /// Creates the object with an empty spec. The spec is never applied again: it belongs to
    /// people.
    async fn create(&self) -> Result<(), PeerError> {
        let object = crd::ClusterPeer::new(&self.context.settings.pod, crd::ClusterPeerSpec {});
        let raw: RawPeer =
            serde_json::from_value(serde_json::to_value(&object).unwrap_or_default())
                .map_err(kube::Error::SerdeError)?;
        let created = timeout(api::DEADLINE, self.api.create(&api::post_params(), &raw)).await?;
        self.context.reach.note(&created);
        there(created)
    }

    /// Writes the status to that version; returns the object afterwards.
    async fn write(
        &mut self,
        version: &str,
        status: &ClusterPeerStatus,
    ) -> Result<Option<Listed>, PeerError> {
        let name = &self.context.settings.pod;
        let applied = apply_status(&self.api, name, version, status).await?;
        self.context.reach.note(&applied);
        match left(applied)? {
            Left::Written(raw) => {
                self.written = Some(Instant::now());
                Ok(Listed::read(*raw).map(|(_, listed)| listed))
            }
            Left::Another => read_now(&self.context, name).await,
        }
    }
}

/// An object that an earlier process created is as good: the watch delivers it.
fn there(created: Result<RawPeer, kube::Error>) -> Result<(), PeerError> {
    match created {
        Ok(_) => Ok(()),
        Err(error) if api::failure(&error) == Failure::Conflict => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Result of a status write.
#[derive(Debug)]
enum Left {
    /// The written object.
    Written(Box<RawPeer>),
    /// The object has another version or is gone.
    Another,
}

fn left(applied: Result<RawPeer, kube::Error>) -> Result<Left, PeerError> {
    match applied {
        Ok(raw) => Ok(Left::Written(Box::new(raw))),
        Err(error) if matches!(api::failure(&error), Failure::Gone | Failure::Conflict) => {
            Ok(Left::Another)
        }
        Err(error) => Err(error.into()),
    }
}

/// Applies a ClusterPeer's status to the version that it was computed from.
pub(super) async fn apply_status(
    api: &Api<RawPeer>,
    name: &str,
    version: &str,
    status: &ClusterPeerStatus,
) -> Result<Result<RawPeer, kube::Error>, tokio::time::error::Elapsed> {
    let body = body(name, version, status);
    let params = PatchParams::apply(api::FIELD_MANAGER).force();
    let patch = Patch::Apply(&body);
    timeout(api::DEADLINE, api.patch_status(name, &params, &patch)).await
}

fn body(name: &str, version: &str, status: &ClusterPeerStatus) -> Value {
    json!({
        "apiVersion": format!("{}/v1alpha1", crd::GROUP),
        "kind": "ClusterPeer",
        "metadata": {"name": name, "resourceVersion": version},
        "status": status,
    })
}

/// The object after the last write, unless the watch has delivered another version since.
fn latest(told: Listed, newer: Option<&(String, Listed)>) -> Listed {
    match newer {
        Some((since, newer)) if *since == told.resource_version => newer.clone(),
        _ => told,
    }
}

/// Whether to write a change, `since` the last write.
fn is_due(before: &ClusterPeerStatus, now: &ClusterPeerStatus, since: Option<Duration>) -> bool {
    now != before && since.is_none_or(|since| since >= every(before, now))
}

/// Shortest time after the last write for this change.
fn every(before: &ClusterPeerStatus, now: &ClusterPeerStatus) -> Duration {
    if now.cluster_id != before.cluster_id {
        Duration::ZERO // the record is marked formed after it
    } else if without_numbers(now) == without_numbers(before) {
        NUMBERS_EVERY
    } else {
        WRITE_EVERY
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use pinkeeper::types::Timestamp;

    use super::*;
    use crate::{controller::peers::status::condition, crd::PeerRole};

    fn raw(version: &str) -> RawPeer {
        let raw = json!({
            "apiVersion": "pinkeeper.dev/v1alpha1", "kind": "ClusterPeer",
            "metadata": {"name": "p-0", "namespace": "web", "resourceVersion": version}, "spec": {},
        });
        serde_json::from_value(raw).unwrap()
    }

    fn error(code: u16) -> kube::Error {
        let reason = if code == 404 { "NotFound" } else { "" };
        let status = json!({"code": code, "reason": reason, "details": {"name": "p-0"}});
        kube::Error::Api(serde_json::from_value(status).unwrap())
    }

    #[test]
    fn only_what_was_written_counts_as_written() {
        // Whether the object exists after a failed creation, and the result of a failed write.
        let cases = [
            (404, false, Some(false)),
            (409, true, Some(false)),
            (403, false, None),
            (422, false, None),
            (503, false, None),
        ];
        let is_written = |left| matches!(left, Left::Written(_));
        for (code, is_there, written) in cases {
            assert_eq!(there(Err(error(code))).is_ok(), is_there, "{code}");
            assert_eq!(left(Err(error(code))).ok().map(is_written), written, "{code}");
        }
        assert!(there(Ok(raw("1"))).is_ok());
        assert_eq!(left(Ok(raw("1"))).ok().map(is_written), Some(true));
    }

    #[test]
    fn a_status_is_for_the_version_that_it_was_decided_on() {
        let status = ClusterPeerStatus { pins: Some(7), ..ClusterPeerStatus::default() };
        let body = body("p-0", "12", &status);
        assert_eq!(body["metadata"], json!({"name": "p-0", "resourceVersion": "12"}));
        assert_eq!(body["status"], serde_json::to_value(status).unwrap());
        assert_eq!(body["kind"], "ClusterPeer");
        assert!(body.get("spec").is_none(), "it belongs to people");
    }

    #[test]
    fn a_watch_that_hangs_does_not_hide_what_was_written() {
        let listed =
            |version: &str| Listed { resource_version: version.into(), ..Listed::default() };
        let newer = ("7".to_owned(), listed("9"));
        let cases = [
            (None, "7", "7"),
            (Some(&newer), "7", "9"),
            // The watch has delivered something since, even if older than the write.
            (Some(&newer), "8", "8"),
            (Some(&newer), "10", "10"),
        ];
        for (newer, told, expected) in cases {
            let latest = latest(listed(told), newer);
            assert_eq!(latest.resource_version, expected, "{told} {newer:?}");
        }
    }

    #[test]
    fn numbers_wait_longest_and_the_cluster_not_at_all() {
        let before = ClusterPeerStatus { pins: Some(1), ..ClusterPeerStatus::default() };
        let ready = || condition("Ready", ("True", "Ready", ""), &before, Timestamp(0));
        let text = || Some("1".to_owned());
        type Change<'a> = &'a dyn Fn(&mut ClusterPeerStatus);
        let cases: [(Change<'_>, Duration); 10] = [
            (&|_| {}, NUMBERS_EVERY),
            (&|s| s.pins = Some(2), NUMBERS_EVERY),
            (&|s| s.queue = Some(2), NUMBERS_EVERY),
            (&|s| s.free_space = text(), NUMBERS_EVERY),
            (&|s| s.repository_size = text(), NUMBERS_EVERY),
            (&|s| s.conditions = vec![ready()], WRITE_EVERY),
            (&|s| s.role = Some(PeerRole::Leader), WRITE_EVERY),
            (&|s| s.addresses = vec!["/dns4/p-0/tcp/9096".into()], WRITE_EVERY),
            (&|s| s.peer_id = text(), WRITE_EVERY),
            (&|s| s.cluster_id = text(), Duration::ZERO),
        ];
        for (number, (change, expected)) in cases.into_iter().enumerate() {
            let mut now = before.clone();
            change(&mut now);
            assert_eq!(every(&before, &now), expected, "case {number}");
            assert_eq!(every(&now, &before), expected, "case {number}, back");
        }
    }

    #[test]
    fn nothing_changes_nothing_is_written_and_not_too_often() {
        let before = ClusterPeerStatus { pins: Some(1), ..ClusterPeerStatus::default() };
        let numbers = ClusterPeerStatus { pins: Some(2), ..before.clone() };
        let role = ClusterPeerStatus { role: Some(PeerRole::Voter), ..before.clone() };
        let cluster = ClusterPeerStatus { cluster_id: Some("1".into()), ..before.clone() };
        let (zero, step) = (Duration::ZERO, Duration::from_millis(1));
        let cases = [
            (&before, None, false),
            (&before, Some(NUMBERS_EVERY * 9), false),
            (&numbers, None, true),
            (&numbers, Some(WRITE_EVERY), false),
            (&numbers, Some(NUMBERS_EVERY - step), false),
            (&numbers, Some(NUMBERS_EVERY), true),
            (&role, None, true),
            (&role, Some(WRITE_EVERY - step), false),
            (&role, Some(WRITE_EVERY), true),
            (&cluster, None, true),
            (&cluster, Some(zero), true),
        ];
        for (now, since, expected) in cases {
            assert_eq!(is_due(&before, now, since), expected, "{now:?} {since:?}");
        }
    }
}
