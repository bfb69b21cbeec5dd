//! Tables of written records and of answers of the API server.
#![allow(clippy::unwrap_used)]

use pinkeeper::state::Limits;
use serde_json::{Value, json};

use super::*;

const A: ClusterId = ClusterId([0xaa; 16]);
const B: ClusterId = ClusterId([0xbb; 16]);

fn settings() -> Settings {
    Settings {
        namespace: "web".into(),
        pod: "demo-1".into(),
        release: "demo".into(),
        initial_peers: 3,
        default_replicas: 2,
        limits: Limits::default(),
    }
}

/// Version 7 of a record that `demo-0` is to found, with keys of others.
fn map() -> ConfigMap {
    let map = json!({
        "metadata": {"name": "demo-cluster", "namespace": "web", "resourceVersion": "7",
            "annotations": {ALLOW_UNPIN: "digest", "others": "word"}},
        "data": {CLUSTER_ID: A.to_string(), EPOCH: "4", FOUNDER: "demo-0", FORMED: "false",
            "others": "key"},
    });
    serde_json::from_value(map).unwrap()
}

fn values_of(map: &ConfigMap) -> Value {
    json!(map.data)
}

/// An error of the API server, or of something else.
fn error(code: u16) -> kube::Error {
    let reason = if code == 404 { "NotFound" } else { "" };
    let status = json!({"code": code, "reason": reason, "details": {"name": "demo-cluster"}});
    kube::Error::Api(serde_json::from_value(status).unwrap())
}

/// The kind of a result, without its message.
fn kind<T>(result: &Result<T, RecordError>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(RecordError::Lost) => "lost",
        Err(RecordError::Malformed { .. }) => "malformed",
        Err(RecordError::Api(_)) => "later",
        Err(RecordError::Timeout(_)) => "other",
    }
}

#[test]
fn only_a_proven_absence_is_one_and_only_a_success_wins() {
    // What was read, what was created, what was replaced.
    let cases = [
        (404, ["ok", "later", "lost"]),
        (409, ["later", "lost", "lost"]),
        (403, ["later", "later", "later"]),
        (422, ["later", "later", "later"]),
        (429, ["later", "later", "later"]),
        (500, ["later", "later", "later"]),
        (503, ["later", "later", "later"]),
        (504, ["later", "later", "later"]),
    ];
    for (code, expected) in cases {
        let read = api::if_there::<ConfigMap>(Err(error(code))).map_err(RecordError::from);
        assert!(!matches!(read, Ok(Some(_))), "{code}");
        let told =
            [kind(&read), kind(&created(Err(error(code)))), kind(&replaced(Err(error(code))))];
        assert_eq!(told, expected, "{code}");
    }
    assert_eq!(api::if_there(Ok(map())).unwrap(), Some(map()));
    assert_eq!(replaced(Ok(map())).unwrap(), map());
    // The won record is the one that the API server returned, not the one sent.
    let won = created(Ok(map())).unwrap();
    assert_eq!((won.cluster, won.epoch, won.version.as_str()), (A, 4, "7"));
    assert_eq!(kind(&created(Ok(ConfigMap::default()))), "malformed");
}

#[test]
fn only_the_version_that_was_read_is_replaced() {
    let read = Record::read(&map()).unwrap();
    assert_eq!(of_version(Some(map()), &read).unwrap(), map());
    let of = |version: Option<&str>| {
        let mut map = map();
        map.metadata.resource_version = version.map(str::to_owned);
        map
    };
    for other in [Some(of(Some("8"))), Some(of(Some("6"))), Some(of(None)), None] {
        assert_eq!(kind(&of_version(other.clone(), &read)), "lost", "{other:?}");
    }
}

#[test]
fn a_record_keeps_what_a_write_does_not_change() {
    let read = Record::read(&map()).unwrap();
    let cases = [
        (read.taken_over(B, "demo-1"), B, "demo-1", "false"),
        (read.formed(), A, "demo-0", "true"),
    ];
    for (next, cluster, founder, formed) in cases {
        let written = with(map(), &values(&next));
        let expected = json!({CLUSTER_ID: cluster.to_string(), EPOCH: "4", FOUNDER: founder,
            FORMED: formed, "others": "key"});
        assert_eq!(values_of(&written), expected);
        // By compare-and-swap, and with the keys of others.
        assert_eq!(written.metadata, map().metadata);
        assert_eq!(Record::read(&written).unwrap(), next);
    }
    let written = with(ConfigMap::default(), &[("key", "value".into())]);
    assert_eq!(values_of(&written), json!({"key": "value"}));
}

#[test]
fn a_record_that_is_made_anew_does_not_know_what_the_lost_one_knew() {
    for formed in [false, true] {
        let map = first_version(&settings(), B, 5, formed);
        let mut expected = json!({CLUSTER_ID: B.to_string(), EPOCH: "5", FOUNDER: "demo-1",
            FORMED: formed.to_string()});
        if formed {
            expected[SYSTEM_UID] = UNKNOWN.into();
            expected[DEFINITION_UID] = UNKNOWN.into();
        }
        assert_eq!(values_of(&map), expected);
        // Only one creation can win: it has a name, and no version.
        assert_eq!(map.metadata.name.as_deref(), Some("demo-cluster"));
        assert_eq!(map.metadata.resource_version, None);
    }
}

#[test]
fn an_approval_is_taken_off_the_version_that_it_was_read_from() {
    let mut approval = Approval::read(map());
    assert_eq!(approval.word.as_deref(), Some("digest"));
    assert_eq!(approval.record.name.as_deref(), Some("demo-cluster"));
    approval.take_word();
    let left = &approval.map;
    assert_eq!(json!(left.metadata.annotations), json!({"others": "word"}));
    assert_eq!(left.metadata.resource_version.as_deref(), Some("7"));
    assert_eq!(left.data, map().data);
    for none in [json!({}), json!({"metadata": {"annotations": {"others": "word"}}})] {
        let mut approval = Approval::read(serde_json::from_value(none).unwrap());
        assert_eq!(approval.word, None);
        let before = approval.map.clone();
        approval.take_word();
        assert_eq!(approval.map, before);
    }
}

#[test]
fn what_a_lost_record_knew_is_noted_again_only_by_who_knows_it() {
    let (known, noted) = ("before".to_owned(), "noted".to_owned());
    let cases = [
        (None, Some(&known), "now"),
        (Some(noted), Some(&known), "noted"),
        (Some(UNKNOWN.to_owned()), Some(&known), "before"),
        (Some(UNKNOWN.to_owned()), None, UNKNOWN),
    ];
    for (noted, known, expected) in cases {
        assert_eq!(first(&noted, known, "now"), expected, "{noted:?} {known:?}");
    }
}

#[test]
fn anchors_are_written_once_and_each_under_its_own_key() {
    let anchors = |system: &str, definition: &str| Anchors {
        system: system.into(),
        definition: definition.into(),
    };
    let (now, known) = (anchors("s-now", "d-now"), anchors("s-known", "d-known"));
    let written = anchors;
    // Anchors in the record, known anchors; the result, and whether it is written.
    let cases = [
        ([None, None], None, written("s-now", "d-now"), true),
        ([None, None], Some(&known), written("s-now", "d-now"), true),
        ([Some("s"), Some("d")], Some(&known), written("s", "d"), false),
        ([Some("s"), None], Some(&known), written("s", "d-now"), true),
        ([None, Some("d")], Some(&known), written("s-now", "d"), true),
        ([Some(UNKNOWN), Some("d")], Some(&known), written("s-known", "d"), true),
        ([Some("s"), Some(UNKNOWN)], Some(&known), written("s", "d-known"), true),
        ([Some(UNKNOWN), Some(UNKNOWN)], None, written(UNKNOWN, UNKNOWN), false),
    ];
    for ([system, definition], known, expected, is_written) in cases {
        let mut map = map();
        let values = [(SYSTEM_UID, system), (DEFINITION_UID, definition)];
        let there = values.iter().filter_map(|(key, value)| Some((*key, value.as_ref()?)));
        map = with(map, &Vec::from_iter(there.map(|(key, value)| (key, (*value).to_owned()))));
        let (anchors, values) = super::noted(&map, &now, known);
        assert_eq!(anchors, expected, "{system:?} {definition:?} {known:?}");
        let expected = is_written
            .then_some([(SYSTEM_UID, expected.system), (DEFINITION_UID, expected.definition)]);
        assert_eq!(values, expected, "{system:?} {definition:?} {known:?}");
    }
}
