//! HTTP: the supported part of IPFS Cluster's REST API, and the server for probes and Prometheus.
//!
//! | method, path | answer |
//! |---|---|
//! | `GET /id` | the peer |
//! | `GET /pins?local=&filter=&cids=` | every pin and its statuses, one JSON object a line |
//! | `GET /pins/{cid}?local=` | one pin and its statuses |
//! | `POST /pins/{cid}?replication=&replication-min=&replication-max=&name=&mode=` | the pin |
//! | `DELETE /pins/{cid}` | the pin as it was |
//! | `POST /pins` (NDJSON) | one answer per line, see [`bulk`] |
//! | `POST /ipfs/gc?local=` | the results of garbage collection at each peer |
//! | `GET /peers` | every member, one JSON object a line |
//! | `DELETE /peers/{id}?cancel=` | 204: the member gives its copies away and leaves |
//! | `GET /health` | 204 |
//!
//! The JSON is that of IPFS Cluster 1.1. Unlike there, a parameter that is unknown or not supported is
//! refused instead of ignored, and `/ipfs/gc` counts the removed blocks instead of naming each, since
//! there may be millions. Errors are `{"code":…,"message":…}`. There is no authentication: every client
//! that reaches the address may pin and unpin, except web pages of other sites ([`Hosts`]).

mod bulk;
mod error;
#[cfg(any(test, feature = "simulation"))]
pub(crate) mod fuzzing;
mod gauges;
mod gc;
mod health;
mod hosts;
mod metrics;
mod patience;
mod peers;
mod pins;
mod places;
mod process;
mod query;
mod serve;
mod source;
mod view;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{Method, StatusCode, Uri},
    middleware,
    routing::{delete, get, post},
};

use self::{error::ApiError, source::Source, view::IdView};
pub use self::{
    health::{SharedRegistry, health_router},
    hosts::Hosts,
    metrics::RestMetrics,
    serve::{BindError, bind, serve},
};
use crate::{cluster::Cluster, types::Replication};

/// State of every handler.
#[derive(Clone, Debug)]
struct Api {
    source: Source,
    /// Default for pins.
    replication: Replication,
}

/// The REST API for `hosts`; `replication` is the default for pins.
pub fn api_router(
    cluster: Cluster,
    replication: Replication,
    metrics: RestMetrics,
    hosts: Hosts,
) -> Router {
    api(Source::Cluster(cluster), replication, metrics, hosts)
}

fn api(source: Source, replication: Replication, metrics: RestMetrics, hosts: Hosts) -> Router {
    Router::new()
        .route("/id", get(id))
        .route("/health", get(async || StatusCode::NO_CONTENT))
        .route("/health/alerts", get(peers::alerts))
        .route("/pins", get(pins::list).post(bulk::pin_all))
        .route("/pins/{cid}", get(pins::status).post(pins::pin).delete(pins::unpin))
        .route("/peers", get(peers::list))
        .route("/peers/{id}", delete(peers::depart))
        .route("/ipfs/gc", post(gc::collect))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(hosts, hosts::check))
        .layer(middleware::from_fn_with_state(Arc::new(metrics), metrics::count))
        .with_state(Api { source, replication })
}

async fn id(State(api): State<Api>) -> Json<IdView> {
    let source = &api.source;
    let metrics = source.local_metrics();
    let (members, daemon) = (source.members(), metrics.daemon.as_ref());
    Json(view::id(source.id(), source.member(), &members, daemon, &metrics.addresses))
}

async fn not_found(uri: Uri) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, format!("there is nothing at {}", uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let message = format!("{method} is not possible at {}", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
}
