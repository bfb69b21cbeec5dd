//! Simulated worlds: whole peers, as in a process, over stand-ins of the network, the disks and the
//! daemons, on one thread with a paused clock ([`run_seeded`]). One seed is one world.
//!
//! A [`host::Host`] is one peer's machine on a [`network::SimNetwork`]; other crates' tests build
//! their worlds of them (feature `simulation`). [`world`] is the peers' own.
//!
//! What is simulated is named so: [`network`] instead of libp2p, [`log`] and [`disk`] instead of
//! files (what was not synced is lost in a crash), [`crate::ipfs::fake`] instead of Kubo.

pub mod clients;
#[cfg(test)]
pub(crate) mod damage;
pub mod disk;
mod faults;
pub mod history;
pub mod host;
pub mod judge;
#[cfg(test)]
mod levels;
pub mod log;
mod more;
pub mod network;
mod rules;
mod runtime;
pub mod seeds;
mod storms;
pub mod trace;
pub mod world;

pub use self::runtime::run_seeded;

#[cfg(test)]
mod tests;
