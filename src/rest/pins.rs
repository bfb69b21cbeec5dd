//! The handlers of `/pins`.

use std::{collections::VecDeque, io};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{FromRequestParts, Path, Query, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request},
    response::{IntoResponse as _, Response},
};
use futures::stream;
use http_body::Frame;
use http_body_util::StreamBody;

use super::{
    Api,
    error::ApiError,
    query::{ListQuery, Parameters, parse_cid},
    view::{self, Peers, PinInfoView, PinView},
};
use crate::{
    clock::Clock,
    cluster::UseCaseError,
    types::{Cid, PinRequest},
};

/// The trailer with the reason why a list ended early; empty if it is complete.
const STREAM_ERROR: HeaderName = HeaderName::from_static("x-stream-error");

/// The parameters of a request.
pub(super) struct Given(pub(super) Parameters);

impl<S: Send + Sync> FromRequestParts<S> for Given {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut request::Parts,
        state: &S,
    ) -> Result<Self, Self::Rejection> {
        let Query(pairs) = Query::<Vec<(String, String)>>::from_request_parts(parts, state)
            .await
            .map_err(|error| ApiError::bad_request(error.body_text()))?;
        Parameters::new(pairs).map(Given)
    }
}

pub(super) async fn pin(
    State(api): State<Api>,
    Path(cid): Path<String>,
    Given(given): Given,
) -> Result<Json<PinView>, ApiError> {
    let cid = parse_cid(&cid)?;
    let options = given.pin(api.replication)?;
    let pin = api.source.pin(PinRequest { cid, options }).await?;
    Ok(Json(view::pin(cid, &pin)))
}

pub(super) async fn unpin(
    State(api): State<Api>,
    Path(cid): Path<String>,
    Given(given): Given,
) -> Result<Json<PinView>, ApiError> {
    let cid = parse_cid(&cid)?;
    given.none()?;
    let pin = api.source.unpin(cid).await?;
    Ok(Json(view::pin(cid, &pin)))
}

pub(super) async fn status(
    State(api): State<Api>,
    Path(cid): Path<String>,
    Given(given): Given,
) -> Result<Json<PinInfoView>, ApiError> {
    let cid = parse_cid(&cid)?;
    let local = given.local_only()?;
    let peers = api.peers(local);
    Ok(Json(match api.source.pin_entry(cid, local).await? {
        Some(entry) => peers.info(&entry),
        None => peers.unpinned(cid),
    }))
}

/// Every pin, one page at a time, so that memory stays bounded. Without any pin the answer is 204, as
/// in IPFS Cluster.
pub(super) async fn list(
    State(api): State<Api>,
    headers: HeaderMap,
    Given(given): Given,
) -> Result<Response, ApiError> {
    let query = given.list()?;
    let trailers = takes_trailers(&headers);
    let peers = api.peers(query.local);
    let wanted = (!query.cids.is_empty()).then(|| query.cids.iter().copied().collect());
    let mut pages = Pages { api, peers, query, wanted, after: None };
    // The first page decides the status.
    let Some(first) = pages.next().await? else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let start = Some((pages, Some(first)));
    let frames = stream::unfold(start, move |state| async move {
        let (mut pages, ready) = state?;
        let page = match ready {
            Some(page) => Ok(Some(page)),
            None => pages.next().await,
        };
        Some(match page {
            Ok(Some(bytes)) => (Ok(Frame::data(bytes)), Some((pages, None))),
            Ok(None) => (Ok(last_frame("")), None),
            Err(error) => {
                // Sends buffered data before the end, which may break the transfer off.
                tokio::task::yield_now().await;
                (broken(&error, trailers), None)
            }
        })
    });
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::TRAILER, "X-Stream-Error")];
    Ok((headers, Body::new(StreamBody::new(frames))).into_response())
}

/// Whether the client declares that it reads trailers: hyper sends none to others.
fn takes_trailers(headers: &HeaderMap) -> bool {
    let te = headers.get_all(header::TE).iter();
    te.filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|word| word.trim().eq_ignore_ascii_case("trailers"))
}

fn last_frame(error: &str) -> Frame<Bytes> {
    let value = HeaderValue::from_str(error)
        .unwrap_or_else(|_| HeaderValue::from_static("the list is incomplete"));
    Frame::trailers(HeaderMap::from_iter([(STREAM_ERROR, value)]))
}

/// The end of an incomplete list. For a client that ignores trailers the transfer is broken off, so
/// that it does not take the list for whole.
fn broken(error: &UseCaseError, trailers: bool) -> Result<Frame<Bytes>, io::Error> {
    tracing::warn!(%error, "a list of pins ended early");
    if trailers {
        return Ok(last_frame(&error.to_string()));
    }
    Err(io::Error::other(error.to_string()))
}

impl Api {
    /// All members, or this peer alone.
    fn peers(&self, local: bool) -> Peers {
        let mut members = self.source.members();
        if local {
            let own = self.source.id();
            members.retain(|peer, _| *peer == own);
        }
        let daemons = self.source.daemons();
        Peers { members, daemons, now: Clock::System.now() }
    }
}

/// The list as pieces of text, one or more lines each.
struct Pages {
    api: Api,
    peers: Peers,
    query: ListQuery,
    /// If present: only these CIDs, looked up one by one.
    wanted: Option<VecDeque<Cid>>,
    after: Option<Cid>,
}

impl Pages {
    /// The next piece with any text.
    async fn next(&mut self) -> Result<Option<Bytes>, UseCaseError> {
        loop {
            let views = match &mut self.wanted {
                Some(wanted) => match wanted.pop_front() {
                    Some(cid) => vec![self.one(cid).await?],
                    None => return Ok(None),
                },
                None => {
                    let page = self.api.source.pins_after(self.after, self.query.local).await?;
                    match page.last() {
                        Some(entry) => self.after = Some(entry.cid),
                        None => return Ok(None),
                    }
                    page.iter().map(|entry| self.peers.info(entry)).collect()
                }
            };
            let mut text = Vec::new();
            for view in views.iter().filter(|view| view.matches(&self.query.filter)) {
                view::write_line(&mut text, view)
                    .map_err(|error| UseCaseError::Failed(error.to_string()))?;
            }
            if !text.is_empty() {
                return Ok(Some(text.into()));
            }
        }
    }

    async fn one(&self, cid: Cid) -> Result<PinInfoView, UseCaseError> {
        Ok(match self.api.source.pin_entry(cid, self.query.local).await? {
            Some(entry) => self.peers.info(&entry),
            None => self.peers.unpinned(cid),
        })
    }
}
