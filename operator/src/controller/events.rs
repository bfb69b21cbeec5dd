//! Writes Events about Pins and about the record.
//!
//! The statuses' task and the approvals' task send notes; this task writes them at a bounded rate.
//! An Event above the rate, or one that the API server does not accept, is counted and dropped: no
//! decision may depend on an Event.
//!
//! Each Event is a separate object. kube's recorder would merge Events of the same reason within
//! 6 minutes, and keep the message of the first.

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

/// Events waiting to be written; more are dropped.
pub(super) const QUEUE_LEN_MAX: usize = 64;
/// Burst and rate of Events: they are for people.
const BURST: u32 = 50;
const PER_SECOND: u32 = 10;
/// Most bytes of an Event's note that the API server accepts.
const NOTE_LEN_MAX: usize = 1024;

/// Most characters of the object's name in an Event's name: the suffix needs space too.
const NAME_LEN_MAX: usize = 200;

/// Content of an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Type Warning; otherwise Normal.
    pub warning: bool,
    /// Reason, as in the condition Ready.
    pub reason: &'static str,
    /// Message, as in the condition Ready.
    pub text: String,
}

/// A note and its object.
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
            tracing::warn!(%error, "cannot write an Event");
        }
        Err(_) => {
            lead.context.counters.events_left_out.inc();
        }
    }
}

/// Builds an Event; `number` makes its name unique in this leadership.
fn event(pod: &str, now: Timestamp, number: u64, reference: ObjectReference, note: Note) -> Event {
    let mut end = note.text.len().min(NOTE_LEN_MAX);
    while !note.text.is_char_boundary(end) {
        end -= 1;
    }
    let name = reference.name.clone().unwrap_or_default();
    let name: String = name.chars().take(NAME_LEN_MAX).collect();
    // A part of a name must not end with these, and the cut may be right after one.
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
