//! Tracks whether the API server answers this peer.
//!
//! Only a conclusive answer counts, not one of a proxy or of a server that is still starting.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use super::api::{Failure, failure};

/// When the API server last answered this peer; clones share it.
#[derive(Clone, Debug)]
pub struct Reach(Arc<watch::Sender<Instant>>);

impl Default for Reach {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Instant::now())))
    }
}

impl Reach {
    /// Records an answer.
    pub fn answered(&self) {
        self.0.send_replace(Instant::now());
    }

    /// Records a result: a conclusive answer counts, a temporary failure does not.
    pub fn note<T>(&self, result: &Result<T, kube::Error>) {
        match result.as_ref().map_err(failure) {
            Ok(_) | Err(Failure::Gone | Failure::Conflict | Failure::Refused) => self.answered(),
            Err(Failure::Later(_)) => {}
        }
    }

    /// Time since the last answer.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.0.borrow().elapsed()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
}
