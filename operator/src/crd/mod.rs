//! The kinds [`Pin`] and [`ClusterPeer`], and their definitions.
//!
//! The files in `crds/` are generated from these types; a test fails when they differ. The
//! definitions make the API server refuse what it can check (bounds, alphabet and length of a CID,
//! immutability), so that controllers do not see it.
//!
//! This module has data and its description only. It must not do I/O.

mod cluster_peer;
mod pin;
mod schema;

pub use cluster_peer::{
    ClusterPeer, ClusterPeerDaemon, ClusterPeerSpec, ClusterPeerStatus, PeerRole, quantity,
};
pub use pin::{AllocationState, DeletionPolicy, Pin, PinAllocation, PinReason, PinSpec, PinStatus};
pub use schema::{definitions, yaml};

/// The API group of both kinds.
pub const GROUP: &str = "pinkeeper.dev";
/// Longest message of a condition or an allocation, in characters; the API server refuses longer
/// ones.
pub const MESSAGE_LEN_MAX: usize = 1024;
/// Longest CID, in characters: base16 of a CID with a 64-byte digest takes 150.
pub const CID_LEN_MAX: usize = 256;
/// Most copies that one Pin can ask for: the limit of the replicated state.
pub const REPLICAS_MAX: usize = 65_535;
/// Most allocations shown in one Pin's status; the counts include all of them.
pub const ALLOCATIONS_LEN_MAX: usize = 256;
/// Most conditions of one object.
pub const CONDITIONS_LEN_MAX: usize = 8;
/// Most addresses of a peer or of its daemon.
pub const ADDRESSES_LEN_MAX: usize = 16;
/// Longest address (a multiaddr), in characters.
pub const ADDRESS_LEN_MAX: usize = 256;
