//! Probes and Prometheus metrics.
//!
//! `/healthz` answers while the process' own loop runs, `/readyz` says why the peer is not ready, and
//! `/metrics` is OpenMetrics text. Metrics of the peer's current state are read at each request.

use std::{fmt, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;

use super::{gauges::PeerGauges, process::ProcessMetrics, source::Source};
use crate::{cluster::Cluster, telemetry};

/// The registry of the process' metrics.
#[derive(Clone)]
pub struct SharedRegistry(Arc<Mutex<Registry>>);

impl SharedRegistry {
    /// Takes a registry in which all other parts have registered their metrics.
    #[must_use]
    pub fn new(registry: Registry) -> Self {
        Self(Arc::new(Mutex::new(registry)))
    }

    fn with<R>(&self, use_it: impl FnOnce(&mut Registry) -> R) -> R {
        use_it(&mut self.0.lock())
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
    process: ProcessMetrics,
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
        .with_state(Health { source, registry, gauges, process: ProcessMetrics::default() })
}

async fn ready(State(health): State<Health>) -> Response {
    match health.source.readiness() {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn metrics(State(health): State<Health>) -> Response {
    health.gauges.read(&health.source);
    let of_process = health.process.registry();
    match health.registry.with(|registry| telemetry::encode(&[&of_process, registry])) {
        Ok(body) => ([(header::CONTENT_TYPE, telemetry::CONTENT_TYPE)], body).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot encode the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
