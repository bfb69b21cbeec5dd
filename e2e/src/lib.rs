//! Helpers of the end-to-end tests.

pub mod daemon;
pub mod kubernetes;
pub mod outage;
pub mod peer;
pub mod proxy;
mod signal;
pub mod stand_in_kubo;
pub mod trio;
