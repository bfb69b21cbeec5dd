//! What an answer of the API server means, and what every request to it has in common.
//!
//! An object is gone only if the API server itself says so. An error proves nothing, neither does the
//! answer of a proxy.

use std::time::Duration;

use kube::api::PostParams;

/// The one field manager of everything written.
pub const FIELD_MANAGER: &str = "pinkeeper";
/// Longest wait for one answer (watches excepted).
pub const DEADLINE: Duration = Duration::from_secs(10);

/// How an object is created or replaced.
pub(crate) fn post_params() -> PostParams {
    PostParams { dry_run: false, field_manager: Some(FIELD_MANAGER.into()) }
}

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The object is not there: a 404 of the API server itself, which names the object. That of a proxy
    /// does not, nor that of a path which is not served.
    Gone,
    /// It exists already, or another version of it (409).
    Conflict,
    /// The request itself is refused; the same again would be too.
    Refused,
    /// Overload, an error of the server, or no answer: later. So is a missing permission: an API server
    /// that has just started knows of no roles, and whoever took one away may give it back.
    Later(Option<Duration>),
}

/// What was asked for. Only the API server's own word that there is none means that there is none.
///
/// # Errors
/// Any other error: it says nothing.
pub(crate) fn if_there<T>(answer: kube::Result<T>) -> kube::Result<Option<T>> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(error) if failure(&error) == Failure::Gone => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sorts an error by what to do about it.
#[must_use]
pub fn failure(error: &kube::Error) -> Failure {
    let kube::Error::Api(status) = error else { return Failure::Later(None) };
    let details = status.details.as_ref();
    match status.code {
        404 if status.reason == "NotFound" && details.is_some_and(|of| !of.name.is_empty()) => {
            Failure::Gone
        }
        409 => Failure::Conflict,
        // 0: an answer that is none of the API server's, as of a proxy.
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
