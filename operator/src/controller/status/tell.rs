//! Writes Events, at a bounded rate; those above it are counted, not kept.
//!
//! Each is an object of its own: kube's recorder makes the next one of the same reason within 6 minutes
//! a repetition of the first, with the first one's words.

use std::sync::Arc;

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, api::PostParams};
use tokio::{sync::mpsc, time::Instant};

use super::events::{Bucket, Note};
use crate::controller::{
    api::{DEADLINE, FIELD_MANAGER},
    leading::Leading,
};

/// Events waiting to be written; more are left out.
pub(in crate::controller) const QUEUE_LEN_MAX: usize = 64;
/// Events at once, and a second after that: they are for people.
const BURST: u32 = 50;
const PER_SECOND: u32 = 10;
/// Bytes in an Event's note that the API server takes.
const NOTE_LEN_MAX: usize = 1024;

/// An Event about an object.
pub(in crate::controller) type Told = (ObjectReference, Note);

/// Runs until the leadership ends.
pub(in crate::controller) async fn run(lead: Arc<Leading>, mut notes: mpsc::Receiver<Told>) {
    let mut bucket = Bucket::new(BURST, PER_SECOND, Instant::now());
    for number in 0_u64.. {
        let told = tokio::select! {
            biased;
            () = lead.token.cancelled() => return,
            told = notes.recv() => told,
        };
        let Some((reference, note)) = told else { return };
        if !bucket.take(Instant::now()) {
            lead.shared.counters.events_left_out.inc();
            continue;
        }
        tokio::select! {
            biased;
            () = lead.token.cancelled() => return,
            () = write(&lead, number, reference, note) => {}
        }
    }
}

async fn write(lead: &Leading, number: u64, reference: ObjectReference, note: Note) {
    let namespace = reference.namespace.clone().unwrap_or_default();
    let events: Api<Event> = Api::namespaced(lead.shared.client.clone(), &namespace);
    let event = event(lead, number, reference, note);
    let params = PostParams { dry_run: false, field_manager: Some(FIELD_MANAGER.into()) };
    match tokio::time::timeout(DEADLINE, events.create(&params, &event)).await {
        Ok(Ok(_)) => {
            lead.shared.counters.events.inc();
        }
        Ok(Err(error)) => {
            lead.shared.counters.events_left_out.inc();
            tracing::warn!(%error, "an Event was not written");
        }
        Err(_) => {
            lead.shared.counters.events_left_out.inc();
        }
    }
}

/// `number` tells it from others of this leadership.
fn event(lead: &Leading, number: u64, reference: ObjectReference, note: Note) -> Event {
    let mut end = note.text.len().min(NOTE_LEN_MAX);
    while !note.text.is_char_boundary(end) {
        end -= 1;
    }
    let now = lead.shared.clock.now();
    let name = reference.name.clone().unwrap_or_default();
    Event {
        metadata: ObjectMeta {
            namespace: reference.namespace.clone(),
            name: Some(format!("{name:.200}.{:x}.{number:x}", now.0)),
            ..ObjectMeta::default()
        },
        type_: Some(if note.warning { "Warning" } else { "Normal" }.into()),
        reason: Some(note.reason.into()),
        note: Some(note.text[..end].to_owned()),
        action: Some("Pin".into()),
        event_time: Some(MicroTime(now.to_jiff())),
        regarding: Some(reference),
        reporting_controller: Some(FIELD_MANAGER.into()),
        reporting_instance: Some(lead.shared.settings.pod.clone()),
        ..Event::default()
    }
}
