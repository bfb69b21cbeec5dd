//! Interprets answers of the API server, and has what all requests share.
//!
//! Invariant: an object is gone only if the API server itself says so. An error proves nothing, and
//! neither does the answer of a proxy.

use std::time::Duration;

use kube::api::PostParams;

/// The field manager of all writes.
pub const FIELD_MANAGER: &str = "pinkeeper";
/// Longest wait for an answer, except for watches.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Parameters for creating or replacing an object.
pub(crate) fn post_params() -> PostParams {
    PostParams { dry_run: false, field_manager: Some(FIELD_MANAGER.into()) }
}

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The object does not exist: a 404 that names the object. A 404 of a proxy, or of a path that
    /// is not served, does not name it.
    Gone,
    /// The object exists already, or has another version (409).
    Conflict,
    /// The request is invalid; a retry would fail too.
    Refused,
    /// Retry later, after the wait that the server asked for: overload, a server error, or no
    /// answer. Also a missing permission: a starting API server has no roles yet, and a removed
    /// role may come back.
    Later(Option<Duration>),
}

/// The object, or none if the API server itself says that it does not exist.
///
/// # Errors
/// Any other error; it proves nothing.
pub(crate) fn if_there<T>(answer: kube::Result<T>) -> kube::Result<Option<T>> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(error) if failure(&error) == Failure::Gone => Ok(None),
        Err(error) => Err(error),
    }
}

/// Classifies an error by what to do about it.
#[must_use]
pub fn failure(error: &kube::Error) -> Failure {
    let kube::Error::Api(status) = error else { return Failure::Later(None) };
    let details = status.details.as_ref();
    match status.code {
        404 if status.reason == "NotFound" && details.is_some_and(|of| !of.name.is_empty()) => {
            Failure::Gone
        }
        409 => Failure::Conflict,
        // 0: not an answer of the API server, but for example of a proxy.
        0 | 401 | 403 | 404 | 408 | 429 | 500.. => {
            let after = details.map(|details| details.retry_after_seconds).filter(|s| *s > 0);
            Failure::Later(after.map(|seconds| Duration::from_secs(seconds.into())))
        }
        _ => Failure::Refused,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn errors_are_sorted_by_what_to_do() {
        let of = |code, after| {
            let status =
                json!({"code": code, "details": {"name": "it", "retryAfterSeconds": after}});
            failure(&kube::Error::Api(serde_json::from_value(status).unwrap()))
        };
        let later = [0, 401, 403, 404, 408, 429, 500, 502, 503, 504, 599];
        for code in later {
            assert_eq!(of(code, 0), Failure::Later(None), "{code}");
            assert_eq!(of(code, 7), Failure::Later(Some(Duration::from_secs(7))), "{code}");
        }
        assert_eq!(of(409, 0), Failure::Conflict);
        for code in [400, 402, 405, 406, 410, 413, 415, 422, 428, 499] {
            assert_eq!(of(code, 7), Failure::Refused, "{code}");
        }
        let not_answered = kube::Error::LinesCodecMaxLineLengthExceeded;
        assert_eq!(failure(&not_answered), Failure::Later(None));
    }

    #[test]
    fn only_a_404_that_names_the_object_says_that_it_is_gone() {
        let of = |reason: &str, name: &str| {
            let status = json!({"code": 404, "reason": reason, "details": {"name": name}});
            failure(&kube::Error::Api(serde_json::from_value(status).unwrap()))
        };
        assert_eq!(of("NotFound", "my-pin"), Failure::Gone);
        assert_eq!(of("NotFound", ""), Failure::Later(None));
        assert_eq!(of("Failed to parse error data", "my-pin"), Failure::Later(None));
    }
}
