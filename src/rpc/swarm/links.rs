//! Which connection to each peer is used: exactly one, though two can exist for a moment.
//!
//! Both peers must choose the same one without talking. Of two connections dialled across each other,
//! it is the one dialled by the smaller ID. Otherwise it is the newer one: a peer dials only without a
//! connection, so the older one is dead on its side.

use std::{collections::BTreeMap, time::Duration};

use libp2p::swarm::ConnectionId;
use tokio::time::Instant;

use crate::types::PeerId;

/// Connections made within this time of each other count as dialled across each other.
const RACE: Duration = Duration::from_secs(2);

/// A connection to a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connection {
    pub(super) id: ConnectionId,
    /// Whether we dialled it.
    pub(super) outbound: bool,
    pub(super) since: Instant,
}

/// State of the link to one peer.
#[derive(Clone, Debug)]
pub(super) enum Link {
    Up(Connection),
    /// The reason why there is no connection.
    Down(String),
}

/// The links to all connected or dialled peers.
#[derive(Debug, Default)]
pub(super) struct Links(BTreeMap<PeerId, Link>);

impl Links {
    /// Records a new connection; returns the one to close, if any.
    pub(super) fn opened(
        &mut self,
        own: PeerId,
        peer: PeerId,
        new: Connection,
    ) -> Option<ConnectionId> {
        let old = match self.0.get(&peer) {
            Some(Link::Up(old)) => *old,
            _ => {
                self.0.insert(peer, Link::Up(new));
                return None;
            }
        };
        let crossed = old.outbound != new.outbound && new.since - old.since < RACE;
        if crossed && old.outbound == (own < peer) {
            return Some(new.id);
        }
        self.0.insert(peer, Link::Up(new));
        Some(old.id)
    }

    /// Records a closed connection; true if it was the one in use.
    pub(super) fn closed(&mut self, peer: PeerId, id: ConnectionId, reason: String) -> bool {
        let in_use = matches!(self.0.get(&peer), Some(Link::Up(link)) if link.id == id);
        if in_use {
            self.0.insert(peer, Link::Down(reason));
        }
        in_use
    }

    /// Records a failed dial; true if the reason has changed.
    pub(super) fn unreachable(&mut self, peer: PeerId, reason: String) -> bool {
        match self.0.get_mut(&peer) {
            Some(Link::Up(_)) => false,
            Some(Link::Down(known)) if *known == reason => false,
            _ => {
                self.0.insert(peer, Link::Down(reason));
                true
            }
        }
    }

    /// Forgets the reason for a peer that is no longer wanted.
    pub(super) fn forget(&mut self, peer: PeerId) {
        if let Some(Link::Down(_)) = self.0.get(&peer) {
            self.0.remove(&peer);
        }
    }

    /// The connection in use, or why there is none.
    pub(super) fn in_use(&self, peer: PeerId) -> Result<ConnectionId, String> {
        match self.0.get(&peer) {
            Some(Link::Up(link)) => Ok(link.id),
            Some(Link::Down(reason)) => Err(reason.clone()),
            None => Err("not reached yet".to_owned()),
        }
    }

    /// Peers with a connection.
    pub(super) fn up(&self) -> Vec<PeerId> {
        let up = self.0.iter().filter(|(_, link)| matches!(link, Link::Up(_)));
        up.map(|(peer, _)| *peer).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerId = PeerId([1; 32]);
    const B: PeerId = PeerId([2; 32]);

    fn connection(id: usize, outbound: bool, since: Instant) -> Connection {
        Connection { id: ConnectionId::new_unchecked(id), outbound, since }
    }

    #[test]
    fn of_two_crossed_connections_both_sides_keep_the_one_dialled_by_the_smaller_id() {
        let now = Instant::now();
        // A dialled connection 1, B dialled 2; either may come first on either side.
        for (own, peer, first, second) in [(A, B, 1, 2), (A, B, 2, 1), (B, A, 1, 2), (B, A, 2, 1)] {
            let mut links = Links::default();
            let make = |id| connection(id, (id == 1) == (own == A), now);
            assert_eq!(links.opened(own, peer, make(first)), None);
            let close = links.opened(own, peer, make(second));
            assert_eq!(close, Some(ConnectionId::new_unchecked(2)));
            assert!(!links.closed(peer, ConnectionId::new_unchecked(2), String::new()));
            assert_eq!(links.in_use(peer), Ok(ConnectionId::new_unchecked(1)));
        }
    }

    #[test]
    fn a_peer_that_dials_again_has_lost_the_older_connection() {
        let now = Instant::now();
        let mut links = Links::default();
        links.opened(A, B, connection(1, true, now));
        let close = links.opened(A, B, connection(2, false, now + RACE));
        assert_eq!(close, Some(ConnectionId::new_unchecked(1)));
        assert!(links.closed(B, ConnectionId::new_unchecked(2), "gone".to_owned()));
        assert_eq!(links.in_use(B), Err("gone".to_owned()));
        assert!(links.up().is_empty());
        assert!(links.unreachable(B, "refused".to_owned()));
        assert!(!links.unreachable(B, "refused".to_owned()));
    }
}
