//! What this peer tells the leader: the statuses of its pins and its metrics. The leader tells itself
//! in the same way.

use std::{collections::BTreeSet, time::Duration};

use futures::{StreamExt as _, stream};
use tokio::{
    sync::broadcast::{self, error::TryRecvError},
    time::{Instant, sleep, sleep_until},
};

use crate::cluster::{Cluster, FatalError, Leadership};
use crate::{
    consensus::random_u64,
    monitor::informer,
    rpc::AskError,
    state::Changed,
    types::{
        Cid, DaemonInfo, MetricsReply, PeerId, PinStatus, Refusal, StatusBatch, StatusReply, TooOld,
    },
};

/// The first change after a quiet time is told that soon, and what changes with it.
const LINGER: Duration = Duration::from_millis(10);
/// Between two batches, while pins change all the time: each is work for two peers.
const PERIOD: Duration = Duration::from_millis(50);
/// After so long without a batch an empty one is sent: if the leader has something else than what it
/// was told, it says so.
const QUIET_MAX: Duration = Duration::from_secs(10);
/// Wait after the leader did not take a batch.
const RETRY: Duration = Duration::from_millis(200);
/// Statuses in one batch: with long messages still far below a frame.
const BATCH_LEN: usize = 1000;
/// Between two looks at whether the daemons are connected; Kubo forgets peerings at a restart.
const CONNECT_PERIOD: Duration = Duration::from_secs(10);
/// Daemons that the own one is told to connect to at once.
const CONNECTS_MAX: usize = 8;

/// What has been told to whom.
struct Told {
    leader: PeerId,
    term: u64,
    /// Drawn at random for each full set, so that a late batch of an earlier one is known for that.
    stream: u64,
    next_sequence: u64,
    /// When the leader took something last.
    at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Push {
    Taken,
    SendAll,
    Failed,
}

/// What a peer has to tell now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tell {
    /// There is nobody to tell, or nothing to tell yet.
    Nothing,
    /// What changed since.
    Changes,
    /// The full set, to this leader.
    All(PeerId),
}

impl Cluster {
    /// Keeps the leader informed of this peer's pins.
    pub(in crate::cluster) async fn report(self) -> Result<(), FatalError> {
        let mut leadership = self.leadership();
        let mut changes = self.0.parts.tracker.subscribe();
        let mut pending = BTreeSet::new();
        let mut told: Option<Told> = None;
        let mut next = Instant::now();
        loop {
            let now = *leadership.borrow_and_update();
            let current = told.take().filter(|told| is_same(told, now));
            told = match self.report_once(current, now, &mut changes, &mut pending).await {
                Ok(told) => told,
                Err(()) => {
                    sleep(RETRY).await;
                    None
                }
            };
            // Changes came while all was told.
            if told.is_some() && !pending.is_empty() {
                continue;
            }
            tokio::select! {
                biased;
                changed = leadership.changed() => if changed.is_err() { return Ok(()) },
                changed = changes.recv() => {
                    if !collect(changed, &mut pending) {
                        told = None;
                    }
                    sleep_until(next.max(Instant::now() + LINGER)).await;
                    next = Instant::now() + PERIOD;
                    if !collect_rest(&mut changes, &mut pending) {
                        told = None;
                    }
                }
                () = sleep(RETRY), if told.is_none() && now.leader.is_some() => {}
                () = sleep(QUIET_MAX), if told.is_some() => {}
            }
        }
    }

    /// Brings the leader up to date; returns what it knows then, or `Err` when it did not take it.
    async fn report_once(
        &self,
        told: Option<Told>,
        now: Leadership,
        changes: &mut broadcast::Receiver<Changed>,
        pending: &mut BTreeSet<Cid>,
    ) -> Result<Option<Told>, ()> {
        let is_settled = self.0.parts.tracker.is_settled();
        match (tell(self.id(), now, told.is_some(), is_settled), told) {
            (Tell::Nothing, _) | (Tell::Changes, None) => Ok(None),
            (Tell::Changes, Some(told)) => self.report_changes(told, pending).await,
            (Tell::All(leader), _) => {
                let (term, stream, at) = (now.term, random_u64(), Instant::now());
                let told = Told { leader, term, stream, next_sequence: 0, at };
                self.report_all(told, changes, pending).await
            }
        }
    }

    /// Page by page. What changes meanwhile is `pending` afterwards.
    async fn report_all(
        &self,
        mut told: Told,
        changes: &mut broadcast::Receiver<Changed>,
        pending: &mut BTreeSet<Cid>,
    ) -> Result<Option<Told>, ()> {
        pending.clear();
        let mut after = None;
        loop {
            let entries = self.0.parts.tracker.seen();
            let (page, next) = self.0.parts.tracker.page(after.as_ref(), BATCH_LEN);
            let statuses = page.into_iter().map(|(cid, status)| (cid, Some(status))).collect();
            match self.push(&mut told, next.is_some(), entries, statuses).await {
                Push::Taken if !collect_rest(changes, pending) => return Ok(None),
                Push::Taken if next.is_none() => return Ok(Some(told)),
                Push::Taken => after = next,
                Push::SendAll => return Ok(None),
                Push::Failed => return Err(()),
            }
        }
    }

    async fn report_changes(
        &self,
        mut told: Told,
        pending: &mut BTreeSet<Cid>,
    ) -> Result<Option<Told>, ()> {
        if pending.is_empty() && told.at.elapsed() < QUIET_MAX {
            return Ok(Some(told));
        }
        let entries = self.0.parts.tracker.seen();
        let mut statuses = self.statuses_of(pending).into_iter();
        loop {
            let batch = statuses.by_ref().take(BATCH_LEN).collect();
            match self.push(&mut told, false, entries, batch).await {
                Push::Taken if statuses.len() == 0 => return Ok(Some(told)),
                Push::Taken => {}
                Push::SendAll => return Ok(None),
                Push::Failed => return Err(()),
            }
        }
    }

    fn statuses_of(&self, pending: &mut BTreeSet<Cid>) -> Vec<(Cid, Option<PinStatus>)> {
        std::mem::take(pending)
            .into_iter()
            .map(|cid| (cid, self.0.parts.tracker.status(&cid)))
            .collect()
    }

    async fn push(
        &self,
        told: &mut Told,
        more: bool,
        entries: u64,
        statuses: Vec<(Cid, Option<PinStatus>)>,
    ) -> Push {
        let batch = told.batch(more, entries, statuses);
        told.answered(self.ask_as_leader(told.leader, batch).await)
    }

    /// Pushes this peer's metrics: at half their time to live, at once when they changed or somebody
    /// else leads.
    pub(in crate::cluster) async fn push_metrics(self) -> Result<(), FatalError> {
        let mut leadership = self.leadership();
        let mut metrics = self.local_metrics();
        loop {
            let leader = leadership.borrow_and_update().leader;
            let mut current = metrics.borrow_and_update().clone();
            // As of now: a new leader must not believe that nobody collects.
            current.gc = self.0.parts.tracker.gc();
            current.level = self.program().level;
            let mut wait = informer::TTL / 2;
            if let Some(leader) = leader {
                match self.ask_as_leader(leader, current).await {
                    Ok(MetricsReply { daemons, addresses }) => {
                        self.0.answered.send_replace(Some(Instant::now()));
                        self.0.daemon_taken.clear();
                        self.hear_addresses(addresses);
                        self.0.daemons.send_if_modified(|known| {
                            let changed = *known != daemons;
                            *known = daemons;
                            changed
                        });
                    }
                    Err(AskError::Refused(Refusal::DaemonTaken(by))) => {
                        self.0.daemon_taken.note(by)?;
                        wait = RETRY;
                    }
                    Err(AskError::Refused(Refusal::TooOld { cluster, program })) => {
                        return Err(TooOld { cluster, program }.into());
                    }
                    Err(_) => wait = RETRY,
                }
            }
            tokio::select! {
                biased;
                changed = leadership.changed() => if changed.is_err() { return Ok(()) },
                changed = metrics.changed() => if changed.is_err() { return Ok(()) },
                () = sleep(wait) => {}
            }
        }
    }

    /// Keeps the daemons connected to each other: nothing else makes sure that a second replica finds
    /// the content.
    pub(in crate::cluster) async fn connect_daemons(self) -> Result<(), FatalError> {
        let mut daemons = self.0.daemons.subscribe();
        let mut metrics = self.local_metrics();
        let mut due = Instant::now();
        loop {
            let others: Vec<DaemonInfo> = daemons.borrow_and_update().values().cloned().collect();
            let up = metrics.borrow_and_update().daemon.is_some();
            // Side by side: one that is away must not keep the others waiting.
            let connect = async |daemon: &DaemonInfo| {
                let connect = self.0.parts.ipfs.connect(reachable(&daemon.addresses));
                if let Err(error) = connect.await {
                    tracing::debug!(daemon = %daemon.id, %error, "daemons were not connected");
                }
            };
            let others = stream::iter(others.iter().filter(|_| up));
            others.for_each_concurrent(CONNECTS_MAX, connect).await;
            due = (due + CONNECT_PERIOD).max(Instant::now());
            tokio::select! {
                biased;
                changed = daemons.changed() => if changed.is_err() { return Ok(()) },
                // The daemon beside this peer is there, or there again, and knows nobody.
                came = metrics.wait_for(|m| !up && m.daemon.is_some()) => {
                    if came.is_err() { return Ok(()) }
                }
                () = sleep_until(due) => {}
            }
        }
    }
}

impl Told {
    fn batch(
        &self,
        more: bool,
        entries: u64,
        statuses: Vec<(Cid, Option<PinStatus>)>,
    ) -> StatusBatch {
        let (stream, sequence) = (self.stream, self.next_sequence);
        StatusBatch { stream, sequence, more, entries, statuses }
    }

    /// What the answer to a batch comes to; the next one follows it only if it was taken.
    fn answered(&mut self, answer: Result<StatusReply, AskError>) -> Push {
        match answer {
            Ok(StatusReply::Taken) => {
                self.next_sequence += 1;
                self.at = Instant::now();
                Push::Taken
            }
            Ok(StatusReply::SendAll) => Push::SendAll,
            Err(error) => {
                tracing::debug!(%error, "the leader did not take statuses");
                Push::Failed
            }
        }
    }
}

/// What to tell the leader, which may have been told all before.
fn tell(own: PeerId, now: Leadership, told: bool, is_settled: bool) -> Tell {
    match now.leader {
        // A leader hears nobody before it may act as one.
        Some(leader) if leader != own || now.local => match told {
            true => Tell::Changes,
            // Before its first comparisons a peer knows less of its pins than the leader may.
            false if !is_settled => Tell::Nothing,
            false => Tell::All(leader),
        },
        _ => Tell::Nothing,
    }
}

fn is_same(told: &Told, now: Leadership) -> bool {
    now.leader == Some(told.leader) && now.term == told.term
}

/// Adds changed CIDs; `false` when some were missed and everything must be told again.
fn collect(
    changed: Result<Changed, broadcast::error::RecvError>,
    pending: &mut BTreeSet<Cid>,
) -> bool {
    match changed {
        Ok(Changed::Cids(cids)) => {
            pending.extend(cids.iter().copied());
            true
        }
        Ok(Changed::Everything) | Err(_) => false,
    }
}

/// Adds what else has changed by now; `false` as above. A lag has to be met here: it is told once.
fn collect_rest(changes: &mut broadcast::Receiver<Changed>, pending: &mut BTreeSet<Cid>) -> bool {
    let mut all = true;
    loop {
        all &= match changes.try_recv() {
            Ok(changed) => collect(Ok(changed), pending),
            Err(TryRecvError::Lagged(_)) => false,
            Err(TryRecvError::Empty | TryRecvError::Closed) => return all,
        };
    }
}

/// Loopback addresses reach a daemon on this machine only, so they count when there is nothing else.
fn reachable(addresses: &[String]) -> Vec<String> {
    let is_local = |a: &&String| a.starts_with("/ip4/127.") || a.starts_with("/ip6/::1/");
    let remote: Vec<String> = addresses.iter().filter(|a| !is_local(a)).cloned().collect();
    if remote.is_empty() { addresses.to_vec() } else { remote }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::rpc::CallError;

    fn changed() -> Changed {
        let cid: Cid = "QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR".parse().unwrap();
        Changed::Cids([cid].into())
    }

    const OWN: PeerId = PeerId([1; 32]);
    const OTHER: PeerId = PeerId([2; 32]);

    #[test]
    fn a_full_set_is_told_first_and_by_a_peer_that_knows_its_pins() {
        // The leader, whether it may act as one here, whether it was told all, whether this peer knows
        // its pins.
        let table = [
            (None, false, false, true, Tell::Nothing),
            (None, false, true, true, Tell::Nothing),
            (Some(OTHER), false, false, true, Tell::All(OTHER)),
            (Some(OTHER), false, true, true, Tell::Changes),
            (Some(OTHER), false, false, false, Tell::Nothing),
            (Some(OTHER), false, true, false, Tell::Changes),
            (Some(OWN), false, false, true, Tell::Nothing),
            (Some(OWN), false, true, true, Tell::Nothing),
            (Some(OWN), true, false, true, Tell::All(OWN)),
            (Some(OWN), true, true, true, Tell::Changes),
        ];
        for (leader, local, told, is_settled, expected) in table {
            let now = Leadership { leader, term: 3, local };
            let found = tell(OWN, now, told, is_settled);
            assert_eq!(found, expected, "{now:?}, told {told}, settled {is_settled}");
        }
    }

    #[test]
    fn what_a_leader_was_told_in_another_term_it_does_not_know() {
        let now = |leader, term| Leadership { leader, term, local: false };
        let table = [
            (now(Some(OTHER), 3), true),
            (now(Some(OTHER), 4), false),
            (now(Some(OWN), 3), false),
            (now(None, 3), false),
        ];
        for (now, same) in table {
            assert_eq!(is_same(&told(), now), same, "{now:?}");
        }
    }

    fn told() -> Told {
        let at = Instant::now();
        Told { leader: OTHER, term: 3, stream: 9, next_sequence: 0, at }
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_numbered_anew_only_when_the_one_before_was_taken() {
        let mut told = told();
        let (begun, second) = (told.at, Duration::from_secs(1));
        let number = |told: &Told| {
            let batch = told.batch(true, 7, vec![]);
            assert_eq!((batch.stream, batch.more, batch.entries), (9, true, 7));
            batch.sequence
        };
        let unreachable = |sent| CallError::Unreachable { peer: OTHER, reason: "cut".into(), sent };
        let timeout = CallError::Timeout { peer: OTHER, deadline: second };
        let table = [
            (Ok(StatusReply::Taken), Push::Taken),
            (Ok(StatusReply::Taken), Push::Taken),
            (Ok(StatusReply::SendAll), Push::SendAll),
            (Err(Refusal::NotLeader(None).into()), Push::Failed),
            (Err(Refusal::Busy.into()), Push::Failed),
            (Err(AskError::Unexpected("Done".to_owned())), Push::Failed),
            (Err(unreachable(false).into()), Push::Failed),
            (Err(unreachable(true).into()), Push::Failed),
            (Err(timeout.into()), Push::Failed),
        ];
        let mut expected = (0, begun);
        for (answer, push) in table {
            tokio::time::advance(second).await;
            if push == Push::Taken {
                expected = (expected.0 + 1, Instant::now());
            }
            assert_eq!(told.answered(answer.clone()), push, "{answer:?}");
            assert_eq!((number(&told), told.at), expected, "{answer:?}");
        }
    }

    #[test]
    fn a_change_of_anything_is_told_as_a_full_set() {
        let mut pending = BTreeSet::new();
        assert!(collect(Ok(changed()), &mut pending) && pending.len() == 1);
        assert!(!collect(Ok(Changed::Everything), &mut pending));
        assert!(!collect(Err(broadcast::error::RecvError::Lagged(1)), &mut pending));
    }

    #[test]
    fn loopback_addresses_count_when_there_are_no_others() {
        let all = |all: &[&str]| all.iter().map(|&one| one.to_owned()).collect::<Vec<_>>();
        let (four, six, real) =
            ("/ip4/127.0.0.1/tcp/4001", "/ip6/::1/tcp/4001", "/ip4/10.0.0.1/tcp/4001");
        assert_eq!(reachable(&all(&[four, real, six])), all(&[real]));
        assert_eq!(reachable(&all(&[four, six])), all(&[four, six]));
    }

    #[test]
    fn changes_lost_while_others_are_collected_are_noticed() {
        let (sender, mut changes) = broadcast::channel(2);
        let mut pending = BTreeSet::new();
        sender.send(changed()).unwrap();
        assert!(collect_rest(&mut changes, &mut pending));
        assert_eq!(pending.len(), 1);
        for _ in 0..3 {
            sender.send(changed()).unwrap();
        }
        assert!(!collect_rest(&mut changes, &mut pending), "one was overwritten");
        assert!(collect_rest(&mut changes, &mut pending), "that is told once");
    }
}
