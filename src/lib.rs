//! The Pinkeeper peer: a member of the cluster that agrees by Raft what is pinned where, and makes
//! the IPFS daemon beside it hold its share.
//!
//! # Layout
//! In reading order; imports go upwards only (checked by `tests/layers.rs`).
//! - [`types`]: the words and the messages between peers, plain data.
//! - [`state`], [`allocate`]: pure decisions about pins and where they go.
//! - [`clock`]: wall-clock time, for timestamps only.
//! - [`files`]: files of this peer: private, and no links.
//! - [`database`]: a store's file, whole or not there.
//! - [`high_water`]: how much of a store was on disk already.
//! - [`identity`]: who this peer is, and the cluster secret.
//! - [`telemetry`]: logs and metrics of the process.
//! - [`ipfs`]: the daemon beside the peer (Kubo), behind the trait [`ipfs::Ipfs`].
//! - [`rpc`]: requests between peers over libp2p, behind the trait [`rpc::Transport`].
//! - [`tracker`]: what this peer must hold against what its daemon holds.
//! - [`monitor`]: peer metrics, gathered here and kept at the leader.
//! - [`consensus`]: Raft over the log and the state on disk.
//! - [`cluster`]: what users and controllers can ask, and what a peer does for the others.
//! - [`config`]: how a peer is set up.
//! - [`rest`]: HTTP: IPFS Cluster's REST API, probes and Prometheus metrics.
//! - [`peer`]: puts the parts together.
//! - `sim`: whole peers in simulated worlds; never in a shipped binary.
//! - `fuzzing`: what strangers and disks hand a peer, as functions of bytes; likewise.

pub mod allocate;
#[cfg(test)]
mod baseline;
mod causes;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod consensus;
pub mod database;
pub mod files;
#[cfg(any(test, feature = "simulation"))]
pub mod fuzzing;
pub mod high_water;
pub mod identity;
pub mod ipfs;
pub mod monitor;
pub mod peer;
pub mod rest;
pub mod rpc;
pub mod runtime;
#[cfg(any(test, feature = "simulation"))]
pub mod sim;
pub mod state;
pub mod telemetry;
pub mod tracker;
pub mod types;

// As the program has it: with musl's own, worlds take a seventh longer, and a third when optimised.
#[cfg(test)]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
