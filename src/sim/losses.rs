//! Peers of some worlds lose their disks for good, with or without their daemon's volume, or are asked to
//! leave. Each comes back as another peer of the same name. The choices are drawn from a separate stream,
//! as in [`super::more`].
//!
//! A cluster survives the loss of one disk at a time: the next one is lost only when the successor of the
//! last one is a voter and the lost peer is no member.

use std::{collections::BTreeSet, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::Instant;

use super::world::World;
use crate::types::PeerId;

/// Combined with the seed for a separate stream.
const STREAM: u64 = 0x6c6f_7373;
/// A successor joins, catches up, votes and gets the copies within this time, if faults let it.
const LONGER: Duration = Duration::from_secs(60);
/// Time until a lost peer's successor starts.
const RESTART_MAX_MS: u64 = 4_000;

/// The losses of one world.
#[derive(Debug)]
pub(super) struct Losses {
    random: StdRng,
    happen: bool,
    /// Number of identities so far that succeeded others.
    successors: u8,
}

impl Losses {
    pub(super) fn draw(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ STREAM);
        let happen = random.random_bool(0.15);
        Self { random, happen, successors: 0 }
    }

    /// How much longer faults last.
    pub(super) fn longer(&self) -> Duration {
        if self.happen { LONGER } else { Duration::ZERO }
    }
}

impl World {
    /// A peer loses its disk, if it is time for that. The founder keeps it: a disk that says that it founds
    /// would found another cluster.
    pub(super) fn step_losses(&mut self) {
        if !self.losses.happen || !self.losses.random.random_bool(0.2) || !self.is_whole() {
            return;
        }
        let n = self.losses.random.random_range(1..self.hosts.len());
        if self.losses.random.random_bool(0.5) {
            return self.ask_to_leave(n);
        }
        let keeps_volume = self.losses.random.random_bool(0.5);
        let restart = Duration::from_millis(self.losses.random.random_range(0..RESTART_MAX_MS));
        self.crash(n, &format!("its disk is lost, its volume kept: {keeps_volume}"));
        // The log may be lost with the rest.
        self.lost_logs[n] = None;
        self.becomes_another(n, keeps_volume);
        self.restarts[n] = Instant::now() + restart;
        self.trace.meet(if keeps_volume { "a lost disk" } else { "a lost disk and volume" });
        if self.losses.successors > 1 {
            self.trace.meet("another lost disk");
        }
    }

    fn becomes_another(&mut self, n: usize, keeps_volume: bool) {
        self.losses.successors += 1;
        self.hosts[n].lose_disk(PeerId([100 + self.losses.successors; 32]), keeps_volume);
        self.judge.watch_daemon(&self.hosts[n]);
    }

    /// Any peer is asked that a member leaves.
    fn ask_to_leave(&mut self, n: usize) {
        let through = self.losses.random.random_range(0..self.hosts.len());
        let Some(peer) = &self.hosts[through].peer else { return };
        let (cluster, leaver) = (peer.cluster.clone(), self.hosts[n].id);
        self.trace.note(format!("peer-{n} is asked to leave"));
        self.clients[through].spawn(async move {
            // Without an answer it is asked again, or not at all.
            drop(cluster.depart(leaver, true).await);
        });
    }

    /// A peer was removed and has ended: its volume may be used again by its successor.
    pub(super) fn was_removed(&mut self, n: usize) {
        self.trace.meet("a departed peer");
        let keeps_volume = self.losses.random.random_bool(0.5);
        self.lost_logs[n] = None;
        self.becomes_another(n, keeps_volume);
    }

    /// Whether every peer runs, and knows just the present peers as members and voters.
    fn is_whole(&self) -> bool {
        let all: BTreeSet<PeerId> = self.hosts.iter().map(|host| host.id).collect();
        self.hosts.iter().all(|host| {
            host.peer.as_ref().is_some_and(|peer| {
                let members = peer.cluster.members();
                let votes = members.values().all(|view| view.voter);
                votes
                    && members.into_keys().collect::<BTreeSet<_>>() == all
                    && !peer.cluster.is_joint()
            })
        })
    }
}
