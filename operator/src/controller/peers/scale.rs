//! Scale-in: pods that their StatefulSet no longer wants leave the cluster.
//!
//! Only a number of replicas that is there, is positive and leaves a pod out means that the pod leaves. A
//! StatefulSet that is gone, is being deleted or is at 0 is a stop: its peers keep their copies. If the
//! pod is wanted again in time, it stays; a departure that a person asked for goes on.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::{
    Api,
    api::{DeleteParams, Preconditions},
};
use pinkeeper::types::PeerId;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    controller::leading::Leading,
    kubernetes::{
        Context, Directory, Listed,
        api::{DEADLINE, if_there},
        peers_in,
    },
};

/// How often the leader reads the StatefulSet.
const EVERY: Duration = Duration::from_secs(2);

/// Longest wait of a pod that stops for an answer of the API server.
const ASK_TIME: Duration = Duration::from_secs(3);

/// On the leader: runs until the leadership ends.
pub(in crate::controller) async fn run(
    lead: Arc<Leading>,
    directory: watch::Receiver<Arc<Directory>>,
) {
    let follow_all = async {
        let mut warned = false;
        loop {
            sleep(EVERY).await;
            match wanted(&lead.context).await {
                Ok(Some(wanted)) => {
                    let now = directory.borrow().clone();
                    follow(&lead, &wanted, &now).await;
                }
                Ok(None) => {}
                Err(error) if !warned => {
                    warned = true;
                    tracing::warn!(%error, "cannot read the StatefulSet: pods that are scaled in do not leave");
                }
                Err(_) => {}
            }
        }
    };
    lead.token.run_until_cancelled(follow_all).await;
}

async fn follow(lead: &Leading, wanted: &Range<u32>, directory: &Directory) {
    change_members(lead, wanted).await;
    for (name, listed) in left(lead, wanted, directory) {
        delete(lead, name, listed).await;
    }
}

async fn change_members(lead: &Leading, wanted: &Range<u32>) {
    let cluster = &lead.context.cluster;
    let names = cluster.members().into_iter().map(|(peer, view)| (peer, view.member.name));
    let release = &lead.context.settings.release;
    let ordinals: BTreeMap<PeerId, u32> =
        names.filter_map(|(peer, name)| Some((peer, ordinal(release, &name)?))).collect();
    let (departing, scaled_in) =
        cluster.state().read(|pins| (pins.departing().clone(), pins.scaled_in().clone()));
    for (peer, departs) in changes(wanted, &ordinals, &departing, &scaled_in) {
        if !lead.holds() {
            return;
        }
        if let Err(error) = cluster.scale(peer, departs).await {
            tracing::debug!(%peer, departs, %error, "a pod that was scaled in or out is still to change");
        }
    }
}

/// The ClusterPeers of pods that are not wanted and whose peers were removed from the cluster.
fn left<'a>(
    lead: &Leading,
    wanted: &Range<u32>,
    directory: &'a Directory,
) -> Vec<(&'a String, &'a Listed)> {
    let release = &lead.context.settings.release;
    let out = |name: &String| ordinal(release, name).is_some_and(|of| !wanted.contains(&of));
    let removed = |listed: &Listed| {
        let state = lead.context.cluster.state();
        listed.id.is_some_and(|id| state.read(|pins| pins.is_removed(id)))
    };
    directory.peers.iter().filter(|(name, listed)| out(name) && removed(listed)).collect()
}

/// Only the version that was looked at: the pod may be back.
async fn delete(lead: &Leading, name: &str, listed: &Listed) {
    if !lead.holds() {
        return;
    }
    let api = peers_in(&lead.context.client, &lead.context.settings.namespace);
    let resource_version = Some(listed.resource_version.clone());
    let preconditions = Some(Preconditions { resource_version, uid: None });
    let params = DeleteParams { preconditions, ..DeleteParams::default() };
    match timeout(DEADLINE, api.delete(name, &params)).await {
        Ok(Ok(_)) => tracing::info!(peer = name, "deleted the ClusterPeer of a pod that has left"),
        Ok(Err(error)) => tracing::debug!(peer = name, %error, "cannot delete a ClusterPeer yet"),
        Err(_) => tracing::debug!(peer = name, "cannot delete a ClusterPeer: no answer in time"),
    }
}

/// Whether this pod's StatefulSet no longer wants it; `None` while the API server does not answer.
pub async fn is_scaled_in(context: &Context) -> Option<bool> {
    let own = ordinal(&context.settings.release, &context.settings.pod);
    let wanted = timeout(ASK_TIME, wanted(context)).await.ok()?.ok()?;
    Some(own.is_some_and(|own| wanted.is_some_and(|wanted| !wanted.contains(&own))))
}

/// The ordinals of the wanted pods; none if this is a stop of all.
async fn wanted(context: &Context) -> Result<Option<Range<u32>>, String> {
    let sets: Api<StatefulSet> =
        Api::namespaced(context.client.clone(), &context.settings.namespace);
    match timeout(DEADLINE, sets.get(&context.settings.release)).await.map(if_there) {
        Ok(Ok(set)) => Ok(set.and_then(|set| ordinals(&set))),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

fn ordinals(set: &StatefulSet) -> Option<Range<u32>> {
    if set.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let spec = set.spec.as_ref()?;
    let replicas = u32::try_from(spec.replicas?).ok().filter(|replicas| *replicas > 0)?;
    let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
    let start = u32::try_from(start).ok()?;
    Some(start..start.saturating_add(replicas))
}

/// The ordinal of a pod of the StatefulSet `release`.
fn ordinal(release: &str, pod: &str) -> Option<u32> {
    pod.strip_prefix(release)?.strip_prefix('-')?.parse().ok()
}

/// The members that are to leave (true), or to stay after all.
fn changes(
    wanted: &Range<u32>,
    ordinals: &BTreeMap<PeerId, u32>,
    departing: &BTreeSet<PeerId>,
    scaled_in: &BTreeSet<PeerId>,
) -> Vec<(PeerId, bool)> {
    let change = |(peer, ordinal): (&PeerId, &u32)| match wanted.contains(ordinal) {
        true => scaled_in.contains(peer).then_some((*peer, false)),
        false => (!departing.contains(peer)).then_some((*peer, true)),
    };
    ordinals.iter().filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;

    fn set(spec: Value) -> StatefulSet {
        let mut all = json!({"serviceName": "p", "selector": {}, "template": {}});
        all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": all})).unwrap()
    }

    #[test]
    fn only_a_positive_number_of_replicas_leaves_pods_out() {
        let table = [
            (json!({"replicas": 3}), Some(0..3)),
            (json!({"replicas": 1}), Some(0..1)),
            (json!({"replicas": 2, "ordinals": {"start": 5}}), Some(5..7)),
            (json!({"replicas": 2, "ordinals": {}}), Some(0..2)),
            (json!({"replicas": 0}), None),
            (json!({"replicas": -1}), None),
            (json!({}), None),
        ];
        for (spec, expected) in table {
            assert_eq!(ordinals(&set(spec.clone())), expected, "{spec}");
        }
        let mut going = serde_json::to_value(set(json!({"replicas": 1}))).unwrap();
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert_eq!(ordinals(&serde_json::from_value(going).unwrap()), None);
        assert_eq!(ordinals(&StatefulSet::default()), None);
    }

    #[test]
    fn only_pods_of_the_stateful_set_have_an_ordinal() {
        let table = [
            ("p-0", Some(0)),
            ("p-12", Some(12)),
            ("p-", None),
            ("p-x", None),
            ("p", None),
            ("q-1", None),
            ("p-q-1", None),
        ];
        for (pod, expected) in table {
            assert_eq!(ordinal("p", pod), expected, "{pod}");
        }
        assert_eq!(ordinal("my-p", "my-p-3"), Some(3));
    }

    #[test]
    fn pods_that_are_left_out_leave_and_stay_when_they_are_wanted_again() {
        let peer = |n| PeerId([n; 32]);
        let peers = |of: &[u8]| of.iter().map(|n| peer(*n)).collect::<BTreeSet<_>>();
        let ordinals = (0..5).map(|n| (peer(n), u32::from(n))).collect();
        // The wanted pods, the departing ones, those of them that were scaled in; the changes.
        type Row<'a> = (Range<u32>, &'a [u8], &'a [u8], &'a [(u8, bool)]);
        let table: &[Row<'_>] = &[
            (0..5, &[], &[], &[]),
            (0..3, &[], &[], &[(3, true), (4, true)]),
            (0..3, &[3, 4], &[3, 4], &[]),
            (0..4, &[3, 4], &[3, 4], &[(3, false)]),
            // A person asked for it.
            (0..5, &[1, 4], &[4], &[(4, false)]),
            (0..3, &[1, 3], &[3], &[(4, true)]),
            (2..5, &[], &[], &[(0, true), (1, true)]),
        ];
        for (wanted, departing, scaled_in, expected) in table {
            let found = changes(wanted, &ordinals, &peers(departing), &peers(scaled_in));
            let expected: Vec<_> =
                expected.iter().map(|(n, departs)| (peer(*n), *departs)).collect();
            assert_eq!(found, expected, "{wanted:?} {departing:?} {scaled_in:?}");
        }
    }
}
