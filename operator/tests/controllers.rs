//! The controllers against a real kube-apiserver and etcd, on a cluster of one peer with a stand-in
//! daemon.
#![allow(clippy::unwrap_used)]

#[path = "controllers/approvals.rs"]
mod approvals;
mod common;
#[path = "controllers/world.rs"]
mod world;

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::events::v1::Event;
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use pinkeeper_operator::crd::ClusterPeer;
use serde_json::json;
use world::{DEADLINE, World, cid, eventually};

const PINS: u32 = 100;

async fn all_ready(world: &World, namespace: &str, count: usize) {
    eventually("all Pins are Ready", async || {
        let pins = world.pins(namespace).list(&ListParams::default()).await.unwrap();
        let ready = pins.iter().filter(|pin| {
            let status = pin.status.as_ref();
            status.is_some_and(|status| {
                status.observed_generation == pin.metadata.generation
                    && status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
            })
        });
        (ready.count() == count).then_some(())
    })
    .await;
}

async fn founded(world: &World) {
    let peers: Api<ClusterPeer> = Api::namespaced(world.client.clone(), "web");
    eventually("the peer is Ready", async || {
        let peer = peers.get_opt("demo-0").await.unwrap()?;
        let ready = peer.status?.conditions.into_iter().find(|c| c.type_ == "Ready")?;
        (ready.status == "True").then_some(())
    })
    .await;
    let record = eventually("the record is formed", async || {
        let record = world.record().get("demo-cluster").await.unwrap().data?;
        (record["formed"] == "true").then_some(record)
    })
    .await;
    assert_eq!((record["epoch"].as_str(), record["founder"].as_str()), ("1", "demo-0"));
}

/// Status writes by object.
fn status_writes(world: &World) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for (kind, name) in world.writes() {
        if kind == "pins status" {
            *counts.entry(name).or_default() += 1;
        }
    }
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pins_are_kept_with_one_write_each_and_released_when_deleted() {
    let world = World::start().await;
    let running = world.run().await;
    founded(&world).await;

    for number in 0..PINS {
        world.create("web", &format!("pin-{number}"), &cid(number).to_string()).await;
    }
    all_ready(&world, "web", PINS as usize).await;
    let counts = status_writes(&world);
    assert_eq!(counts.len(), PINS as usize);
    assert!(counts.values().all(|writes| *writes == 1), "{counts:?}");
    assert!(world.writes().iter().all(|(kind, _)| !kind.starts_with("events")));

    // Nothing is written if nothing changes, not even the peer's own object.
    let peers: Api<ClusterPeer> = Api::namespaced(world.client.clone(), "web");
    eventually("the peer's own numbers are written", async || {
        let record = world.record().get("demo-cluster").await.unwrap().data?;
        let pins = peers.get("demo-0").await.unwrap().status?.pins?;
        (pins == i64::from(PINS) && record.contains_key("pinDefinitionUID")).then_some(())
    })
    .await;
    let settled = world.writes();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(world.writes()[settled.len()..], []);

    for number in 0..10 {
        world.delete("web", &format!("pin-{number}")).await;
    }
    for number in 0..10 {
        world.held(&cid(number), false).await;
    }

    // Deleted while no peer runs; one is created again with the same name.
    running.stop().await;
    for number in 10..20 {
        world.delete("web", &format!("pin-{number}")).await;
    }
    world.create("web", "pin-10", &cid(10).to_string()).await;
    let before = status_writes(&world);
    let running = world.run().await;
    for number in 11..20 {
        world.held(&cid(number), false).await;
    }
    world.reason("web", "pin-10", "Pinned").await;
    assert!(world.daemon.holds(&cid(10)) && world.daemon.holds(&cid(20)));
    let after = status_writes(&world);
    let rewritten: Vec<_> = after.iter().filter(|(name, n)| before.get(*name) != Some(n)).collect();
    assert_eq!(rewritten, [(&"web/pin-10".to_owned(), &2)], "a new start writes nothing again");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trouble_is_told_and_does_not_stop_others() {
    let world = World::start().await;
    let running = world.run().await;
    founded(&world).await;

    // Two Pins of one CID.
    let shared = cid(1);
    world.create("web", "shared", &shared.to_string()).await;
    world.create("docs", "shared", &shared.to_string()).await;
    world.reason("web", "shared", "Pinned").await;
    world.reason("docs", "shared", "Pinned").await;
    world.delete("web", "shared").await;
    eventually("the claim is gone", async || {
        let claims = running.context.cluster.state().read(|pins| pins.objects().count());
        (claims == 1).then_some(())
    })
    .await;
    assert!(world.daemon.holds(&shared));

    // Looks like a CID, but is invalid.
    let wrong = "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdz";
    world.create("web", "wrong", wrong).await;
    let message = world.reason("web", "wrong", "InvalidCID").await;
    assert!(message.contains("is not a CID"), "{message}");

    // More copies than peers.
    world.create_with("web", "many", json!({"cid": cid(2).to_string(), "replicas": 5})).await;
    let message = world.reason("web", "many", "NotEnoughPeers").await;
    assert!(message.contains('5') && message.contains('1'), "{message}");
    let spec = json!({"cid": cid(3).to_string(), "replicas": 5, "minReplicas": 1});
    world.create_with("web", "some", spec).await;
    world.reason("web", "some", "Pinned").await;

    // No provider has it at first.
    world.daemon.set_missing(cid(4), true);
    world.create("web", "missing", &cid(4).to_string()).await;
    let message = world.reason("web", "missing", "ContentNotFound").await;
    assert!(message.contains("demo-0") && message.contains("Add it"), "{message}");
    world.create("web", "after", &cid(5).to_string()).await;
    world.reason("web", "after", "Pinned").await;
    world.daemon.set_missing(cid(4), false);
    world.reason("web", "missing", "Pinned").await;

    let events: Api<Event> = Api::namespaced(world.client.clone(), "web");
    let told = eventually("the Events", async || {
        let events = events.list(&ListParams::default()).await.unwrap();
        let told: Vec<(String, String)> = events
            .iter()
            .filter_map(|event| {
                let name = event.regarding.clone()?.name?;
                Some((name, format!("{} {}", event.type_.clone()?, event.reason.clone()?)))
            })
            .collect();
        (told.len() >= 4).then_some(told)
    })
    .await;
    for (name, event) in [
        ("wrong", "Warning InvalidCID"),
        ("many", "Warning NotEnoughPeers"),
        ("missing", "Warning ContentNotFound"),
        ("missing", "Normal Pinned"),
    ] {
        assert!(told.contains(&(name.to_owned(), event.to_owned())), "{event}: {told:?}");
    }
    assert!(told.iter().all(|(name, _)| name != "after" && name != "some"), "{told:?}");

    // A changed spec is judged again.
    let patch = Patch::Merge(json!({"spec": {"replicas": 1}}));
    world.pins("web").patch("many", &PatchParams::default(), &patch).await.unwrap();
    world.reason("web", "many", "Pinned").await;

    // Retain.
    let spec = json!({"cid": cid(6).to_string(), "deletionPolicy": "Retain"});
    world.create_with("web", "kept", spec).await;
    world.reason("web", "kept", "Pinned").await;
    world.delete("web", "kept").await;
    world.delete("docs", "shared").await;
    world.held(&shared, false).await;
    assert!(world.daemon.holds(&cid(6)));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_record_is_restored_and_another_cluster_is_refused() {
    let world = World::start().await;
    // Without a volume claim it does not stop the founding.
    world.leave_a_cluster_peer().await;
    let running = world.run().await;
    founded(&world).await;
    let first = world.record().get("demo-cluster").await.unwrap().data.unwrap();
    world.record().delete("demo-cluster", &DeleteParams::default()).await.unwrap();
    let again = eventually("the record is restored", async || {
        world.record().get_opt("demo-cluster").await.unwrap()?.data
    })
    .await;
    assert_eq!((&again["clusterID"], again["formed"].as_str()), (&first["clusterID"], "true"));
    running.stop().await;

    let patch = Patch::Merge(json!({"data": {"clusterID": "0".repeat(32)}}));
    world.record().patch("demo-cluster", &PatchParams::default(), &patch).await.unwrap();
    let error = tokio::time::timeout(DEADLINE, world.run().await.ended()).await.unwrap();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("demo-cluster"), "{error}");
    assert!(!error.to_string().contains('\n'));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_are_kept_when_nothing_proves_that_the_pins_are_gone() {
    let world = World::start().await;
    let running = world.run().await;
    founded(&world).await;
    world.create("web", "docs", &cid(1).to_string()).await;
    world.reason("web", "docs", "Pinned").await;
    eventually("the definition is remembered", async || {
        world.record().get("demo-cluster").await.unwrap().data?.get("pinDefinitionUID").cloned()
    })
    .await;
    running.stop().await;

    // The definition goes with all Pins, and comes back without them.
    let deleted = world.plane.kubectl(&["delete", "crd", "pins.pinkeeper.dev"]);
    assert!(deleted.status.success());
    world.define().await;
    let running = world.run().await;
    world.create("web", "other", &cid(2).to_string()).await;
    world.reason("web", "other", "Pinned").await;
    // By then the comparison has run, since it runs when the list is read.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let claims = |running: &world::Running| {
        running.context.cluster.state().read(|pins| pins.objects().count())
    };
    assert_eq!(claims(&running), 2);
    assert!(world.daemon.holds(&cid(1)));

    // A person confirms the new definition.
    let patch = Patch::Merge(json!({"data": {"pinDefinitionUID": null}}));
    world.record().patch("demo-cluster", &PatchParams::default(), &patch).await.unwrap();
    world.held(&cid(1), false).await;
    assert_eq!(claims(&running), 1);
    // A second Pin, since deleting the last CID would wait for approval.
    world.create("web", "stays", &cid(3).to_string()).await;
    world.reason("web", "stays", "Pinned").await;
    running.stop().await;

    // Without permission to read, no Pin counts as gone.
    world.delete("web", "other").await;
    let forbidden = world.plane.client_as("web", "nobody").await;
    let running = world.run_as(forbidden).await;
    eventually("it leads", async || {
        running.context.cluster.leadership().borrow().local.then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(claims(&running), 2);
    running.stop().await;
    let running = world.run().await;
    world.held(&cid(2), false).await;
    assert!(world.daemon.holds(&cid(3)));
    running.stop().await;
}
