//! Objects to look at again at a time: one time each, the earliest asked for.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use crate::controller::{objects::ObjectKey, queue::Lane};

/// Bounded by the number of objects.
#[derive(Debug, Default)]
pub(super) struct Timers {
    by_time: BTreeSet<(Instant, ObjectKey)>,
    by_key: BTreeMap<ObjectKey, (Instant, Lane)>,
}

impl Timers {
    /// Looks at `key` again at `at`, or earlier if that was asked for already.
    pub(super) fn set(&mut self, key: &ObjectKey, at: Instant, lane: Lane) {
        match self.by_key.get(key) {
            Some((earlier, _)) if *earlier <= at => return,
            Some((later, _)) => self.by_time.remove(&(*later, key.clone())),
            None => false,
        };
        self.by_time.insert((at, key.clone()));
        self.by_key.insert(key.clone(), (at, lane));
    }

    /// The next time.
    pub(super) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// One that is due.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(Lane, ObjectKey)> {
        if self.next()? > now {
            return None;
        }
        let (_, key) = self.by_time.pop_first()?;
        let (_, lane) = self.by_key.remove(&key)?;
        Some((lane, key))
    }
}
