//! Features of some worlds only: logs so short that peers need snapshots, and garbage collections. They
//! are drawn from a separate stream, so that a seed means the same in the other worlds.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::Instant;

use super::{host::Host, world::World};
use crate::{cluster::GcPolicy, consensus::Checkpoints};

/// Combined with the seed for a separate stream.
const STREAM: u64 = 0x006c_6f67;
/// Faults last longer with garbage collections: a new leader waits until it has heard from all. A
/// client that requests a collection waits as long.
const COLLECTING: Duration = Duration::from_secs(20);
/// Long enough for the others to purge their logs beyond what a peer has.
const AWAY: Duration = Duration::from_secs(6);

/// The features of one world.
#[derive(Debug)]
pub(super) struct More {
    random: StdRng,
    /// Logs so short that peers need snapshots of many pieces within a world's time.
    checkpoints: Option<Checkpoints>,
    /// Users request garbage collections, and peers may start them by themselves.
    collects: bool,
    gc: Option<GcPolicy>,
}

impl More {
    pub(super) fn draw(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ STREAM);
        let checkpoints = random.random_bool(0.4).then(|| Checkpoints {
            every: random.random_range(2..12),
            kept: random.random_range(0..4),
            piece_len: random.random_range(100..4_000),
        });
        let collects = random.random_bool(0.25);
        let gc = GcPolicy { watermark_percent: 0, pause_minutes: 0 };
        let gc = (collects && random.random_bool(0.5)).then_some(gc);
        Self { random, checkpoints, collects, gc }
    }

    /// Configures a host for these features.
    pub(super) fn configure(&self, host: &mut Host) {
        host.checkpoints = self.checkpoints.unwrap_or_default();
        host.gc = self.gc;
    }

    /// How much longer faults last.
    pub(super) fn longer(&self) -> Duration {
        if self.collects { COLLECTING } else { Duration::ZERO }
    }
}

impl World {
    /// Performs one of these steps, or none.
    pub(super) fn step_more(&mut self) {
        if self.more.collects && self.more.random.random_bool(0.1) {
            let n = self.more.random.random_range(0..self.hosts.len());
            let local = self.more.random.random_bool(0.5);
            if let Some(client) = self.client(n, COLLECTING) {
                self.clients[n].spawn(client.collect(local));
            }
        }
        if self.more.checkpoints.is_some() && self.more.random.random_bool(0.03) {
            let n = self.more.random.random_range(0..self.hosts.len());
            if self.hosts[n].peer.is_some() {
                self.crash(n, "away for long");
                self.restarts[n] = Instant::now() + AWAY;
            }
        }
    }
}
