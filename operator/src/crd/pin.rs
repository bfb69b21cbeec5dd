//! `Pin`: content to keep pinned.

#![allow(unreachable_pub)] // KubeSchema generates a second struct, which is unreachable
#![allow(clippy::duplicated_attributes)] // several columns of one type are intended

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema::{CID_ALPHABET, CID_LENGTH, NO_IPNS_KEY, conditions};

/// spec is the content to keep pinned, and how.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "pinkeeper.dev",
    version = "v1alpha1",
    kind = "Pin",
    namespaced,
    status = "PinStatus",
    derive = "PartialEq",
    shortname = "ipfspin",
    category = "ipfs",
    doc = "Pin is IPFS content that the cluster keeps pinned on several daemons.",
    scale(spec_replicas_path = ".spec.replicas", status_replicas_path = ".status.replicas"),
    selectable = ".spec.cid",
    printcolumn(name = "CID", type_ = "string", json_path = ".spec.cid"),
    printcolumn(
        name = "READY",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(
        name = "STATUS",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(name = "REPLICAS", type_ = "string", json_path = ".status.copies"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "POLICY",
        type_ = "string",
        json_path = ".spec.deletionPolicy",
        priority = "1"
    ),
    printcolumn(
        name = "MESSAGE",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        priority = "1"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "!has(self.replicas) || !has(self.minReplicas) || self.minReplicas <= self.replicas"
).message("minReplicas must not be larger than replicas; name both"))]
pub struct PinSpec {
    /// cid is the content identifier: CIDv0 (`Qm…`) or CIDv1 in base32, base58 or another base,
    /// without `/ipfs/` and without a path. It cannot be changed; create another Pin for other
    /// content.
    #[schemars(length(min = 1, max = super::CID_LEN_MAX))]
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("cid cannot be changed; create another Pin for other content"))]
    #[x_kube(validation = Rule::new("!self.contains('/')")
        .message("not a CID: give the CID alone, without /ipfs/, ipfs:// or a path"))]
    #[x_kube(validation = Rule::new(CID_ALPHABET)
        .message("not a CID by its characters: a CIDv0 is Qm and base58; a CIDv1 starts with \
        the letter of its base (b: base32, z: base58, k: base36, f: base16, u: base64url) and has \
        only characters of that base"))]
    #[x_kube(validation = Rule::new(CID_LENGTH)
        .message("not a CID by its length: a CIDv0 has 46 characters; a CIDv1 with a SHA2-256 \
        hash has 59 in base32, 49 in base58; was it cut off or pasted twice?"))]
    #[x_kube(validation = Rule::new(NO_IPNS_KEY)
        .message("an IPNS key names no content: resolve it first (ipfs name resolve /ipns/<key>), and \
        pin the CID that it points to"))]
    pub cid: String,

    /// replicas is the number of daemons that keep a copy. If there are fewer peers, there are as many
    /// copies as possible.
    #[schemars(range(min = 1, max = super::REPLICAS_MAX))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,

    /// minReplicas is the number of confirmed copies that make the Pin Ready; it defaults to
    /// replicas.
    #[schemars(range(min = 1, max = super::REPLICAS_MAX))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_replicas: Option<i32>,

    /// deletionPolicy is what happens to the content when the Pin is deleted: Unpin unpins it
    /// unless another Pin wants it too, Retain keeps it pinned.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// What happens to the content when its Pin is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// Unpin it, unless another claim wants it.
    #[default]
    Unpin,
    /// Keep it pinned, without an owner.
    Retain,
}

/// status is the state of the content in the cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PinStatus {
    /// conditions are Ready (at least minReplicas copies are confirmed), Reconciling (not Ready
    /// yet, and the cluster works on it), Stalled (nothing will happen until a person changes
    /// something) and
    /// FullyReplicated (as many copies as wanted are confirmed).
    #[schemars(schema_with = "conditions")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,

    /// observedGeneration is the generation of the spec that this status is about; -1 before the
    /// first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// observedEntries is the length of the cluster's log that this status is based on. The status
    /// does not describe copies that later entries allocated.
    #[schemars(range(min = 0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_entries: Option<i64>,

    /// copies is the number of confirmed and of wanted copies, for people, for example 2/3.
    #[schemars(length(max = 16))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copies: Option<String>,

    /// replicas is the number of peers that keep a copy or fetch one, without peers that give
    /// theirs up.
    #[schemars(range(min = 0, max = super::REPLICAS_MAX))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,

    /// desiredReplicas is the number of wanted copies.
    #[schemars(range(min = 0, max = super::REPLICAS_MAX))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired_replicas: Option<i32>,

    /// readyReplicas is the number of confirmed copies.
    #[schemars(range(min = 0, max = super::REPLICAS_MAX))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,

    /// allocations are the peers that keep a copy or are to keep one.
    #[schemars(
        length(max = super::ALLOCATIONS_LEN_MAX),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["peer"])
    )]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allocations: Vec<PinAllocation>,
}

/// One copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PinAllocation {
    /// peer is the name of the ClusterPeer whose daemon keeps the copy.
    #[schemars(length(min = 1, max = 253))]
    pub peer: String,

    /// state is the progress of this copy.
    pub state: AllocationState,

    /// leaving is true for a copy that is kept only until enough other copies are confirmed, as
    /// when it moves to another peer. While it is Pinned it counts for Ready.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,

    /// since is when the copy entered this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,

    /// message is the progress, or why the copy is missing and what happens next.
    #[schemars(length(max = super::MESSAGE_LEN_MAX))]
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Progress of one copy.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum AllocationState {
    /// Waits for its turn.
    Queued,
    /// The daemon fetches it.
    Pinning,
    /// The daemon held it when last asked.
    Pinned,
    /// The daemon cannot pin such a CID. Retried rarely.
    Unpinnable,
    /// No provider was found for the content or a part of it. Retried.
    ContentNotFound,
    /// The daemon refused or failed. Retried.
    PinError,
    /// The daemon does not answer. Retried.
    DaemonDown,
    /// The leader has heard nothing of the peer for longer than the grace.
    PeerDown,
}

/// Reasons of a Pin's conditions; all conditions of a Pin have the same reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PinReason {
    /// At least minReplicas copies are confirmed.
    Pinned,
    /// No daemon has begun yet.
    Queued,
    /// At least one daemon fetches it.
    Pinning,
    /// There are fewer peers than minReplicas.
    NotEnoughPeers,
    /// No provider was found for the content or a part of it.
    ContentNotFound,
    /// Daemons refused or failed.
    PinError,
    /// Daemons do not answer.
    DaemonDown,
    /// The spec's cid looks like a CID but is invalid.
    InvalidCID,
    /// No cluster can satisfy the spec.
    Unallocatable,
    /// Too many daemons cannot pin such a CID, for example because they do not know its codec.
    Unpinnable,
}

impl PinReason {
    /// As written in a condition.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pinned => "Pinned",
            Self::Queued => "Queued",
            Self::Pinning => "Pinning",
            Self::NotEnoughPeers => "NotEnoughPeers",
            Self::ContentNotFound => "ContentNotFound",
            Self::PinError => "PinError",
            Self::DaemonDown => "DaemonDown",
            Self::InvalidCID => "InvalidCID",
            Self::Unallocatable => "Unallocatable",
            Self::Unpinnable => "Unpinnable",
        }
    }

    /// Whether the condition Ready is True.
    #[must_use]
    pub fn is_ready(self) -> bool {
        self == Self::Pinned
    }

    /// Whether the condition Stalled is True: nothing will happen until a person changes something.
    /// A Pin that is neither Ready nor Stalled is Reconciling.
    #[must_use]
    pub fn is_stalled(self) -> bool {
        matches!(self, Self::InvalidCID | Self::Unallocatable | Self::Unpinnable)
    }
}

impl std::fmt::Display for PinReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
