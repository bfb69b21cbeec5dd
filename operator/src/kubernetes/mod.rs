//! The Kubernetes client's side: how this process talks to the API server, and what it reads and
//! writes there beside Pins.
//!
//! Founding and the controllers are built on this room. It must not use them, and it decides nothing
//! for them.

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
