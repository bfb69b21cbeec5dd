//! Prometheus metrics of the REST API.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};
use tokio::time::Instant;

/// In seconds; from a read of one pin to a write that waits for a leader.
const BUCKETS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0, 10.0];

/// Requests by route, method and status, and the time until the answer began. Clones share the counts.
#[derive(Clone, Debug)]
pub struct RestMetrics {
    requests: Family<Labels, Counter>,
    seconds: Family<RouteLabels, Histogram>,
}

impl Default for RestMetrics {
    fn default() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(BUCKETS);
        Self { requests: Family::default(), seconds: Family::new_with_constructor(histogram) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: &'static str,
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    route: &'static str,
    method: &'static str,
    code: u16,
}

impl RestMetrics {
    /// Registers the metrics.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Requests of the REST API by route, method and status";
        registry.register("rest_requests", help, self.requests.clone());
        let help = "Time until the answer to a request began, by route and method";
        registry.register("rest_request_seconds", help, self.seconds.clone());
    }
}

/// Counts a request.
pub(super) async fn count(
    State(metrics): State<Arc<RestMetrics>>,
    request: Request,
    next: Next,
) -> Response {
    // The route instead of the path, and known methods only: labels must be few.
    let route = match request.uri().path() {
        "/id" => "/id",
        "/health" => "/health",
        "/pins" => "/pins",
        "/ipfs/gc" => "/ipfs/gc",
        path if path.starts_with("/pins/") => "/pins/{cid}",
        _ => "none",
    };
    let method = match request.method().as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "DELETE" => "DELETE",
        _ => "other",
    };
    let began = Instant::now();
    let response = next.run(request).await;
    let taken = began.elapsed().as_secs_f64();
    metrics.seconds.get_or_create(&RouteLabels { route, method }).observe(taken);
    let labels = Labels { route, method, code: response.status().as_u16() };
    metrics.requests.get_or_create(&labels).inc();
    response
}
