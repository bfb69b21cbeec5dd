//! `ClusterPeer`: a member of the cluster with its state, like a Node.

#![allow(clippy::duplicated_attributes)] // several columns of one type are intended

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema::conditions;

/// spec is for decisions of people about the peer; it has no fields yet.
#[derive(
    CustomResource, JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize,
)]
#[kube(
    group = "pinkeeper.dev",
    version = "v1alpha1",
    kind = "ClusterPeer",
    namespaced,
    status = "ClusterPeerStatus",
    derive = "PartialEq",
    shortname = "ipfspeer",
    category = "ipfs",
    doc = "ClusterPeer is one member of the cluster and the IPFS daemon beside it. \
           Each peer creates its own and keeps its status.",
    printcolumn(
        name = "READY",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "ROLE", type_ = "string", json_path = ".status.role"),
    printcolumn(name = "VERSION", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "DAEMON", type_ = "string", json_path = ".status.daemon.agent"),
    printcolumn(name = "FREE", type_ = "string", json_path = ".status.freeSpace"),
    printcolumn(name = "PINS", type_ = "integer", json_path = ".status.pins"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "QUEUE", type_ = "integer", json_path = ".status.queue", priority = "1"),
    printcolumn(
        name = "REPOSITORY",
        type_ = "string",
        json_path = ".status.repositorySize",
        priority = "1"
    ),
    printcolumn(name = "PEER-ID", type_ = "string", json_path = ".status.peerID", priority = "1"),
    printcolumn(
        name = "MESSAGE",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        priority = "1"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterPeerSpec {}

/// status is the state of the peer. The peer writes it, or the leader if the peer is silent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterPeerStatus {
    /// observedGeneration is the generation of the spec that this status is about; -1 before the
    /// first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// conditions are Ready (True when the peer takes part and its daemon answers, Unknown when the
    /// leader hears nothing of it), UnpinsWaiting (True while so many Pins were deleted that a
    /// person has to approve it, otherwise absent) and DeletionsHeld (True while deleted Pins unpin
    /// nothing because the API server or the definition of Pins is another one, otherwise absent).
    #[schemars(schema_with = "conditions")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,

    /// peerID is the peer's libp2p identity; another identity with the same name is another peer.
    #[schemars(length(min = 1, max = 64))]
    #[serde(rename = "peerID", skip_serializing_if = "Option::is_none")]
    pub peer_id: Option<String>,

    /// clusterID is the identity of the cluster that the peer belongs to.
    #[schemars(length(min = 1, max = 64))]
    #[serde(rename = "clusterID", skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,

    /// addresses are the multiaddrs where other peers reach it.
    #[schemars(
        length(max = super::ADDRESSES_LEN_MAX),
        inner(length(min = 1, max = super::ADDRESS_LEN_MAX)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,

    /// role is the peer's part in Raft.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<PeerRole>,

    /// version is the peer's own version.
    #[schemars(length(min = 1, max = 64))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,

    /// daemon is the IPFS daemon beside the peer, as it reports itself; absent until it has
    /// answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub daemon: Option<ClusterPeerDaemon>,

    /// repositorySize is the size of the daemon's repository, in coarse steps, for example 12Gi.
    #[schemars(length(min = 1, max = 16))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository_size: Option<String>,

    /// freeSpace is the free space for content, in coarse steps, for example 120Gi.
    #[schemars(length(min = 1, max = 16))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_space: Option<String>,

    /// pins is the number of pins that the daemon holds for the cluster.
    #[schemars(range(min = 0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pins: Option<i64>,

    /// queue is the number of pins that wait for the daemon.
    #[schemars(range(min = 0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<i64>,
}

/// The IPFS daemon beside a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterPeerDaemon {
    /// id is the daemon's own peer ID in IPFS, never a cluster peer's.
    #[schemars(length(min = 1, max = 128))]
    pub id: String,

    /// agent is the daemon's name and version, for example kubo/0.43.1.
    #[schemars(length(max = 128))]
    pub agent: String,

    /// addresses are the multiaddrs where other daemons reach it.
    #[schemars(
        length(max = super::ADDRESSES_LEN_MAX),
        inner(length(min = 1, max = super::ADDRESS_LEN_MAX)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
}

/// role is the peer's part in Raft.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PeerRole {
    /// Leads the Raft cluster, and runs the controllers.
    Leader,
    /// Votes.
    Voter,
    /// Follows without a vote.
    Learner,
}

/// Bytes for people, rounded down to two digits (`950Mi`, `1.2Gi`, `120Gi`), so that a status with
/// them rarely changes.
#[must_use]
pub fn quantity(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["", "Ki", "Mi", "Gi", "Ti", "Pi"];
    let mut unit = 0;
    while unit + 1 < UNITS.len() && bytes >> (10 * (unit + 1)) > 0 {
        unit += 1;
    }
    let whole = bytes >> (10 * unit);
    if whole < 10 && unit > 0 {
        // The remainder is below one unit, so ten times it over the unit is one digit.
        let tenths = (bytes - (whole << (10 * unit))) >> (10 * (unit - 1));
        return match tenths * 10 / 1024 {
            0 => format!("{whole}{}", UNITS[unit]),
            tenths => format!("{whole}.{tenths}{}", UNITS[unit]),
        };
    }
    let step = if whole >= 100 { 10 } else { 1 };
    format!("{}{}", whole / step * step, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::quantity;

    #[test]
    fn bytes_are_shown_in_two_digits() {
        let cases = [
            (0, "0"),
            (999, "990"),
            (1024, "1Ki"),
            (1536, "1.5Ki"),
            (10 << 20, "10Mi"),
            (957 << 20, "950Mi"),
            ((1 << 30) + (205 << 20), "1.2Gi"),
            (123 << 30, "120Gi"),
            ((2 << 40) - 1, "1.9Ti"),
            (u64::MAX, "16380Pi"),
        ];
        for (bytes, text) in cases {
            assert_eq!(quantity(bytes), text, "{bytes}");
        }
    }
}
