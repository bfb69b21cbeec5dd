//! How a blank peer becomes a member, and how peers present themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{Cluster, FatalError, JoinPolicy, Standing};
use crate::types::{ClusterId, Hello, HelloReply, PeerId, Refusal, Request, Response};

/// Between two rounds of asking.
const PERIOD: Duration = Duration::from_millis(500);
/// How long a joining peer waits for its daemon, so that the leader can tell whether that is another
/// peer's. Without a daemon it joins too.
const DAEMON_DEADLINE: Duration = Duration::from_secs(3);

impl Cluster {
    /// Asks around until this peer is a member: not only by an entry that a leader sent it and lost
    /// again with its own disk.
    pub(super) async fn join_until_member(
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
        // Late or never: then it is not told.
        let _ = tokio::time::timeout(DAEMON_DEADLINE, seen).await;
    }

    fn may_join(&self) -> bool {
        // A peer bound to a cluster goes on asking it; a crash may have come between the two.
        *self.0.join.borrow() != JoinPolicy::Wait || self.standing() != Standing::Blank
    }

    fn wanted_cluster(&self) -> Option<ClusterId> {
        match (self.standing(), *self.0.join.borrow()) {
            (Standing::Member { cluster, .. }, _) => Some(cluster),
            (Standing::Blank, JoinPolicy::Only(cluster)) => Some(cluster),
            (Standing::Blank, JoinPolicy::Any | JoinPolicy::Wait) => None,
        }
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

    /// Presents this peer; binds it to the cluster of the answer if that is a wanted one.
    async fn hello(&self, to: PeerId) -> Result<Option<HelloReply>, FatalError> {
        let hello = Hello {
            member: self.member().clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            daemon: self.local_metrics().borrow().daemon.as_ref().map(|daemon| daemon.id.clone()),
            join: true,
        };
        let reply = match self.call(to, Request::Hello(hello)).await {
            Ok(Response::Hello(reply)) => reply,
            Ok(Response::Refused(Refusal::DaemonTaken(by))) => {
                return Err(FatalError::DaemonTaken(by));
            }
            Ok(other) => {
                tracing::debug!(%to, answer = ?other, "not taken in yet");
                return Ok(None);
            }
            Err(error) => {
                tracing::debug!(%error, "a peer does not answer hello");
                return Ok(None);
            }
        };
        let addresses = reply.members.iter().map(|(id, m)| (*id, m.addresses.clone())).collect();
        self.learn_new_addresses(addresses);
        let Some((cluster, epoch)) = reply.cluster else { return Ok(None) };
        if self.wanted_cluster().is_some_and(|wanted| wanted != cluster) {
            tracing::warn!(%to, %cluster, wanted = ?self.wanted_cluster(), "a peer of another cluster answered");
            return Ok(None);
        }
        // The store answers nothing after an error of the disk, until it is opened anew.
        self.consensus()
            .bind(cluster, epoch)
            .map_err(|error| FatalError::Disk(error.to_string()))?;
        Ok(Some(reply))
    }

    /// Addresses from the membership are as old as the joining: they never replace known ones.
    fn learn_new_addresses(&self, addresses: BTreeMap<PeerId, Vec<String>>) {
        let known = self.0.parts.addresses.all();
        let new = addresses.into_iter().filter(|(peer, _)| !known.contains_key(peer)).collect();
        self.learn_addresses(new);
    }

    /// Answers a peer that presents itself; the leader takes it in if it asks for it.
    pub(super) async fn answer_hello(&self, from: PeerId, hello: Hello) -> Response {
        let leadership = *self.0.leadership.borrow();
        let mut members: BTreeMap<PeerId, crate::types::Member> =
            self.members().into_iter().map(|(id, view)| (id, view.member)).collect();
        let taken = hello.daemon.and_then(|daemon| self.0.monitor.user_of(&daemon, from));
        if let Some(by) = taken.filter(|_| hello.join && leadership.local) {
            return Response::Refused(Refusal::DaemonTaken(by));
        }
        if hello.join && leadership.local && members.get(&from) != Some(&hello.member) {
            if let Err(error) = self.consensus().add_learner(from, hello.member.clone()).await {
                return Response::Refused(Refusal::Failed(error.to_string()));
            }
            tracing::info!(peer = %from, name = %hello.member.name, "a peer was taken in");
            members.insert(from, hello.member);
        }
        let admitted = members.contains_key(&from);
        for (peer, addresses) in self.0.parts.addresses.all() {
            if let Some(member) = members.get_mut(&peer) {
                member.addresses = addresses;
            }
        }
        Response::Hello(HelloReply {
            member: self.member().clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: self.consensus().cluster(),
            leader: leadership.leader,
            members,
            admitted,
        })
    }
}
