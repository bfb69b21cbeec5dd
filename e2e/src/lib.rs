//! Helpers of the end-to-end tests.

pub mod daemon;
pub mod kubernetes;
pub mod peer;
mod signal;
pub mod trio;
pub mod volume;
