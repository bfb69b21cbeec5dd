//! Pins with arbitrary content: an invalid one still exists, and does not affect others.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use kube::core::ObjectList;
use pinkeeper::{
    state::PinSet,
    types::{LogPosition, PeerId, Timestamp, Uid},
};
use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

use super::*;
use crate::{
    any_json,
    controller::{
        claims::{Basis, Decision, decide},
        status::{Held, Moment, PeerView, View, judge},
    },
};

const PEERS: [PeerId; 2] = [PeerId([1; 32]), PeerId([2; 32])];

fn any_pin() -> impl Strategy<Value = Value> {
    let spec = any_json::like(json!({
        "cid": "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi",
        "replicas": 3, "minReplicas": 2, "deletionPolicy": "Retain",
    }));
    let condition = json!({
        "type": "Ready", "status": "False", "reason": "Pinning", "message": "",
        "lastTransitionTime": "2026-01-02T03:04:05Z",
    });
    let allocation = json!({"peer": "p-1", "state": "Pinned", "since": "2026-01-02T03:04:05Z"});
    let status = any_json::like(json!({
        "conditions": [condition], "observedGeneration": 1, "observedEntries": 1,
        "replicas": "1/3", "readyReplicas": 1,
        "allocations": [allocation],
    }));
    let metadata = (0..4_u8, any_json::text()).prop_flat_map(|(number, version)| {
        any_json::metadata(json!({
            "namespace": "web", "name": format!("pin-{number}"), "uid": format!("uid-{number}"),
            "resourceVersion": version,
        }))
    });
    (metadata, spec, proptest::option::of(status)).prop_map(|(metadata, spec, status)| {
        let mut pin = json!({
            "apiVersion": "pinkeeper.dev/v1alpha1", "kind": "Pin",
            "metadata": metadata, "spec": spec,
        });
        pin.as_object_mut().unwrap().extend(status.map(|status| ("status".to_owned(), status)));
        pin
    })
}

/// Parses the list as the watch does.
fn listed(items: &[Value]) -> Vec<RawPin> {
    let list = json!({
        "apiVersion": "pinkeeper.dev/v1alpha1", "kind": "PinList",
        "metadata": {"resourceVersion": "7"}, "items": items,
    });
    serde_json::from_str::<ObjectList<RawPin>>(&list.to_string()).unwrap().items
}

/// Runs the controllers' decisions on an object: the claim, if it is valid, and the status.
fn decide_and_judge(object: &PinObject) {
    let now = Timestamp(1_767_323_045_000);
    let basis = Basis { term: 3, default_replicas: 2, now };
    let mut pins = PinSet::default();
    if let Decision::Claim(op, _) = decide(object, None, basis, &tests::roomy(&PEERS)) {
        pins.apply(LogPosition { term: 3, index: 1 }, &op);
    }
    let peers = PEERS.map(|peer| {
        (
            peer,
            PeerView {
                name: format!("p-{}", peer.0[0]),
                reported: true,
                silent: None,
                obstacle: None,
            },
        )
    });
    let view = View {
        pin: object.cid.as_ref().ok().and_then(|cid| pins.get(cid)),
        refused: None,
        reports: &BTreeMap::new(),
        entries: 2,
        entries_at_start: 1,
        peers: &BTreeMap::from(peers),
        default_replicas: 2,
        held: &Held::new(),
        now: Moment { at: std::time::Duration::from_secs(3_600), wall: now },
    };
    let Some(verdict) = judge(object, view) else { return };
    assert!(verdict.status.allocations.len() <= crd::ALLOCATIONS_LEN_MAX);
    assert!(verdict.status.conditions.len() <= crd::CONDITIONS_LEN_MAX);
    for condition in &verdict.status.conditions {
        assert!(condition.message.chars().count() <= crd::MESSAGE_LEN_MAX, "{condition:?}");
    }
}

proptest! {
    #[test]
    fn a_pin_is_there_whatever_it_holds(items in vec(any_pin(), 1..8)) {
        let mut objects = Objects::default();
        let mut there = BTreeSet::new();
        for raw in listed(&items) {
            let (name, uid) = (raw.metadata.name.clone(), raw.metadata.uid.clone());
            let object = PinObject::read(raw).unwrap();
            prop_assert_eq!(Some(&object.key.name), name.as_ref());
            decide_and_judge(&object);
            let _ = object.is_observed();
            there.insert(Uid(uid.unwrap()));
            objects.upsert(object);
            prop_assert!(there.iter().all(|uid| objects.contains(uid)));
        }
        objects.list_done(&there);
        prop_assert_eq!(objects.len(), there.len());
        prop_assert!(there.iter().all(|uid| objects.contains(uid)));
    }
}
