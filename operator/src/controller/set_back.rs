//! Notices that the API server's data was set back, as by a backup of etcd that was restored.
//!
//! A watch that was begun before it is told nothing, and no error, until the versions have grown past
//! those it has seen (kubernetes/kubernetes#107457); and what is kept of objects is of versions that there
//! are no more. So a short list is asked for now and then, whose version says how far the data is.

use std::{fmt::Debug, time::Duration};

use kube::{Api, ResourceExt, api::ListParams, runtime::watcher::Event};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep_until, timeout};

use super::api::DEADLINE;

/// Between two questions.
const EVERY: Duration = Duration::from_secs(60);

/// How far the data of a watched kind has been seen to be.
#[derive(Debug)]
pub(super) struct Seen {
    version: u64,
    due: Instant,
}

impl Seen {
    pub(super) fn new() -> Self {
        Self { version: 0, due: Instant::now() + EVERY }
    }

    /// Takes note of what a watch has told.
    pub(super) fn note<K: ResourceExt>(&mut self, event: &Event<K>) {
        if let Event::Apply(object) | Event::InitApply(object) | Event::Delete(object) = event {
            self.version = self.version.max(number(object.resource_version()));
        }
    }

    /// Ends when the data is seen to be older than it was. May be dropped at any time: whoever hears of
    /// changes has no need of the answer.
    pub(super) async fn set_back<K>(&mut self, api: &Api<K>)
    where
        K: Clone + DeserializeOwned + Debug,
    {
        loop {
            sleep_until(self.due).await;
            self.due = Instant::now() + EVERY;
            // If there is no answer, the next time will do.
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

/// The API promises that versions of one resource are decimal numbers that grow.
fn number(version: Option<String>) -> u64 {
    version.and_then(|version| version.parse().ok()).unwrap_or_default()
}
