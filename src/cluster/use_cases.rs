//! What users can ask of any peer: pin, unpin, look. A peer that does not lead asks the leader.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::future::join_all;
use tokio::time::{Instant, timeout_at};

use super::{
    CALL_DEADLINE, Cluster,
    serve::{PAGE_BYTES_MAX, PAGE_LEN, PAGE_RECORDS_MAX, refusal},
    writes::Written,
};
use crate::{
    rpc::{CallError, encoded_len},
    types::{Cid, PeerId, Pin, PinRequest, PinState, PinStatus, Refusal, Request, Response, Write},
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
    /// No leader was found in time; trying again later may help. A write has not taken effect.
    #[error("{0}")]
    NoLeader(String),
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
        self.until_answered(
            deadline,
            async || settled(self.write_once(write.clone()).await),
            UseCaseError::Unknown,
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

    pub(super) async fn ask(&self, request: Request) -> Result<Response, UseCaseError> {
        let deadline = Instant::now() + LEADER_DEADLINE;
        self.until_answered(deadline, || self.ask_once(request.clone()), UseCaseError::NoLeader)
            .await
    }

    /// Tries until the leader, wherever it is, has done or refused it. `late` is what an attempt comes
    /// to that was not answered in time.
    async fn until_answered<T, F: Future<Output = Result<T, Refusal>>>(
        &self,
        deadline: Instant,
        attempt: impl Fn() -> F,
        late: impl Fn(String) -> UseCaseError,
    ) -> Result<T, UseCaseError> {
        loop {
            let reason = match timeout_at(deadline, attempt()).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(Refusal::NotFound)) => return Err(UseCaseError::NotFound),
                Ok(Err(Refusal::Invalid(reason))) => return Err(UseCaseError::Invalid(reason)),
                Ok(Err(Refusal::Collecting(reason))) => return Err(UseCaseError::Busy(reason)),
                Ok(Err(refusal)) => refusal.to_string(),
                Err(_) => {
                    return Err(late(format!(
                        "the leader did not answer within {LEADER_DEADLINE:?}: it may have lost its \
                         majority"
                    )));
                }
            };
            // Also when every attempt is refused at once and never times out.
            if Instant::now() >= deadline {
                return Err(UseCaseError::NoLeader(format!(
                    "the leader did not do it within {LEADER_DEADLINE:?}: {reason}"
                )));
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Asks the leader that is known now, which can be this peer; one attempt.
    pub(super) async fn ask_once(&self, request: Request) -> Result<Response, Refusal> {
        let Some(leader) = self.0.leadership.borrow().leader else {
            return Err(Refusal::NotYet("no leader is known".to_owned()));
        };
        if leader == self.id() {
            return self.answer_as_leader(leader, request).await;
        }
        match self.call(leader, request).await {
            Ok(Response::Refused(refusal)) => Err(refusal),
            Ok(response) => Ok(response),
            Err(error @ CallError::Unreachable { sent: false, .. }) => {
                Err(Refusal::NotYet(format!("the leader cannot be asked: {error}")))
            }
            Err(error) => Err(Refusal::Failed(format!("the leader did not answer: {error}"))),
        }
    }

    /// On the leader: after it, the state includes every write acknowledged before.
    pub(super) async fn catch_up(&self) -> Result<(), Refusal> {
        let index = self.consensus().read_index().await.map_err(refusal)?;
        self.consensus().wait_applied(index, CALL_DEADLINE).await.map_err(refusal)
    }

    pub(super) fn page(&self, after: Option<Cid>) -> Vec<(Cid, Pin, BTreeMap<PeerId, PinStatus>)> {
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
        let silent = self.silent();
        let shown = |(cid, pin)| {
            let (pin, statuses) = self.view(&silent, &cid, pin);
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
        if !self.0.monitor.has_heard() {
            return BTreeSet::new();
        }
        let heard = self.peer_metrics();
        self.members().into_keys().filter(|peer| !heard.contains_key(peer)).collect()
    }

    /// A pin with what peers told of it; of the silent ones that have it, that they are silent.
    pub(super) fn view(&self, silent: &BTreeSet<PeerId>, cid: &Cid, pin: Pin) -> PinView {
        let mut statuses = self.board().reports(cid).of(Some(&pin));
        statuses.retain(|peer, _| !silent.contains(peer));
        for peer in silent.iter().filter(|peer| pin.is_on(**peer)) {
            let status = PinStatus {
                state: PinState::DaemonDown,
                since: self.0.parts.clock.now(),
                message: "nothing is heard of this peer".to_owned(),
                attempts: 0,
            };
            statuses.insert(*peer, status);
        }
        (pin, statuses)
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
