//! Prometheus metrics of the peer's current state, read at each request.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::source::Source;
use crate::types::{GcCounters, PinState};

/// Names of pin states in the metric of statuses.
const STATUSES: [(PinState, &str); 9] = [
    (PinState::Queued, "queued"),
    (PinState::Rechecking, "rechecking"),
    (PinState::Pinning, "pinning"),
    (PinState::Pinned, "pinned"),
    (PinState::NotFound, "not_found"),
    (PinState::Failed, "failed"),
    (PinState::Unpinnable, "unpinnable"),
    (PinState::Unpinning, "unpinning"),
    (PinState::UnpinFailed, "unpin_failed"),
];
/// States after a failed attempt; they are also the names of the reasons.
const FAILURES: [PinState; 3] = [PinState::NotFound, PinState::Failed, PinState::Unpinnable];

/// A gauge that is absent while its value is unknown.
type Known = Family<NoLabels, Gauge<u64, AtomicU64>>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NoLabels {}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabel {
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// The peer's current state.
#[derive(Clone, Default)]
pub(super) struct PeerGauges {
    leader: Gauge,
    term: Gauge<u64, AtomicU64>,
    level: Gauge<u64, AtomicU64>,
    program_level: Gauge<u64, AtomicU64>,
    pins_by_status: Family<StatusLabel, Gauge<u64, AtomicU64>>,
    failures: Family<Reason, Counter>,
    ready: Gauge,
    members: Gauge,
    members_away: Gauge,
    voters: Gauge,
    pins_leaving: Gauge,
    daemon_up: Gauge,
    pins: Gauge<u64, AtomicU64>,
    pin_queue: Gauge<u64, AtomicU64>,
    free_space: Known,
    repository_size: Known,
    full: Family<NoLabels, Gauge<f64, AtomicU64>>,
    gc_running: Gauge,
    gc_runs: Family<Outcome, Counter>,
    gc_removed_blocks: Counter,
    gc_last_success: Known,
}

impl PeerGauges {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("ready", "A leader is known and the log caught up", self.ready.clone());
        registry.register("leader", "This peer leads the cluster", self.leader.clone());
        registry.register("raft_term", "The Raft term", self.term.clone());
        registry.register("level", "The cluster's level", self.level.clone());
        let help = "The level of this peer's program";
        registry.register("program_level", help, self.program_level.clone());
        registry.register("members", "Members of the cluster", self.members.clone());
        let help = "Members that the leader does not hear, or whose daemon is away";
        registry.register("members_away", help, self.members_away.clone());
        registry.register("voters", "Members that vote", self.voters.clone());
        let help = "Pins with a copy that leaves, for example because it moves to another peer";
        registry.register("pins_leaving", help, self.pins_leaving.clone());
        registry.register("daemon_up", "The daemon answers", self.daemon_up.clone());
        registry.register(
            "pins_held",
            "Pins the daemon was last confirmed to hold for this peer",
            self.pins.clone(),
        );
        registry.register("pin_queue", "Pins queued or under way", self.pin_queue.clone());
        registry.register(
            "free_space_bytes",
            "Bytes free for content; absent while unknown",
            self.free_space.clone(),
        );
        registry.register(
            "repository_size_bytes",
            "Bytes used by the daemon's repository; absent while unknown",
            self.repository_size.clone(),
        );
        registry.register(
            "full_ratio",
            "How full the daemon's space is, from 0 to 1; absent while unknown",
            self.full.clone(),
        );
        registry.register(
            "pins",
            "Pins tracked by this peer, by status",
            self.pins_by_status.clone(),
        );
        registry.register(
            "pin_failures",
            "Failed attempts to pin since the start, by reason",
            self.failures.clone(),
        );
        self.register_gc(registry);
    }

    fn register_gc(&self, registry: &mut Registry) {
        let help = "The daemon collects garbage; pins wait";
        registry.register("gc_running", help, self.gc_running.clone());
        let help = "Garbage collections of the daemon by outcome";
        registry.register("gc_runs", help, self.gc_runs.clone());
        let help = "Blocks removed by garbage collection";
        registry.register("gc_removed_blocks", help, self.gc_removed_blocks.clone());
        registry.register(
            "gc_last_success_timestamp_seconds",
            "End of the last successful garbage collection; absent before the first",
            self.gc_last_success.clone(),
        );
    }

    fn read_pins(&self, source: &Source) {
        let counters = source.counters();
        for (state, status) in STATUSES {
            let count = counters.states.get(&state).copied().unwrap_or_default();
            let gauge = self.pins_by_status.get_or_create(&StatusLabel { status });
            gauge.set(u64::try_from(count).unwrap_or(u64::MAX));
            if FAILURES.contains(&state) {
                let count = counters.failures.get(&state).copied().unwrap_or_default();
                let failures = self.failures.get_or_create(&Reason { reason: status });
                failures.inner().store(count, Ordering::Relaxed);
            }
        }
    }

    fn read_gc(&self, source: &Source) {
        let GcCounters { running, done, failed, removed, done_at } = source.collections();
        self.gc_running.set(i64::from(running));
        for (outcome, count) in [("done", done), ("failed", failed)] {
            let runs = self.gc_runs.get_or_create(&Outcome { outcome });
            runs.inner().store(count, Ordering::Relaxed);
        }
        self.gc_removed_blocks.inner().store(removed, Ordering::Relaxed);
        set(&self.gc_last_success, done_at.map(|at| at.0 / 1000));
    }

    pub(super) fn read(&self, source: &Source) {
        let metrics = source.local_metrics();
        self.ready.set(i64::from(source.readiness().is_ok()));
        self.members.set(i64::try_from(source.members().len()).unwrap_or(i64::MAX));
        let away = source.roster().values().filter(|listed| !listed.away.is_zero()).count();
        self.members_away.set(i64::try_from(away).unwrap_or(i64::MAX));
        self.pins_leaving.set(i64::try_from(source.pins_leaving()).unwrap_or(i64::MAX));
        self.voters.set(i64::try_from(source.voters()).unwrap_or(i64::MAX));
        self.daemon_up.set(i64::from(metrics.daemon.is_some()));
        self.pins.set(metrics.pins);
        self.pin_queue.set(metrics.pin_queue);
        set(&self.free_space, metrics.free_space);
        set(&self.repository_size, metrics.repository_size);
        match metrics.full_percent {
            Some(percent) => {
                self.full.get_or_create(&NoLabels {}).set(f64::from(percent) / 100.0);
            }
            None => self.full.clear(),
        }
        let leadership = source.leadership();
        self.leader.set(i64::from(leadership.local));
        self.term.set(leadership.term);
        let (level, program_level) = source.levels();
        self.level.set(level.into());
        self.program_level.set(program_level.into());
        self.read_pins(source);
        self.read_gc(source);
    }
}

fn set(gauge: &Known, value: Option<u64>) {
    match value {
        Some(value) => {
            gauge.get_or_create(&NoLabels {}).set(value);
        }
        None => gauge.clear(),
    }
}
