//! The use cases of users on any peer: pin, unpin, look, collect garbage. A peer that does not lead asks
//! the leader.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::future::join_all;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::{
    Cluster, MemberView, NOT_JOINED, Reports, Standing,
    serve::{PAGE_BYTES_MAX, PAGE_LEN, PAGE_RECORDS_MAX},
    writes::Written,
};
use crate::{
    rpc::{AskError, CallError, answer_to},
    runtime::random_u64,
    types::{
        Cid, Depart, GcProgress, GcResults, LeaderQuestion, Metrics, OnePin, PeerId, Pin, PinEntry,
        PinRequest, PinState, PinStatus, PinsAfter, Refusal, Run, RunGc, Timestamp, Write,
        encoding,
    },
};

/// A request fails if no leader has answered it within this time.
const LEADER_DEADLINE: Duration = Duration::from_secs(10);
/// Wait between two attempts.
const RETRY: Duration = Duration::from_millis(100);

/// Why a use case failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UseCaseError {
    /// Not possible at the moment, for this reason. Trying again later may help. Nothing was written.
    #[error("{0}")]
    Unavailable(String),
    /// The leader was lost in the middle of a write, which may have taken effect.
    #[error("whether the write took effect is unknown: {0}")]
    Unknown(String),
    /// There is no such pin.
    #[error("pin is not part of the pinset")]
    NotFound,
    /// The request is not possible.
    #[error("{0}")]
    Invalid(String),
    /// Something under way excludes it, as the text says.
    #[error("{0}")]
    Busy(String),
    /// It failed; trying again may help.
    #[error("{0}")]
    Failed(String),
}

/// A member in a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Whether it votes.
    pub votes: bool,
    /// Whether it gives its copies away and leaves.
    pub departs: bool,
    /// Pins allocated to it, leaving ones included.
    pub copies: u64,
    /// How long it has been away, as the leaders have counted; 0 if it is not.
    pub away: Duration,
}

impl Cluster {
    /// Pins for the REST API, and returns once the pin is acknowledged.
    ///
    /// # Errors
    /// See [`UseCaseError`].
    pub async fn pin(&self, request: PinRequest) -> Result<Pin, UseCaseError> {
        self.write(Write::Pin(request)).await
    }

    /// Pins many CIDs together for the REST API, at most [`Write::BATCH_LEN_MAX`]. Returns an answer for
    /// each, in order.
    pub async fn pin_all(&self, requests: Vec<PinRequest>) -> Vec<Result<Pin, UseCaseError>> {
        if requests.is_empty() {
            return Vec::new();
        }
        let writes: Vec<Write> = requests.into_iter().map(Write::Pin).collect();
        let deadline = Instant::now() + LEADER_DEADLINE;
        let together = self.write_all_once(writes.clone());
        let written = timeout_at(deadline, together).await.unwrap_or_else(|_| {
            let late = || Refusal::Failed("the leader did not answer in time".to_owned());
            writes.iter().map(|_| Err(late())).collect()
        });
        let mut answers: Vec<_> = written.into_iter().map(write_answer).collect();
        // Pins that the leader refused for now are tried again like single ones.
        let open = writes.into_iter().zip(&mut answers).filter(|(_, answer)| answer.is_err());
        let write = async |(write, answer): (_, &mut _)| {
            *answer = Ok(self.write_until(deadline, write).await);
        };
        join_all(open.map(write)).await;
        answers.into_iter().flatten().collect()
    }

    /// Releases a pin of the REST API, and returns the pin as it was.
    ///
    /// # Errors
    /// See [`UseCaseError`].
    pub async fn unpin(&self, cid: Cid) -> Result<Pin, UseCaseError> {
        self.write(Write::Unpin(cid)).await
    }

    async fn write(&self, write: Write) -> Result<Pin, UseCaseError> {
        self.write_until(Instant::now() + LEADER_DEADLINE, write).await
    }

    async fn write_until(&self, deadline: Instant, write: Write) -> Result<Pin, UseCaseError> {
        until_answered(
            deadline,
            async || write_answer(self.write_once(write.clone()).await),
            Asked::Write,
        )
        .await?
    }

    /// One pin.
    ///
    /// # Errors
    /// See [`UseCaseError`].
    pub async fn pin_entry(&self, cid: Cid) -> Result<Option<PinEntry>, UseCaseError> {
        Ok(self.ask_leader(OnePin { cid }).await?.into_iter().next())
    }

    /// The next pins after a CID, in order, at most 1000; empty when there are no more.
    ///
    /// # Errors
    /// See [`UseCaseError`].
    pub async fn pins_after(&self, after: Option<Cid>) -> Result<Vec<PinEntry>, UseCaseError> {
        self.ask_leader(PinsAfter { after }).await
    }

    /// One pin from this peer's own state and tracker, without asking the leader.
    #[must_use]
    pub fn local_entry(&self, cid: Cid) -> Option<PinEntry> {
        let pin = self.state().read(|pins| pins.get(&cid).cloned())?;
        Some(self.seen_here(cid, pin))
    }

    /// [`Self::pins_after`] from this peer's own state and tracker, without asking the leader.
    #[must_use]
    pub fn local_pins_after(&self, after: Option<Cid>) -> Vec<PinEntry> {
        self.page_by(after, |cid, pin| self.seen_here(cid, pin))
    }

    fn seen_here(&self, cid: Cid, pin: Pin) -> PinEntry {
        let status = self.0.parts.tracker.status(&cid);
        let statuses = status.map(|status| (self.id(), status)).into_iter().collect();
        PinEntry { cid, pin, statuses }
    }

    /// Has a member give its copies away and leave the cluster for good, or lets it stay after all. Returns
    /// the number of copies that it has; the rest happens by itself.
    ///
    /// # Errors
    /// When it is no member or the last one, and see [`UseCaseError`].
    pub async fn depart(&self, peer: PeerId, departs: bool) -> Result<u64, UseCaseError> {
        self.ask_leader(Depart { peer, departs, scaled_in: false }).await
    }

    /// The same for a pod that was scaled in, or is wanted again. What a person asked for goes on.
    ///
    /// # Errors
    /// As [`Self::depart`].
    pub async fn scale(&self, peer: PeerId, departs: bool) -> Result<u64, UseCaseError> {
        self.ask_leader(Depart { peer, departs, scaled_in: true }).await
    }

    /// All members, with what a list of them shows.
    #[must_use]
    pub fn roster(&self) -> BTreeMap<PeerId, Listed> {
        let members = self.members();
        self.state().read(|pins| {
            let seconds = |peer: &PeerId| pins.away().get(peer).map_or(0, |away| away.seconds);
            let listed = |(peer, view): (PeerId, MemberView)| {
                let listed = Listed {
                    votes: view.voter,
                    departs: pins.departing().contains(&peer),
                    copies: pins.copies_of(peer),
                    away: Duration::from_secs(seconds(&peer).into()),
                };
                (peer, listed)
            };
            members.into_iter().map(listed).collect()
        })
    }

    /// Number of pins with a leaving peer.
    #[must_use]
    pub fn pins_leaving(&self) -> usize {
        self.state().read(|pins| pins.moving_len())
    }

    /// Collects the garbage of all daemons, one after the other, or with `local` of this peer's only.
    /// Returns when all runs have ended.
    ///
    /// # Errors
    /// When garbage is being collected already, and see [`UseCaseError`]. Failures of single peers are in
    /// the results.
    pub async fn run_gc(&self, local: bool) -> Result<GcResults, UseCaseError> {
        if self.standing() == Standing::Blank {
            return Err(UseCaseError::Unavailable(NOT_JOINED.to_owned()));
        }
        let only = local.then(|| self.id());
        let mut run = Run { ticket: random_u64(), begin: true };
        loop {
            match self.ask_leader(RunGc { run, only }).await {
                Ok(GcProgress::Running) => run.begin = false,
                Ok(GcProgress::Ended(results)) => return Ok(results),
                // The first call was valid, so the run was lost since.
                Err(UseCaseError::Invalid(reason)) if !run.begin => {
                    return Err(UseCaseError::Failed(reason));
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) async fn ask_leader<Q: LeaderQuestion + Clone>(
        &self,
        question: Q,
    ) -> Result<Q::Answer, UseCaseError> {
        let deadline = Instant::now() + LEADER_DEADLINE;
        until_answered(deadline, || self.ask_leader_once(question.clone()), Asked::Read).await
    }

    /// Asks the presently known leader once. It can be this peer.
    pub(super) async fn ask_leader_once<Q: LeaderQuestion>(
        &self,
        question: Q,
    ) -> Result<Q::Answer, Refusal> {
        let Some(leader) = self.0.leadership.borrow().leader else {
            let reason = match self.consensus().cluster() {
                Some(_) => "no leader is known: most voters may be down or cut off",
                None => NOT_JOINED,
            };
            return Err(Refusal::NotYet(reason.to_owned()));
        };
        answered(self.ask_as_leader(leader, question).await)
    }

    /// Asks `leader` once. It can be this peer.
    pub(super) async fn ask_as_leader<Q: LeaderQuestion>(
        &self,
        leader: PeerId,
        question: Q,
    ) -> Result<Q::Answer, AskError> {
        if leader == self.id() {
            let request = LeaderQuestion::into_request(question);
            return answer_to::<Q>(self.answer_as_leader(leader, request).await?);
        }
        self.ask_peer(leader, question).await
    }

    /// On the leader: one pin.
    pub(super) fn entry(&self, cid: Cid) -> Option<PinEntry> {
        let pin = self.state().read(|pins| pins.get(&cid).cloned())?;
        Some(self.seen_by_all(&self.reports(), &self.silent(), cid, pin))
    }

    /// On the leader: the next pins after a CID.
    pub(super) fn page(&self, after: Option<Cid>) -> Vec<PinEntry> {
        let (reports, silent) = (self.reports(), self.silent());
        self.page_by(after, |cid, pin| self.seen_by_all(&reports, &silent, cid, pin))
    }

    fn page_by(&self, after: Option<Cid>, entry: impl Fn(Cid, Pin) -> PinEntry) -> Vec<PinEntry> {
        let pins: Vec<(Cid, Pin)> = self.state().read(|pins| {
            let mut records = 0;
            pins.after(after.as_ref())
                .take(PAGE_LEN)
                .take_while(|(_, pin)| {
                    let first = records == 0;
                    records += 1 + pin.claims.len();
                    first || records <= PAGE_RECORDS_MAX
                })
                .map(|(cid, pin)| (cid, pin.clone()))
                .collect()
        });
        let mut len = 0;
        let fits = |entry: &PinEntry| {
            let first = len == 0;
            len = encoding::len(entry).saturating_add(len);
            first || len <= PAGE_BYTES_MAX
        };
        pins.into_iter().map(|(cid, pin)| entry(cid, pin)).take_while(fits).collect()
    }

    /// The members whose metrics have expired at this leader. Their reports may be outdated.
    pub(super) fn silent(&self) -> BTreeSet<PeerId> {
        silent(self.leader().metrics.all_could_report(), &self.peer_metrics(), &self.members())
    }

    /// A pin with the statuses that all peers reported.
    fn seen_by_all(
        &self,
        reports: &Reports,
        silent: &BTreeSet<PeerId>,
        cid: Cid,
        pin: Pin,
    ) -> PinEntry {
        let reported = reports.of_pin(&cid).of(Some(&pin));
        let statuses = shown(reported, silent, &pin, self.0.parts.clock.now());
        PinEntry { cid, pin, statuses }
    }
}

/// The members without metrics at the leader. There are none before all peers had time to report.
fn silent(
    all_could_report: bool,
    heard: &BTreeMap<PeerId, Metrics>,
    members: &BTreeMap<PeerId, MemberView>,
) -> BTreeSet<PeerId> {
    members.keys().filter(|peer| all_could_report && !heard.contains_key(peer)).copied().collect()
}

/// The statuses to show for a pin: a silent peer with an allocation is shown as silent, and the reports of
/// silent peers are left out.
fn shown(
    mut reported: BTreeMap<PeerId, PinStatus>,
    silent: &BTreeSet<PeerId>,
    pin: &Pin,
    now: Timestamp,
) -> BTreeMap<PeerId, PinStatus> {
    reported.retain(|peer, _| !silent.contains(peer));
    for peer in silent.iter().filter(|peer| pin.is_on(**peer)) {
        let status = PinStatus {
            state: PinState::DaemonDown,
            since: now,
            message: "the leader does not hear from this peer".to_owned(),
            attempts: 0,
        };
        reported.insert(*peer, status);
    }
    reported
}

/// Kind of a request to the leader. A write that is cut off may have taken effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Read,
    Write,
}

impl Asked {
    /// The error if every attempt was refused, the last one for this reason.
    fn refused(self, reason: &str) -> UseCaseError {
        UseCaseError::Unavailable(match self {
            Self::Read => format!("{reason} (tried for {LEADER_DEADLINE:?})"),
            Self::Write => format!("nothing was written: {reason} (tried for {LEADER_DEADLINE:?})"),
        })
    }

    /// The error if the last attempt was cut off.
    fn cut_off(self) -> UseCaseError {
        let reason = format!(
            "the leader did not answer within {LEADER_DEADLINE:?}: it may have lost its majority"
        );
        match self {
            Self::Read => UseCaseError::Unavailable(reason),
            Self::Write => UseCaseError::Unknown(reason),
        }
    }
}

/// Repeats `attempt` until the leader does the request or refuses it finally. No attempt begins at the
/// deadline or after it: it would be cut off, and hide the reason of the earlier refusals.
async fn until_answered<T, F: Future<Output = Result<T, Refusal>>>(
    deadline: Instant,
    attempt: impl Fn() -> F,
    asked: Asked,
) -> Result<T, UseCaseError> {
    loop {
        let reason = match timeout_at(deadline, attempt()).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(refusal)) => retry_reason(refusal)?,
            Err(_) => return Err(asked.cut_off()),
        };
        if Instant::now() + RETRY >= deadline {
            sleep_until(deadline).await;
            return Err(asked.refused(&reason));
        }
        sleep(RETRY).await;
    }
}

/// The reason to try again, or the error if trying again would not help.
fn retry_reason(refusal: Refusal) -> Result<String, UseCaseError> {
    match refusal {
        Refusal::NotFound => Err(UseCaseError::NotFound),
        Refusal::Invalid(reason) => Err(UseCaseError::Invalid(reason)),
        Refusal::GcRunning(reason) => Err(UseCaseError::Busy(reason)),
        refusal => Ok(refusal.to_string()),
    }
}

/// The answer, or the refusal. A request that was not sent had no effect; one that was sent may have had.
fn answered<T>(answer: Result<T, AskError>) -> Result<T, Refusal> {
    answer.map_err(|error| match error {
        AskError::Refused(refusal) => refusal,
        AskError::Call(error @ CallError::Unreachable { sent: false, .. }) => {
            Refusal::NotYet(format!("the leader cannot be reached: {error}"))
        }
        AskError::Call(error) => Refusal::Failed(format!("the leader did not answer: {error}")),
        AskError::Unexpected(_) => Refusal::Failed(format!("the leader: {error}")),
    })
}

/// The answer to a write, or the refusal, after which it can be tried again. A write that may have taken
/// effect is not tried again: it could take effect twice, and undo writes of others in between.
fn write_answer(written: Written) -> Result<Result<Pin, UseCaseError>, Refusal> {
    match written {
        Err(refusal) if refusal.is_uncertain() => {
            Ok(Err(UseCaseError::Unknown(refusal.to_string())))
        }
        written => written.map(Ok),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::cell::Cell;

    use super::*;
    use crate::types::{Allocation, Claims, ClusterId, Member};

    const A: PeerId = PeerId([1; 32]);

    fn pin(on: &[(u8, bool)]) -> Pin {
        let on = on.iter().map(|(n, leaving)| (PeerId([*n; 32]), *leaving));
        let allocation = |(peer, leaving)| Allocation { peer, leaving, at_entry: 1 };
        let allocations = on.map(allocation).collect();
        Pin { claims: Claims::default(), allocations, created: Timestamp(0) }
    }

    fn text() -> String {
        "why".to_owned()
    }

    /// All refusals, with the final error if there is one, and whether a write may have taken effect.
    fn refusals() -> [(Refusal, Option<UseCaseError>, bool); 10] {
        [
            (Refusal::OtherCluster(Some(ClusterId([1; 16]))), None, false),
            (Refusal::NotMember, None, false),
            (Refusal::NotLeader(Some(A)), None, false),
            (Refusal::Invalid(text()), Some(UseCaseError::Invalid(text())), false),
            (Refusal::Failed(text()), None, true),
            (Refusal::Busy, None, false),
            (Refusal::DaemonTaken(A), None, false),
            (Refusal::NotFound, Some(UseCaseError::NotFound), false),
            (Refusal::NotYet(text()), None, false),
            (Refusal::GcRunning(text()), Some(UseCaseError::Busy(text())), false),
        ]
    }

    #[test]
    fn a_write_that_may_have_taken_effect_is_not_tried_again() {
        for (refusal, _, uncertain) in refusals() {
            let found = write_answer(Err(refusal.clone()));
            let expected = match uncertain {
                true => Ok(Err(UseCaseError::Unknown(refusal.to_string()))),
                false => Err(refusal),
            };
            assert_eq!(found, expected);
        }
        assert_eq!(write_answer(Ok(pin(&[]))), Ok(Ok(pin(&[]))));
    }

    #[test]
    fn a_request_that_was_sent_and_not_answered_may_have_taken_effect() {
        let unreachable = |sent| CallError::Unreachable { peer: A, reason: text(), sent };
        let timeout = CallError::Timeout { peer: A, deadline: Duration::from_secs(5) };
        for (error, uncertain) in
            [(unreachable(false), false), (unreachable(true), true), (timeout, true)]
        {
            let refusal = answered::<()>(Err(error.clone().into())).unwrap_err();
            assert_eq!(refusal.is_uncertain(), uncertain, "{error:?}");
            assert_eq!(retry_reason(refusal.clone()), Ok(refusal.to_string()), "{error:?}");
        }
        for (refusal, ..) in refusals() {
            assert_eq!(answered::<()>(Err(refusal.clone().into())), Err(refusal));
        }
        assert_eq!(answered(Ok(7)), Ok(7));
        let unexpected = answered::<()>(Err(AskError::Unexpected("Done".to_owned())));
        assert!(unexpected.unwrap_err().is_uncertain());
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_that_may_pass_is_tried_again_until_the_deadline() {
        for (refusal, ends, _) in refusals() {
            let tries = Cell::new(0);
            let attempt = async || {
                tries.set(tries.get() + 1);
                if tries.get() == 3 { Ok(7) } else { Err(refusal.clone()) }
            };
            let deadline = Instant::now() + LEADER_DEADLINE;
            let found = until_answered(deadline, attempt, Asked::Write).await;
            let expected = ends.clone().map_or((Ok(7), 3), |error| (Err(error), 1));
            assert_eq!((found, tries.get()), expected, "{refusal:?}");

            let tries = Cell::new(0);
            let attempt = async || {
                tries.set(tries.get() + 1);
                assert!(tries.get() < 1000, "{refusal:?} is tried without end");
                Err::<(), _>(refusal.clone())
            };
            let deadline = Instant::now() + LEADER_DEADLINE;
            let found = until_answered(deadline, attempt, Asked::Write).await;
            let Some(error) = ends else {
                let text = found.unwrap_err().to_string();
                assert!(text.starts_with("nothing was written: "), "{refusal:?}: {text}");
                assert!(text.contains(&refusal.to_string()), "{refusal:?}: {text}");
                assert_eq!(Instant::now(), deadline, "{refusal:?}");
                continue;
            };
            assert_eq!(found, Err(error));
        }
    }

    /// An attempt takes a millisecond, so the deadline comes at any point of an attempt or of a wait.
    #[tokio::test(start_paused = true)]
    async fn the_reason_of_the_refusal_is_reported_at_any_moment_of_the_deadline() {
        for ms in 1..250 {
            let attempt = async || {
                sleep(Duration::from_millis(1)).await;
                Err::<(), _>(Refusal::NotYet("3 needed, 2 can take it".to_owned()))
            };
            let deadline = Instant::now() + Duration::from_millis(ms);
            let found = until_answered(deadline, attempt, Asked::Write).await;
            let text = found.unwrap_err().to_string();
            assert!(ms == 1 || text.contains("3 needed, 2 can take it"), "{ms} ms: {text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_write_that_is_cut_off_may_have_taken_effect() {
        for (asked, unknown) in [(Asked::Write, true), (Asked::Read, false)] {
            let deadline = Instant::now() + LEADER_DEADLINE;
            let attempt = std::future::pending::<Result<(), Refusal>>;
            let found = until_answered(deadline, attempt, asked).await.unwrap_err();
            assert_eq!(matches!(found, UseCaseError::Unknown(_)), unknown, "{found:?}");
            assert_eq!(Instant::now(), deadline);
        }
    }

    #[test]
    fn members_without_metrics_are_silent_once_all_had_time_to_report() {
        let peer = |n| PeerId([n; 32]);
        let view = || MemberView { member: Member::default(), voter: true };
        let members = (1..4).map(|n| (peer(n), view())).collect();
        let heard = [1, 3, 9].map(|n| (peer(n), Metrics::default())).into();
        assert_eq!(silent(true, &heard, &members), BTreeSet::from([peer(2)]));
        assert_eq!(silent(false, &heard, &members), BTreeSet::new());
    }

    #[test]
    fn a_silent_peer_is_shown_as_silent_without_its_reports() {
        let status = |state| PinStatus { state, since: Timestamp(1), message: text(), attempts: 2 };
        let peer = |n| PeerId([n; 32]);
        let reported = || {
            let states = [(1, PinState::Pinned), (2, PinState::Pinned), (3, PinState::Pinning)];
            states.into_iter().map(|(n, state)| (peer(n), status(state))).collect()
        };
        let pin = pin(&[(1, false), (2, true), (4, false)]);
        let states = |silent: &[u8]| {
            let silent = silent.iter().map(|n| peer(*n)).collect();
            let all = shown(reported(), &silent, &pin, Timestamp(9));
            all.into_iter().map(|(peer, status)| (peer.0[0], status.state)).collect::<Vec<_>>()
        };
        use PinState::{DaemonDown, Pinned, Pinning};
        type Row<'a> = (&'a [u8], &'a [(u8, PinState)]);
        let table: &[Row<'_>] = &[
            (&[], &[(1, Pinned), (2, Pinned), (3, Pinning)]),
            (&[1], &[(1, DaemonDown), (2, Pinned), (3, Pinning)]),
            (&[2], &[(1, Pinned), (2, DaemonDown), (3, Pinning)]),
            // Silent peers: one without an allocation, one without a report, and one with neither.
            (&[3], &[(1, Pinned), (2, Pinned)]),
            (&[4], &[(1, Pinned), (2, Pinned), (3, Pinning), (4, DaemonDown)]),
            (&[5], &[(1, Pinned), (2, Pinned), (3, Pinning)]),
        ];
        for (silent, expected) in table {
            assert_eq!(states(silent), *expected, "{silent:?} are silent");
        }
    }
}
