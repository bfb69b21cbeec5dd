//! Parses requests to the stand-in, and formats its answers.

use std::collections::BTreeMap;

use axum::{
    body::{Body, Bytes},
    http::{Method, Request, StatusCode, Uri, header},
    response::Response,
};
use serde_json::{Value, json};

use super::store::{Key, Kind, Refusal};

/// Largest body of a request.
const BODY_MAX: usize = 1 << 20;

/// A request.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    Get(Key),
    List { kind: Kind, namespace: String, limit: usize, from: From },
    Watch { kind: Kind, namespace: String, revision: u64, seconds: Option<u64>, bookmarks: bool },
    Create(Key, Value),
    Replace(Key, Value),
    ApplyStatus(Key, Value),
    Merge(Key, Value),
}

/// The version of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The most recent.
    Recent,
    /// Any cached version.
    Any,
    /// The list of that revision, after that many objects.
    Continue(u64, usize),
}

impl Call {
    /// Whether it changes something.
    pub fn is_write(&self) -> bool {
        !matches!(self, Self::Get(_) | Self::List { .. } | Self::Watch { .. })
    }

    /// Parses a request; absent if our pods should not send it.
    pub async fn read(request: Request<Body>) -> Option<Self> {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, BODY_MAX).await.ok()?;
        let params = params(&parts.uri);
        let path = parts.uri.path().trim_start_matches('/');
        let mut segments: Vec<&str> = path.split('/').collect();
        let group = if segments.first() == Some(&"api") { 2 } else { 3 };
        segments.drain(..group.min(segments.len()));
        let mut namespace = "";
        if segments.len() > 2 && segments[0] == "namespaces" {
            namespace = segments[1];
            segments.drain(..2);
        }
        let kind = Kind::of(segments.first()?)?;
        let of = |name: &str| Key::new(kind, namespace, name);
        let json = || serde_json::from_slice::<Value>(&body).ok();
        match (&parts.method, &segments[1..]) {
            (&Method::GET, []) => Some(collection(kind, namespace, &params)),
            (&Method::GET, [name]) => Some(Self::Get(of(name))),
            (&Method::POST, []) => {
                let object = json()?;
                let name = object["metadata"]["name"].as_str()?.to_owned();
                Some(Self::Create(of(&name), object))
            }
            (&Method::PUT, [name]) => Some(Self::Replace(of(name), json()?)),
            (&Method::PATCH, [name, "status"]) => {
                let content = parts.headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
                (content.starts_with("application/apply-patch")
                    && params.contains_key("fieldManager"))
                .then_some(Self::ApplyStatus(of(name), json()?))
            }
            (&Method::PATCH, [name]) => Some(Self::Merge(of(name), json()?)),
            _ => None,
        }
    }
}

fn collection(kind: Kind, namespace: &str, params: &BTreeMap<&str, &str>) -> Call {
    let number = |name| params.get(name).and_then(|text| text.parse().ok());
    let revision = number("resourceVersion").unwrap_or(0);
    let namespace = namespace.to_owned();
    if params.get("watch") == Some(&"true") {
        let bookmarks = params.get("allowWatchBookmarks") == Some(&"true");
        return Call::Watch {
            kind,
            namespace,
            revision,
            seconds: number("timeoutSeconds"),
            bookmarks,
        };
    }
    let continued = params.get("continue").and_then(|token| {
        let (revision, offset) = token.split_once('-')?;
        Some(From::Continue(revision.parse().ok()?, offset.parse().ok()?))
    });
    let limit = number("limit").map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let any = if params.contains_key("resourceVersion") { From::Any } else { From::Recent };
    Call::List { kind, namespace, limit, from: continued.unwrap_or(any) }
}

fn params(uri: &Uri) -> BTreeMap<&str, &str> {
    uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')).collect()
}

/// An object, or a list.
pub fn answer(code: u16, object: &Value) -> Response {
    let mut response = Response::new(Body::from(object.to_string()));
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
    response
}

/// An error in the format of Kubernetes.
pub fn status(refusal: &Refusal) -> Value {
    let mut status = json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "message": refusal.message, "reason": refusal.reason, "code": refusal.code,
    });
    if let Some(seconds) = refusal.retry_after {
        status["details"] = json!({"retryAfterSeconds": seconds});
    }
    if let Some(name) = &refusal.name {
        status["details"] = json!({"name": name});
    }
    status
}

pub fn refused(refusal: &Refusal) -> Response {
    let mut response = answer(refusal.code, &status(refusal));
    if let Some(seconds) = refusal.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// What a client sees of a connection that breaks.
pub fn broken() -> Response {
    Response::new(Body::from_stream(futures::stream::iter([Err::<Bytes, _>(broken_off())])))
}

pub fn broken_off() -> std::io::Error {
    std::io::Error::other("the simulated connection broke off")
}
