//! Writes Events: what people are told of Pins and of the record.
//!
//! Statuses and the deletion guard send notes; this task writes them, at a bounded rate. An Event that is above
//! the rate, or that the API server does not take, is counted and not kept: no decision may depend on
//! one.
//!
//! Each Event is an object of its own. kube's recorder would make the next one of the same reason within
//! 6 minutes a repetition of the first, with the first one's words.

use std::sync::Arc;

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::Api;
use pinkeeper::types::Timestamp;
use tokio::{sync::mpsc, time::Instant};

use super::{bucket::Bucket, leading::Leading};
use crate::kubernetes::api::{DEADLINE, FIELD_MANAGER, post_params};

/// Events waiting to be written; more are left out.
pub(super) const QUEUE_LEN_MAX: usize = 64;
/// Events at once, and a second after that: they are for people.
const BURST: u32 = 50;
const PER_SECOND: u32 = 10;
/// Bytes in an Event's note that the API server takes.
const NOTE_LEN_MAX: usize = 1024;

/// Characters of the object's name that an Event's name begins with: what follows needs some, too.
const NAME_LEN_MAX: usize = 200;

/// What an Event is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// A warning, or news that all is well again.
    pub warning: bool,
    /// Why, in one word: Ready's reason.
    pub reason: &'static str,
    /// What: Ready's message.
    pub text: String,
}

/// A note, and the object that it is about.
pub(super) type Told = (ObjectReference, Note);

/// Runs until the leadership ends.
pub(super) async fn run(lead: Arc<Leading>, mut notes: mpsc::Receiver<Told>) {
    let mut bucket = Bucket::new(BURST, PER_SECOND, Instant::now());
    for number in 0_u64.. {
        let told = tokio::select! {
            biased;
            () = lead.token.cancelled() => return,
            told = notes.recv() => told,
        };
        let Some((reference, note)) = told else { return };
        if !bucket.take(Instant::now()) {
            lead.context.counters.events_left_out.inc();
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
    let events: Api<Event> = Api::namespaced(lead.context.client.clone(), &namespace);
    let (pod, now) = (&lead.context.settings.pod, lead.context.clock.now());
    let event = event(pod, now, number, reference, note);
    match tokio::time::timeout(DEADLINE, events.create(&post_params(), &event)).await {
        Ok(Ok(_)) => {
            lead.context.counters.events.inc();
        }
        Ok(Err(error)) => {
            lead.context.counters.events_left_out.inc();
            tracing::warn!(%error, "an Event was not written");
        }
        Err(_) => {
            lead.context.counters.events_left_out.inc();
        }
    }
}

/// `number` tells it from others of this leadership.
fn event(pod: &str, now: Timestamp, number: u64, reference: ObjectReference, note: Note) -> Event {
    let mut end = note.text.len().min(NOTE_LEN_MAX);
    while !note.text.is_char_boundary(end) {
        end -= 1;
    }
    let name = reference.name.clone().unwrap_or_default();
    let name: String = name.chars().take(NAME_LEN_MAX).collect();
    // A part of a name must not end so, and a long one may be cut there.
    let name = name.trim_end_matches(['-', '.']);
    Event {
        metadata: ObjectMeta {
            namespace: reference.namespace.clone(),
            name: Some(format!("{name}.{:x}.{number:x}", now.0)),
            ..ObjectMeta::default()
        },
        type_: Some(if note.warning { "Warning" } else { "Normal" }.into()),
        reason: Some(note.reason.into()),
        note: Some(note.text[..end].to_owned()),
        action: Some("Pin".into()),
        event_time: Some(MicroTime(now.to_jiff())),
        regarding: Some(reference),
        reporting_controller: Some(FIELD_MANAGER.into()),
        reporting_instance: Some(pod.to_owned()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn told(name: &str, warning: bool, text: &str) -> Event {
        let reference = ObjectReference {
            namespace: Some("web".into()),
            name: Some(name.into()),
            uid: Some("u".into()),
            ..ObjectReference::default()
        };
        let note = Note { warning, reason: "PinError", text: text.into() };
        event("p-0", Timestamp(0xab_c000), 17, reference, note)
    }

    #[test]
    fn an_event_says_what_the_note_says_about_that_object() {
        for (warning, kind) in [(true, "Warning"), (false, "Normal")] {
            let event = told("docs", warning, "disk full");
            assert_eq!(event.type_.as_deref(), Some(kind));
            assert_eq!(event.reason.as_deref(), Some("PinError"));
            assert_eq!(event.note.as_deref(), Some("disk full"));
            assert_eq!(event.metadata.namespace.as_deref(), Some("web"));
            assert_eq!(event.metadata.name.as_deref(), Some("docs.abc000.11"));
            assert_eq!(event.regarding.unwrap().uid.as_deref(), Some("u"));
            assert_eq!(event.reporting_instance.as_deref(), Some("p-0"));
            assert_eq!(event.event_time.unwrap().0.as_millisecond(), 0xab_c000);
        }
    }

    #[test]
    fn an_event_is_cut_to_what_the_api_server_takes() {
        let most = NOTE_LEN_MAX;
        let cases = [
            ("a".repeat(most), most),
            ("a".repeat(most + 1), most),
            // A character is not cut in two.
            ("ü".repeat(most), most),
            (format!("a{}", "ü".repeat(most)), most - 1),
        ];
        for (text, length) in cases {
            let note = told("docs", true, &text).note.unwrap();
            assert_eq!(note.len(), length);
            assert!(text.starts_with(&note));
        }
        // A Pin's name may be as long as an Event's.
        let name = told(&"n".repeat(253), true, "").metadata.name.unwrap();
        assert_eq!(name, format!("{}.abc000.11", "n".repeat(200)));
        // It is not cut behind a hyphen or a dot.
        for cut in ["-", ".", "-.-"] {
            let long = format!("{}{cut}{}", "n".repeat(200 - cut.len()), "m".repeat(50));
            let name = told(&long, true, "").metadata.name.unwrap();
            assert_eq!(name, format!("{}.abc000.11", "n".repeat(200 - cut.len())));
        }
    }
}
