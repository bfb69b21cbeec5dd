//! Simulated worlds: whole peers, as in a process, with stand-ins for the network, the disks and the
//! daemons, on one thread with a paused clock ([`run_seeded`]). One seed is one world.
//!
//! A [`host::Host`] is one peer's machine on a [`network::SimNetwork`]; other crates' tests build their
//! own worlds from them (feature `simulation`). [`world`] is this crate's.
//!
//! Stand-ins: [`network`] for libp2p, [`log`] and [`disk`] for files (a crash loses unsynced data), and
//! [`crate::ipfs::fake`] for Kubo.

mod absences;
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
mod losses;
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
