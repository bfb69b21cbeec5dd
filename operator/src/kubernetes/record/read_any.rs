//! ConfigMaps with arbitrary content: an invalid record is an error that names the key, and never
//! reads as another record than the one that was written.
#![allow(clippy::unwrap_used)]

use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Value, json};

use super::*;
use crate::any_json;

const KEYS: [&str; 6] = [CLUSTER_ID, EPOCH, FOUNDER, FORMED, SYSTEM_UID, "another"];

fn any_map() -> impl Strategy<Value = ConfigMap> {
    let entry = (select(&KEYS[..]), any_json::text());
    let data = vec(entry, 0..12).prop_map(|entries| {
        Value::from_iter(entries.into_iter().map(|(key, text)| (key, Value::from(text))))
    });
    let sound = json!({
        CLUSTER_ID: "00112233445566778899aabbccddeeff", EPOCH: "1", FOUNDER: "pinkeeper-0",
        FORMED: "true",
    });
    let data = (data, any::<bool>()).prop_map(move |(data, is_sound)| {
        if !is_sound {
            return data;
        }
        // A valid record with at most one changed key.
        let mut all = sound.as_object().unwrap().clone();
        all.extend(data.as_object().unwrap().clone().into_iter().take(1));
        Value::Object(all)
    });
    let metadata = any_json::metadata(json!({"name": "release-cluster", "resourceVersion": "5"}));
    (metadata, proptest::option::of(data)).prop_map(|(metadata, data)| {
        let map = json!({"metadata": metadata, "data": data});
        serde_json::from_str(&map.to_string()).unwrap()
    })
}

proptest! {
    #[test]
    fn a_config_map_is_a_record_or_refused_by_what_is_wrong(map in any_map()) {
        let data = map.data.clone().unwrap_or_default();
        match Record::read(&map) {
            Ok(record) => {
                prop_assert_eq!(record.cluster.to_string(), data[CLUSTER_ID].to_ascii_lowercase());
                prop_assert_eq!(Ok(record.epoch), data[EPOCH].parse());
                prop_assert_eq!(&record.founder, &data[FOUNDER]);
                prop_assert_eq!(record.formed, data[FORMED] == "true");
                prop_assert_eq!((record.name, record.version), ("release-cluster".into(), "5".into()));
            }
            Err(RecordError::Malformed { name, what }) => {
                prop_assert_eq!(name, "release-cluster");
                prop_assert!(KEYS[..4].contains(&what));
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}
