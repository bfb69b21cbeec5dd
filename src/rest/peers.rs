//! The handlers of `/peers`, and of the members that are away.

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};

use super::{
    Api,
    error::ApiError,
    pins::Given,
    view::{self, AlertView},
};
use crate::{clock::Clock, types::PeerId};

/// All members as this peer knows them, one JSON object a line, as in IPFS Cluster.
pub(super) async fn list(
    State(api): State<Api>,
    Given(given): Given,
) -> Result<Response, ApiError> {
    given.none()?;
    let source = &api.source;
    let (members, daemons) = (source.members(), source.daemons());
    let mut lines = Vec::new();
    for (peer, listed) in source.roster() {
        let Some(member) = members.get(&peer) else { continue };
        let view = view::listed(source.id(), peer, member, &members, daemons.get(&peer), listed);
        view::write_line(&mut lines, &view)
            .map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    }
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from(lines)).into_response())
}

/// The members that are away, as a JSON array, as in IPFS Cluster.
pub(super) async fn alerts(
    State(api): State<Api>,
    Given(given): Given,
) -> Result<Json<Vec<AlertView>>, ApiError> {
    given.none()?;
    Ok(Json(view::alerts(&api.source.roster(), Clock::System.now())))
}

/// Has a member leave, or stay after all with `cancel=true`.
pub(super) async fn depart(
    State(api): State<Api>,
    Path(id): Path<String>,
    Given(given): Given,
) -> Result<StatusCode, ApiError> {
    let bad = |error| ApiError::bad_request(format!("error decoding the peer's ID: {error}"));
    let peer: PeerId = id.parse().map_err(bad)?;
    let cancel = given.cancel()?;
    api.source.depart(peer, !cancel).await?;
    Ok(StatusCode::NO_CONTENT)
}
