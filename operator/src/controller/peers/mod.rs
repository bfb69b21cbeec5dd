//! The peers as objects: each peer writes its own ClusterPeer, and the leader marks those of silent
//! peers and has the pods leave that are scaled in.

mod own;
mod scale;
mod silent;
mod status;

pub use self::{
    own::run as keep_own,
    scale::is_scaled_in,
    status::{Situation, own_status, steady},
};
pub(super) use self::{scale::run as follow_scale, silent::run as mark_silent};
