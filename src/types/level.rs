//! Levels: the kinds of op that the programs of a cluster know.
//!
//! A program knows all ops up to its level. The cluster's level is part of the state. The leader
//! raises it once all members run programs of the higher level, and only then proposes the new kinds of
//! op. So a rolling upgrade can be taken back until then, and not afterwards.

use std::time::Duration;

/// The level of a new cluster.
pub const FIRST_LEVEL: u32 = 1;

/// The level of a program, and when it raises the cluster's level to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// The highest level whose ops it knows.
    pub level: u32,
    /// For how long all members must have been at a higher level before the leader raises the
    /// cluster's level to it. Until then the upgrade can be taken back.
    pub raise_after: Duration,
}

/// This program's. With the feature `next-level` it is the next one, for tests of upgrades.
impl Default for Program {
    fn default() -> Self {
        if cfg!(feature = "next-level") {
            Self { level: FIRST_LEVEL + 1, raise_after: Duration::from_secs(5) }
        } else {
            Self { level: FIRST_LEVEL, raise_after: Duration::from_secs(600) }
        }
    }
}

/// The cluster is at a level that the program does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the cluster is at level {cluster}, and this version of pinkeeper ({}) knows levels up to \
     {program}: run the version that the other peers run",
    env!("CARGO_PKG_VERSION")
)]
pub struct TooOld {
    /// The cluster's level.
    pub cluster: u32,
    /// The program's level.
    pub program: u32,
}

impl Program {
    /// Checks that it knows the ops of a cluster's level.
    ///
    /// # Errors
    /// When it does not.
    pub fn check(&self, cluster: u32) -> Result<(), TooOld> {
        if cluster > self.level { Err(TooOld { cluster, program: self.level }) } else { Ok(()) }
    }
}
