//! Writes ClusterPeers: each peer writes its own, and the leader marks those of silent peers.

mod own;
mod silent;
mod status;

pub(super) use self::silent::run as mark_silent;
pub use self::{
    own::run as keep_own,
    status::{Situation, own_status, steady},
};
