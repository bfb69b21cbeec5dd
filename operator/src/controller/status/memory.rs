//! What the statuses' driver remembers about objects between two checks.
//!
//! Invariants: an object has at most one memory, and empty ones are not kept, so the number of
//! objects bounds them. When an object is deleted, its memory is dropped.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::{failures::Failing, graces::Held, judge::Verdict, pace::Pace};
use crate::controller::{objects::ObjectKey, queue::Priority};

/// Memory of one object.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// When its status is written.
    pub(super) pace: Pace,
    /// Reports that are held back.
    held: Held,
    /// Its last status write failed.
    pub(super) failing: Option<Failing>,
    /// When to check it again without an event.
    timer: Option<(Instant, Priority)>,
}

/// Memories of all objects.
#[derive(Debug, Default)]
pub(super) struct Memories {
    of: BTreeMap<ObjectKey, Memory>,
    /// The timers, earliest first.
    timers: BTreeSet<(Instant, ObjectKey)>,
}

impl Memories {
    /// The memory of an object, if any.
    pub(super) fn get(&self, key: &ObjectKey) -> Option<&Memory> {
        self.of.get(key)
    }

    /// Changes the memory of an object.
    pub(super) fn change<R>(
        &mut self,
        key: &ObjectKey,
        change: impl FnOnce(&mut Memory) -> R,
    ) -> R {
        let memory = self.of.entry(key.clone()).or_default();
        let result = change(memory);
        if *memory == Memory::default() {
            self.of.remove(key);
        }
        result
    }

    /// Drops the memory of a deleted object.
    pub(super) fn forget(&mut self, key: &ObjectKey) {
        if let Some((at, _)) = self.of.remove(key).and_then(|memory| memory.timer) {
            self.timers.remove(&(at, key.clone()));
        }
    }

    /// Judges an object with the reports that the last check held back, and stores those of this
    /// check.
    pub(super) fn judge(
        &mut self,
        key: &ObjectKey,
        judge: impl FnOnce(&Held) -> Option<Verdict>,
    ) -> Option<Verdict> {
        let nothing = Held::new();
        let before = self.of.get(key).map_or(&nothing, |memory| &memory.held);
        let verdict = judge(before)?;
        let held = verdict.held.clone();
        self.change(key, |memory| memory.held = held);
        Some(verdict)
    }

    /// Sets a timer for an object at `at`, unless it has an earlier one.
    pub(super) fn set_timer(&mut self, key: &ObjectKey, at: Instant, priority: Priority) {
        let before = self.of.get(key).and_then(|memory| memory.timer);
        match before {
            Some((earlier, _)) if earlier <= at => return,
            Some((later, _)) => self.timers.remove(&(later, key.clone())),
            None => false,
        };
        self.timers.insert((at, key.clone()));
        self.change(key, |memory| memory.timer = Some((at, priority)));
    }

    /// When the next timer is due.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Takes an object whose timer is due.
    pub(super) fn pop_timer(&mut self, now: Instant) -> Option<(Priority, ObjectKey)> {
        if self.next_timer()? > now {
            return None;
        }
        let (_, key) = self.timers.pop_first()?;
        let (_, priority) = self.change(&key, |memory| memory.timer.take())?;
        Some((priority, key))
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
        let mut memories = Memories::default();
        assert_eq!((memories.next_timer(), memories.pop_timer(at(9))), (None, None));
        for (name, second, priority) in [
            ("a", 5, Priority::Later),
            ("a", 3, Priority::Fresh),
            ("a", 4, Priority::Later),
            ("a", 3, Priority::Later),
            ("b", 2, Priority::Later),
            ("b", 7, Priority::Fresh),
            ("c", 3, Priority::Later),
        ] {
            memories.set_timer(&key(name), at(second), priority);
        }
        let millisecond = Duration::from_millis(1);
        assert_eq!(memories.next_timer(), Some(at(2)));
        assert_eq!(memories.pop_timer(at(2) - millisecond), None);
        assert_eq!(memories.pop_timer(at(2)), Some((Priority::Later, key("b"))));
        assert_eq!(memories.pop_timer(at(2)), None);
        assert_eq!(memories.next_timer(), Some(at(3)));
        assert_eq!(memories.pop_timer(at(4)), Some((Priority::Fresh, key("a"))));
        assert_eq!(memories.pop_timer(at(4)), Some((Priority::Later, key("c"))));
        assert_eq!((memories.next_timer(), memories.pop_timer(at(9))), (None, None));
        // It can be set again.
        memories.set_timer(&key("b"), at(8), Priority::Fresh);
        assert_eq!(memories.pop_timer(at(8)), Some((Priority::Fresh, key("b"))));
        assert!(memories.of.is_empty(), "what is nothing is not kept");
    }

    #[test]
    fn what_is_remembered_is_of_one_object_and_goes_with_it() {
        let now = Instant::now();
        let mut memories = Memories::default();
        for name in ["a", "b"] {
            memories.change(&key(name), |memory| memory.pace.begin(false, now));
            memories.set_timer(&key(name), now, Priority::Later);
        }
        let may_look = |memories: &mut Memories, name: &str| {
            memories.change(&key(name), |memory| memory.pace.may_look())
        };
        assert!(!may_look(&mut memories, "a"), "one write at a time");
        assert!(may_look(&mut memories, "c"), "another object");
        memories.forget(&key("c"));
        assert!(memories.get(&key("c")).is_none() && memories.of.len() == 2);
        memories.forget(&key("a"));
        assert!(memories.get(&key("a")).is_none() && may_look(&mut memories, "a"));
        assert_eq!(
            memories.pop_timer(now),
            Some((Priority::Later, key("b"))),
            "its timer went too"
        );
        assert_eq!(memories.pop_timer(now), None);
        assert!(memories.get(&key("b")).is_some(), "its write is under way");
    }
}
