//! What happens in some worlds only: logs so short that peers need snapshots, and collections of
//! garbage. Drawn apart from everything else, so that in the other worlds a seed means what it would
//! mean without.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::Instant;

use super::{host::Host, world::World};
use crate::{cluster::GcPolicy, consensus::Checkpoints};

/// Of the seed, for a stream of its own.
const STREAM: u64 = 0x006c_6f67;
/// Faults last longer where garbage is collected: a new leader waits until it has heard of all. Whoever
/// asks for a collection waits as long.
const COLLECTING: Duration = Duration::from_secs(20);
/// As long as others need to shorten their logs beyond what a peer has.
const AWAY: Duration = Duration::from_secs(6);

/// What one world has of it.
#[derive(Debug)]
pub(super) struct More {
    random: StdRng,
    /// Logs so short that peers need snapshots, of many pieces, in the time a world has.
    checkpoints: Option<Checkpoints>,
    /// Users have garbage collected, and perhaps the peers by themselves.
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

    /// What a host is configured with.
    pub(super) fn configure(&self, host: &mut Host) {
        host.checkpoints = self.checkpoints.unwrap_or_default();
        host.gc = self.gc;
    }

    /// For how much longer things go wrong.
    pub(super) fn longer(&self) -> Duration {
        if self.collects { COLLECTING } else { Duration::ZERO }
    }
}

impl World {
    /// Does one of these things, or none.
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
