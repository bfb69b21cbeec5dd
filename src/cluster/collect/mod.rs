//! Garbage collection across the cluster: one daemon at a time.
//!
//! The leader asks one member after the other, and each heeds only the leader it knows. Nothing of it
//! is on a disk: a leader that ends leaves at most one collection, which ends by itself, and the next
//! leader sees it in that peer's metrics. Calls are short: a collection is begun by one, and the
//! following ask how it goes.

mod policy;
mod runs;

use std::{collections::BTreeMap, time::Duration};

use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

pub use self::policy::GcPolicy;
pub(super) use self::runs::Runs;
use super::{Cluster, FatalError, Standing, UseCaseError, use_cases::unexpected};
use crate::{
    consensus::random_u64,
    rpc::CallError,
    types::{CollectResult, PeerId, Refusal, Request, Response, Run},
};

/// Between two looks at whose garbage is to be collected unasked.
const LOOK_PERIOD: Duration = Duration::from_secs(10);
/// Calls in a row that may fail before a peer is given up.
const FAILURES_MAX: u32 = 5;
/// Between two such calls.
const RETRY: Duration = Duration::from_secs(1);

/// What came of a collection at each peer.
pub type CollectResults = BTreeMap<PeerId, CollectResult>;

/// What was begun at a peer may go on; why its end is not known.
struct LostSight(String);

impl Cluster {
    /// Has all daemons collect their garbage, one after the other, or only this peer's; returns when
    /// all are done.
    ///
    /// # Errors
    /// When garbage is being collected already, and as in [`UseCaseError`]. What went wrong at single
    /// peers is in the results.
    pub async fn collect_garbage(&self, local: bool) -> Result<CollectResults, UseCaseError> {
        if self.standing() == Standing::Blank {
            return Err(UseCaseError::NoLeader(
                "this peer has not joined a cluster yet".to_owned(),
            ));
        }
        let only = local.then(|| self.id());
        let mut run = Run { ticket: random_u64(), begin: true };
        loop {
            match self.ask(Request::CollectGarbage(run, only)).await {
                Ok(Response::Collecting) => run.begin = false,
                Ok(Response::CollectedAll(results)) => return Ok(results),
                Ok(other) => return Err(unexpected(&other)),
                // It was well asked once.
                Err(UseCaseError::Invalid(reason)) if !run.begin => {
                    return Err(UseCaseError::Failed(reason));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// On the leader: begins a round, or says how it goes.
    pub(super) async fn collect_as_leader(
        &self,
        run: Run,
        only: Option<PeerId>,
    ) -> Result<Response, Refusal> {
        let rounds = &self.0.collection_rounds;
        if run.begin && !rounds.knows(run.ticket) {
            self.may_collect(only)?;
        }
        rounds.ask(run, only)?;
        let results = rounds.outcome(run.ticket).await;
        Ok(results.map_or(Response::Collecting, Response::CollectedAll))
    }

    /// Whether a round may begin: an earlier leader's may still be under way at some peer.
    fn may_collect(&self, only: Option<PeerId>) -> Result<(), Refusal> {
        if !self.0.monitor.has_heard() {
            let reason = "the leader is new and has not heard of all peers";
            return Err(Refusal::NotYet(reason.to_owned()));
        }
        let members = self.members();
        if let Some(peer) = only.filter(|peer| !members.contains_key(peer)) {
            return Err(Refusal::Invalid(format!("{peer} is no member")));
        }
        let metrics = self.peer_metrics();
        match metrics.iter().find(|(_, metrics)| metrics.garbage.collecting) {
            None => Ok(()),
            Some((peer, _)) => {
                let name = members.get(peer).map_or("", |view| view.member.name.as_str());
                let reason =
                    format!("garbage is being collected already, at {name}; try again later");
                Err(Refusal::Collecting(reason))
            }
        }
    }

    /// Begins to collect the garbage of this peer's daemon for the leader, or says how it goes.
    pub(super) async fn collect_here(&self, from: PeerId, run: Run) -> Result<Response, Refusal> {
        let leader = self.0.leadership.borrow().leader;
        if leader != Some(from) {
            return Err(Refusal::NotLeader(leader));
        }
        let own = &self.0.own_collection;
        own.ask(run, ())?;
        Ok(own.outcome(run.ticket).await.map_or(Response::Collecting, Response::Collected))
    }

    /// Collects this peer's garbage when it was asked for.
    pub(super) async fn collect_own(self, token: CancellationToken) -> Result<(), FatalError> {
        let own = &self.0.own_collection;
        let work = async {
            loop {
                own.next().await;
                own.end(self.0.parts.tracker.collect_garbage().await);
            }
        };
        token.run_until_cancelled(work).await;
        Ok(())
    }

    /// Leads rounds that were asked for, or are due.
    pub(super) async fn lead_collections(self, token: CancellationToken) -> Result<(), FatalError> {
        let rounds = &self.0.collection_rounds;
        let mut looks = interval(LOOK_PERIOD);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let work = async {
            loop {
                tokio::select! {
                    biased;
                    only = rounds.next() => rounds.end(self.collect_round(only).await),
                    _ = looks.tick(), if self.0.parts.gc.is_some() => self.collect_if_due(),
                }
            }
        };
        token.run_until_cancelled(work).await;
        Ok(())
    }

    fn collect_if_due(&self) {
        let Some(policy) = self.0.parts.gc else { return };
        if !self.0.leadership.borrow().local {
            return;
        }
        let Some(peer) = policy::next(policy, &self.peer_metrics()) else { return };
        let run = Run { ticket: random_u64(), begin: true };
        let begun = self
            .may_collect(Some(peer))
            .and_then(|()| self.0.collection_rounds.ask(run, Some(peer)));
        match begun {
            Ok(()) => tracing::info!(%peer, "its space is scarce: its garbage is collected"),
            Err(error) => tracing::debug!(%peer, %error, "garbage is not collected now"),
        }
    }

    async fn collect_round(&self, only: Option<PeerId>) -> CollectResults {
        let term = self.0.leadership.borrow().term;
        let peers = match only {
            Some(peer) => vec![peer],
            None => self.members().into_keys().collect(),
        };
        let mut results = BTreeMap::new();
        let mut lost = None;
        for peer in peers {
            let result = match lost {
                // Two daemons at once would make pins wait everywhere.
                Some(lost) => Err(format!("garbage may still be collected at {lost}")),
                None => self.collect_at(peer, term).await.unwrap_or_else(|LostSight(reason)| {
                    lost = Some(peer);
                    Err(reason)
                }),
            };
            if let Err(reason) = &result {
                tracing::warn!(%peer, reason, "its garbage was not collected");
            }
            results.insert(peer, result);
        }
        results
    }

    async fn collect_at(&self, peer: PeerId, term: u64) -> Result<CollectResult, LostSight> {
        if !self.peer_metrics().contains_key(&peer) {
            return Ok(Err("the peer is down".to_owned()));
        }
        let mut run = Run { ticket: random_u64(), begin: true };
        let (mut failures, mut may_have_begun) = (0, false);
        loop {
            let leadership = *self.0.leadership.borrow();
            if !leadership.local || leadership.term != term {
                let reason = "this leader was replaced; what has begun ends by itself";
                return Ok(Err(reason.to_owned()));
            }
            let answer = if peer == self.id() {
                Ok(self.collect_here(peer, run).await.unwrap_or_else(Response::Refused))
            } else {
                self.call(peer, Request::CollectHere(run)).await
            };
            let reason = match answer {
                Ok(Response::Collecting) => {
                    (run.begin, may_have_begun) = (false, true);
                    failures = 0;
                    continue;
                }
                Ok(Response::Collected(result)) => {
                    self.0.monitor.collected(&peer);
                    return Ok(result);
                }
                Ok(Response::Refused(refusal @ (Refusal::Busy | Refusal::NotLeader(_)))) => {
                    refusal.to_string()
                }
                Ok(Response::Refused(refusal)) => return Ok(Err(refusal.to_string())),
                Ok(other) => return Ok(Err(format!("an unexpected answer: {other:?}"))),
                Err(error) => {
                    may_have_begun |= !matches!(error, CallError::Unreachable { sent: false, .. });
                    error.to_string()
                }
            };
            failures += 1;
            if failures >= FAILURES_MAX {
                return if may_have_begun { Err(LostSight(reason)) } else { Ok(Err(reason)) };
            }
            sleep(RETRY).await;
        }
    }
}
