//! Acquaintance: each peer learns the members of its cluster, their present addresses, and connected
//! peers of other clusters.
//!
//! A peer says hello to every connected peer, and each of the two describes itself to the other. It
//! says hello again when a peer has moved or the membership has changed. So one connection brings all
//! members together, with or without a leader.
//!
//! Invariants: a peer reports the other members to members only, and believes only members about
//! them. Peers of other clusters are remembered while they are connected, and at most [`OTHERS_MAX`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures::future::join_all;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::{Source, addresses::Addresses};
use crate::{
    cluster::{Cluster, FatalError},
    rpc::AskError,
    types::{ClusterId, Hello, HelloReply, MEMBERS_MAX, Member, PeerId, Refusal},
};

/// How often the connected peers are checked.
const PERIOD: Duration = Duration::from_millis(500);
/// A peer must answer a hello within this time.
const DEADLINE: Duration = Duration::from_secs(2);
/// After this time without a leader, all connected peers are greeted again.
const UNLED_MAX: Duration = Duration::from_secs(5);
/// The members are asked about unknown peers at most this often.
const ASK_INTERVAL: Duration = Duration::from_secs(2);
/// Each other cluster is logged at most this often.
const LOG_INTERVAL: Duration = Duration::from_secs(600);
/// Bound on remembered peers of other clusters, and on remembered log lines about clusters.
const OTHERS_MAX: usize = 64;

/// What this peer knows of other peers, beside its Raft log and address book.
#[derive(Debug, Default)]
pub(in crate::cluster) struct Acquaintance {
    known: Mutex<Known>,
    /// This peer founds a cluster because its configuration says so, although one may exist already.
    founder: AtomicBool,
}

#[derive(Debug, Default)]
struct Known {
    /// Peers that members reported as members; this peer's own log may be behind.
    vouched: BTreeSet<PeerId>,
    /// Connected peers of other clusters.
    others: BTreeMap<PeerId, Other>,
    /// When each other cluster was logged.
    logged: BTreeMap<ClusterId, Instant>,
    /// Raised when every connected peer must get a new hello.
    version: u64,
    /// When the members were last asked about an unknown peer.
    asked: Option<Instant>,
}

/// A peer of another cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Other {
    name: String,
    cluster: ClusterId,
    /// Number of members of that cluster, as the peer reports it.
    size: u64,
}

impl Acquaintance {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock()
    }
}

impl Known {
    /// Whether to log another cluster now. If so, it counts as logged.
    fn must_log(&mut self, cluster: ClusterId) -> bool {
        let now = Instant::now();
        self.logged.retain(|_, at| now - *at < LOG_INTERVAL);
        let must_log = !self.logged.contains_key(&cluster) && self.logged.len() < OTHERS_MAX;
        if must_log {
            self.logged.insert(cluster, now);
        }
        must_log
    }

    fn remember(&mut self, peer: PeerId, other: Other) {
        if self.others.len() < OTHERS_MAX || self.others.contains_key(&peer) {
            self.others.insert(peer, other);
        }
    }

    /// Adds peers that a member reported as members; returns whether any was new.
    fn vouch(&mut self, peers: impl IntoIterator<Item = PeerId>) -> bool {
        let before = self.vouched.len();
        for peer in peers {
            if self.vouched.len() < MEMBERS_MAX {
                self.vouched.insert(peer);
            }
        }
        self.vouched.len() > before
    }
}

/// A peer of the largest other cluster, if that has at least `size` members, the size of this peer's
/// cluster. This peer then counts as the newcomer. Of two clusters of one size both count as
/// newcomers, since neither can know which one is wanted.
fn rival(others: &BTreeMap<PeerId, Other>, size: u64) -> Option<(PeerId, &Other)> {
    let rivals = others.iter().filter(|(_, other)| other.size > 0 && other.size >= size);
    rivals.max_by_key(|(_, other)| other.size).map(|(peer, other)| (*peer, other))
}

impl Cluster {
    /// Says hello to connected peers and learns from their answers.
    pub(in crate::cluster) async fn keep_acquainted(self) -> Result<(), FatalError> {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut greeted: BTreeMap<PeerId, u64> = BTreeMap::new();
        let mut members = BTreeSet::new();
        let mut led_at = Instant::now();
        loop {
            ticks.tick().await;
            self.follow_membership(&mut members);
            let connected: BTreeSet<PeerId> =
                self.0.parts.transport.connected().into_iter().collect();
            greeted.retain(|peer, _| connected.contains(peer));
            if self.is_led() {
                led_at = Instant::now();
            } else if led_at.elapsed() > UNLED_MAX {
                // This peer may have been removed: each member answers a hello with that.
                led_at = Instant::now();
                greeted.clear();
            }
            let version = {
                let mut known = self.0.acquaintance.known();
                known.others.retain(|peer, _| connected.contains(peer));
                known.version
            };
            let due = connected.into_iter().filter(|peer| greeted.get(peer) != Some(&version));
            for met in join_all(due.map(|peer| self.meet(peer))).await {
                greeted.extend(met?.map(|peer| (peer, version)));
            }
            self.check_founding()?;
        }
    }

    /// Says hello to a peer; `None` if it must be repeated.
    async fn meet(&self, peer: PeerId) -> Result<Option<PeerId>, FatalError> {
        let mut hello = self.presentation();
        if self.is_known(&peer) {
            hello.members = self.members_with_addresses();
        }
        let Ok(answer) = timeout(DEADLINE, self.ask_peer(peer, hello)).await else {
            return Ok(None);
        };
        match answer {
            Ok(reply) if reply.check().is_ok() => {
                let HelloReply { member, cluster, members, .. } = reply;
                let of = cluster.map(|(cluster, _)| cluster);
                self.met(peer, of, &member, members.len() as u64, &members);
            }
            Err(AskError::Call(_) | AskError::Refused(Refusal::Busy)) => return Ok(None),
            Err(AskError::Refused(Refusal::Removed)) => return Err(FatalError::Removed),
            other => tracing::debug!(%peer, answer = ?other, "no valid answer to a hello"),
        }
        Ok(Some(peer))
    }

    /// This peer's hello, without the other members and without a request to join.
    pub(in crate::cluster) fn presentation(&self) -> Hello {
        Hello {
            member: self.member().clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            daemon: None,
            join: false,
            cluster: self.wanted_cluster(),
            size: self.members().len() as u64,
            members: BTreeMap::new(),
            level: self.program().level,
        }
    }

    /// The members, each with its latest known addresses.
    pub(in crate::cluster) fn members_with_addresses(&self) -> BTreeMap<PeerId, Member> {
        let mut book = self.0.parts.addresses.all();
        book.insert(self.id(), self.member().addresses.clone());
        let members = self.members().into_iter().map(|(peer, view)| {
            let mut member = view.member;
            if let Some(addresses) = book.remove(&peer) {
                member.addresses = addresses;
            }
            (peer, member)
        });
        members.collect()
    }

    /// The members, from this peer's log or as members reported them.
    fn known_peers(&self) -> BTreeSet<PeerId> {
        let vouched = self.0.acquaintance.known().vouched.clone();
        self.members().into_keys().chain(vouched).collect()
    }

    /// Whether a peer is a member, from this peer's log or as members reported it.
    pub(in crate::cluster) fn is_known(&self, peer: &PeerId) -> bool {
        self.members().contains_key(peer) || self.0.acquaintance.known().vouched.contains(peer)
    }

    /// Takes in what a peer reported of itself, its cluster `of` with `size` members, and the members.
    pub(in crate::cluster) fn met(
        &self,
        peer: PeerId,
        of: Option<ClusterId>,
        member: &Member,
        size: u64,
        members: &BTreeMap<PeerId, Member>,
    ) {
        match (self.wanted_cluster(), of) {
            (Some(own), Some(cluster)) if own != cluster => {
                self.met_another(peer, member, cluster, size);
            }
            (Some(_), Some(_)) if self.is_known(&peer) => {
                self.0.acquaintance.known().others.remove(&peer);
                self.learn_addresses([(peer, member.addresses.clone())].into());
                self.believe(members);
            }
            _ => drop(self.0.acquaintance.known().others.remove(&peer)),
        }
    }

    /// This peer joins through a peer that answered. It believes that peer about the members until it
    /// has the log.
    pub(in crate::cluster) fn joins_through(&self, peer: PeerId, reply: &HelloReply) {
        self.vouch([peer]);
        self.learn_addresses([(peer, reply.member.addresses.clone())].into());
        self.believe(&reply.members);
    }

    fn vouch(&self, peers: impl IntoIterator<Item = PeerId>) {
        let has_new = self.0.acquaintance.known().vouch(peers);
        if has_new {
            self.name_members();
        }
    }

    /// Gives the transport the members and their names: it takes long messages from members only, and
    /// logs names.
    pub(in crate::cluster) fn name_members(&self) {
        let members = self.members().into_iter().map(|(peer, view)| (peer, view.member.name));
        let mut names: BTreeMap<PeerId, String> = members.collect();
        for peer in &self.0.acquaintance.known().vouched {
            names.entry(*peer).or_default();
        }
        self.0.parts.transport.set_members(names);
    }

    fn believe(&self, members: &BTreeMap<PeerId, Member>) {
        let own = self.members();
        let unknown = members.keys().filter(|peer| !own.contains_key(peer)).copied();
        self.vouch(unknown);
        let addresses = members.iter().map(|(peer, member)| (*peer, member.addresses.clone()));
        self.hear_addresses(addresses.collect());
    }

    /// Learns addresses that another peer reported, except for connected peers: those report their own.
    pub(in crate::cluster) fn hear_addresses(&self, mut addresses: Addresses) {
        let (connected, known) = (self.0.parts.transport.connected(), self.known_peers());
        addresses.retain(|peer, _| !connected.contains(peer) && known.contains(peer));
        self.take_addresses(Source::Other, addresses);
    }

    pub(in crate::cluster) fn take_addresses(&self, source: Source, addresses: Addresses) {
        let (book, known) = (&self.0.parts.addresses, self.known_peers());
        let learnt = book.learn(self.id(), source, addresses, |peer| known.contains(peer));
        let Some(all) = learnt else { return };
        self.0.parts.transport.set_addresses(all);
        if source == Source::Itself {
            self.greet_again();
        }
    }

    fn greet_again(&self) {
        self.0.acquaintance.known().version += 1;
    }

    /// An unknown peer speaks as a member. Other members may know it, so each gets a new hello.
    pub(in crate::cluster) fn ask_about_unknown(&self) {
        let mut known = self.0.acquaintance.known();
        if known.asked.is_none_or(|at| at.elapsed() >= ASK_INTERVAL) {
            known.asked = Some(Instant::now());
            known.version += 1;
        }
    }

    /// Says hello again when the membership has changed, and forgets the addresses of non-members.
    /// Only a peer that is led forgets: one that was away may know fewer members than its address book.
    fn follow_membership(&self, last: &mut BTreeSet<PeerId>) {
        let members: BTreeSet<PeerId> = self.members().into_keys().collect();
        if members != *last {
            self.0.acquaintance.known().vouched.retain(|peer| !members.contains(peer));
            self.name_members();
            self.greet_again();
            *last = members;
        }
        if self.consensus().is_member() && self.is_led() {
            let known = self.known_peers();
            let gone = self.0.parts.addresses.forget(|peer| known.contains(peer));
            if !gone.is_empty() {
                tracing::info!(peers = ?gone, "no longer dialling peers that are not members");
                let nowhere = gone.into_iter().map(|peer| (peer, Vec::new()));
                self.0.parts.transport.set_addresses(nowhere.collect());
            }
        }
    }

    /// Notes a peer of another cluster than the one that this peer belongs to, or may join.
    pub(in crate::cluster) fn met_another(
        &self,
        peer: PeerId,
        member: &Member,
        cluster: ClusterId,
        size: u64,
    ) {
        let Some(own) = self.wanted_cluster() else { return };
        let mut known = self.0.acquaintance.known();
        known.remember(peer, Other { name: member.name.clone(), cluster, size });
        if known.must_log(cluster) {
            tracing::warn!(
                %own, other = %cluster, %peer, name = %member.name, addresses = ?member.addresses,
                "another cluster met: two clusters must not share a cluster secret"
            );
        }
    }

    /// Notes that this peer founds a cluster because its configuration says so.
    pub(crate) fn founds_as_configured(&self) {
        self.0.acquaintance.founder.store(true, Ordering::Relaxed);
    }

    /// Fails if this peer founded a cluster as configured, is its only member, and meets a larger
    /// cluster. It has probably lost its disk, and belongs to the larger one.
    fn check_founding(&self) -> Result<(), FatalError> {
        let size = self.members().len() as u64;
        let Some(own) = self.cluster_id() else { return Ok(()) };
        if size > 1 || !self.0.acquaintance.founder.load(Ordering::Relaxed) {
            return Ok(());
        }
        let known = self.0.acquaintance.known();
        match rival(&known.others, size + 1) {
            Some((peer, other)) => Err(FatalError::AnotherCluster {
                own,
                other: other.cluster,
                peer,
                name: other.name.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Fails if this peer is a newcomer beside another cluster, see [`rival`].
    ///
    /// # Errors
    /// The reason, for people.
    pub(in crate::cluster) fn check_cluster(&self) -> Result<(), String> {
        let Some(own) = self.cluster_id() else { return Ok(()) };
        let size = self.members().len() as u64;
        let known = self.0.acquaintance.known();
        let Some((peer, other)) = rival(&known.others, size) else { return Ok(()) };
        let Other { name, cluster, size: theirs } = other;
        Err(format!(
            "another cluster met: this peer is of cluster {own} ({size} members), {name} ({peer}) of {cluster} ({theirs} members)"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other(n: u8, size: u64) -> (PeerId, Other) {
        let cluster = ClusterId([n; 16]);
        (PeerId([n; 32]), Other { name: format!("pod-{n}"), cluster, size })
    }

    #[test]
    fn a_peer_is_the_newcomer_beside_a_cluster_of_its_size_or_larger() {
        // The other clusters' sizes, this one's, and the size of the one beside which it is new.
        let table: [(&[u64], u64, Option<u64>); 7] = [
            (&[], 1, None),
            (&[1], 3, None),
            (&[3], 1, Some(3)),
            (&[3], 3, Some(3)),
            (&[1, 4, 2], 3, Some(4)),
            // The other peer is still joining and knows no members.
            (&[0], 1, None),
            (&[0], 0, None),
        ];
        for (sizes, size, expected) in table {
            let others = sizes.iter().zip(1..).map(|(size, n)| other(n, *size)).collect();
            let found = rival(&others, size).map(|(_, other)| other.size);
            assert_eq!(found, expected, "{sizes:?} beside {size}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn other_peers_are_remembered_within_bounds_and_clusters_logged_once() {
        let mut known = Known::default();
        let cluster = ClusterId([1; 16]);
        assert!(known.must_log(cluster) && !known.must_log(cluster));
        tokio::time::advance(LOG_INTERVAL).await;
        assert!(known.must_log(cluster), "it is logged again after a while");
        let peer = |n: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_be_bytes());
            PeerId(id)
        };
        for n in 0..2 * MEMBERS_MAX {
            known.vouch([peer(n)]);
            known.remember(peer(n), other(1, 1).1);
        }
        assert_eq!((known.vouched.len(), known.others.len()), (MEMBERS_MAX, OTHERS_MAX));
        known.remember(peer(0), other(2, 2).1);
        assert_eq!(known.others[&peer(0)].size, 2, "a known peer may have changed");
    }
}
