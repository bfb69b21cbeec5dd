//! The context of all tasks that use the API server: client, settings and shared values.
//!
//! A context is a cheap handle; all clones share its values. It must not hold state of one
//! leadership: what a leader knows about Pins ends with its term.

use std::{fmt, sync::Arc};

use kube::Client;
use parking_lot::{Mutex, MutexGuard};
use pinkeeper::{clock::Clock, cluster::Cluster, types::ClusterId};
use tokio::sync::watch;

use super::{
    counters::Counters,
    reach::Reach,
    record::{Anchors, UNKNOWN},
    settings::Settings,
};

/// The value that a task of this process last set, if any; clones share it.
#[derive(Clone, Debug)]
pub struct Latest<T>(Arc<Mutex<Option<T>>>);

impl<T> Default for Latest<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone> Latest<T> {
    fn inner(&self) -> MutexGuard<'_, Option<T>> {
        self.0.lock()
    }

    /// The value, if there is one.
    #[must_use]
    pub fn get(&self) -> Option<T> {
        self.inner().clone()
    }

    pub(crate) fn set(&self, value: Option<T>) {
        *self.inner() = value;
    }
}

impl Latest<Anchors> {
    /// Stores the record's anchors, if the record has both.
    pub(crate) fn note(&self, anchors: &Anchors) {
        if anchors.system != UNKNOWN && anchors.definition != UNKNOWN {
            self.set(Some(anchors.clone()));
        }
    }
}

/// What all tasks that use the API server share.
#[derive(Clone)]
pub struct Context {
    /// Client of the API server.
    pub client: Client,
    /// The peer.
    pub cluster: Cluster,
    /// For timestamps.
    pub clock: Clock,
    /// Settings of the process.
    pub settings: Arc<Settings>,
    /// Whether the API server answers.
    pub reach: Reach,
    /// The cluster that this blank peer is about to found: its ClusterPeer names it first.
    pub announced: watch::Sender<Option<ClusterId>>,
    /// The anchors of the Pins as this process last saw them, in case the record is lost.
    pub anchors: Latest<Anchors>,
    /// Message why all deletions are held until a person acts, if they are.
    pub held: Latest<String>,
    /// Counters for Prometheus.
    pub counters: Counters,
}

impl Context {
    /// The context of a new process.
    #[must_use]
    pub fn new(
        client: Client,
        cluster: Cluster,
        clock: Clock,
        settings: Settings,
        counters: Counters,
    ) -> Self {
        Self {
            client,
            cluster,
            clock,
            settings: Arc::new(settings),
            reach: Reach::default(),
            announced: watch::Sender::new(None),
            anchors: Latest::default(),
            held: Latest::default(),
            counters,
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_anchors_that_are_both_known_are_remembered() {
        let anchors = |system: &str, definition: &str| Anchors {
            system: system.into(),
            definition: definition.into(),
        };
        let known = Latest::default();
        known.note(&anchors("s", "d"));
        for unknown in [anchors(UNKNOWN, "e"), anchors("t", UNKNOWN)] {
            known.note(&unknown);
            assert_eq!(known.get(), Some(anchors("s", "d")));
        }
        known.note(&anchors("t", "e"));
        assert_eq!(known.get(), Some(anchors("t", "e")));
    }
}
