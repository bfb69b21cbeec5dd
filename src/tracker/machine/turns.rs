//! Who is next.

use std::collections::BTreeMap;

use crate::types::{Cid, PackedCid};

/// Order of turns: questions after a failed attempt, new work, work from before, retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Turn {
    Check,
    Fresh,
    Again,
    Retry,
}

/// A place in [`Turns`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) turn: Turn,
    pub(super) number: u64,
}

/// A queue by turns. Within a turn the oldest is next; among fresh ones it alternates with the newest.
/// So new work does not wait behind a backlog without progress, and the oldest still advances with every
/// second one that is taken.
#[derive(Debug, Default)]
pub(super) struct Turns {
    cids: BTreeMap<Place, PackedCid>,
    /// Number of the last place.
    number: u64,
    /// The newest fresh one is next.
    newest: bool,
}

impl Turns {
    /// A new place, behind the others of that turn.
    pub(super) fn place(&mut self, turn: Turn) -> Place {
        self.number += 1;
        Place { turn, number: self.number }
    }

    pub(super) fn insert(&mut self, place: Place, cid: &Cid) {
        self.cids.insert(place, cid.into());
    }

    pub(super) fn remove(&mut self, place: Place) {
        self.cids.remove(&place);
    }

    pub(super) fn next(&self) -> Option<(Turn, Cid)> {
        let first = self.cids.first_key_value()?;
        let next = if self.newest && first.0.turn == Turn::Fresh {
            self.up_to(Turn::Fresh).next_back()?
        } else {
            first
        };
        Some((next.0.turn, next.1.cid()))
    }

    /// The next one has got its turn, which decides who is next then.
    pub(super) fn alternate(&mut self) {
        self.newest = !self.newest;
    }

    pub(super) fn len(&self) -> usize {
        self.cids.len()
    }

    /// How many have this turn or a better one.
    pub(super) fn len_up_to(&self, turn: Turn) -> usize {
        self.up_to(turn).count()
    }

    pub(super) fn cids(&self) -> impl Iterator<Item = Cid> {
        self.cids.values().map(PackedCid::cid)
    }

    #[cfg(test)]
    pub(super) fn get(&self, place: Place) -> Option<Cid> {
        self.cids.get(&place).map(PackedCid::cid)
    }

    fn up_to(&self, turn: Turn) -> impl DoubleEndedIterator<Item = (&Place, &PackedCid)> {
        self.cids.range(..=Place { turn, number: u64::MAX })
    }
}
