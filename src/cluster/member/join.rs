//! Joining: how a blank peer becomes a member, and how peers answer a hello.

use std::{collections::BTreeSet, time::Duration};

use tokio_util::sync::CancellationToken;

use super::taken::Taken;
use crate::{
    cluster::{Cluster, FatalError, JoinPolicy, Standing},
    rpc::AskError,
    types::{ClusterId, Hello, HelloReply, Member, PeerId, Refusal, TooOld},
};

/// Time between two rounds of requests to join.
const PERIOD: Duration = Duration::from_millis(500);
/// A joining peer waits this long for its daemon, so that the leader can refuse a daemon that another
/// peer uses. Without a daemon it joins, too.
const DAEMON_DEADLINE: Duration = Duration::from_secs(3);

impl Cluster {
    /// Asks to join until an applied entry makes this peer a member. An entry that is only in its log is
    /// not enough, since the leader may lose it with its disk.
    pub(in crate::cluster) async fn join_until_member(
        self,
        token: CancellationToken,
    ) -> Result<(), FatalError> {
        let book = self.0.parts.addresses.all();
        self.0.parts.transport.set_addresses(book);
        if !self.consensus().is_member() {
            tokio::select! {
                biased;
                () = token.cancelled() => return Ok(()),
                () = self.daemon_seen() => {}
            }
        }
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.consensus().is_member() {
            tokio::select! {
                biased;
                () = token.cancelled() => return Ok(()),
                _ = ticks.tick() => {}
            }
            if self.may_join() {
                tokio::select! {
                    biased;
                    () = token.cancelled() => return Ok(()),
                    asked = self.ask_around() => asked?,
                }
            }
        }
        Ok(())
    }

    async fn daemon_seen(&self) {
        let mut metrics = self.local_metrics();
        let seen = metrics.wait_for(|metrics| metrics.daemon.is_some());
        // After the deadline the peer joins without naming a daemon.
        let _ = tokio::time::timeout(DAEMON_DEADLINE, seen).await;
    }

    fn may_join(&self) -> bool {
        may_join(self.standing(), *self.0.join.borrow())
    }

    pub(in crate::cluster) fn wanted_cluster(&self) -> Option<ClusterId> {
        wanted_cluster(self.standing(), *self.0.join.borrow())
    }

    async fn ask_around(&self) -> Result<(), FatalError> {
        let mut peers: BTreeSet<PeerId> = self.0.parts.addresses.all().into_keys().collect();
        peers.extend(self.0.parts.transport.connected());
        for peer in peers {
            let Some(reply) = self.hello(peer).await? else { continue };
            let leader = reply.leader.filter(|leader| *leader != peer && !reply.admitted);
            if let Some(leader) = leader {
                self.hello(leader).await?;
            }
            if self.consensus().is_member() {
                break;
            }
        }
        Ok(())
    }

    /// Asks a peer to join; binds this peer's disk to the cluster of the answer if it may join that.
    async fn hello(&self, to: PeerId) -> Result<Option<HelloReply>, FatalError> {
        let daemon = self.local_metrics().borrow().daemon.as_ref().map(|daemon| daemon.id.clone());
        let hello = Hello { join: true, daemon, ..self.presentation() };
        let reply = match self.ask_peer(to, hello).await {
            Ok(reply) => reply,
            Err(AskError::Refused(Refusal::DaemonTaken(by))) => {
                self.0.taken.note(Taken::Daemon, by)?;
                return Ok(None);
            }
            Err(AskError::Refused(Refusal::NameTaken(by))) => {
                self.0.taken.note(Taken::Name, by)?;
                return Ok(None);
            }
            Err(AskError::Refused(Refusal::Removed)) => return Err(FatalError::Removed),
            Err(AskError::Refused(Refusal::TooOld { cluster, program })) => {
                return Err(TooOld { cluster, program }.into());
            }
            Err(error) => {
                tracing::debug!(%to, %error, "a hello was not answered");
                return Ok(None);
            }
        };
        if let Err(error) = reply.check() {
            tracing::debug!(%to, %error, "the answer to a hello is invalid");
            return Ok(None);
        }
        let Some((cluster, epoch)) = reply.cluster else { return Ok(None) };
        if !is_wanted(self.wanted_cluster(), cluster) {
            self.met_another(to, &reply.member, cluster, reply.members.len() as u64);
            return Ok(None);
        }
        // After a disk error the store refuses everything until it is opened anew, so this is fatal.
        self.consensus()
            .bind(cluster, epoch)
            .map_err(|error| FatalError::Disk(error.to_string()))?;
        self.joins_through(to, &reply);
        Ok(Some(reply))
    }

    /// Answers a peer's hello. The leader takes the peer in if it asks to join.
    pub(in crate::cluster) async fn answer_hello(
        &self,
        from: PeerId,
        of: Option<ClusterId>,
        hello: Hello,
    ) -> Result<HelloReply, Refusal> {
        hello.check().map_err(|error| Refusal::Invalid(error.to_string()))?;
        if self.state().read(|pins| pins.is_removed(from)) {
            return Err(Refusal::Removed);
        }
        self.met(from, of, &hello.member, hello.size, &hello.members);
        let leadership = *self.0.leadership.borrow();
        let known = self.members().remove(&from).map(|view| view.member);
        let others = match hello.join && leadership.local {
            true => self.in_conflict(from, &hello),
            false => Others::default(),
        };
        let mut members = self.members_with_addresses();
        match admission(&hello, self.cluster_id(), leadership.local, others, known.as_ref()) {
            Admission::OtherCluster => return Err(Refusal::OtherCluster(self.cluster_id())),
            Admission::DaemonTaken(by) => return Err(Refusal::DaemonTaken(by)),
            Admission::NameTaken(by) => return Err(Refusal::NameTaken(by)),
            Admission::AsItIs => {}
            Admission::TakeIn => {
                self.check_program(hello.level)?;
                let added = self.consensus().add_learner(from, hello.member.clone()).await;
                added.map_err(|error| Refusal::Failed(error.to_string()))?;
                tracing::info!(peer = %from, name = %hello.member.name, "a peer was taken in");
                members.insert(from, hello.member);
            }
        }
        let admitted = members.contains_key(&from);
        Ok(HelloReply {
            member: self.member().clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: self.consensus().cluster(),
            leader: leadership.leader,
            members,
            admitted,
        })
    }

    fn in_conflict(&self, from: PeerId, hello: &Hello) -> Others {
        let daemon = hello.daemon.as_ref();
        Others {
            user: daemon.and_then(|daemon| self.leader().metrics.user_of(daemon, from)),
            namesake: self.live_namesake(from, &hello.member.name),
        }
    }
}

/// Whether a peer that is no member asks others to join. A peer that is bound to a cluster asks
/// whatever the policy is: it may have crashed after it was bound and before it became a member.
fn may_join(standing: Standing, policy: JoinPolicy) -> bool {
    policy != JoinPolicy::Wait || standing != Standing::Blank
}

/// The only cluster that this peer may join; `None` means any.
fn wanted_cluster(standing: Standing, policy: JoinPolicy) -> Option<ClusterId> {
    match (standing, policy) {
        (Standing::Member { cluster, .. }, _) => Some(cluster),
        (Standing::Blank, JoinPolicy::Only(cluster)) => Some(cluster),
        (Standing::Blank, JoinPolicy::Any | JoinPolicy::Wait) => None,
    }
}

fn is_wanted(wanted: Option<ClusterId>, cluster: ClusterId) -> bool {
    wanted.is_none_or(|wanted| wanted == cluster)
}

/// What a hello does to the membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admission {
    /// The peer belongs to another cluster, or may join another one only.
    OtherCluster,
    /// This other peer uses its daemon. Two members must not share a daemon.
    DaemonTaken(PeerId),
    /// This other live peer has its name. A member of the same name counts as a successor.
    NameTaken(PeerId),
    /// The peer is new, or has a new name or new addresses.
    TakeIn,
    /// Nothing: the peer does not ask to join, this peer does not lead, or the membership has it already.
    AsItIs,
}

/// Other peers that conflict with one that asks to join.
#[derive(Clone, Copy, Debug, Default)]
struct Others {
    /// It uses the same daemon.
    user: Option<PeerId>,
    /// It is live, and has the same name.
    namesake: Option<PeerId>,
}

/// `known` is the peer's entry in the membership.
fn admission(
    hello: &Hello,
    own: Option<ClusterId>,
    leads: bool,
    others: Others,
    known: Option<&Member>,
) -> Admission {
    match others.user {
        _ if hello.join && own.is_some_and(|own| !is_wanted(hello.cluster, own)) => {
            Admission::OtherCluster
        }
        _ if !hello.join || !leads => Admission::AsItIs,
        Some(by) => Admission::DaemonTaken(by),
        None if known == Some(&hello.member) => Admission::AsItIs,
        None => others.namesake.map_or(Admission::TakeIn, Admission::NameTaken),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: ClusterId = ClusterId([1; 16]);
    const OTHER: ClusterId = ClusterId([2; 16]);

    #[test]
    fn a_peer_joins_only_its_own_cluster_or_one_that_its_policy_allows() {
        let of_one = Standing::Member { cluster: ONE, epoch: 3 };
        // Standing, policy; whether the peer asks to join, and whether it may join each cluster.
        let table = [
            (Standing::Blank, JoinPolicy::Wait, false, true, true),
            (Standing::Blank, JoinPolicy::Any, true, true, true),
            (Standing::Blank, JoinPolicy::Only(ONE), true, true, false),
            (Standing::Blank, JoinPolicy::Only(OTHER), true, false, true),
            (of_one, JoinPolicy::Wait, true, true, false),
            (of_one, JoinPolicy::Any, true, true, false),
            (of_one, JoinPolicy::Only(OTHER), true, true, false),
        ];
        for (standing, policy, asks, one, other) in table {
            let wanted = wanted_cluster(standing, policy);
            let found =
                (may_join(standing, policy), is_wanted(wanted, ONE), is_wanted(wanted, OTHER));
            assert_eq!(found, (asks, one, other), "{standing:?}, {policy:?}");
        }
    }

    #[test]
    fn a_leader_takes_in_each_peer_that_asks_with_a_daemon_of_its_own() {
        use Admission::{AsItIs, DaemonTaken, NameTaken, TakeIn};
        let by = PeerId([9; 32]);
        let member =
            |name: &str| Member { name: name.to_owned(), addresses: vec!["/a".to_owned()] };
        let moved = Member { addresses: vec!["/b".to_owned()], ..member("a") };
        // Whether the peer asks to join, whether this peer leads, the other user of the daemon, the
        // peer's entry in the membership.
        let table = [
            (true, true, None, None, TakeIn),
            (true, true, None, Some(member("b")), TakeIn),
            (true, true, None, Some(moved), TakeIn),
            (true, true, None, Some(member("a")), AsItIs),
            (true, true, Some(by), None, DaemonTaken(by)),
            (true, true, Some(by), Some(member("a")), DaemonTaken(by)),
            (true, false, None, None, AsItIs),
            (true, false, Some(by), None, AsItIs),
            (false, true, None, None, AsItIs),
            (false, true, Some(by), None, AsItIs),
        ];
        for (join, leads, user, known, expected) in table {
            let daemon = Some("d".to_owned());
            let mut hello = Hello { member: member("a"), daemon, join, ..Hello::default() };
            for cluster in [None, Some(ONE)] {
                hello.cluster = cluster;
                let mut others = Others { user, namesake: None };
                let found = admission(&hello, Some(ONE), leads, others, known.as_ref());
                assert_eq!(found, expected, "asks {join}, leads {leads}, {user:?}, {known:?}");
                others.namesake = Some(PeerId([8; 32]));
                let found = admission(&hello, Some(ONE), leads, others, known.as_ref());
                let taken = NameTaken(PeerId([8; 32]));
                let expected = if expected == TakeIn { taken } else { expected };
                assert_eq!(found, expected, "beside a live peer of the same name");
            }
            hello.cluster = Some(OTHER);
            let expected = if join { Admission::OtherCluster } else { expected };
            let others = Others { user, namesake: None };
            let found = admission(&hello, Some(ONE), leads, others, known.as_ref());
            assert_eq!(found, expected, "of another cluster, asks {join}, leads {leads}");
        }
    }
}
