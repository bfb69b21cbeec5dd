//! What users can ask of any peer: pin, unpin, look. A peer that does not lead asks the leader.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::future::join_all;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::{
    CALL_DEADLINE, Cluster, MemberView, NOT_JOINED,
    serve::{PAGE_BYTES_MAX, PAGE_LEN, PAGE_RECORDS_MAX, refusal},
    writes::Written,
};
use crate::{
    rpc::{CallError, encoded_len},
    types::{
        Cid, Metrics, PeerId, Pin, PinRequest, PinState, PinStatus, Refusal, Request, Response,
        Timestamp, Write,
    },
};

/// How long a request waits for a leader before it is given up.
const LEADER_DEADLINE: Duration = Duration::from_secs(10);
/// Between two tries.
const RETRY: Duration = Duration::from_millis(100);

/// A pin with what its peers reported.
pub type PinView = (Pin, BTreeMap<PeerId, PinStatus>);

/// Why a use case failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UseCaseError {
    /// Not possible at the moment, as the text says; trying again later may help. Nothing was written.
    #[error("{0}")]
    Unavailable(String),
    /// The leader was lost in the middle of a write.
    #[error("whether the write took effect is unknown: {0}")]
    Unknown(String),
    /// There is no such pin.
    #[error("pin is not part of the pinset")]
    NotFound,
    /// It cannot be done as asked.
    #[error("{0}")]
    Invalid(String),
    /// Not now: something that goes on excludes it, as the text says.
    #[error("{0}")]
    Busy(String),
    /// It failed; trying again may help.
    #[error("{0}")]
    Failed(String),
}

impl Cluster {
    /// Pins for the REST API; acknowledged when it returns.
    ///
    /// # Errors
    /// See [`UseCaseError`].
    pub async fn pin(&self, request: PinRequest) -> Result<Pin, UseCaseError> {
        self.write(Write::Pin(request)).await
    }

    /// Pins many together for the REST API, at most [`Write::BATCH_LEN_MAX`]: one answer for each, in
    /// order.
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
        let mut answers: Vec<_> = written.into_iter().map(settled).collect();
        // Those that the leader did not do now are tried like any other.
        let open = writes.into_iter().zip(&mut answers).filter(|(_, answer)| answer.is_err());
        let write = async |(write, answer): (_, &mut _)| {
            *answer = Ok(self.write_until(deadline, write).await);
        };
        join_all(open.map(write)).await;
        answers.into_iter().flatten().collect()
    }

    /// Releases what the REST API pinned; answers the pin as it was.
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
            async || settled(self.write_once(write.clone()).await),
            Asked::Write,
        )
        .await?
    }

    /// One pin.
    ///
    /// # Errors
    /// See [`UseCaseError`].
    pub async fn pin_view(&self, cid: Cid) -> Result<Option<PinView>, UseCaseError> {
        match self.ask(Request::PinView(cid)).await? {
            Response::PinView(view) => Ok(view),
            other => Err(unexpected(&other)),
        }
    }

    /// The next pins after a CID, in order, at most 1000; none when there are no more.
    ///
    /// # Errors
    /// See [`UseCaseError`].
    pub async fn pin_views(
        &self,
        after: Option<Cid>,
    ) -> Result<Vec<(Cid, Pin, BTreeMap<PeerId, PinStatus>)>, UseCaseError> {
        match self.ask(Request::PinViews(after)).await? {
            Response::PinViews(page) => Ok(page),
            other => Err(unexpected(&other)),
        }
    }

    /// One pin as this peer alone knows it: its state, and what its tracker says. No leader is needed.
    #[must_use]
    pub fn local_view(&self, cid: Cid) -> Option<PinView> {
        let pin = self.state().read(|pins| pins.get(&cid).cloned())?;
        Some(self.seen_here(&cid, pin))
    }

    /// The same of the next pins after a CID, as of [`Self::pin_views`].
    #[must_use]
    pub fn local_views(&self, after: Option<Cid>) -> Vec<(Cid, Pin, BTreeMap<PeerId, PinStatus>)> {
        self.page_by(after, |cid, pin| self.seen_here(cid, pin))
    }

    fn seen_here(&self, cid: &Cid, pin: Pin) -> PinView {
        let status = self.0.parts.tracker.status(cid);
        (pin, status.map(|status| (self.id(), status)).into_iter().collect())
    }

    pub(super) async fn ask(&self, request: Request) -> Result<Response, UseCaseError> {
        let deadline = Instant::now() + LEADER_DEADLINE;
        until_answered(deadline, || self.ask_once(request.clone()), Asked::Read).await
    }

    /// Asks the leader that is known now, which can be this peer; one attempt.
    pub(super) async fn ask_once(&self, request: Request) -> Result<Response, Refusal> {
        let Some(leader) = self.0.leadership.borrow().leader else {
            let reason = match self.consensus().cluster() {
                Some(_) => "no leader is known: most voters may be down or cut off",
                None => NOT_JOINED,
            };
            return Err(Refusal::NotYet(reason.to_owned()));
        };
        if leader == self.id() {
            return self.answer_as_leader(leader, request).await;
        }
        answered(self.call(leader, request).await)
    }

    /// On the leader: after it, the state includes every write acknowledged before.
    pub(super) async fn catch_up(&self) -> Result<(), Refusal> {
        let index = self.consensus().read_index().await.map_err(refusal)?;
        self.consensus().wait_applied(index, CALL_DEADLINE).await.map_err(refusal)
    }

    pub(super) fn page(&self, after: Option<Cid>) -> Vec<(Cid, Pin, BTreeMap<PeerId, PinStatus>)> {
        let silent = self.silent();
        self.page_by(after, |cid, pin| self.view(&silent, cid, pin))
    }

    fn page_by(
        &self,
        after: Option<Cid>,
        view: impl Fn(&Cid, Pin) -> PinView,
    ) -> Vec<(Cid, Pin, BTreeMap<PeerId, PinStatus>)> {
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
        let shown = |(cid, pin)| {
            let (pin, statuses) = view(&cid, pin);
            (cid, pin, statuses)
        };
        let mut len = 0;
        let fits = |view: &_| {
            let first = len == 0;
            len = encoded_len(view).saturating_add(len);
            first || len <= PAGE_BYTES_MAX
        };
        pins.into_iter().map(shown).take_while(fits).collect()
    }

    /// Members that this leader has heard nothing of for too long: what they told is no longer so for
    /// sure.
    pub(super) fn silent(&self) -> BTreeSet<PeerId> {
        silent(self.0.monitor.has_heard(), &self.peer_metrics(), &self.members())
    }

    /// A pin with what its peers are said to do about it.
    pub(super) fn view(&self, silent: &BTreeSet<PeerId>, cid: &Cid, pin: Pin) -> PinView {
        let told = self.board().reports(cid).of(Some(&pin));
        let statuses = shown(told, silent, &pin, self.0.parts.clock.now());
        (pin, statuses)
    }
}

/// Members that a leader has metrics of no more, once it has had the time to hear of all.
fn silent(
    has_heard: bool,
    heard: &BTreeMap<PeerId, Metrics>,
    members: &BTreeMap<PeerId, MemberView>,
) -> BTreeSet<PeerId> {
    members.keys().filter(|peer| has_heard && !heard.contains_key(peer)).copied().collect()
}

/// What peers told of a pin, without the silent ones; of those that have it, that they are silent.
fn shown(
    mut told: BTreeMap<PeerId, PinStatus>,
    silent: &BTreeSet<PeerId>,
    pin: &Pin,
    now: Timestamp,
) -> BTreeMap<PeerId, PinStatus> {
    told.retain(|peer, _| !silent.contains(peer));
    for peer in silent.iter().filter(|peer| pin.is_on(**peer)) {
        let status = PinStatus {
            state: PinState::DaemonDown,
            since: now,
            message: "nothing is heard of this peer".to_owned(),
            attempts: 0,
        };
        told.insert(*peer, status);
    }
    told
}

/// What is asked of the leader: an attempt at a write that is cut off may have taken effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Read,
    Write,
}

impl Asked {
    /// Every attempt was refused, the last one for this reason.
    fn refused(self, reason: &str) -> UseCaseError {
        UseCaseError::Unavailable(match self {
            Self::Read => format!("{reason} (tried for {LEADER_DEADLINE:?})"),
            Self::Write => format!("nothing was written: {reason} (tried for {LEADER_DEADLINE:?})"),
        })
    }

    /// The last attempt was cut off.
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

/// Tries until the leader, wherever it is, has done or refused it. No attempt begins at the deadline
/// or after it: it would be cut off, and hide why those before it were refused.
async fn until_answered<T, F: Future<Output = Result<T, Refusal>>>(
    deadline: Instant,
    attempt: impl Fn() -> F,
    asked: Asked,
) -> Result<T, UseCaseError> {
    loop {
        let reason = match timeout_at(deadline, attempt()).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(refusal)) => last_word(refusal)?,
            Err(_) => return Err(asked.cut_off()),
        };
        if Instant::now() + RETRY >= deadline {
            sleep_until(deadline).await;
            return Err(asked.refused(&reason));
        }
        sleep(RETRY).await;
    }
}

/// Why it is tried again; or the error, when a repetition would not help.
fn last_word(refusal: Refusal) -> Result<String, UseCaseError> {
    match refusal {
        Refusal::NotFound => Err(UseCaseError::NotFound),
        Refusal::Invalid(reason) => Err(UseCaseError::Invalid(reason)),
        Refusal::Collecting(reason) => Err(UseCaseError::Busy(reason)),
        refusal => Ok(refusal.to_string()),
    }
}

/// What another peer's answer comes to. What was not sent has no effect; what was may have one.
fn answered(answer: Result<Response, CallError>) -> Result<Response, Refusal> {
    match answer {
        Ok(Response::Refused(refusal)) => Err(refusal),
        Ok(response) => Ok(response),
        Err(error @ CallError::Unreachable { sent: false, .. }) => {
            Err(Refusal::NotYet(format!("the leader cannot be asked: {error}")))
        }
        Err(error) => Err(Refusal::Failed(format!("the leader did not answer: {error}"))),
    }
}

/// The answer to a write, or why to try again. A write that may have taken effect is not tried again:
/// it could take effect twice, and undo what others did in between.
fn settled(written: Written) -> Result<Result<Pin, UseCaseError>, Refusal> {
    match written {
        Err(refusal) if refusal.is_uncertain() => {
            Ok(Err(UseCaseError::Unknown(refusal.to_string())))
        }
        written => written.map(Ok),
    }
}

pub(super) fn unexpected(response: &Response) -> UseCaseError {
    UseCaseError::Failed(format!("unexpected answer of the leader: {response:?}"))
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
        let allocation = |(peer, leaving)| Allocation { peer, leaving, since: 1 };
        let allocations = on.map(allocation).collect();
        Pin { claims: Claims::default(), allocations, created: Timestamp(0) }
    }

    fn text() -> String {
        "why".to_owned()
    }

    /// Every refusal; whether it ends the trying, and whether a write may have taken effect.
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
            (Refusal::Collecting(text()), Some(UseCaseError::Busy(text())), false),
        ]
    }

    #[test]
    fn a_write_that_may_have_taken_effect_is_not_tried_again() {
        for (refusal, _, uncertain) in refusals() {
            let found = settled(Err(refusal.clone()));
            let expected = match uncertain {
                true => Ok(Err(UseCaseError::Unknown(refusal.to_string()))),
                false => Err(refusal),
            };
            assert_eq!(found, expected);
        }
        assert_eq!(settled(Ok(pin(&[]))), Ok(Ok(pin(&[]))));
    }

    #[test]
    fn what_was_sent_and_not_answered_may_have_had_an_effect() {
        let unreachable = |sent| CallError::Unreachable { peer: A, reason: text(), sent };
        let timeout = CallError::Timeout { peer: A, deadline: CALL_DEADLINE };
        for (error, uncertain) in
            [(unreachable(false), false), (unreachable(true), true), (timeout, true)]
        {
            let refusal = answered(Err(error.clone())).unwrap_err();
            assert_eq!(refusal.is_uncertain(), uncertain, "{error:?}");
            assert_eq!(last_word(refusal.clone()), Ok(refusal.to_string()), "{error:?}");
        }
        for (refusal, ..) in refusals() {
            assert_eq!(answered(Ok(Response::Refused(refusal.clone()))), Err(refusal));
        }
        assert_eq!(answered(Ok(Response::PinView(None))), Ok(Response::PinView(None)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_repetition_may_mend_is_tried_until_the_deadline() {
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

    /// An attempt takes a millisecond, so that the deadline comes at any point of a round: the true
    /// reason is said at each.
    #[tokio::test(start_paused = true)]
    async fn whatever_the_moment_of_the_deadline_the_reason_of_the_refusal_is_said() {
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
    fn members_that_are_not_heard_of_are_silent_once_there_was_time_to_hear_of_all() {
        let peer = |n| PeerId([n; 32]);
        let view = || MemberView { member: Member::default(), voter: true };
        let members = (1..4).map(|n| (peer(n), view())).collect();
        let heard = [1, 3, 9].map(|n| (peer(n), Metrics::default())).into();
        assert_eq!(silent(true, &heard, &members), BTreeSet::from([peer(2)]));
        assert_eq!(silent(false, &heard, &members), BTreeSet::new());
    }

    #[test]
    fn of_a_silent_peer_it_is_shown_that_it_is_silent_and_no_more() {
        let status = |state| PinStatus { state, since: Timestamp(1), message: text(), attempts: 2 };
        let peer = |n| PeerId([n; 32]);
        let told = || {
            let states = [(1, PinState::Pinned), (2, PinState::Pinned), (3, PinState::Pinning)];
            states.into_iter().map(|(n, state)| (peer(n), status(state))).collect()
        };
        let pin = pin(&[(1, false), (2, true), (4, false)]);
        let states = |silent: &[u8]| {
            let silent = silent.iter().map(|n| peer(*n)).collect();
            let all = shown(told(), &silent, &pin, Timestamp(9));
            all.into_iter().map(|(peer, status)| (peer.0[0], status.state)).collect::<Vec<_>>()
        };
        use PinState::{DaemonDown, Pinned, Pinning};
        type Row<'a> = (&'a [u8], &'a [(u8, PinState)]);
        let table: &[Row<'_>] = &[
            (&[], &[(1, Pinned), (2, Pinned), (3, Pinning)]),
            (&[1], &[(1, DaemonDown), (2, Pinned), (3, Pinning)]),
            (&[2], &[(1, Pinned), (2, DaemonDown), (3, Pinning)]),
            // One that is not to have it, one that has not told of it yet, and one of neither.
            (&[3], &[(1, Pinned), (2, Pinned)]),
            (&[4], &[(1, Pinned), (2, Pinned), (3, Pinning), (4, DaemonDown)]),
            (&[5], &[(1, Pinned), (2, Pinned), (3, Pinning)]),
        ];
        for (silent, expected) in table {
            assert_eq!(states(silent), *expected, "{silent:?} are silent");
        }
    }
}
