//! What HTTP clients hand the REST API, for [`crate::fuzzing`].

use axum::{extract::Query, http::Uri};

use super::query::{Parameters, parse_cid};
use crate::types::{Factor, Replication};

/// The part of a URL that a client makes up: `{cid}?{parameters}`.
pub(crate) fn url(text: &str) {
    let Ok(uri) = format!("/pins/{text}").parse::<Uri>() else { return };
    if let Some(name) = uri.path().rsplit('/').next() {
        let _ = parse_cid(name);
    }
    let pairs = || Query::<Vec<(String, String)>>::try_from_uri(&uri).map(|Query(pairs)| pairs);
    let Ok(given) = pairs() else { return };
    let parameters = || Parameters::new(given.clone());
    let _ = parameters().and_then(Parameters::list);
    let _ = parameters().and_then(Parameters::status);
    let _ = parameters().and_then(Parameters::none);
    let default = Replication { min: Factor::Everywhere, max: Factor::Everywhere };
    if let Ok(options) = parameters().and_then(|parameters| parameters.pin(default)) {
        assert!(options.replication.min <= options.replication.max, "{text}: {options:?}");
    }
}
