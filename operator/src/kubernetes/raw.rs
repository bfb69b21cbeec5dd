//! Pins and ClusterPeers as untyped objects.
//!
//! Watches parse only the metadata, so that one object from a newer version of this program does
//! not stop a whole watch. Users parse the fields that they need.

use kube::{Api, Client, core::ApiResource};

use crate::crd;

/// A Pin.
pub(crate) type RawPin = kube::core::Object<Option<serde_json::Value>, serde_json::Value>;

/// A ClusterPeer.
pub(crate) type RawPeer = kube::core::Object<serde_json::Value, serde_json::Value>;

/// Pins of one namespace.
pub(crate) fn pins_in(client: &Client, namespace: &str) -> Api<RawPin> {
    Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<crd::Pin>(&()))
}

/// Pins of all namespaces.
pub(crate) fn all_pins(client: &Client) -> Api<RawPin> {
    Api::all_with(client.clone(), &ApiResource::erase::<crd::Pin>(&()))
}

/// ClusterPeers of one namespace.
pub(crate) fn peers_in(client: &Client, namespace: &str) -> Api<RawPeer> {
    Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<crd::ClusterPeer>(&()))
}
