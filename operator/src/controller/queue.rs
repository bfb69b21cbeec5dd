//! Work to be looked at, each item at most once: new work before repetitions.
//!
//! Level-triggered: an item says that something may have changed, never what. Its bound is the number
//! of different items, that is of objects; pushing never waits and never loses anything.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// How urgent an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Something new: served first.
    Fresh,
    /// A repetition, or a change that may wait.
    Later,
}

/// A queue with two lanes, shared by pushers and one popper.
#[derive(Debug)]
pub struct WorkQueue<K> {
    lanes: Mutex<Lanes<K>>,
    pushed: Notify,
}

#[derive(Debug)]
struct Lanes<K> {
    /// The lane of each waiting item; a deque may hold items that have left it.
    members: BTreeMap<K, Lane>,
    fresh: VecDeque<K>,
    later: VecDeque<K>,
}

impl<K: Ord + Clone> Default for WorkQueue<K> {
    fn default() -> Self {
        let lanes =
            Lanes { members: BTreeMap::new(), fresh: VecDeque::new(), later: VecDeque::new() };
        Self { lanes: Mutex::new(lanes), pushed: Notify::new() }
    }
}

impl<K: Ord + Clone> WorkQueue<K> {
    fn lanes(&self) -> MutexGuard<'_, Lanes<K>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an item, or moves it to the more urgent of both lanes.
    pub fn push(&self, lane: Lane, item: K) {
        let mut lanes = self.lanes();
        match lanes.members.get(&item) {
            Some(known) if *known <= lane => return,
            _ => lanes.members.insert(item.clone(), lane),
        };
        match lane {
            Lane::Fresh => lanes.fresh.push_back(item),
            Lane::Later => lanes.later.push_back(item),
        }
        drop(lanes);
        self.pushed.notify_one();
    }

    /// The next item, fresh ones first; `Later` ones only if `later`.
    pub fn pop(&self, later: bool) -> Option<(Lane, K)> {
        let mut lanes = self.lanes();
        loop {
            let (lane, item) = if let Some(item) = lanes.fresh.pop_front() {
                (Lane::Fresh, item)
            } else if later {
                (Lane::Later, lanes.later.pop_front()?)
            } else {
                return None;
            };
            // It may have been moved to the other lane and served from there.
            if lanes.members.get(&item) == Some(&lane) {
                lanes.members.remove(&item);
                return Some((lane, item));
            }
        }
    }

    /// Items waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lanes().members.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Resolves when something has been pushed since it last resolved.
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
            queue.push(Lane::Later, item);
        }
        queue.push(Lane::Fresh, 9);
        queue.push(Lane::Fresh, 2);
        queue.push(Lane::Later, 9);
        queue.push(Lane::Fresh, 2);
        assert_eq!(queue.len(), 4);
        assert_eq!(queue.pop(true), Some((Lane::Fresh, 9)));
        assert_eq!(queue.pop(true), Some((Lane::Fresh, 2)));
        assert_eq!(queue.pop(false), None);
        assert_eq!(queue.pop(true), Some((Lane::Later, 1)));
        assert_eq!(queue.pop(true), Some((Lane::Later, 3)));
        assert_eq!(queue.pop(true), None);
        assert!(queue.is_empty());
    }
}
