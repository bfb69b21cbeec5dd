//! ClusterPeers: each peer keeps its own, learns from the others', and the leader marks silent ones.

mod directory;
mod own;
mod silent;
mod status;

pub(crate) use self::directory::{PeerError, read_now};
pub(super) use self::silent::run as mark_silent;
pub use self::{
    directory::{Directory, Listed, run as watch},
    own::run as keep_own,
    status::{Situation, own_status, steady},
};
