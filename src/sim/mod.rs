//! Simulated worlds: whole peers, as in a process, over stand-ins of the network, the disks and the
//! daemons, on one thread with a paused clock. One seed is one world.
//!
//! What is simulated is named so: [`network`] instead of libp2p, [`log`] and [`disk`] instead of
//! files (what was not synced is lost in a crash), [`crate::ipfs::fake`] instead of Kubo.

#[cfg(test)]
pub(crate) mod damage;
pub mod disk;
pub mod log;
pub mod network;
pub mod world;

#[cfg(test)]
mod tests;
