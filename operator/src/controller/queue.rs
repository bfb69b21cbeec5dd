//! A work queue that holds each item at most once and serves new work before repetitions.
//!
//! Level-triggered: an item says that something may have changed, never what. The number of
//! distinct items, that is of objects, bounds it. Pushing never waits and never drops an item.

use std::collections::{BTreeMap, VecDeque};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

/// How urgent an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Something new: served first.
    Fresh,
    /// A repetition, or a change that may wait.
    Later,
}

/// A queue with two priorities, shared by pushers and one popper.
#[derive(Debug)]
pub struct WorkQueue<K> {
    priorities: Mutex<Lanes<K>>,
    pushed: Notify,
}

#[derive(Debug)]
struct Lanes<K> {
    /// The priority of each waiting item. The deques may hold items that were already served.
    members: BTreeMap<K, Priority>,
    fresh: VecDeque<K>,
    later: VecDeque<K>,
}

impl<K: Ord + Clone> Default for WorkQueue<K> {
    fn default() -> Self {
        let priorities =
            Lanes { members: BTreeMap::new(), fresh: VecDeque::new(), later: VecDeque::new() };
        Self { priorities: Mutex::new(priorities), pushed: Notify::new() }
    }
}

impl<K: Ord + Clone> WorkQueue<K> {
    fn priorities(&self) -> MutexGuard<'_, Lanes<K>> {
        self.priorities.lock()
    }

    /// Adds an item, or raises its priority.
    pub fn push(&self, priority: Priority, item: K) {
        let mut priorities = self.priorities();
        match priorities.members.get(&item) {
            Some(known) if *known <= priority => return,
            _ => priorities.members.insert(item.clone(), priority),
        };
        match priority {
            Priority::Fresh => priorities.fresh.push_back(item),
            Priority::Later => priorities.later.push_back(item),
        }
        drop(priorities);
        self.pushed.notify_one();
    }

    /// The next item, `Fresh` ones first; `Later` ones only if `later`.
    pub fn pop(&self, later: bool) -> Option<(Priority, K)> {
        let mut priorities = self.priorities();
        loop {
            let (priority, item) = if let Some(item) = priorities.fresh.pop_front() {
                (Priority::Fresh, item)
            } else if later {
                (Priority::Later, priorities.later.pop_front()?)
            } else {
                return None;
            };
            // Its priority may have been raised since.
            if priorities.members.get(&item) == Some(&priority) {
                priorities.members.remove(&item);
                return Some((priority, item));
            }
        }
    }

    /// Number of waiting items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.priorities().members.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Resolves if an item has been pushed since it last resolved.
    pub async fn pushed(&self) {
        self.pushed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_items_go_first_and_each_item_is_there_once() {
        let queue = WorkQueue::default();
        for item in [1, 2, 3] {
            queue.push(Priority::Later, item);
        }
        queue.push(Priority::Fresh, 9);
        queue.push(Priority::Fresh, 2);
        queue.push(Priority::Later, 9);
        queue.push(Priority::Fresh, 2);
        assert_eq!(queue.len(), 4);
        assert_eq!(queue.pop(true), Some((Priority::Fresh, 9)));
        assert_eq!(queue.pop(true), Some((Priority::Fresh, 2)));
        assert_eq!(queue.pop(false), None);
        assert_eq!(queue.pop(true), Some((Priority::Later, 1)));
        assert_eq!(queue.pop(true), Some((Priority::Later, 3)));
        assert_eq!(queue.pop(true), None);
        assert!(queue.is_empty());
    }
}
