//! How the controllers talk to the API server: what an error means, how long to wait, and whether the
//! server is reached at all.

use std::{sync::Arc, time::Duration};

use kube::{Api, Client, core::ApiResource};
use tokio::{sync::watch, time::Instant};

use super::objects::RawPin;
use crate::crd;

/// The one field manager of everything written.
pub const FIELD_MANAGER: &str = "pinkeeper";
/// Longest wait for one answer (watches excepted).
pub const DEADLINE: Duration = Duration::from_secs(10);

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

/// Pins of one namespace.
#[must_use]
pub fn pins_in(client: &Client, namespace: &str) -> Api<RawPin> {
    Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<crd::Pin>(&()))
}

/// Pins of all namespaces.
#[must_use]
pub fn all_pins(client: &Client) -> Api<RawPin> {
    Api::all_with(client.clone(), &ApiResource::erase::<crd::Pin>(&()))
}

/// Waits that double from one bound to the other.
#[derive(Clone, Debug)]
pub struct Backoff {
    least: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts with `least`, never waits longer than `most`.
    #[must_use]
    pub fn new(least: Duration, most: Duration) -> Self {
        Self { least, most, next: least }
    }

    /// The next wait.
    pub fn wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.most);
        wait
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.next = self.least;
    }
}

/// The waits, without end.
impl Iterator for Backoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.wait())
    }
}

/// When the API server last answered this peer; clones see the same.
#[derive(Clone, Debug)]
pub struct Reach(Arc<watch::Sender<Instant>>);

impl Default for Reach {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Instant::now())))
    }
}

impl Reach {
    /// It answered.
    pub fn answered(&self) {
        self.0.send_replace(Instant::now());
    }

    /// Takes note of a result: an answer to the point counts, what may pass does not.
    pub fn note<T>(&self, result: &Result<T, kube::Error>) {
        match result.as_ref().map_err(failure) {
            Ok(_) | Err(Failure::Gone | Failure::Conflict | Failure::Refused) => self.answered(),
            Err(Failure::Later(_)) => {}
        }
    }

    /// For how long it has not answered.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.0.borrow().elapsed()
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

    #[tokio::test(start_paused = true)]
    async fn only_an_answer_to_the_point_says_that_the_server_is_reached() {
        let of = |code, name: &str| {
            let status = json!({"code": code, "reason": "NotFound", "details": {"name": name}});
            Err::<(), _>(kube::Error::Api(serde_json::from_value(status).unwrap()))
        };
        let cases = [
            (Ok(()), true),
            (of(404, "my-pin"), true),
            (of(409, ""), true),
            (of(422, ""), true),
            (of(404, ""), false),
            (of(403, ""), false),
            (of(503, ""), false),
        ];
        for (result, expected) in cases {
            let reach = Reach::default();
            tokio::time::advance(Duration::from_secs(1)).await;
            reach.note(&result);
            assert_eq!(reach.silence().is_zero(), expected, "{result:?}");
        }
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

    #[test]
    fn waits_double_up_to_their_bound() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(3));
        let waits: Vec<u64> = backoff.by_ref().take(4).map(|wait| wait.as_secs()).collect();
        assert_eq!(waits, [1, 2, 3, 3]);
        backoff.reset();
        assert_eq!(backoff.next(), Some(Duration::from_secs(1)));
    }
}
