//! The handler of `/ipfs/gc`.
//!
//! A collection may take long, and both this server and proxies close silent connections. So an answer
//! that takes long begins with line feeds, which JSON allows.

use std::{io, time::Duration};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::State,
    http::header,
    response::{IntoResponse as _, Response},
};
use futures::{FutureExt as _, future::BoxFuture, stream};
use tokio::{task::yield_now, time::timeout};

use super::{
    Api,
    error::ApiError,
    pins::Given,
    view::{self, GcView},
};
use crate::cluster::UseCaseError;

/// Longest time without a byte.
const SILENCE_MAX: Duration = Duration::from_secs(20);

type Collecting = BoxFuture<'static, Result<GcView, UseCaseError>>;

pub(super) async fn collect(
    State(api): State<Api>,
    Given(given): Given,
) -> Result<Response, ApiError> {
    let local = given.local_only()?;
    let source = api.source;
    let mut collecting: Collecting = async move {
        let results = source.run_gc(local).await?;
        Ok(view::collected(&results, &source.members()))
    }
    .boxed();
    if let Ok(result) = timeout(SILENCE_MAX, &mut collecting).await {
        return Ok(Json(result?).into_response());
    }
    let pieces = stream::unfold(Some(collecting), async |collecting| next_piece(collecting?).await);
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from_stream(pieces)).into_response())
}

/// A line feed, or at the end the answer. An error cannot change the status any more, so it breaks the
/// transfer off: no client then takes it for whole.
async fn next_piece(mut collecting: Collecting) -> Option<(io::Result<Bytes>, Option<Collecting>)> {
    let Ok(result) = timeout(SILENCE_MAX, &mut collecting).await else {
        return Some((Ok(Bytes::from_static(b"\n")), Some(collecting)));
    };
    let piece = result.map_err(|error| {
        tracing::warn!(%error, "a garbage collection for REST ended early");
        io::Error::other(error)
    });
    let piece = piece.and_then(|view| Ok(Bytes::from(serde_json::to_vec(&view)?)));
    if piece.is_err() {
        // Sends buffered data first.
        yield_now().await;
    }
    Some((piece, None))
}
