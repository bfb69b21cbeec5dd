//! Collects deleted Pins until the claims' task decides on all of them together.
//!
//! Each object is in it once, as first reported, so the number of claims bounds it. It must not
//! judge whether an object is really gone: the claims' task asks for the proof.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use pinkeeper::{state::Found, types::Uid};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// Deletions are collected this long, so that those of one command are decided on together, and the
/// API server is asked about deletions at most ten times a second.
const GATHER: Duration = Duration::from_millis(100);

/// A deleted object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// UID of the object.
    pub uid: Uid,
    /// Its last known generation; 0 if unknown.
    pub generation: i64,
    /// How the deletion was found.
    pub found: Found,
    /// Whether its last seen `deletionPolicy` was `Retain`; absent if it was not seen.
    pub retain: Option<bool>,
    /// It was put back once, so the object may exist again by now.
    pub is_old: bool,
}

/// The deletions that wait for a decision.
#[derive(Debug, Default)]
pub(super) struct Deletions {
    inner: Mutex<Inner>,
    pushed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    all: BTreeMap<Uid, Deletion>,
    /// When they are due; present if there are any.
    due: Option<Instant>,
}

impl Deletions {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Adds deletions atomically: `take` returns all of them or none.
    pub(super) fn push(&self, deletions: impl IntoIterator<Item = Deletion>) {
        self.add(deletions, GATHER);
    }

    /// Puts back deletions without a decision; they are due after `wait`.
    pub(super) fn put_back(&self, deletions: Vec<Deletion>, wait: Duration) {
        self.add(deletions.into_iter().map(|gone| Deletion { is_old: true, ..gone }), wait);
    }

    fn add(&self, deletions: impl IntoIterator<Item = Deletion>, wait: Duration) {
        let mut inner = self.inner();
        for deletion in deletions {
            inner.all.entry(deletion.uid.clone()).or_insert(deletion);
        }
        if !inner.all.is_empty() {
            inner.due.get_or_insert_with(|| Instant::now() + wait);
            self.pushed.notify_one();
        }
    }

    /// Takes all deletions, if they are due.
    pub(super) fn take(&self) -> Vec<Deletion> {
        let mut inner = self.inner();
        if inner.due.is_none_or(|due| due > Instant::now()) {
            return Vec::new();
        }
        inner.due = None;
        std::mem::take(&mut inner.all).into_values().collect()
    }

    /// Resolves when deletions are due.
    pub(super) async fn due(&self) {
        loop {
            let due = self.inner().due;
            match due {
                Some(due) => return sleep_until(due).await,
                None => self.pushed.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::time::advance;

    use super::*;
    use crate::controller::stand::watched;

    #[tokio::test(start_paused = true)]
    async fn deletions_are_gathered_and_taken_together() {
        let deletions = Deletions::default();
        let start = Instant::now();
        deletions.push([watched("a")]);
        assert_eq!(deletions.take(), []);
        advance(GATHER / 2).await;
        deletions.push([watched("b"), Deletion { found: Found::Compared, ..watched("a") }]);
        deletions.due().await;
        assert_eq!(start.elapsed(), GATHER, "the first one does not wait for others");
        // Each is there once, as first reported.
        assert_eq!(deletions.take(), [watched("a"), watched("b")]);
        advance(GATHER).await;
        assert_eq!(deletions.take(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_put_back_is_old_and_waits() {
        let deletions = Deletions::default();
        let (start, wait) = (Instant::now(), Duration::from_secs(2));
        deletions.put_back(vec![watched("a")], wait);
        deletions.push([]);
        assert_eq!(deletions.take(), []);
        deletions.due().await;
        assert_eq!(start.elapsed(), wait);
        assert_eq!(deletions.take(), [Deletion { is_old: true, ..watched("a") }]);
        // Nothing is due now.
        deletions.push([]);
        tokio::time::timeout(wait, deletions.due()).await.unwrap_err();
    }
}
