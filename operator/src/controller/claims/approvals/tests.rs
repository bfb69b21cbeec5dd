#![allow(clippy::unwrap_used)]
use pinkeeper::{state::Found, types::Owner};
use serde_json::json;
use tokio::time::advance;

use super::*;
use crate::{
    controller::{
        claims::release::{release, submit},
        deletions::Deletion,
        stand::{RECORD, Stand, watched},
    },
    kubernetes::answers::there,
};

/// Makes two CIDs wait, the only ones in the state.
async fn two_wait(stand: &Stand) -> Waiting {
    for uid in ["a", "b"] {
        stand.claim(uid).await;
    }
    let compared = |uid| Deletion { found: Found::Compared, ..watched(uid) };
    assert!(release(&stand.lead, &["a", "b"].map(compared)).await);
    let waiting = stand.read(PinSet::waiting).unwrap();
    assert_eq!(waiting.cids, 2);
    waiting
}

/// A new task's state, and the receiver of its notes.
fn approvals(stand: &Stand) -> (Approvals, mpsc::Receiver<Told>) {
    let (notes, told) = mpsc::channel(10);
    let now = Instant::now();
    let (lead, seen) = (stand.lead.clone(), (None, now));
    let approvals = Approvals { lead, notes, seen, told: None, held: None, passed_over: None };
    (approvals, told)
}

fn reason(told: &mut mpsc::Receiver<Told>) -> Option<(&'static str, String)> {
    told.try_recv().ok().map(|(_, note)| (note.reason, note.text))
}

/// A person annotates the record.
fn annotate(stand: &Stand, word: &str) {
    let (code, mut record) = there("record");
    record["metadata"]["annotations"] = json!({ALLOW_UNPIN: word, "other": "stays"});
    stand.api.set(RECORD, [(code, record)]);
}

fn annotations(stand: &Stand) -> serde_json::Value {
    stand.api.last(RECORD)["metadata"]["annotations"].clone()
}

#[test]
fn the_message_names_what_waits_and_how_to_let_it_go() {
    Stand::test(async |stand| {
        let settings = &stand.lead.context.settings;
        assert_eq!(stand.read(|pins| message(pins, settings)), None);
        let Waiting { digest, .. } = two_wait(&stand).await;
        let text = stand.read(|pins| message(pins, settings)).unwrap();
        let command = format!(
            "kubectl annotate configmap -n pinkeeper sim-cluster --overwrite \
             pinkeeper.dev/allow-unpin={digest} "
        );
        assert!(text.starts_with("2 CIDs lost their last Pin"), "{text}");
        assert!(text.contains(&command), "{text}");
        assert!(text.ends_with(": web/a, web/b"), "{text}");
    });
}

#[test]
fn only_the_word_for_exactly_what_waits_unpins_it() {
    Stand::test(async |stand| {
        let waiting = two_wait(&stand).await;
        let (mut approvals, mut told) = approvals(&stand);
        approvals.look().await.unwrap();
        assert_eq!(stand.read(PinSet::len), 2, "nobody has said anything");
        let digest = waiting.digest.to_string();
        for word in ["", "yes", "0123456789ab", &digest[..11], &format!("{digest} ")] {
            annotate(&stand, word);
            for reasons in [Some("UnpinsNotAllowed"), None] {
                approvals.look().await.unwrap();
                let reason = reason(&mut told).map(|(reason, _)| reason);
                assert_eq!(reason, reasons, "{word:?} is told of once");
            }
            assert_eq!(stand.read(PinSet::len), 2, "{word:?}");
            assert_eq!(annotations(&stand)[ALLOW_UNPIN], word);
        }
        annotate(&stand, &digest);
        approvals.look().await.unwrap();
        assert_eq!(reason(&mut told).unwrap().0, "UnpinsAllowed");
        assert_eq!(stand.read(PinSet::len), 0);
        assert_eq!(annotations(&stand), json!({"other": "stays"}), "it is good once");
    });
}

#[test]
fn what_changed_since_a_person_looked_is_neither_unpinned_nor_told_to_be() {
    Stand::test(async |stand| {
        let waiting = two_wait(&stand).await;
        let (mut approvals, mut told) = approvals(&stand);
        annotate(&stand, &waiting.digest.to_string());
        let context = &stand.lead.context;
        let approval = record::approval(&context.client, &context.settings).await.unwrap();
        // One of the CIDs is claimed again.
        let again = stand.claim_of("a", Owner::Rest, false);
        assert!(submit(&stand.lead, vec![again]).await);
        approvals.decide(waiting, approval).await.unwrap();
        assert_eq!(stand.read(PinSet::len), 2);
        assert_eq!(reason(&mut told), None);
        assert_ne!(annotations(&stand)[ALLOW_UNPIN], json!(null));
    });
}

#[test]
fn what_waits_is_told_once_when_it_has_settled_and_counted_meanwhile() {
    Stand::test(async |stand| {
        let (mut approvals, mut told) = approvals(&stand);
        advance(SETTLED).await;
        two_wait(&stand).await;
        let waiting = || stand.lead.context.counters.unpins_waiting.get();
        approvals.look().await.unwrap();
        assert_eq!((reason(&mut told), waiting()), (None, 2));
        advance(SETTLED).await;
        approvals.look().await.unwrap();
        let (reason_told, text) = reason(&mut told).unwrap();
        assert_eq!(reason_told, "UnpinsWaiting");
        assert_eq!(Some(text), stand.read(|pins| message(pins, &stand.lead.context.settings)));
        approvals.look().await.unwrap();
        assert_eq!(reason(&mut told), None);
        let again = ["a", "b"].map(|of| stand.claim_of(of, Owner::Rest, false));
        assert!(submit(&stand.lead, again.to_vec()).await);
        approvals.look().await.unwrap();
        assert_eq!(waiting(), 0);
    });
}
