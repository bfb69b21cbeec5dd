//! The schedule of dials: pure bookkeeping for the network task.
//!
//! Every known peer and seed without a connection is dialled repeatedly, with growing waits, so that
//! connections exist before they are needed.

use std::{collections::BTreeMap, time::Duration};

use libp2p::Multiaddr;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::Instant;

use crate::types::PeerId;

/// The first wait after a failure or a lost connection.
pub(super) const WAIT_MIN: Duration = Duration::from_millis(100);
/// The longest wait: a returning peer dials by itself anyway.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(5);
/// Addresses kept per peer: more than a pod ever has.
const ADDRESSES_MAX: usize = 16;

/// Target of a dial.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    /// A peer whose ID is known.
    Peer(PeerId),
    /// An address of a peer whose ID is not known yet.
    Seed(Multiaddr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be dialled at this time.
    Due(Instant),
    Dialling,
    /// Connected to this peer.
    Connected(PeerId),
}

#[derive(Debug)]
struct Dialled {
    addresses: Vec<Multiaddr>,
    state: State,
    /// Failed dials since the last connection.
    failures: u32,
}

/// The schedule.
#[derive(Debug)]
pub(super) struct Dialer {
    entries: BTreeMap<Target, Dialled>,
    jitter: StdRng,
}

impl Dialer {
    pub(super) fn new(seed: u64) -> Self {
        Self { entries: BTreeMap::new(), jitter: StdRng::seed_from_u64(seed) }
    }

    /// Replaces a peer's addresses. New addresses of a peer without a connection are dialled at once;
    /// without addresses the peer is forgotten.
    pub(super) fn set_peer(
        &mut self,
        peer: PeerId,
        mut addresses: Vec<Multiaddr>,
        connected: bool,
        now: Instant,
    ) {
        let target = Target::Peer(peer);
        addresses.truncate(ADDRESSES_MAX);
        if addresses.is_empty() {
            self.entries.remove(&target);
            return;
        }
        let entry = self.entries.entry(target).or_insert_with(|| Dialled {
            addresses: Vec::new(),
            state: if connected { State::Connected(peer) } else { State::Due(now) },
            failures: 0,
        });
        if entry.addresses != addresses {
            entry.addresses = addresses;
            entry.failures = 0;
            if let State::Due(_) = entry.state {
                entry.state = State::Due(now);
            }
        }
    }

    /// Replaces the seeds.
    pub(super) fn set_seeds(&mut self, seeds: Vec<Multiaddr>, now: Instant) {
        self.entries.retain(|target, _| match target {
            Target::Peer(_) => true,
            Target::Seed(address) => seeds.contains(address),
        });
        for address in seeds {
            self.entries.entry(Target::Seed(address.clone())).or_insert_with(|| Dialled {
                addresses: vec![address],
                state: State::Due(now),
                failures: 0,
            });
        }
    }

    /// Returns the targets to dial now; they count as being dialled from here on.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<(Target, Vec<Multiaddr>)> {
        let due = |entry: &Dialled| matches!(entry.state, State::Due(at) if at <= now);
        self.entries
            .iter_mut()
            .filter(|(_, entry)| due(entry))
            .map(|(target, entry)| {
                entry.state = State::Dialling;
                (target.clone(), entry.addresses.clone())
            })
            .collect()
    }

    /// When [`Self::take_due`] next returns a target.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let due = |entry: &Dialled| match entry.state {
            State::Due(at) => Some(at),
            State::Dialling | State::Connected(_) => None,
        };
        self.entries.values().filter_map(due).min()
    }

    /// Records a failed dial.
    pub(super) fn failed(&mut self, target: &Target, now: Instant) {
        let Some(entry) = self.entries.get_mut(target) else { return };
        if entry.state == State::Dialling {
            entry.state = State::Due(now + wait(entry.failures, &mut self.jitter));
            entry.failures = entry.failures.saturating_add(1);
        }
    }

    /// Records a connection to `peer`, made by dialling `target` or opened by the peer.
    pub(super) fn connected(&mut self, peer: PeerId, target: Option<&Target>) {
        for target in [Some(&Target::Peer(peer)), target].into_iter().flatten() {
            if let Some(entry) = self.entries.get_mut(target) {
                entry.state = State::Connected(peer);
                entry.failures = 0;
            }
        }
    }

    /// Whether a peer is dialled while it has no connection.
    pub(super) fn knows(&self, peer: PeerId) -> bool {
        let is_it = |(target, entry): (&Target, &Dialled)| {
            *target == Target::Peer(peer) || entry.state == State::Connected(peer)
        };
        self.entries.iter().any(is_it)
    }

    /// Records the loss of the last connection to `peer`.
    pub(super) fn lost(&mut self, peer: PeerId, now: Instant) {
        for entry in self.entries.values_mut() {
            if entry.state == State::Connected(peer) {
                entry.state = State::Due(now + wait(0, &mut self.jitter));
            }
        }
    }
}

/// Doubles from [`WAIT_MIN`] to [`WAIT_MAX`]; a random half of it keeps peers from dialling in step.
fn wait(failures: u32, jitter: &mut StdRng) -> Duration {
    let full = WAIT_MIN.saturating_mul(1 << failures.min(10)).min(WAIT_MAX);
    full.mul_f64(jitter.random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const PEER: PeerId = PeerId([1; 32]);

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn waits_grow_to_the_longest_and_new_addresses_are_dialled_at_once() {
        let now = Instant::now();
        let mut dialer = Dialer::new(7);
        dialer.set_peer(PEER, vec![address(1)], false, now);
        let mut at = now;
        let mut waits = Vec::new();
        for _ in 0..10 {
            assert_eq!(dialer.take_due(at), [(Target::Peer(PEER), vec![address(1)])]);
            assert_eq!(dialer.next_due(), None);
            dialer.failed(&Target::Peer(PEER), at);
            let next = dialer.next_due().unwrap_or(at);
            waits.push(next - at);
            at = next;
        }
        assert!(waits[0] >= WAIT_MIN / 2 && waits[0] <= WAIT_MIN, "{waits:?}");
        assert!(waits[9] >= WAIT_MAX / 2 && waits[9] <= WAIT_MAX, "{waits:?}");

        dialer.set_peer(PEER, vec![address(1)], false, now);
        assert!(dialer.take_due(now).is_empty(), "the same addresses are no news");
        dialer.set_peer(PEER, vec![address(2)], false, now);
        assert_eq!(dialer.take_due(now), [(Target::Peer(PEER), vec![address(2)])]);
    }

    #[test]
    fn a_connection_stops_the_dialling_until_it_is_lost() {
        let now = Instant::now();
        let mut dialer = Dialer::new(7);
        dialer.set_seeds(vec![address(3)], now);
        dialer.set_peer(PEER, vec![address(1)], false, now);
        assert_eq!(dialer.take_due(now).len(), 2);
        dialer.connected(PEER, Some(&Target::Seed(address(3))));
        dialer.failed(&Target::Peer(PEER), now);
        assert_eq!(dialer.next_due(), None);
        assert!(dialer.knows(PEER) && !dialer.knows(PeerId([2; 32])));
        dialer.lost(PEER, now);
        assert_eq!(dialer.take_due(now + WAIT_MIN).len(), 2);
        dialer.set_peer(PEER, Vec::new(), false, now);
        dialer.set_seeds(Vec::new(), now);
        dialer.failed(&Target::Peer(PEER), now);
        assert_eq!(dialer.next_due(), None);
    }
}
