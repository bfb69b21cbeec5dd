//! Reports this peer's pin statuses and peer metrics to the leader, and keeps the daemons connected. The
//! leader reports to itself in the same way.

use std::{collections::BTreeSet, time::Duration};

use futures::{StreamExt as _, stream};
use tokio::{
    sync::broadcast::{self, error::TryRecvError},
    time::{Instant, sleep, sleep_until},
};

use super::taken::Taken;
use crate::{
    cluster::{Cluster, FatalError, Leadership},
    monitor::informer,
    rpc::AskError,
    runtime::random_u64,
    state::Changed,
    types::{
        Cid, DaemonInfo, MetricsReply, PeerId, PinStatus, Refusal, StatusBatch, StatusReply, TooOld,
    },
};

/// Wait after a change, so that changes that follow at once go into the same batch.
const LINGER: Duration = Duration::from_millis(10);
/// Least time between two batches while pins change steadily, since each batch costs work on two peers.
const PERIOD: Duration = Duration::from_millis(50);
/// An empty batch is sent after this long without one. If the leader misses an earlier batch, it asks
/// for a full set.
const QUIET_MAX: Duration = Duration::from_secs(10);
/// Wait before the next attempt when the leader did not take a batch or metrics.
const RETRY: Duration = Duration::from_millis(200);
/// Statuses in one batch. Even with long messages it stays far below the limit of a frame.
const BATCH_LEN: usize = 1000;
/// How often the daemon is asked again to connect to the others: Kubo forgets peerings at a restart.
const CONNECT_PERIOD: Duration = Duration::from_secs(10);
/// Bound on the daemons that this peer's daemon is asked to connect to at the same time.
const CONNECTS_MAX: usize = 8;

/// A stream of reports to one leader: a full set, then the changes.
struct ReportStream {
    leader: PeerId,
    term: u64,
    /// Random for each full set, so that the leader recognises a late batch of an earlier stream.
    id: u64,
    next_sequence: u64,
    /// When the leader last took a batch.
    taken_at: Instant,
}

/// The result of sending a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Push {
    Taken,
    SendAll,
    Failed,
}

/// What to report now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// No leader acts as one yet, or this peer does not know its pins yet.
    Nothing,
    /// The changes since the last batch.
    Changes,
    /// A full set, to this leader.
    FullSet(PeerId),
}

impl Cluster {
    /// Reports the statuses of this peer's pins to the leader, as they change.
    pub(in crate::cluster) async fn report(self) -> Result<(), FatalError> {
        let mut leadership = self.leadership();
        let mut changes = self.0.parts.tracker.subscribe();
        let mut pending = BTreeSet::new();
        let mut stream: Option<ReportStream> = None;
        let mut next = Instant::now();
        loop {
            let now = *leadership.borrow_and_update();
            let current = stream.take().filter(|stream| is_same(stream, now));
            stream = match self.report_once(current, now, &mut changes, &mut pending).await {
                Ok(stream) => stream,
                Err(()) => {
                    sleep(RETRY).await;
                    None
                }
            };
            // Changes came while the full set was sent.
            if stream.is_some() && !pending.is_empty() {
                continue;
            }
            tokio::select! {
                biased;
                changed = leadership.changed() => if changed.is_err() { return Ok(()) },
                changed = changes.recv() => {
                    if !collect(changed, &mut pending) {
                        stream = None;
                    }
                    sleep_until(next.max(Instant::now() + LINGER)).await;
                    next = Instant::now() + PERIOD;
                    if !collect_rest(&mut changes, &mut pending) {
                        stream = None;
                    }
                }
                () = sleep(RETRY), if stream.is_none() && now.leader.is_some() => {}
                () = sleep(QUIET_MAX), if stream.is_some() => {}
            }
        }
    }

    /// Sends what is due. Returns the stream that goes on, or `Err` if the leader did not take a batch.
    async fn report_once(
        &self,
        stream: Option<ReportStream>,
        now: Leadership,
        changes: &mut broadcast::Receiver<Changed>,
        pending: &mut BTreeSet<Cid>,
    ) -> Result<Option<ReportStream>, ()> {
        let is_settled = self.0.parts.tracker.is_settled();
        match (due(self.id(), now, stream.is_some(), is_settled), stream) {
            (Due::Nothing, _) | (Due::Changes, None) => Ok(None),
            (Due::Changes, Some(stream)) => self.report_changes(stream, pending).await,
            (Due::FullSet(leader), _) => {
                let (term, id, taken_at) = (now.term, random_u64(), Instant::now());
                let stream = ReportStream { leader, term, id, next_sequence: 0, taken_at };
                self.report_all(stream, changes, pending).await
            }
        }
    }

    /// Sends the full set, page by page. Changes that come meanwhile are in `pending` afterwards.
    async fn report_all(
        &self,
        mut stream: ReportStream,
        changes: &mut broadcast::Receiver<Changed>,
        pending: &mut BTreeSet<Cid>,
    ) -> Result<Option<ReportStream>, ()> {
        pending.clear();
        let mut after = None;
        loop {
            let entries = self.0.parts.tracker.seen();
            let (page, next) = self.0.parts.tracker.page(after.as_ref(), BATCH_LEN);
            let statuses = page.into_iter().map(|(cid, status)| (cid, Some(status))).collect();
            match self.push(&mut stream, next.is_some(), entries, statuses).await {
                Push::Taken if !collect_rest(changes, pending) => return Ok(None),
                Push::Taken if next.is_none() => return Ok(Some(stream)),
                Push::Taken => after = next,
                Push::SendAll => return Ok(None),
                Push::Failed => return Err(()),
            }
        }
    }

    async fn report_changes(
        &self,
        mut stream: ReportStream,
        pending: &mut BTreeSet<Cid>,
    ) -> Result<Option<ReportStream>, ()> {
        if pending.is_empty() && stream.taken_at.elapsed() < QUIET_MAX {
            return Ok(Some(stream));
        }
        let entries = self.0.parts.tracker.seen();
        let mut statuses = self.statuses_of(pending).into_iter();
        loop {
            let batch = statuses.by_ref().take(BATCH_LEN).collect();
            match self.push(&mut stream, false, entries, batch).await {
                Push::Taken if statuses.len() == 0 => return Ok(Some(stream)),
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
        stream: &mut ReportStream,
        more: bool,
        entries: u64,
        statuses: Vec<(Cid, Option<PinStatus>)>,
    ) -> Push {
        let batch = stream.batch(more, entries, statuses);
        stream.answered(self.ask_as_leader(stream.leader, batch).await)
    }

    /// Sends this peer's metrics to the leader: after half their time to live, and at once when the
    /// metrics or the leader have changed.
    pub(in crate::cluster) async fn push_metrics(self) -> Result<(), FatalError> {
        let mut leadership = self.leadership();
        let mut metrics = self.local_metrics();
        loop {
            let leader = leadership.borrow_and_update().leader;
            let mut current = metrics.borrow_and_update().clone();
            // Read now, so that a new leader learns of a collection that runs here.
            current.gc = self.0.parts.tracker.gc();
            current.level = self.program().level;
            let mut wait = informer::TTL / 2;
            if let Some(leader) = leader {
                match self.ask_as_leader(leader, current).await {
                    Ok(MetricsReply { daemons, addresses }) => {
                        self.0.answered.send_replace(Some(Instant::now()));
                        self.0.taken.clear();
                        self.hear_addresses(addresses);
                        self.0.daemons.send_if_modified(|known| {
                            let changed = *known != daemons;
                            *known = daemons;
                            changed
                        });
                    }
                    Err(AskError::Refused(Refusal::DaemonTaken(by))) => {
                        self.0.taken.note(Taken::Daemon, by)?;
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

    /// Keeps the daemons connected to each other. Nothing else ensures that a second replica finds the
    /// content.
    pub(in crate::cluster) async fn connect_daemons(self) -> Result<(), FatalError> {
        let mut daemons = self.0.daemons.subscribe();
        let mut metrics = self.local_metrics();
        let mut due = Instant::now();
        loop {
            let others: Vec<DaemonInfo> = daemons.borrow_and_update().values().cloned().collect();
            let up = metrics.borrow_and_update().daemon.is_some();
            // Concurrently, so that a daemon that is away does not delay the others.
            let connect = async |daemon: &DaemonInfo| {
                let connect = self.0.parts.ipfs.connect(reachable(&daemon.addresses));
                if let Err(error) = connect.await {
                    tracing::debug!(daemon = %daemon.id, %error, "could not connect daemons");
                }
            };
            let others = stream::iter(others.iter().filter(|_| up));
            others.for_each_concurrent(CONNECTS_MAX, connect).await;
            due = (due + CONNECT_PERIOD).max(Instant::now());
            tokio::select! {
                biased;
                changed = daemons.changed() => if changed.is_err() { return Ok(()) },
                // This peer's daemon has started, and has no peerings.
                came = metrics.wait_for(|m| !up && m.daemon.is_some()) => {
                    if came.is_err() { return Ok(()) }
                }
                () = sleep_until(due) => {}
            }
        }
    }
}

impl ReportStream {
    fn batch(
        &self,
        more: bool,
        entries: u64,
        statuses: Vec<(Cid, Option<PinStatus>)>,
    ) -> StatusBatch {
        let (stream, sequence) = (self.id, self.next_sequence);
        StatusBatch { stream, sequence, more, entries, statuses }
    }

    /// Takes in the answer to a batch. The next batch gets the next number only if this one was taken.
    fn answered(&mut self, answer: Result<StatusReply, AskError>) -> Push {
        match answer {
            Ok(StatusReply::Taken) => {
                self.next_sequence += 1;
                self.taken_at = Instant::now();
                Push::Taken
            }
            Ok(StatusReply::SendAll) => Push::SendAll,
            Err(error) => {
                tracing::debug!(%error, "the leader did not take a batch of statuses");
                Push::Failed
            }
        }
    }
}

/// What to report to the leader. `has_stream`: the leader has this peer's full set. `is_settled`: this
/// peer has compared its pins since its start.
fn due(own: PeerId, now: Leadership, has_stream: bool, is_settled: bool) -> Due {
    match now.leader {
        // A leader takes no reports before it acts as the leader.
        Some(leader) if leader != own || now.local => match has_stream {
            true => Due::Changes,
            // Before its first comparisons a peer may know less of its pins than the leader does.
            false if !is_settled => Due::Nothing,
            false => Due::FullSet(leader),
        },
        _ => Due::Nothing,
    }
}

fn is_same(stream: &ReportStream, now: Leadership) -> bool {
    now.leader == Some(stream.leader) && now.term == stream.term
}

/// Adds changed CIDs; `false` if changes were missed, so that a full set is needed.
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

/// Adds the other changes that have come by now; returns `false` as [`collect`] does. The channel reports
/// a lag only once, so it must not be overlooked here.
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

/// Leaves out loopback addresses, which reach only daemons on this machine, unless there are no others.
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
    fn a_peer_sends_a_full_set_first_and_only_once_it_knows_its_pins() {
        // The leader, whether this peer acts as the leader, whether the leader has a full set, whether
        // this peer knows its pins.
        let table = [
            (None, false, false, true, Due::Nothing),
            (None, false, true, true, Due::Nothing),
            (Some(OTHER), false, false, true, Due::FullSet(OTHER)),
            (Some(OTHER), false, true, true, Due::Changes),
            (Some(OTHER), false, false, false, Due::Nothing),
            (Some(OTHER), false, true, false, Due::Changes),
            (Some(OWN), false, false, true, Due::Nothing),
            (Some(OWN), false, true, true, Due::Nothing),
            (Some(OWN), true, false, true, Due::FullSet(OWN)),
            (Some(OWN), true, true, true, Due::Changes),
        ];
        for (leader, local, has_stream, is_settled, expected) in table {
            let now = Leadership { leader, term: 3, local };
            let found = due(OWN, now, has_stream, is_settled);
            assert_eq!(found, expected, "{now:?}, stream {has_stream}, settled {is_settled}");
        }
    }

    #[test]
    fn a_report_stream_is_for_one_leader_and_term() {
        let now = |leader, term| Leadership { leader, term, local: false };
        let table = [
            (now(Some(OTHER), 3), true),
            (now(Some(OTHER), 4), false),
            (now(Some(OWN), 3), false),
            (now(None, 3), false),
        ];
        for (now, same) in table {
            assert_eq!(is_same(&new_stream(), now), same, "{now:?}");
        }
    }

    fn new_stream() -> ReportStream {
        let taken_at = Instant::now();
        ReportStream { leader: OTHER, term: 3, id: 9, next_sequence: 0, taken_at }
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_gets_the_next_number_only_when_the_one_before_was_taken() {
        let mut stream = new_stream();
        let (begun, second) = (stream.taken_at, Duration::from_secs(1));
        let number = |stream: &ReportStream| {
            let batch = stream.batch(true, 7, vec![]);
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
            assert_eq!(stream.answered(answer.clone()), push, "{answer:?}");
            assert_eq!((number(&stream), stream.taken_at), expected, "{answer:?}");
        }
    }

    #[test]
    fn a_full_set_is_needed_when_everything_changed_or_changes_were_missed() {
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
        assert!(collect_rest(&mut changes, &mut pending), "the lag is reported once");
    }
}
