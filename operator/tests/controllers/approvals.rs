//! Mass deletions: what waits for approval, how it is reported, and how it is approved.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use k8s_openapi::api::events::v1::Event;
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use pinkeeper::{
    state::{PinSet, Waiting},
    types::Owner,
};
use pinkeeper_operator::crd::ClusterPeer;
use serde_json::json;

use super::world::{Running, World, cid, eventually};

fn waiting(running: &Running) -> Option<Waiting> {
    running.context.cluster.state().read(PinSet::waiting)
}

fn cids(running: &Running) -> u64 {
    waiting(running).map_or(0, |waiting| waiting.cids)
}

async fn wait_for(running: &Running, number: u64) -> Waiting {
    eventually(&format!("{number} CIDs wait"), async || {
        waiting(running).filter(|waiting| waiting.cids == number)
    })
    .await
}

async fn none_waits(running: &Running) {
    eventually("nothing waits", async || waiting(running).is_none().then_some(())).await;
}

async fn create(world: &World, namespace: &str, numbers: std::ops::Range<u32>) {
    for number in numbers.clone() {
        world.create(namespace, &format!("pin-{number}"), &cid(number).to_string()).await;
    }
    for number in numbers {
        world.reason(namespace, &format!("pin-{number}"), "Pinned").await;
    }
}

async fn delete(world: &World, namespace: &str, numbers: std::ops::Range<u32>) {
    for number in numbers {
        world.delete(namespace, &format!("pin-{number}")).await;
    }
}

/// The message of the ClusterPeer's condition `UnpinsWaiting`.
async fn condition(world: &World) -> Option<String> {
    let peers: Api<ClusterPeer> = Api::namespaced(world.client.clone(), "web");
    let status = peers.get("demo-0").await.unwrap().status?;
    let found = status.conditions.into_iter().find(|c| c.type_ == "UnpinsWaiting")?;
    assert_eq!(found.status, "True");
    Some(found.message)
}

async fn told(world: &World, digest: impl ToString) -> String {
    let digest = digest.to_string();
    eventually("the ClusterPeer says what waits", async || {
        condition(world).await.filter(|message| message.contains(&digest))
    })
    .await
}

async fn event(world: &World, reason: &str, word: &str) {
    let events: Api<Event> = Api::namespaced(world.client.clone(), "web");
    eventually(&format!("an Event {reason} with {word}"), async || {
        let about = |event: &Event| event.regarding.clone()?.name;
        events.list(&ListParams::default()).await.unwrap().into_iter().find(|event| {
            about(event).as_deref() == Some("demo-cluster")
                && event.reason.as_deref() == Some(reason)
                && event.note.as_deref().is_some_and(|note| note.contains(word))
        })
    })
    .await;
}

async fn metric(running: &Running, cids: u64) {
    eventually(&format!("the metric says {cids}"), async || {
        let gauge = running.context.counters.unpins_waiting.get();
        (gauge == i64::try_from(cids).unwrap()).then_some(())
    })
    .await;
}

async fn annotate(world: &World, word: &str) {
    let patch = json!({"metadata": {"annotations": {"pinkeeper.dev/allow-unpin": word}}});
    let params = PatchParams::default();
    world.record().patch("demo-cluster", &params, &Patch::Merge(&patch)).await.unwrap();
}

async fn annotation(world: &World) -> Option<String> {
    let annotations = world.record().get("demo-cluster").await.unwrap().metadata.annotations?;
    annotations.get("pinkeeper.dev/allow-unpin").cloned()
}

fn held(world: &World, numbers: std::ops::Range<u32>) -> u64 {
    numbers.filter(|number| world.daemon.holds(&cid(*number))).count() as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watched_deletions_of_too_much_wait_for_a_person() {
    const PINS: u32 = 130;
    let world = World::start().await;
    let running = world.run().await;
    create(&world, "web", 0..PINS).await;
    let all = ListParams::default();
    world.pins("web").delete_collection(&DeleteParams::default(), &all).await.unwrap();
    eventually("all deletions are ruled on", async || {
        let objects = running.context.cluster.state().read(|pins| pins.objects().count());
        (objects == 0).then_some(())
    })
    .await;
    let first = waiting(&running).unwrap();
    assert!((30..=130).contains(&first.cids), "at most 100 may go: {first:?}");
    eventually("the rest is unpinned", async || {
        (held(&world, 0..PINS) == first.cids).then_some(())
    })
    .await;
    told(&world, first.digest).await;
    event(&world, "UnpinsWaiting", &first.digest.to_string()).await;
    metric(&running, first.cids).await;

    // One is claimed again, so the waiting set and its digest change.
    let kept = (0..PINS).find(|number| world.daemon.holds(&cid(*number))).unwrap();
    world.create("web", "kept", &cid(kept).to_string()).await;
    world.reason("web", "kept", "Pinned").await;
    let second = wait_for(&running, first.cids - 1).await;
    annotate(&world, &first.digest.to_string()).await;
    event(&world, "UnpinsNotAllowed", &second.digest.to_string()).await;
    annotate(&world, "yes").await;
    event(&world, "UnpinsNotAllowed", "allow-unpin=yes").await;
    assert_eq!(waiting(&running), Some(second));

    // A restart does not reset the limit.
    running.stop().await;
    let running = world.run().await;
    world.reason("web", "kept", "Pinned").await;
    assert_eq!(waiting(&running), Some(second));
    world.delete("web", "kept").await;
    let last = wait_for(&running, first.cids).await;
    assert_ne!(last.digest, first.digest, "another Pin, although of the same content");
    assert_eq!(held(&world, 0..PINS), first.cids);

    // The command in the message.
    let message = told(&world, last.digest).await;
    let command = message.split_once("kubectl ").unwrap().1.split_once(" (").unwrap().0;
    let done = world.plane.kubectl(&command.split(' ').collect::<Vec<_>>());
    assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
    none_waits(&running).await;
    eventually("all is unpinned", async || (held(&world, 0..PINS) == 0).then_some(())).await;
    event(&world, "UnpinsAllowed", &last.digest.to_string()).await;
    eventually("it is good once", async || annotation(&world).await.is_none().then_some(())).await;
    eventually("the condition goes", async || condition(&world).await.is_none().then_some(()))
        .await;
    metric(&running, 0).await;

    // A used approval left behind by a crash does not approve the next deletions, and an approval
    // given while no peer runs is not lost.
    create(&world, "web", 200..203).await;
    annotate(&world, &last.digest.to_string()).await;
    running.stop().await;
    delete(&world, "web", 200..203).await;
    let running = world.run().await;
    let third = wait_for(&running, 3).await;
    event(&world, "UnpinsNotAllowed", &third.digest.to_string()).await;
    running.stop().await;
    annotate(&world, &third.digest.to_string()).await;
    let running = world.run().await;
    none_waits(&running).await;
    for number in 200..203 {
        world.held(&cid(number), false).await;
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_went_while_nobody_ran_waits_also_with_its_namespace() {
    let world = World::start().await;
    let running = world.run().await;
    create(&world, "docs", 0..3).await;
    create(&world, "web", 100..120).await;
    // The last known policy counts.
    let policy = |policy| Patch::Merge(json!({"spec": {"deletionPolicy": policy}}));
    for (name, number, first, then) in
        [("kept", 120, "Unpin", "Retain"), ("let-go", 121, "Retain", "Unpin")]
    {
        let spec = json!({"cid": cid(number).to_string(), "deletionPolicy": first});
        world.create_with("web", name, spec).await;
        world.reason("web", name, "Pinned").await;
        let params = PatchParams::default();
        world.pins("web").patch(name, &params, &policy(then)).await.unwrap();
    }
    eventually("the policies are known", async || {
        let retain = |pins: &PinSet, number| {
            pins.get(&cid(number)).unwrap().claims.values().all(|claim| claim.options.retain)
        };
        let state = running.context.cluster.state();
        state.read(|pins| retain(pins, 120) && !retain(pins, 121)).then_some(())
    })
    .await;

    // As many as the limit allows.
    running.stop().await;
    delete(&world, "docs", 0..3).await;
    for name in ["kept", "let-go"] {
        world.delete("web", name).await;
    }
    let running = world.run().await;
    for number in (0..3).chain([121]) {
        world.held(&cid(number), false).await;
    }
    assert_eq!(waiting(&running), None);
    assert_eq!(held(&world, 100..121), 21);
    let owners: BTreeSet<Owner> = running
        .context
        .cluster
        .state()
        .read(|pins| pins.get(&cid(120)).unwrap().claims.owners().cloned().collect());
    assert_eq!(owners, BTreeSet::from([Owner::Retained]));

    // More than the limit; some before and some after a restart.
    running.stop().await;
    delete(&world, "web", 100..112).await;
    let running = world.run().await;
    let first = wait_for(&running, 12).await;
    running.stop().await;
    delete(&world, "web", 112..115).await;
    let running = world.run().await;
    let more = wait_for(&running, 15).await;
    assert_ne!(first.digest, more.digest);
    assert_eq!(held(&world, 100..121), 21);
    annotate(&world, &first.digest.to_string()).await;
    event(&world, "UnpinsNotAllowed", &more.digest.to_string()).await;
    // Watched deletions still pass.
    delete(&world, "web", 115..116).await;
    world.held(&cid(115), false).await;
    annotate(&world, &more.digest.to_string()).await;
    for number in 100..115 {
        world.held(&cid(number), false).await;
    }
    assert_eq!(held(&world, 116..121), 5);

    // A deleted namespace with all its Pins counts like any deletion.
    world.add_namespace("blog").await;
    create(&world, "blog", 300..312).await;
    running.stop().await;
    delete(&world, "blog", 300..312).await;
    world.remove_namespace("blog").await;
    let running = world.run().await;
    let waiting = wait_for(&running, 12).await;
    assert_eq!(held(&world, 300..312), 12);
    annotate(&world, &waiting.digest.to_string()).await;
    none_waits(&running).await;
    for number in 300..312 {
        world.held(&cid(number), false).await;
    }
    assert_eq!(cids(&running), 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_the_definition_under_a_leader_unpins_nothing() {
    let world = World::start().await;
    let running = world.run().await;
    create(&world, "web", 0..4).await;
    eventually("the definition is remembered", async || {
        world.record().get("demo-cluster").await.unwrap().data?.get("pinDefinitionUID").cloned()
    })
    .await;
    let deleted = world.plane.kubectl(&["delete", "crd", "pins.pinkeeper.dev"]);
    assert!(deleted.status.success());
    world.define().await;
    // The first two are applied again.
    create(&world, "web", 0..2).await;
    assert_eq!(held(&world, 0..4), 4);
    let claims = || running.context.cluster.state().read(|pins| pins.objects().count());
    assert_eq!((claims(), waiting(&running)), (6, None));

    // Confirm the new definition; the deletion guard decides on the rest.
    let patch = Patch::Merge(json!({"data": {"pinDefinitionUID": null}}));
    world.record().patch("demo-cluster", &PatchParams::default(), &patch).await.unwrap();
    eventually("the old claims go", async || (claims() == 2).then_some(())).await;
    for number in 2..4 {
        world.held(&cid(number), false).await;
    }
    assert_eq!(held(&world, 0..2), 2);
    running.stop().await;
}
