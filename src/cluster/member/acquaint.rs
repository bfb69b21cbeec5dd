//! How peers stay acquainted: who belongs to the cluster, where all are now, and who is of another
//! one.
//!
//! Whoever is connected is told who and where this peer is, and its answer says the same of itself;
//! again when a peer has moved or the membership has changed. So any connection brings all members
//! together, whether or not somebody leads.
//!
//! Invariants: only members are told of the others, and only they are believed about them. What is
//! kept of peers that are no members is bounded, and goes with them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::{Said, addresses::Addresses};
use crate::{
    cluster::{Cluster, FatalError},
    rpc::AskError,
    types::{ClusterId, Hello, HelloReply, MEMBERS_MAX, Member, PeerId, Refusal},
};

/// Between two looks at who is connected.
const PERIOD: Duration = Duration::from_millis(500);
/// Time a peer has to say who it is.
const DEADLINE: Duration = Duration::from_secs(2);
/// After an unknown peer spoke as a member, the members are asked about it at most this often.
const ASK_INTERVAL: Duration = Duration::from_secs(2);
/// Another cluster is told of in the log at most this often.
const LOG_INTERVAL: Duration = Duration::from_secs(600);
/// Peers of other clusters that are remembered, and clusters that the log has told of.
const OTHERS_MAX: usize = 64;

/// What a peer knows beside its own log and address book.
#[derive(Debug, Default)]
pub(in crate::cluster) struct Acquaintance {
    known: Mutex<Known>,
    /// This peer was told to found a cluster, so that it may have founded one too many.
    founder: AtomicBool,
}

#[derive(Debug, Default)]
struct Known {
    /// Peers that members called members: this peer's own log may be behind.
    vouched: BTreeSet<PeerId>,
    /// Connected peers of other clusters.
    others: BTreeMap<PeerId, Other>,
    /// When the log told of a cluster.
    told: BTreeMap<ClusterId, Instant>,
    /// Raised when others are to be told again.
    version: u64,
    asked: Option<Instant>,
}

/// A peer of another cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Other {
    name: String,
    cluster: ClusterId,
    /// Members of that cluster, as it says.
    size: u64,
}

impl Acquaintance {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Whether the log has not told of a cluster lately.
    fn is_news(&mut self, cluster: ClusterId) -> bool {
        let now = Instant::now();
        self.told.retain(|_, at| now - *at < LOG_INTERVAL);
        let is_news = !self.told.contains_key(&cluster) && self.told.len() < OTHERS_MAX;
        if is_news {
            self.told.insert(cluster, now);
        }
        is_news
    }

    fn remember(&mut self, peer: PeerId, other: Other) {
        if self.others.len() < OTHERS_MAX || self.others.contains_key(&peer) {
            self.others.insert(peer, other);
        }
    }

    /// Takes a member's word for these; false if it is no news.
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

/// The peer of another cluster beside which this peer, of a cluster of `size`, is the newcomer. Where
/// both are of one size nobody can tell which one is meant, so that neither is.
fn rival(others: &BTreeMap<PeerId, Other>, size: u64) -> Option<(PeerId, &Other)> {
    let rivals = others.iter().filter(|(_, other)| other.size > 0 && other.size >= size);
    rivals.max_by_key(|(_, other)| other.size).map(|(peer, other)| (*peer, other))
}

impl Cluster {
    /// Tells whoever is connected, and learns from it.
    pub(in crate::cluster) async fn keep_acquainted(self) -> Result<(), FatalError> {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told: BTreeMap<PeerId, u64> = BTreeMap::new();
        let mut members = BTreeSet::new();
        loop {
            ticks.tick().await;
            self.follow_membership(&mut members);
            let connected: BTreeSet<PeerId> =
                self.0.parts.transport.connected().into_iter().collect();
            told.retain(|peer, _| connected.contains(peer));
            let version = {
                let mut known = self.0.acquaintance.known();
                known.others.retain(|peer, _| connected.contains(peer));
                known.version
            };
            let due = connected.into_iter().filter(|peer| told.get(peer) != Some(&version));
            let met = join_all(due.map(|peer| self.meet(peer))).await;
            told.extend(met.into_iter().flatten().map(|peer| (peer, version)));
            self.check_founding()?;
        }
    }

    /// Says hello; none when it was not heard.
    async fn meet(&self, peer: PeerId) -> Option<PeerId> {
        let mut hello = self.presentation();
        if self.is_known(&peer) {
            hello.members = self.whereabouts();
        }
        match timeout(DEADLINE, self.ask_peer(peer, hello)).await.ok()? {
            Ok(reply) if reply.check().is_ok() => {
                let HelloReply { member, cluster, members, .. } = reply;
                let of = cluster.map(|(cluster, _)| cluster);
                self.met(peer, of, &member, members.len() as u64, &members);
            }
            Err(AskError::Call(_) | AskError::Refused(Refusal::Busy)) => return None,
            other => tracing::debug!(%peer, answer = ?other, "a peer does not say who it is"),
        }
        Some(peer)
    }

    /// What this peer says of itself.
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

    /// The members, each with the addresses it has now as far as this peer knows.
    pub(in crate::cluster) fn whereabouts(&self) -> BTreeMap<PeerId, Member> {
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

    /// The members, by this peer's log or by the word of a member.
    fn known_peers(&self) -> BTreeSet<PeerId> {
        let vouched = self.0.acquaintance.known().vouched.clone();
        self.members().into_keys().chain(vouched).collect()
    }

    /// Whether a peer is one of them.
    pub(in crate::cluster) fn is_known(&self, peer: &PeerId) -> bool {
        self.members().contains_key(peer) || self.0.acquaintance.known().vouched.contains(peer)
    }

    /// A peer has said who and where it is, and who its fellow members are.
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

    /// This peer joins through one that has answered: until it has the log, it takes its word.
    pub(in crate::cluster) fn joins_through(&self, peer: PeerId, reply: &HelloReply) {
        self.vouch([peer]);
        self.learn_addresses([(peer, reply.member.addresses.clone())].into());
        self.believe(&reply.members);
    }

    fn vouch(&self, peers: impl IntoIterator<Item = PeerId>) {
        let is_news = self.0.acquaintance.known().vouch(peers);
        if is_news {
            self.name_members();
        }
    }

    /// The transport takes long messages of members only, and names them to people.
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

    /// What another says of where peers are. Those that are connected have said it themselves.
    pub(in crate::cluster) fn hear_addresses(&self, mut addresses: Addresses) {
        let (connected, known) = (self.0.parts.transport.connected(), self.known_peers());
        addresses.retain(|peer, _| !connected.contains(peer) && known.contains(peer));
        self.take_addresses(Said::Another, addresses);
    }

    pub(in crate::cluster) fn take_addresses(&self, said: Said, addresses: Addresses) {
        let (book, known) = (&self.0.parts.addresses, self.known_peers());
        let learnt = book.learn(self.id(), said, addresses, |peer| known.contains(peer));
        let Some(all) = learnt else { return };
        self.0.parts.transport.set_addresses(all);
        if said == Said::Itself {
            self.tell_again();
        }
    }

    fn tell_again(&self) {
        self.0.acquaintance.known().version += 1;
    }

    /// A peer that is not known speaks as a member: the members may know it.
    pub(in crate::cluster) fn ask_about_unknown(&self) {
        let mut known = self.0.acquaintance.known();
        if known.asked.is_none_or(|at| at.elapsed() >= ASK_INTERVAL) {
            known.asked = Some(Instant::now());
            known.version += 1;
        }
    }

    /// Others are told of a changed membership, and who is no member is forgotten: by a peer that
    /// hears the leader, since one that was away may know less than its address book.
    fn follow_membership(&self, last: &mut BTreeSet<PeerId>) {
        let members: BTreeSet<PeerId> = self.members().into_keys().collect();
        if members != *last {
            self.0.acquaintance.known().vouched.retain(|peer| !members.contains(peer));
            self.name_members();
            self.tell_again();
            *last = members;
        }
        if self.consensus().is_member() && self.is_led() {
            let known = self.known_peers();
            let gone = self.0.parts.addresses.forget(|peer| known.contains(peer));
            if !gone.is_empty() {
                tracing::info!(peers = ?gone, "peers that are no members are dialled no more");
                let nowhere = gone.into_iter().map(|peer| (peer, Vec::new()));
                self.0.parts.transport.set_addresses(nowhere.collect());
            }
        }
    }

    /// A peer belongs to another cluster than this one, or than this one is to join.
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
        if known.is_news(cluster) {
            tracing::warn!(
                %own, other = %cluster, %peer, name = %member.name, addresses = ?member.addresses,
                "another cluster met: two clusters must not share a cluster secret"
            );
        }
    }

    /// This peer founds a cluster because its configuration says so; another one may be there.
    pub(crate) fn founds_as_configured(&self) {
        self.0.acquaintance.founder.store(true, Ordering::Relaxed);
    }

    /// A peer that founded a cluster as configured, has nobody else in it, and meets one that has more
    /// members, was to join that: it has lost its disk.
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

    /// Whether this peer is of the cluster that is meant, as far as those it is connected to show.
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
    fn the_newcomer_is_whose_cluster_is_no_larger() {
        // The other clusters' sizes, this one's, and the size of the one beside which this is new.
        let table: [(&[u64], u64, Option<u64>); 7] = [
            (&[], 1, None),
            (&[1], 3, None),
            (&[3], 1, Some(3)),
            (&[3], 3, Some(3)),
            (&[1, 4, 2], 3, Some(4)),
            // Still joining: its cluster is not known to have members.
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
    async fn what_is_kept_of_others_is_bounded_and_told_once() {
        let mut known = Known::default();
        let cluster = ClusterId([1; 16]);
        assert!(known.is_news(cluster) && !known.is_news(cluster));
        tokio::time::advance(LOG_INTERVAL).await;
        assert!(known.is_news(cluster), "it is still there");
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
        assert_eq!(known.others[&peer(0)].size, 2, "who is known may have changed");
    }
}
