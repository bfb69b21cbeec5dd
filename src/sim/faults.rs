//! The faults of a world: processes, disks, daemons, clocks and the network between them.

use std::time::Duration;

use rand::RngExt as _;
use tokio::time::Instant;

use super::world::{World, cid_of};

/// Longest wait before an ended process is restarted.
const RESTART_MAX_MS: u64 = 6_000;
/// A peer that has taken part for this long must notice the loss of its log: even the slowest disk has
/// synced the state by then.
const KNOWN_AFTER: Duration = Duration::from_secs(5);
/// Longest jump of a wall clock in either direction: a year.
const JUMP_MAX_MS: i64 = 365 * 86_400_000;

impl World {
    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn millis(&mut self, max: u64) -> Duration {
        Duration::from_millis(self.random.random_range(0..=max))
    }

    /// Ends a peer's process abruptly; unsynced data may be lost.
    pub(super) fn crash(&mut self, n: usize, why: &str) {
        self.trace.note(format!("peer-{n} ends: {why}"));
        let first = self.judge.forget_peer(self.hosts[n].id);
        self.clients[n].abort_all();
        if n == 0 {
            self.founding.abort_all();
        }
        self.hosts[n].crash();
        if first.is_some_and(|first| first.elapsed() > KNOWN_AFTER) && self.chance(15) {
            self.trace.note(format!("peer-{n} has lost its log"));
            self.lost_logs[n] = Some(self.hosts[n].lose_log());
        }
        self.restarts[n] = Instant::now() + self.millis(RESTART_MAX_MS);
    }

    /// Crashes one process, or all at once.
    pub(super) fn crash_some(&mut self) {
        let all = self.chance(15);
        let chosen = self.random.random_range(0..self.hosts.len());
        for n in 0..self.hosts.len() {
            if (all || n == chosen) && self.hosts[n].peer.is_some() {
                self.crash(n, if all { "loss of power" } else { "crash" });
            }
        }
    }

    pub(super) fn disturb_network(&mut self) {
        let count = self.hosts.len();
        let (a, b) = (self.random.random_range(0..count), self.random.random_range(0..count));
        let (from, to) = (self.hosts[a].id, self.hosts[b].id);
        let kind = self.random.random_range(0..100);
        match kind {
            0..25 => {
                self.trace.note("the network is healed");
                self.network.heal();
            }
            25..45 => {
                let (cut, at_the_top) = (self.chance(60), self.chance(50));
                // A leader that is cut off while all clients ask is most likely to answer falsely.
                let n = self.leader().filter(|_| cut && at_the_top).unwrap_or(a);
                self.trace.note(format!("peer-{n} cut off: {cut}"));
                self.network.set_cut(self.hosts[n].id, cut);
                if cut && at_the_top {
                    self.crowd();
                }
            }
            45..70 if a != b => {
                let (cut, both) = (self.chance(70), self.chance(50));
                self.trace.note(format!("peer-{a} to peer-{b} cut: {cut}, and back: {both}"));
                self.network.set_way_cut(from, to, cut);
                if both {
                    self.network.set_way_cut(to, from, cut);
                }
            }
            70..85 if a != b => {
                let delay = self.millis(7_000);
                self.trace.note(format!("peer-{a} to peer-{b} takes up to {delay:?}"));
                self.network.set_way_delay(from, to, delay);
            }
            85..93 => {
                let loss = self.random.random_range(0..300);
                self.trace.note(format!("{loss} of 1000 messages are lost"));
                self.network.set_loss(loss);
            }
            93.. => {
                let doubled = self.random.random_range(0..300);
                self.trace.note(format!("{doubled} of 1000 requests come twice"));
                self.network.set_doubled(doubled);
            }
            _ => {}
        }
    }

    pub(super) fn disturb_daemon(&mut self) {
        let n = self.random.random_range(0..self.hosts.len());
        let on = self.chance(40);
        let daemon = self.hosts[n].daemon.clone();
        let note = |what: String| self.trace.note(format!("daemon-{n} {what}"));
        let kind = self.random.random_range(0..100);
        match kind {
            0..10 => {
                note("restarts".to_owned());
                daemon.restart();
            }
            10..20 => {
                let trailer = on.then_some("context canceled");
                note(format!("ends its streams cleanly, trailer {trailer:?}"));
                daemon.interrupt(trailer);
            }
            20..32 => {
                note(format!("down: {on}"));
                daemon.set_down(on);
            }
            32..42 => {
                note(format!("hangs: {on}"));
                daemon.set_hanging(on);
            }
            42..52 => {
                note(format!("lies: {on}"));
                daemon.set_lying(on);
            }
            52..62 => {
                let delay = if on { self.millis(4_000) } else { Duration::ZERO };
                self.trace.note(format!("daemon-{n} answers {delay:?} late"));
                daemon.set_delay(delay);
            }
            62..72 => {
                let limit = on.then(|| self.random.random_range(0..20));
                self.trace.note(format!("daemon-{n} lists {limit:?}"));
                daemon.set_listing_limit(limit);
            }
            72..84 => {
                let held: Vec<_> = daemon.held().into_iter().collect();
                if !held.is_empty() {
                    let cid = held[self.random.random_range(0..held.len())];
                    self.trace.note(format!("daemon-{n} loses {cid}"));
                    daemon.lose_pin(&cid);
                }
            }
            84..96 => {
                let cid = cid_of(self.random.random_range(0..self.cids));
                self.trace.note(format!("daemon-{n} cannot find {cid}: {on}"));
                daemon.set_missing(cid, on);
            }
            _ => {
                let name = format!("daemon {}", self.random.random_range(0..u64::MAX));
                self.trace.note(format!("daemon-{n} is another one: {name}"));
                daemon.replace(&name);
            }
        }
    }

    pub(super) fn disturb_disk(&mut self) {
        let n = self.random.random_range(0..self.hosts.len());
        let (disk, name) = if self.chance(50) {
            (self.hosts[n].disk.clone(), "disk")
        } else {
            (self.hosts[n].volume.clone(), "daemon's volume")
        };
        let on = self.chance(40);
        if self.chance(50) {
            self.trace.note(format!("the {name} of peer-{n} is full: {on}"));
            disk.set_full(on);
        } else {
            let time = if on { self.millis(2_000) } else { self.millis(4) };
            self.trace.note(format!("the {name} of peer-{n} takes {time:?}"));
            disk.set_sync_time(time);
        }
    }

    pub(super) fn disturb_clock(&mut self) {
        let n = self.random.random_range(0..self.hosts.len());
        let by = self.random.random_range(-JUMP_MAX_MS..=JUMP_MAX_MS);
        self.trace.note(format!("the clock of peer-{n} jumps by {by} ms"));
        self.hosts[n].clock.jump(by);
    }

    /// Ends all faults: from here on everything works.
    pub(super) fn heal(&mut self) {
        self.trace.note("faults end");
        self.absences.end();
        self.network.heal();
        for n in 0..self.hosts.len() {
            let daemon = &self.hosts[n].daemon;
            daemon.set_down(false);
            daemon.set_hanging(false);
            daemon.set_lying(false);
            daemon.set_rude(None);
            daemon.set_delay(Duration::ZERO);
            daemon.set_listing_limit(None);
            (0..self.cids).for_each(|cid| daemon.set_missing(cid_of(cid), false));
            for disk in [&self.hosts[n].disk, &self.hosts[n].volume] {
                disk.set_full(false);
                disk.set_sync_time(Duration::from_millis(1));
            }
            self.restarts[n] = Instant::now();
        }
    }
}
