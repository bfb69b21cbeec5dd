//! Probes and Prometheus metrics.
//!
//! `/healthz` answers as long as the process' own loop runs, `/readyz` says why the peer is not
//! ready, `/metrics` is OpenMetrics text. What describes the peer's present state is read when it is
//! asked for.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::source::Source;
use crate::{cluster::Cluster, telemetry, types::Collections};

/// The registry of the process' metrics.
#[derive(Clone)]
pub struct SharedRegistry(Arc<Mutex<Registry>>);

impl SharedRegistry {
    /// Takes a registry in which every other part has registered its metrics.
    #[must_use]
    pub fn new(registry: Registry) -> Self {
        Self(Arc::new(Mutex::new(registry)))
    }

    fn with<R>(&self, use_it: impl FnOnce(&mut Registry) -> R) -> R {
        use_it(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for SharedRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedRegistry")
    }
}

#[derive(Clone)]
struct Health {
    source: Source,
    registry: SharedRegistry,
    gauges: PeerGauges,
}

/// A gauge that is absent while its value is unknown.
type Known = Family<NoLabels, Gauge<u64, AtomicU64>>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NoLabels {}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// The peer's present state.
#[derive(Clone, Default)]
struct PeerGauges {
    ready: Gauge,
    members: Gauge,
    voters: Gauge,
    daemon_up: Gauge,
    pins: Gauge<u64, AtomicU64>,
    pin_queue: Gauge<u64, AtomicU64>,
    free_space: Known,
    repository_size: Known,
    full_percent: Known,
    gc_running: Gauge,
    gc_runs: Family<Outcome, Counter>,
    gc_removed_blocks: Counter,
    gc_last_success: Known,
}

/// The routes for probes and Prometheus.
pub fn health_router(cluster: Cluster, registry: SharedRegistry) -> Router {
    router(Source::Cluster(cluster), registry)
}

pub(super) fn router(source: Source, registry: SharedRegistry) -> Router {
    let gauges = PeerGauges::default();
    registry.with(|registry| gauges.register(registry));
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Health { source, registry, gauges })
}

async fn ready(State(health): State<Health>) -> Response {
    match health.source.readiness() {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn metrics(State(health): State<Health>) -> Response {
    health.gauges.read(&health.source);
    match health.registry.with(|registry| telemetry::encode(registry)) {
        Ok(body) => ([(header::CONTENT_TYPE, telemetry::CONTENT_TYPE)], body).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be written as text");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

impl PeerGauges {
    fn register(&self, registry: &mut Registry) {
        registry.register("ready", "A leader is known and the log caught up", self.ready.clone());
        registry.register("members", "Members of the cluster", self.members.clone());
        registry.register("voters", "Members that vote", self.voters.clone());
        registry.register("daemon_up", "The daemon answers", self.daemon_up.clone());
        registry.register(
            "pins_held",
            "Pins the daemon was last confirmed to hold for this peer",
            self.pins.clone(),
        );
        registry.register("pin_queue", "Pins queued or in work", self.pin_queue.clone());
        registry.register(
            "free_space_bytes",
            "Bytes free for content; absent while unknown",
            self.free_space.clone(),
        );
        registry.register(
            "repository_size_bytes",
            "Bytes the daemon's repository takes; absent while unknown",
            self.repository_size.clone(),
        );
        registry.register(
            "full_percent",
            "How full the daemon's space is, in per cent; absent while unknown",
            self.full_percent.clone(),
        );
        self.register_gc(registry);
    }

    fn register_gc(&self, registry: &mut Registry) {
        let help = "The daemon collects garbage; pins wait";
        registry.register("gc_running", help, self.gc_running.clone());
        let help = "Garbage collections of the daemon by outcome";
        registry.register("gc_runs", help, self.gc_runs.clone());
        let help = "Blocks that garbage collection removed";
        registry.register("gc_removed_blocks", help, self.gc_removed_blocks.clone());
        registry.register(
            "gc_last_success_timestamp_seconds",
            "When the last garbage collection that went well ended; absent before the first",
            self.gc_last_success.clone(),
        );
    }

    fn read_gc(&self, source: &Source) {
        let Collections { running, done, failed, removed, done_at } = source.collections();
        self.gc_running.set(i64::from(running));
        for (outcome, count) in [("done", done), ("failed", failed)] {
            let runs = self.gc_runs.get_or_create(&Outcome { outcome });
            runs.inner().store(count, Ordering::Relaxed);
        }
        self.gc_removed_blocks.inner().store(removed, Ordering::Relaxed);
        set(&self.gc_last_success, done_at.map(|at| at.0 / 1000));
    }

    fn read(&self, source: &Source) {
        let metrics = source.local_metrics();
        self.ready.set(i64::from(source.readiness().is_ok()));
        self.members.set(i64::try_from(source.members().len()).unwrap_or(i64::MAX));
        self.voters.set(i64::try_from(source.voters()).unwrap_or(i64::MAX));
        self.daemon_up.set(i64::from(metrics.daemon.is_some()));
        self.pins.set(metrics.pins);
        self.pin_queue.set(metrics.pin_queue);
        set(&self.free_space, metrics.free_space);
        set(&self.repository_size, metrics.repository_size);
        set(&self.full_percent, metrics.full_percent.map(u64::from));
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
