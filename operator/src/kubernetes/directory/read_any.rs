//! ClusterPeers with arbitrary content: an invalid one still exists, and does not affect others.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use kube::core::ObjectList;
use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

use super::*;
use crate::any_json;

fn any_peer() -> impl Strategy<Value = Value> {
    let status = any_json::like(json!({
        "conditions": [], "peerID": "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp",
        "clusterID": "00112233445566778899aabbccddeeff",
        "addresses": ["/ip4/10.0.0.1/tcp/9096"], "role": "Voter", "version": "0.1.0",
        "daemon": {"id": "12D3Kubo", "agent": "kubo/0.43.1"}, "pins": 7, "queue": 0,
    }));
    let metadata = (0..4_u8, any_json::text()).prop_flat_map(|(number, version)| {
        any_json::metadata(json!({
            "namespace": "pinkeeper", "name": format!("peer-{number}"), "resourceVersion": version,
        }))
    });
    (metadata, any_json::value(), proptest::option::of(status)).prop_map(
        |(metadata, spec, status)| {
            let mut peer = json!({
                "apiVersion": "pinkeeper.dev/v1alpha1", "kind": "ClusterPeer",
                "metadata": metadata, "spec": spec,
            });
            peer.as_object_mut()
                .unwrap()
                .extend(status.map(|status| ("status".to_owned(), status)));
            peer
        },
    )
}

/// Parses the list as the watch does.
fn listed(items: &[Value]) -> Vec<RawPeer> {
    let list = json!({
        "apiVersion": "pinkeeper.dev/v1alpha1", "kind": "ClusterPeerList",
        "metadata": {"resourceVersion": "7"}, "items": items,
    });
    serde_json::from_str::<ObjectList<RawPeer>>(&list.to_string()).unwrap().items
}

proptest! {
    #[test]
    fn a_cluster_peer_is_there_whatever_it_holds(items in vec(any_peer(), 1..8)) {
        let (mut now, mut listing) = (Directory::default(), BTreeMap::new());
        let names: BTreeSet<String> =
            items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect();
        take(&mut now, &mut listing, watcher::Event::Init);
        for raw in listed(&items) {
            take(&mut now, &mut listing, watcher::Event::InitApply(raw));
        }
        take(&mut now, &mut listing, watcher::Event::InitDone);
        prop_assert!(now.complete && now.peers.keys().eq(&names));
        for raw in listed(&items) {
            take(&mut now, &mut listing, watcher::Event::Apply(raw));
        }
        prop_assert!(now.peers.keys().eq(&names));
        // Only ClusterPeers with a peer ID have addresses.
        let own = PeerId([1; 32]);
        prop_assert!(now.addresses(own).len() <= names.len());
        prop_assert!(!now.addresses(own).contains_key(&own));
    }
}
