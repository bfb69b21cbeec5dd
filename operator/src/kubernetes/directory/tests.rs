//! Tables of watch events and the directory.
#![allow(clippy::unwrap_used)]

use serde_json::json;
use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};

use super::*;

/// Peer `name` at an address.
fn raw(name: &str, address: &str) -> RawPeer {
    let raw = json!({
        "apiVersion": "pinkeeper.dev/v1alpha1", "kind": "ClusterPeer",
        "metadata": {"name": name, "namespace": "web", "resourceVersion": "7"},
        "spec": {}, "status": {"conditions": [], "addresses": [address]},
    });
    serde_json::from_value(raw).unwrap()
}

#[test]
fn what_is_listed_takes_the_place_of_all_before_and_only_when_it_is_whole() {
    let (mut now, mut listing) = (Directory::default(), BTreeMap::new());
    // Event, whether the directory is complete, and its peers with their addresses.
    let steps: [(watcher::Event<RawPeer>, bool, &str); 14] = [
        (Init, false, ""),
        (InitApply(raw("a", "1")), false, ""),
        (InitApply(raw("b", "1")), false, ""),
        (InitDone, true, "a1 b1"),
        (Apply(raw("b", "2")), true, "a1 b2"),
        (Apply(raw("c", "1")), true, "a1 b2 c1"),
        (Delete(raw("a", "1")), true, "b2 c1"),
        (Delete(raw("a", "1")), true, "b2 c1"),
        // The watch was cut off.
        (Init, true, "b2 c1"),
        (InitApply(raw("d", "1")), true, "b2 c1"),
        // Again: objects of the interrupted list do not count.
        (Init, true, "b2 c1"),
        (InitApply(raw("b", "3")), true, "b2 c1"),
        (InitDone, true, "b3"),
        (Delete(raw("b", "3")), true, ""),
    ];
    for (number, (event, complete, expected)) in steps.into_iter().enumerate() {
        take(&mut now, &mut listing, event);
        let there =
            now.peers.iter().map(|(name, peer)| format!("{name}{}", peer.status.addresses[0]));
        let there = Vec::from_iter(there).join(" ");
        assert_eq!((now.complete, there.as_str()), (complete, expected), "step {number}");
    }
}

#[test]
fn addresses_are_those_of_others_that_have_some() {
    let listed = |id: Option<u8>, addresses: &[&str]| {
        let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
        let status = crd::ClusterPeerStatus { addresses, ..crd::ClusterPeerStatus::default() };
        Listed { id: id.map(|number| PeerId([number; 32])), status, ..Listed::default() }
    };
    let peers = [
        ("a", listed(Some(1), &["/dns4/a"])),
        ("b", listed(Some(2), &["/dns4/b", "/ip4/10.0.0.2"])),
        ("c", listed(Some(3), &[])),
        ("d", listed(None, &["/dns4/d"])),
    ];
    let peers = peers.map(|(name, listed)| (name.to_owned(), listed));
    let directory = Directory { complete: true, peers: BTreeMap::from(peers) };
    let second = vec!["/dns4/b".to_owned(), "/ip4/10.0.0.2".to_owned()];
    let expected = BTreeMap::from([(PeerId([2; 32]), second)]);
    assert_eq!(directory.addresses(PeerId([1; 32])), expected);
    assert_eq!(directory.addresses(PeerId([9; 32])).len(), 2);
}

#[test]
fn a_cluster_peer_is_of_the_peer_and_the_cluster_that_its_status_names() {
    let peer = PeerId([7; 32]);
    let cluster = ClusterId([3; 16]);
    let of = |id: Option<String>, cluster: Option<String>| {
        let mut raw = raw("a", "1");
        let status = raw.status.as_mut().unwrap();
        status["peerID"] = json!(id);
        status["clusterID"] = json!(cluster);
        let (name, listed) = Listed::read(raw).unwrap();
        assert_eq!((name.as_str(), listed.resource_version.as_str()), ("a", "7"));
        (listed.id, listed.cluster)
    };
    let (id, of_cluster) = (Some(peer.to_string()), Some(cluster.to_string()));
    let other = || Some("other".to_owned());
    assert_eq!(of(id.clone(), of_cluster.clone()), (Some(peer), Some(cluster)));
    assert_eq!(of(id.clone(), None), (Some(peer), None));
    assert_eq!(of(None, of_cluster.clone()), (None, Some(cluster)));
    assert_eq!(of(other(), of_cluster), (None, Some(cluster)));
    assert_eq!(of(id, other()), (Some(peer), None));
}

#[test]
fn a_cluster_peer_is_gone_only_by_the_word_of_the_api_server() {
    let error = |code: u16, reason: &str| {
        let status = json!({"code": code, "reason": reason, "details": {"name": "a"}});
        kube::Error::Api(serde_json::from_value(status).unwrap())
    };
    let cases = [
        (404, "NotFound", Some(false)),
        // From a proxy, or for a path that is not served.
        (404, "", None),
        (403, "", None),
        (409, "", None),
        (422, "", None),
        (429, "", None),
        (503, "", None),
    ];
    for (code, reason, expected) in cases {
        let told = there(Err(error(code, reason))).ok().map(|listed| listed.is_some());
        assert_eq!(told, expected, "{code} {reason}");
    }
    let listed = there(Ok(raw("a", "1"))).unwrap();
    assert_eq!(listed.map(|listed| listed.resource_version), Some("7".into()));
}
