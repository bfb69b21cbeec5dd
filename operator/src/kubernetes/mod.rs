//! Access to the API server: client, errors, waits, watches, the record and the directory of
//! ClusterPeers.
//!
//! Founding and the controllers use this module. It must not use them, nor decide for them.

#[cfg(test)]
pub(crate) mod answers;
pub mod api;
mod backoff;
mod context;
mod counters;
mod directory;
mod raw;
mod reach;
pub(crate) mod record;
mod settings;
mod watching;

pub use self::{
    backoff::Backoff,
    context::{Context, Latest},
    counters::Counters,
    directory::{Directory, Listed, run as watch_peers},
    reach::Reach,
    record::{Anchors, Record},
    settings::Settings,
};
pub(crate) use self::{
    directory::{PeerError, read_now},
    raw::{RawPeer, RawPin, all_pins, peers_in, pins_in},
    watching::Watching,
};
