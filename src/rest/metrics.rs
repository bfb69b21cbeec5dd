//! Prometheus metrics of the REST API.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// Requests by route, method and status. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct RestMetrics {
    requests: Family<Labels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    route: &'static str,
    method: &'static str,
    code: u16,
}

impl RestMetrics {
    /// Makes them visible.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Requests of the REST API by route, method and status";
        registry.register("rest_requests", help, self.requests.clone());
    }
}

/// Counts a request.
pub(super) async fn count(
    State(metrics): State<Arc<RestMetrics>>,
    request: Request,
    next: Next,
) -> Response {
    // The route and not the path, and known methods only: labels must be few.
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
    let response = next.run(request).await;
    let labels = Labels { route, method, code: response.status().as_u16() };
    metrics.requests.get_or_create(&labels).inc();
    response
}
