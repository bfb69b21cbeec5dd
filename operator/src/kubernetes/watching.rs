//! A watch of one kind that detects when the API server's data was set back.
//!
//! Restoring a backup of etcd sets the data back. An open watch then gets neither events nor an
//! error until the versions have grown past those it has seen (kubernetes/kubernetes#107457), and
//! its user keeps versions that no longer exist. So this watch regularly requests a short list and
//! compares the list's version with those it has seen.
//!
//! It must not decide what a missing object means: its user does.

use std::{fmt::Debug, time::Duration};

use futures::{StreamExt, stream::BoxStream};
use kube::{
    Api, Resource, ResourceExt,
    api::ListParams,
    runtime::watcher::{self, Event, watcher},
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep_until, timeout};

use super::{api::DEADLINE, backoff::Backoff, reach::Reach};

/// How often the version of the data is checked.
const EVERY: Duration = Duration::from_secs(60);
/// Waits after a failed list or watch; short, so that a recovered API server is noticed soon.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// An endless watch.
pub(crate) struct Watching<K> {
    /// Plural name of the kind, for logs.
    kind: &'static str,
    api: Api<K>,
    reach: Reach,
    events: BoxStream<'static, watcher::Result<Event<K>>>,
    seen: Seen,
    backoff: Backoff,
    /// Earliest time of the next request.
    paused_until: Instant,
}

impl<K: Resource + Clone + DeserializeOwned + Debug + Send + 'static> Watching<K> {
    pub(crate) fn new(kind: &'static str, api: Api<K>, reach: Reach) -> Self {
        let (events, seen) = (begin(&api), Seen::new());
        let backoff = Backoff::new(RETRY.0, RETRY.1);
        Self { kind, api, reach, events, seen, backoff, paused_until: Instant::now() }
    }

    /// The next event; absent if the data was set back. Then the watch starts again, and earlier
    /// events are void. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Event<K>> {
        loop {
            sleep_until(self.paused_until).await;
            let event = tokio::select! {
                biased;
                event = self.events.next() => event,
                () = self.seen.set_back(&self.api) => None,
            };
            match event {
                // This event comes before any request, so it does not count as an answer.
                Some(Ok(Event::Init)) => return Some(Event::Init),
                Some(Ok(event)) => {
                    self.reach.answered();
                    self.backoff.reset();
                    self.seen.note(&event);
                    return Some(event);
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "cannot watch {}; trying again", self.kind);
                    self.paused_until = Instant::now() + self.backoff.wait();
                }
                // Only `set_back` gets here: a watcher's stream never ends.
                None => {
                    tracing::warn!(
                        "the API server's data was set back; {} are listed anew",
                        self.kind
                    );
                    (self.events, self.seen) = (begin(&self.api), Seen::new());
                    return None;
                }
            }
        }
    }
}

fn begin<K>(api: &Api<K>) -> BoxStream<'static, watcher::Result<Event<K>>>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    watcher(api.clone(), watcher::Config::default()).boxed()
}

/// The latest version seen.
#[derive(Debug)]
struct Seen {
    version: u64,
    due: Instant,
}

impl Seen {
    fn new() -> Self {
        Self { version: 0, due: Instant::now() + EVERY }
    }

    /// Records the version of an event. A complete list does not carry its version, so that is
    /// requested at once.
    fn note<K: ResourceExt>(&mut self, event: &Event<K>) {
        match event {
            Event::Apply(object) | Event::InitApply(object) | Event::Delete(object) => {
                self.version = self.version.max(number(object.resource_version()));
            }
            Event::Init => {}
            Event::InitDone => self.due = Instant::now(),
        }
    }

    /// Ends when the data is older than seen before. Cancel-safe: an event makes the pending answer
    /// unnecessary.
    async fn set_back<K: Clone + DeserializeOwned + Debug>(&mut self, api: &Api<K>) {
        loop {
            sleep_until(self.due).await;
            self.due = Instant::now() + EVERY;
            // Without an answer, the next check decides.
            let Ok(Ok(list)) = timeout(DEADLINE, api.list(&ListParams::default().limit(1))).await
            else {
                continue;
            };
            let now = number(list.metadata.resource_version);
            if (1..self.version).contains(&now) {
                return;
            }
            self.version = now;
        }
    }
}

/// The API guarantees that versions of one resource are growing decimal numbers.
fn number(version: Option<String>) -> u64 {
    version.and_then(|version| version.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::{Arc, Mutex};

    use axum::{Router, http::StatusCode};
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::{Client, client::Body};

    use super::*;

    /// An API server that refuses every list, and the times of the requests.
    fn refusing() -> (Client, Arc<Mutex<Vec<Instant>>>) {
        let refused = Arc::new(Mutex::new(Vec::new()));
        let times = refused.clone();
        let refuse = async move || {
            times.lock().unwrap().push(Instant::now());
            (StatusCode::FORBIDDEN, r#"{"kind":"Status","code":403,"reason":"Forbidden"}"#)
        };
        let server = Router::new().fallback(refuse).into_service::<Body>();
        (Client::new(server, "default"), refused)
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_refuses_every_list_is_not_reached_and_asked_ever_more_rarely() {
        let (client, refused) = refusing();
        let reach = Reach::default();
        let api: Api<ConfigMap> = Api::default_namespaced(client);
        let mut watching = Watching::new("ConfigMaps", api, reach.clone());
        let watch = async {
            while let Some(event) = watching.next().await {
                assert!(matches!(event, Event::Init), "{event:?}");
            }
        };
        timeout(Duration::from_secs(31), watch).await.unwrap_err();
        assert!(reach.silence() >= Duration::from_secs(30), "{:?}", reach.silence());
        let refused = refused.lock().unwrap();
        let waits: Vec<Duration> = refused.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(refused.len() < 15, "{waits:?}");
        assert!(waits.last().unwrap() >= &RETRY.1, "{waits:?}");
    }
}
