//! Garbage collection across the cluster, one daemon at a time.
//!
//! The leader asks one member after the other, and each obeys only the leader that it knows. Nothing of
//! this is on disk. A leader that stops leaves at most one collection behind. That ends by itself, and
//! the next leader sees it in the metrics of its peer. Calls are short: the first begins a run, and
//! further ones ask for its progress.

mod policy;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval, sleep};

pub use self::policy::GcPolicy;
use super::Leader;
use crate::{
    cluster::{Cluster, FatalError, MemberView},
    rpc::{AskError, CallError},
    runtime::random_u64,
    types::{GcProgress, GcResult, GcResults, Metrics, PeerId, Refusal, Run, RunGcHere},
};

/// Time between two checks whether the policy finds a daemon due.
const LOOK_PERIOD: Duration = Duration::from_secs(10);
/// The leader gives a peer up after this many failed calls in a row.
const FAILURES_MAX: u32 = 5;
/// Wait after a failed call.
const RETRY: Duration = Duration::from_secs(1);

/// A run that may still go on at a peer that does not answer, with the reason.
#[derive(Debug, PartialEq, Eq)]
struct EndUnknown(String);

impl Cluster {
    /// On the leader: begins a round, or answers with its progress.
    pub(in crate::cluster) async fn run_gc_as_leader(
        &self,
        run: Run,
        only: Option<PeerId>,
    ) -> Result<GcProgress<GcResults>, Refusal> {
        let leader = self.leader();
        let rounds = &leader.gc_rounds;
        if run.begin && !rounds.knows(run.ticket) {
            self.may_run_gc(&leader, only)?;
        }
        rounds.ask(run, only)?;
        let results = rounds.outcome(run.ticket).await;
        Ok(results.map_or(GcProgress::Running, GcProgress::Ended))
    }

    /// Checks that no run of an earlier leader may still be under way, and that `only` is a member.
    fn may_run_gc(&self, leader: &Leader, only: Option<PeerId>) -> Result<(), Refusal> {
        check_round(
            only,
            leader.metrics.all_could_report(),
            &self.members(),
            &leader.metrics.valid(),
        )
    }

    /// Leads the rounds that were requested, and those that the policy finds due.
    pub(in crate::cluster) async fn lead_gc(self, leader: Arc<Leader>) -> Result<(), FatalError> {
        let rounds = &leader.gc_rounds;
        let mut looks = interval(LOOK_PERIOD);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                only = rounds.next() => rounds.end(self.gc_round(&leader, only).await),
                _ = looks.tick(), if self.0.parts.gc.is_some() => self.run_gc_if_due(&leader),
            }
        }
    }

    fn run_gc_if_due(&self, leader: &Leader) {
        let Some(policy) = self.0.parts.gc else { return };
        if !self.0.leadership.borrow().local {
            return;
        }
        let Some(peer) = policy::next(policy, &leader.metrics.valid()) else { return };
        let run = Run { ticket: random_u64(), begin: true };
        let begun = self
            .may_run_gc(leader, Some(peer))
            .and_then(|()| leader.gc_rounds.ask(run, Some(peer)));
        match begun {
            Ok(()) => {
                tracing::info!(%peer, "little space is left: collecting the garbage of this peer")
            }
            Err(error) => tracing::debug!(%peer, %error, "no collection begins now"),
        }
    }

    async fn gc_round(&self, leader: &Leader, only: Option<PeerId>) -> GcResults {
        let term = self.0.leadership.borrow().term;
        let peers = match only {
            Some(peer) => vec![peer],
            None => self.members().into_keys().collect(),
        };
        let mut results = BTreeMap::new();
        let mut lost = None;
        for peer in peers {
            let result = match lost {
                // If two daemons collected at once, pins might wait on all peers.
                Some(lost) => Err(format!("garbage may still be collected at {lost}")),
                None => {
                    self.run_gc_at(leader, peer, term).await.unwrap_or_else(|EndUnknown(reason)| {
                        lost = Some(peer);
                        Err(reason)
                    })
                }
            };
            if let Err(reason) = &result {
                tracing::warn!(%peer, reason, "its garbage was not collected");
            }
            results.insert(peer, result);
        }
        results
    }

    async fn run_gc_at(
        &self,
        leader: &Leader,
        peer: PeerId,
        term: u64,
    ) -> Result<GcResult, EndUnknown> {
        if !leader.metrics.valid().contains_key(&peer) {
            return Ok(Err("the peer is down".to_owned()));
        }
        let mut run = Run { ticket: random_u64(), begin: true };
        let mut calls = Calls::default();
        loop {
            let leadership = *self.0.leadership.borrow();
            if !leadership.local || leadership.term != term {
                let reason = "this leader was replaced; a run that has begun ends by itself";
                return Ok(Err(reason.to_owned()));
            }
            let answer = if peer == self.id() {
                self.run_gc_here(peer, run).await.map_err(AskError::from)
            } else {
                self.ask_peer(peer, RunGcHere { run }).await
            };
            if matches!(answer, Ok(GcProgress::Ended(_))) {
                leader.metrics.collected(&peer);
            }
            match calls.answered(answer) {
                Next::Ended(result) => return Ok(result),
                Next::EndUnknown(lost) => return Err(lost),
                Next::Ask => run.begin = false,
                Next::Retry => sleep(RETRY).await,
            }
        }
    }
}

/// Checks that a round may begin, over all members or only the given one.
fn check_round(
    only: Option<PeerId>,
    all_could_report: bool,
    members: &BTreeMap<PeerId, MemberView>,
    metrics: &BTreeMap<PeerId, Metrics>,
) -> Result<(), Refusal> {
    if !all_could_report {
        let reason = "the leader is new and has not yet heard from all peers";
        return Err(Refusal::NotYet(reason.to_owned()));
    }
    if let Some(peer) = only.filter(|peer| !members.contains_key(peer)) {
        return Err(Refusal::Invalid(format!("{peer} is no member")));
    }
    match metrics.iter().find(|(_, metrics)| metrics.gc.running) {
        None => Ok(()),
        Some((peer, _)) => {
            let name = members.get(peer).map_or("", |view| view.member.name.as_str());
            let reason = format!("garbage is being collected already, at {name}; try again later");
            Err(Refusal::GcRunning(reason))
        }
    }
}

/// The calls to one peer for its run.
#[derive(Debug, Default)]
struct Calls {
    /// Failed calls in a row.
    failures: u32,
    may_have_begun: bool,
}

/// What to do after a call.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// The run is under way: ask for its progress.
    Ask,
    /// Repeat the call after [`RETRY`].
    Retry,
    Ended(GcResult),
    EndUnknown(EndUnknown),
}

impl Calls {
    fn answered(&mut self, answer: Result<GcProgress<GcResult>, AskError>) -> Next {
        let reason = match answer {
            Ok(GcProgress::Running) => {
                *self = Self { failures: 0, may_have_begun: true };
                return Next::Ask;
            }
            Ok(GcProgress::Ended(result)) => return Next::Ended(result),
            Err(AskError::Refused(refusal @ (Refusal::Busy | Refusal::NotLeader(_)))) => {
                refusal.to_string()
            }
            Err(error @ (AskError::Refused(_) | AskError::Unexpected(_))) => {
                return Next::Ended(Err(error.to_string()));
            }
            Err(AskError::Call(error)) => {
                self.may_have_begun |= !matches!(error, CallError::Unreachable { sent: false, .. });
                error.to_string()
            }
        };
        self.failures += 1;
        match (self.failures >= FAILURES_MAX, self.may_have_begun) {
            (false, _) => Next::Retry,
            (true, false) => Next::Ended(Err(reason)),
            (true, true) => Next::EndUnknown(EndUnknown(reason)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{GcReport, GcState, Member};

    fn peer(n: u8) -> PeerId {
        PeerId([n; 32])
    }

    #[test]
    fn a_round_begins_only_when_no_peer_collects_or_may_collect() {
        let view = |n: u8| {
            let member = Member { name: format!("pod-{n}"), addresses: Vec::new() };
            (peer(n), MemberView { member, voter: true })
        };
        let members = [view(1), view(2)].into();
        let idle = Metrics::default();
        let gc = GcState { running: true, ..GcState::default() };
        let busy = Metrics { gc, ..Metrics::default() };
        let check = |only: Option<u8>, all_could_report, first: &Metrics, second: &Metrics| {
            let metrics = [(peer(1), first.clone()), (peer(2), second.clone())].into();
            check_round(only.map(peer), all_could_report, &members, &metrics)
        };
        for only in [None, Some(1), Some(2)] {
            assert_eq!(check(only, true, &idle, &idle), Ok(()));
            let early = check(only, false, &idle, &idle);
            assert!(matches!(early, Err(Refusal::NotYet(_))), "{early:?}");
            let second = check(only, true, &idle, &busy);
            assert!(
                matches!(&second, Err(Refusal::GcRunning(at)) if at.contains("pod-2")),
                "{second:?}"
            );
        }
        assert!(matches!(check(Some(3), true, &idle, &idle), Err(Refusal::Invalid(_))));
    }

    #[test]
    fn a_peer_is_asked_until_its_run_ends_or_its_end_is_unknown() {
        let unreachable = |sent| {
            let reason = "cut".to_owned();
            Err(CallError::Unreachable { peer: peer(1), reason, sent }.into())
        };
        let timeout = || Err(CallError::Timeout { peer: peer(1), deadline: RETRY }.into());
        let refused = |refusal: Refusal| Err(refusal.into());
        let collecting = || Ok(GcProgress::Running);
        let collected = || Ok(GcProgress::Ended(Ok(GcReport::default())));
        let last_of = |answers: Vec<Result<GcProgress<GcResult>, AskError>>| {
            let mut calls = Calls::default();
            let mut last = Next::Retry;
            for answer in answers {
                assert!(matches!(last, Next::Ask | Next::Retry), "{last:?} is the end");
                last = calls.answered(answer);
            }
            match last {
                Next::Ask => "ask",
                Next::Retry => "again",
                Next::Ended(Ok(_)) => "done",
                Next::Ended(Err(_)) => "not done",
                Next::EndUnknown(_) => "unknown",
            }
        };
        let table = [
            (vec![collecting()], "ask"),
            (vec![collecting(), collected()], "done"),
            (vec![Ok(GcProgress::Ended(Err("no".to_owned())))], "not done"),
            (vec![refused(Refusal::Busy)], "again"),
            (vec![refused(Refusal::NotLeader(None))], "again"),
            (vec![refused(Refusal::Invalid(String::new()))], "not done"),
            (vec![refused(Refusal::GcRunning(String::new()))], "not done"),
            (vec![Err(AskError::Unexpected("Done".to_owned()))], "not done"),
            (vec![unreachable(false); 4], "again"),
            (vec![unreachable(false); 5], "not done"),
            (vec![refused(Refusal::Busy); 5], "not done"),
            // The run may have begun, so later failures cannot rule that out.
            (vec![unreachable(true); 5], "unknown"),
            ([vec![timeout()], vec![unreachable(false); 4]].concat(), "unknown"),
            ([vec![collecting()], vec![unreachable(false); 4]].concat(), "again"),
            ([vec![collecting()], vec![unreachable(false); 5]].concat(), "unknown"),
            ([vec![timeout(); 4], vec![collecting()], vec![timeout(); 4]].concat(), "again"),
        ];
        for (answers, expected) in table {
            assert_eq!(last_of(answers.clone()), expected, "{answers:?}");
        }
    }
}
