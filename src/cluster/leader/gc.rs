//! Garbage collection across the cluster: one daemon at a time.
//!
//! The leader asks one member after the other, and each heeds only the leader it knows. Nothing of it
//! is on a disk: a leader that ends leaves at most one collection, which ends by itself, and the next
//! leader sees it in that peer's metrics. Calls are short: a collection is begun by one, and the
//! following ask how it goes.

mod policy;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval, sleep};

pub use self::policy::GcPolicy;
use super::Leader;
use crate::{
    cluster::{Cluster, FatalError, MemberView},
    consensus::random_u64,
    rpc::{AskError, CallError},
    types::{GcProgress, GcResult, GcResults, Metrics, PeerId, Refusal, Run, RunGcHere},
};

/// Between two looks at whose garbage is to be collected unasked.
const LOOK_PERIOD: Duration = Duration::from_secs(10);
/// Calls in a row that may fail before a peer is given up.
const FAILURES_MAX: u32 = 5;
/// Between two such calls.
const RETRY: Duration = Duration::from_secs(1);

/// What was begun at a peer may go on; why its end is not known.
#[derive(Debug, PartialEq, Eq)]
struct LostSight(String);

impl Cluster {
    /// On the leader: begins a round, or says how it goes.
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

    /// Whether a round may begin: an earlier leader's may still be under way at some peer.
    fn may_run_gc(&self, leader: &Leader, only: Option<PeerId>) -> Result<(), Refusal> {
        check_round(only, leader.metrics.has_heard(), &self.members(), &leader.metrics.valid())
    }

    /// Leads rounds that were asked for, or are due.
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
            Ok(()) => tracing::info!(%peer, "its space is scarce: its garbage is collected"),
            Err(error) => tracing::debug!(%peer, %error, "garbage is not collected now"),
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
                // Two daemons at once would make pins wait everywhere.
                Some(lost) => Err(format!("garbage may still be collected at {lost}")),
                None => {
                    self.run_gc_at(leader, peer, term).await.unwrap_or_else(|LostSight(reason)| {
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
    ) -> Result<GcResult, LostSight> {
        if !leader.metrics.valid().contains_key(&peer) {
            return Ok(Err("the peer is down".to_owned()));
        }
        let mut run = Run { ticket: random_u64(), begin: true };
        let mut trying = Trying::default();
        loop {
            let leadership = *self.0.leadership.borrow();
            if !leadership.local || leadership.term != term {
                let reason = "this leader was replaced; what has begun ends by itself";
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
            match trying.answered(answer) {
                Next::Ended(result) => return Ok(result),
                Next::LostSight(lost) => return Err(lost),
                Next::Ask => run.begin = false,
                Next::Retry => sleep(RETRY).await,
            }
        }
    }
}

/// Whether a round may begin, of all members or the one named.
fn check_round(
    only: Option<PeerId>,
    has_heard: bool,
    members: &BTreeMap<PeerId, MemberView>,
    metrics: &BTreeMap<PeerId, Metrics>,
) -> Result<(), Refusal> {
    if !has_heard {
        let reason = "the leader is new and has not heard of all peers";
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

/// How asking one peer goes.
#[derive(Debug, Default)]
struct Trying {
    /// Calls in a row that failed.
    failures: u32,
    may_have_begun: bool,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// It is under way: ask how it goes.
    Ask,
    /// The same again, a little later.
    Retry,
    Ended(GcResult),
    LostSight(LostSight),
}

impl Trying {
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
            (true, true) => Next::LostSight(LostSight(reason)),
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
    fn a_round_begins_when_nobody_is_known_or_may_be_to_collect() {
        let view = |n: u8| {
            let member = Member { name: format!("pod-{n}"), addresses: Vec::new() };
            (peer(n), MemberView { member, voter: true })
        };
        let members = [view(1), view(2)].into();
        let idle = Metrics::default();
        let gc = GcState { running: true, ..GcState::default() };
        let busy = Metrics { gc, ..Metrics::default() };
        let check = |only: Option<u8>, has_heard, first: &Metrics, second: &Metrics| {
            let metrics = [(peer(1), first.clone()), (peer(2), second.clone())].into();
            check_round(only.map(peer), has_heard, &members, &metrics)
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
    fn a_peer_is_asked_until_it_has_ended_or_is_lost_sight_of() {
        let unreachable = |sent| {
            let reason = "cut".to_owned();
            Err(CallError::Unreachable { peer: peer(1), reason, sent }.into())
        };
        let timeout = || Err(CallError::Timeout { peer: peer(1), deadline: RETRY }.into());
        let refused = |refusal: Refusal| Err(refusal.into());
        let collecting = || Ok(GcProgress::Running);
        let collected = || Ok(GcProgress::Ended(Ok(GcReport::default())));
        let last_of = |answers: Vec<Result<GcProgress<GcResult>, AskError>>| {
            let mut trying = Trying::default();
            let mut last = Next::Retry;
            for answer in answers {
                assert!(matches!(last, Next::Ask | Next::Retry), "{last:?} is the end");
                last = trying.answered(answer);
            }
            match last {
                Next::Ask => "ask",
                Next::Retry => "again",
                Next::Ended(Ok(_)) => "done",
                Next::Ended(Err(_)) => "not done",
                Next::LostSight(_) => "lost sight",
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
            // It may have begun there, whatever comes after.
            (vec![unreachable(true); 5], "lost sight"),
            ([vec![timeout()], vec![unreachable(false); 4]].concat(), "lost sight"),
            ([vec![collecting()], vec![unreachable(false); 4]].concat(), "again"),
            ([vec![collecting()], vec![unreachable(false); 5]].concat(), "lost sight"),
            ([vec![timeout(); 4], vec![collecting()], vec![timeout(); 4]].concat(), "again"),
        ];
        for (answers, expected) in table {
            assert_eq!(last_of(answers.clone()), expected, "{answers:?}");
        }
    }
}
