//! In some worlds peers or their daemons stay away for longer than the grace, so that their copies move to
//! others and they come back to copies too many. The choices are drawn from a separate stream, as in
//! [`super::more`].

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::Instant;

use super::{host::Host, world::World};
use crate::cluster::MovePolicy;

/// Combined with the seed for a separate stream.
const STREAM: u64 = 0x6177_6179;
/// A member is noticed, counted, and its copies move within this time, if faults let them.
const LONGER: Duration = Duration::from_secs(60);

/// The absences of one world.
#[derive(Debug)]
pub(super) struct Absences {
    random: StdRng,
    happen: bool,
    /// When copies move.
    pub(super) moves: MovePolicy,
    /// The host whose daemon is away, and until when.
    daemon: Option<(usize, Instant)>,
}

impl Absences {
    pub(super) fn draw(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ STREAM);
        let happen = random.random_bool(0.15);
        let after = Duration::from_secs(random.random_range(3..8));
        let zone_after = 2 * after;
        // Else no world lasts as long as the grace.
        let after = if happen { after } else { Duration::from_secs(300) };
        Self { random, happen, moves: MovePolicy { after, zone_after }, daemon: None }
    }

    /// Configures a host for these features.
    pub(super) fn configure(&self, host: &mut Host) {
        host.moves = self.moves;
    }

    /// Nobody is away any more.
    pub(super) fn end(&mut self) {
        self.daemon = None;
    }

    /// How much longer faults last.
    pub(super) fn longer(&self) -> Duration {
        if self.happen { LONGER } else { Duration::ZERO }
    }
}

impl World {
    /// A peer or its daemon goes away for long, or a daemon comes back.
    pub(super) fn step_absences(&mut self) {
        if let Some((n, until)) = self.absences.daemon {
            if until > Instant::now() {
                // Other faults must not bring it back earlier.
                self.hosts[n].daemon.set_down(true);
            } else {
                self.trace.note(format!("daemon-{n} is back"));
                self.hosts[n].daemon.set_down(false);
                self.absences.daemon = None;
            }
        }
        if !self.absences.happen || !self.absences.random.random_bool(0.03) {
            return;
        }
        let n = self.absences.random.random_range(0..self.hosts.len());
        let time = Duration::from_secs(self.absences.random.random_range(10..25));
        if self.absences.random.random_bool(0.5) {
            if self.absences.daemon.is_none() {
                self.trace.note(format!("daemon-{n} is away for {time:?}"));
                self.trace.meet("a daemon is away for long");
                self.hosts[n].daemon.set_down(true);
                self.absences.daemon = Some((n, Instant::now() + time));
            }
        } else if self.hosts[n].peer.is_some() {
            self.crash(n, &format!("away for {time:?}"));
            self.restarts[n] = Instant::now() + time;
            self.trace.meet("a peer is away for long");
        }
    }
}
