//! Writes Events, at a bounded rate; those above it are counted, not kept.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
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
    let reporter = Reporter {
        controller: FIELD_MANAGER.into(),
        instance: Some(lead.shared.settings.pod.clone()),
    };
    let recorder = Recorder::new(lead.shared.client.clone(), reporter);
    let mut bucket = Bucket::new(BURST, PER_SECOND, Instant::now());
    loop {
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
            () = write(&lead, &recorder, &reference, note) => {}
        }
    }
}

async fn write(lead: &Leading, recorder: &Recorder, reference: &ObjectReference, note: Note) {
    let mut end = note.text.len().min(NOTE_LEN_MAX);
    while !note.text.is_char_boundary(end) {
        end -= 1;
    }
    let event = Event {
        type_: if note.warning { EventType::Warning } else { EventType::Normal },
        reason: note.reason.as_str().into(),
        note: Some(note.text[..end].to_owned()),
        action: "Pin".into(),
        secondary: None,
    };
    match tokio::time::timeout(DEADLINE, recorder.publish(&event, reference)).await {
        Ok(Ok(())) => {
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
