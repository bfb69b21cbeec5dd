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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey { namespace: "web".into(), name: name.into() }
    }

    #[test]
    fn each_object_is_looked_at_once_when_that_was_first_asked_for() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut timers = Timers::default();
        assert_eq!((timers.next(), timers.pop(at(9))), (None, None));
        for (name, second, lane) in [
            ("a", 5, Lane::Later),
            ("a", 3, Lane::Fresh),
            ("a", 4, Lane::Later),
            ("a", 3, Lane::Later),
            ("b", 2, Lane::Later),
            ("b", 7, Lane::Fresh),
            ("c", 3, Lane::Later),
        ] {
            timers.set(&key(name), at(second), lane);
        }
        let millisecond = Duration::from_millis(1);
        assert_eq!(timers.next(), Some(at(2)));
        assert_eq!(timers.pop(at(2) - millisecond), None);
        assert_eq!(timers.pop(at(2)), Some((Lane::Later, key("b"))));
        assert_eq!(timers.pop(at(2)), None);
        assert_eq!(timers.next(), Some(at(3)));
        assert_eq!(timers.pop(at(4)), Some((Lane::Fresh, key("a"))));
        assert_eq!(timers.pop(at(4)), Some((Lane::Later, key("c"))));
        assert_eq!((timers.next(), timers.pop(at(9))), (None, None));
        // It may be asked for again.
        timers.set(&key("b"), at(8), Lane::Fresh);
        assert_eq!(timers.pop(at(8)), Some((Lane::Fresh, key("b"))));
    }
}
