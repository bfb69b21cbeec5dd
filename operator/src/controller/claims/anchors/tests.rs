#![allow(clippy::unwrap_used)]
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::{
    controller::stand::{DEFINITION, RECORD, SYSTEM, Stand, missing},
    kubernetes::answers::{absent as no_such, error, going, there},
};

fn api_error((code, status): (u16, Value)) -> kube::Error {
    let status: kube::core::Status = serde_json::from_value(status).unwrap();
    assert_eq!(status.code, code);
    kube::Error::Api(Box::new(status))
}

fn anchors(system: &str, definition: &str) -> Anchors {
    Anchors { system: system.into(), definition: definition.into() }
}

#[test]
fn only_another_uid_and_the_servers_own_404_say_that_an_object_is_gone() {
    let found = |uid: Option<&str>| {
        let raw = json!({"metadata": {"name": "docs", "uid": uid}});
        Ok::<RawPin, _>(serde_json::from_value(raw).unwrap())
    };
    let cases = [
        (found(Some("a")), Some(false)),
        (found(Some("b")), Some(true)),
        (found(None), Some(false)),
        (Err(api_error(no_such("docs"))), Some(true)),
        (Err(api_error(error(404))), None), // a proxy's, or without the definition
        (Err(api_error(error(403))), None),
        (Err(api_error(error(410))), None),
        (Err(api_error(error(500))), None),
        (Err(kube::Error::LinesCodecMaxLineLengthExceeded), None),
    ];
    for (found, expected) in cases {
        let case = format!("{found:?}");
        assert_eq!(says_gone(found, &Uid("a".into())).ok(), expected, "{case}");
    }
}

#[test]
fn anchors_hold_while_both_are_those_seen_first() {
    let cases = [
        (anchors("s", "d"), None),
        (anchors("s", "other"), Some(record::DEFINITION_UID)),
        (anchors("other", "d"), Some(record::SYSTEM_UID)),
        (anchors("s", record::UNKNOWN), Some(record::DEFINITION_UID)),
        (anchors(record::UNKNOWN, "d"), Some(record::SYSTEM_UID)),
    ];
    for (first, expected) in cases {
        let key = match same(first.clone(), anchors("s", "d"), RECORD.into()) {
            Ok(()) => None,
            Err(Unproven::Other { key, record, .. }) => {
                assert_eq!(record, RECORD);
                Some(key)
            }
            Err(error) => panic!("{error}"),
        };
        assert_eq!(key, expected, "{first:?}");
    }
}

#[test]
fn a_definition_that_is_being_deleted_proves_nothing() {
    let meta = |(_, object): (u16, Value)| {
        serde_json::from_value::<ObjectMeta>(object["metadata"].clone()).unwrap()
    };
    assert_eq!(standing(meta(there("s")), meta(there("d"))).unwrap(), anchors("s", "d"));
    let going = standing(meta(there("s")), meta(going("d")));
    assert!(matches!(going, Err(Unproven::Deleting)), "{going:?}");
}

#[tokio::test]
async fn what_passes_is_waited_for_and_what_needs_a_person_is_not() {
    let other = same(anchors("s", "other"), anchors("s", "d"), RECORD.into()).unwrap_err();
    let late = timeout(Duration::ZERO, std::future::pending::<()>()).await.unwrap_err();
    let cases = [
        (Unproven::Timeout(late), true),
        (Unproven::Api(api_error(error(503))), true),
        (Unproven::Api(api_error(error(403))), true),
        (Unproven::Api(api_error(error(404))), true),
        (Unproven::Api(kube::Error::LinesCodecMaxLineLengthExceeded), true),
        (Unproven::Api(api_error(no_such("it"))), false),
        (Unproven::Api(api_error(error(400))), false),
        (Unproven::Record(RecordError::Lost), true),
        (Unproven::Deleting, false),
        (other, false),
    ];
    for (error, expected) in cases {
        assert_eq!(error.is_passing(), expected, "{error}");
    }
}

#[test]
fn what_was_said_is_proven_by_the_anchors_after_it() {
    Stand::test(async |stand| {
        let lead = &stand.lead;
        assert_eq!(Said(1).proven(lead).await.unwrap(), 1);
        let data = stand.api.last(RECORD)["data"].clone();
        assert_eq!(data, json!({"kubeSystemUID": SYSTEM, "pinDefinitionUID": DEFINITION}));
        stand.api.set(DEFINITION, [there("anew")]);
        let proven = Said(()).proven(lead).await;
        assert!(matches!(proven, Err(Unproven::Other { .. })), "{proven:?}");
        // The first anchors are still known and noted.
        assert_eq!(lead.context.anchors.get(), Some(anchors(SYSTEM, DEFINITION)));
        assert_eq!(stand.api.last(RECORD)["data"], data);
        for (name, answer) in [(DEFINITION, error(404)), (SYSTEM, error(403)), (RECORD, error(500))]
        {
            stand.api.set(DEFINITION, [there(DEFINITION)]);
            stand.api.set(name, [answer]);
            assert!(Said(()).proven(lead).await.is_err(), "{name}");
        }
    });
}

#[test]
fn a_record_that_was_made_anew_is_told_what_was_seen_first() {
    Stand::test(async |stand| {
        let lead = &stand.lead;
        check(lead).await.unwrap();
        let (code, mut record) = there(RECORD);
        record["data"] = json!({"kubeSystemUID": "", "pinDefinitionUID": ""});
        stand.api.set(RECORD, [(code, record)]);
        stand.api.set(DEFINITION, [there("anew")]);
        let checked = check(lead).await;
        assert!(matches!(checked, Err(Unproven::Other { .. })), "{checked:?}");
        let data = stand.api.last(RECORD)["data"].clone();
        assert_eq!(data, json!({"kubeSystemUID": SYSTEM, "pinDefinitionUID": DEFINITION}));
    });
}

#[test]
fn nothing_is_noted_of_a_definition_that_is_being_deleted() {
    Stand::test(async |stand| {
        stand.api.set(DEFINITION, [going(DEFINITION)]);
        assert!(check(&stand.lead).await.is_err());
        assert_eq!(stand.api.last(RECORD)["data"], json!({}));
        assert_eq!(stand.lead.context.anchors.get(), None);
    });
}

#[test]
fn each_question_has_its_own_answer() {
    Stand::test(async |stand| {
        let lead = &stand.lead;
        stand.api.set("alive", [there("alive")]);
        stand.api.set("anew", [there("another")]);
        let all = ["alive", "anew", "gone"].map(missing);
        let Said(mut said) = absent(lead, all.to_vec()).await;
        said.sort_by(|a, b| a.uid.cmp(&b.uid));
        assert_eq!(said, ["anew", "gone"].map(missing));
        let said = alive(lead, all.to_vec()).await.unwrap().0;
        assert_eq!(said, BTreeSet::from([Uid("alive".into())]));
        // An object without a clear answer is not gone, and makes `alive` fail.
        stand.api.set("gone", [error(404)]);
        let Said(said) = absent(lead, all.to_vec()).await;
        assert_eq!(said, [missing("anew")]);
        assert!(alive(lead, all.to_vec()).await.is_err());
    });
}
