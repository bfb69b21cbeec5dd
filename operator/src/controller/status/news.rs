//! Finds the objects that a change concerns. Pure.

use std::collections::{BTreeMap, BTreeSet};

use pinkeeper::{
    state::Changed,
    types::{Cid, PeerId, Pin},
};
use tokio::sync::broadcast::error::RecvError;

use super::presence::{Facts, PeerView};
use crate::controller::{objects::PinObject, queue::Priority};

/// A change of the state or of the reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It concerns these CIDs.
    Of(std::sync::Arc<[Cid]>),
    /// It may concern any CID: the channel lagged, or everything changed.
    OfAnything,
    /// The channel is closed.
    Ended,
}

impl News {
    pub(super) fn of(told: Result<Changed, RecvError>) -> Self {
        match told {
            Ok(Changed::Cids(cids)) => Self::Of(cids),
            Ok(Changed::Everything) | Err(RecvError::Lagged(_)) => Self::OfAnything,
            Err(RecvError::Closed) => Self::Ended,
        }
    }
}

/// An object without an up-to-date status goes first.
pub(super) fn lane_of(object: &PinObject) -> Priority {
    if object.is_observed() { Priority::Later } else { Priority::Fresh }
}

/// Peers that left, joined or have other facts now.
pub(super) fn moved(
    before: &BTreeMap<PeerId, Facts>,
    now: &BTreeMap<PeerId, Facts>,
) -> BTreeSet<PeerId> {
    let ids = now.keys().chain(before.keys());
    ids.filter(|id| now.get(*id) != before.get(*id)).copied().collect()
}

/// Pins with a copy, leaving or not, on one of these peers.
pub(super) fn cids_on<'a>(
    pins: impl Iterator<Item = (Cid, &'a Pin)>,
    peers: &BTreeSet<PeerId>,
) -> BTreeSet<Cid> {
    let is_on = |pin: &Pin| pin.allocations.iter().any(|a| peers.contains(&a.peer));
    pins.filter(|(_, pin)| is_on(pin)).map(|(cid, _)| cid).collect()
}

/// Whether an unknown peer has a copy.
pub(super) fn is_on_another(pin: &Pin, known: &BTreeMap<PeerId, PeerView>) -> bool {
    pin.allocations.iter().any(|a| !known.contains_key(&a.peer))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use pinkeeper::types::{Allocation, Timestamp};

    use super::*;
    use crate::{
        controller::objects::tests::{DOCS, pin as object},
        crd,
    };

    fn id(number: u8) -> PeerId {
        PeerId([number; 32])
    }

    fn on(peers: &[u8]) -> Pin {
        let allocation = |number: &u8| Allocation {
            peer: id(*number),
            leaving: number.is_multiple_of(2),
            at_entry: 1,
        };
        Pin {
            claims: [].into_iter().collect(),
            allocations: peers.iter().map(allocation).collect(),
            created: Timestamp(0),
        }
    }

    #[test]
    fn who_was_told_too_much_looks_at_everything() {
        let cids: std::sync::Arc<[Cid]> = [DOCS.parse().unwrap()].into();
        let cases = [
            (Ok(Changed::Cids(cids.clone())), News::Of(cids)),
            (Ok(Changed::Everything), News::OfAnything),
            (Err(RecvError::Lagged(1)), News::OfAnything),
            (Err(RecvError::Closed), News::Ended),
        ];
        for (told, expected) in cases {
            assert_eq!(News::of(told.clone()), expected, "{told:?}");
        }
    }

    #[test]
    fn an_object_that_nothing_was_said_of_goes_first() {
        for (observed, priority) in [
            (None, Priority::Fresh),
            (Some(1), Priority::Fresh),
            (Some(2), Priority::Later),
            (Some(3), Priority::Fresh),
        ] {
            let mut object = object("docs", "u", 1, DOCS);
            object.generation = 2;
            let status = crd::PinStatus { observed_generation: observed, ..Default::default() };
            object.status = Some(status);
            assert_eq!(lane_of(&object), priority, "{observed:?}");
        }
        assert_eq!(lane_of(&object("docs", "u", 1, DOCS)), Priority::Fresh);
    }

    #[test]
    fn a_peer_has_moved_when_anything_of_it_is_other_than_before() {
        let facts = |name: &str, reported, gone| (name.to_owned(), reported, gone);
        let with = |second: Option<Facts>| {
            let first = (id(1), facts("p-1", true, false));
            BTreeMap::from_iter([first].into_iter().chain(second.map(|facts| (id(2), facts))))
        };
        let there = || Some(facts("p-2", true, false));
        let cases = [
            (there(), there(), false),
            (None, None, false),
            (None, there(), true),
            (there(), None, true),
            (there(), Some(facts("p-2", false, false)), true),
            (there(), Some(facts("p-2", true, true)), true),
            (there(), Some(facts("p-3", true, false)), true),
        ];
        for (before, now, is_moved) in cases {
            let expected = BTreeSet::from_iter(is_moved.then(|| id(2)));
            assert_eq!(moved(&with(before.clone()), &with(now.clone())), expected, "{now:?}");
        }
    }

    #[test]
    fn pins_are_touched_by_each_peer_that_has_a_copy() {
        let pins = [on(&[1, 2]), on(&[3]), on(&[])];
        // Peers, and the indexes of the pins on them.
        let cases: [(&[u8], &[usize]); 6] =
            [(&[1], &[0]), (&[2], &[0]), (&[3], &[1]), (&[2, 3], &[0, 1]), (&[4], &[]), (&[], &[])];
        let cids: Vec<Cid> = (0..3).map(cid).collect();
        for (peers, expected) in cases {
            let peers = peers.iter().map(|number| id(*number)).collect();
            let expected = expected.iter().map(|n| cids[*n]).collect();
            let touched = cids_on(cids.iter().copied().zip(&pins), &peers);
            assert_eq!(touched, expected, "{peers:?}");
        }
    }

    fn cid(number: u8) -> Cid {
        Cid::from_bytes(&[1, 0x55, 0, 1, number]).unwrap()
    }

    #[test]
    fn whoever_joined_with_a_copy_is_not_known() {
        let view = |number| {
            let name = format!("p-{number}");
            (id(number), PeerView { name, reported: false, silent: None, obstacle: None })
        };
        let known = BTreeMap::from([view(1), view(2)]);
        let cases: [(&[u8], bool); 5] =
            [(&[1, 2], false), (&[1], false), (&[], false), (&[1, 3], true), (&[3, 1], true)];
        for (peers, expected) in cases {
            assert_eq!(is_on_another(&on(peers), &known), expected, "{peers:?}");
        }
    }
}
