//! Limits on open connections: one in total, and one per address.
//!
//! Invariants: neither limit is ever exceeded; a connection with a request under way keeps its place;
//! if no place is left, the connection that has been idle for longest gives way.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use parking_lot::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

/// The places of one server.
#[derive(Debug)]
pub(super) struct Places {
    in_all: usize,
    per_client: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    /// Counts events, as a clock for their order.
    now: u64,
    connections: BTreeMap<u64, Connection>,
}

#[derive(Debug)]
struct Connection {
    client: IpAddr,
    /// When its last request ended or it was opened; absent during a request.
    idle_since: Option<u64>,
    end: CancellationToken,
}

impl Places {
    pub(super) fn new(in_all: usize, per_client: usize) -> Arc<Self> {
        Arc::new(Self { in_all, per_client, taken: Mutex::default() })
    }

    /// A place for a connection from that address; none if all its places have requests under way.
    pub(super) fn take(self: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let client = client.to_canonical();
        let mut taken = self.taken();
        let of_client = taken.connections.values().filter(|other| other.client == client).count();
        let is_free = if of_client >= self.per_client {
            taken.end_idlest(|other| other.client == client)
        } else {
            taken.connections.len() < self.in_all || taken.end_idlest(|_| true)
        };
        if !is_free {
            return None;
        }
        let id = taken.tick();
        let end = CancellationToken::new();
        let connection = Connection { client, idle_since: Some(id), end: end.clone() };
        taken.connections.insert(id, connection);
        Some(Place { places: Arc::clone(self), id, end })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock()
    }
}

impl Taken {
    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    /// Ends the connection that has been idle for longest; returns whether there was one.
    fn end_idlest(&mut self, among: impl Fn(&Connection) -> bool) -> bool {
        let idle = self.connections.iter().filter(|(_, connection)| among(connection));
        let idlest = idle.filter_map(|(id, connection)| Some((connection.idle_since?, *id))).min();
        let ended = idlest.and_then(|(_, id)| self.connections.remove(&id));
        ended.map(|connection| connection.end.cancel()).is_some()
    }
}

/// The place of one connection, held until dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    id: u64,
    end: CancellationToken,
}

impl Place {
    /// Cancelled when the connection must give way.
    pub(super) fn end(&self) -> CancellationToken {
        self.end.clone()
    }

    /// Begins a request; it ends when the returned value is dropped.
    pub(super) fn begin(&self) -> UnderWay {
        if let Some(connection) = self.places.taken().connections.get_mut(&self.id) {
            connection.idle_since = None;
        }
        UnderWay { places: Arc::clone(&self.places), id: self.id }
    }

    /// Whether no request is under way.
    pub(super) fn is_idle(&self) -> bool {
        let taken = self.places.taken();
        taken.connections.get(&self.id).is_none_or(|connection| connection.idle_since.is_some())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().connections.remove(&self.id);
    }
}

/// A request under way.
#[derive(Debug)]
pub(super) struct UnderWay {
    places: Arc<Places>,
    id: u64,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        let now = taken.tick();
        if let Some(connection) = taken.connections.get_mut(&self.id) {
            connection.idle_since = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn client(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn ended(places: &[&Place]) -> Vec<bool> {
        places.iter().map(|place| place.end().is_cancelled()).collect()
    }

    #[test]
    fn the_connection_that_was_idle_for_longest_gives_way() {
        let places = Places::new(3, 3);
        let [a, b, c] = [1, 2, 3].map(|n| places.take(client(n)).unwrap());
        drop(a.begin());
        let under_way = b.begin();
        let d = places.take(client(4)).unwrap();
        assert_eq!(ended(&[&a, &b, &c, &d]), [false, false, true, false]);
        // An ended connection takes no other's place when it is dropped.
        drop(c);
        let e = places.take(client(5)).unwrap();
        assert_eq!(ended(&[&a, &b, &d, &e]), [true, false, false, false]);
        let (of_d, of_e) = (d.begin(), e.begin());
        assert!(places.take(client(6)).is_none(), "a request was broken off");
        drop((of_d, of_e, under_way));
        drop(e);
        assert!(places.take(client(6)).is_some());
        assert_eq!(ended(&[&b, &d]), [false, false]);
    }

    #[test]
    fn one_address_takes_only_its_own_places() {
        let places = Places::new(4, 2);
        let a = places.take(client(1)).unwrap();
        let mapped = "::ffff:10.0.0.2".parse().unwrap();
        let of_other = [client(2), mapped, client(2)].map(|client| places.take(client).unwrap());
        assert_eq!(ended(&[&a]), [false]);
        let [first, second, third] = &of_other;
        assert_eq!(ended(&[first, second, third]), [true, false, false]);
        let _busy = (second.begin(), third.begin());
        assert!(places.take(client(2)).is_none());
        assert!(places.take(client(3)).is_some());
    }
}
