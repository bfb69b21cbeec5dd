//! Helpers of the end-to-end tests.

pub mod chance;
pub mod clients;
pub mod daemon;
pub mod faulty;
pub mod kubernetes;
pub mod linear;
pub mod network;
pub mod outage;
pub mod peer;
pub mod power;
pub mod proxy;
mod signal;
pub mod stand_in_kubo;
pub mod trio;
pub mod volume;
