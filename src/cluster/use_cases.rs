//! What users can ask of any peer: pin, unpin, look. A peer that does not lead asks the leader.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::{
    CALL_DEADLINE, Cluster,
    serve::{PAGE_LEN, PAGE_RECORDS_MAX, refusal},
};
use crate::{
    state::{Op, Outcome},
    types::{Cid, Factor, Owner, PeerId, Pin, PinRequest, PinStatus, Refusal, Request, Response},
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
    /// No leader was found in time; trying again later may help. A write may or may not have taken
    /// effect.
    #[error("{0}")]
    NoLeader(String),
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
        match self.ask(Request::Pin(request)).await? {
            Response::Pin(pin) => Ok(pin),
            other => Err(unexpected(&other)),
        }
    }

    /// Releases what the REST API pinned; answers the pin as it was.
    ///
    /// # Errors
    /// See [`UseCaseError`].
    pub async fn unpin(&self, cid: Cid) -> Result<Pin, UseCaseError> {
        match self.ask(Request::Unpin(cid)).await? {
            Response::Pin(pin) => Ok(pin),
            other => Err(unexpected(&other)),
        }
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

    /// Asks the leader, wherever it is; every request here can be repeated without harm.
    pub(super) async fn ask(&self, request: Request) -> Result<Response, UseCaseError> {
        let deadline = Instant::now() + LEADER_DEADLINE;
        loop {
            let leader = self.0.leadership.borrow().leader;
            let reason = match leader {
                None => "no leader is known".to_owned(),
                Some(leader) => match self.ask_once(leader, request.clone()).await {
                    Ok(response) => return Ok(response),
                    Err(Refusal::NotFound) => return Err(UseCaseError::NotFound),
                    Err(Refusal::Invalid(reason)) => return Err(UseCaseError::Invalid(reason)),
                    Err(Refusal::Collecting(reason)) => return Err(UseCaseError::Busy(reason)),
                    Err(refusal) => refusal.to_string(),
                },
            };
            if Instant::now() >= deadline {
                return Err(UseCaseError::NoLeader(format!(
                    "timed out waiting for a leader: {reason}"
                )));
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn ask_once(&self, leader: PeerId, request: Request) -> Result<Response, Refusal> {
        if leader == self.id() {
            return self.answer_as_leader(leader, request).await;
        }
        match self.call(leader, request).await {
            Ok(Response::Refused(refusal)) => Err(refusal),
            Ok(response) => Ok(response),
            Err(error) => Err(Refusal::Failed(error.to_string())),
        }
    }

    pub(super) async fn pin_here(&self, request: PinRequest) -> Result<Pin, Refusal> {
        let PinRequest { cid, options } = request;
        let candidates = self.candidates(&cid, options.replication);
        let members = self.members().len();
        let holders =
            self.state().read(|pins| pins.get(&cid).map_or(0, |pin| pin.holders().count()));
        let possible = holders + candidates.len();
        // Everywhere is wherever there are peers: one that is away takes it when it is back.
        let needed = match options.replication.min {
            Factor::Everywhere => 1,
            Factor::Count(count) => usize::from(count),
        };
        if possible < needed && needed <= members && !self.0.monitor.has_heard() {
            return Err(Refusal::Failed(format!(
                "the leader is new and has heard of {possible} peers that can take CID {cid}"
            )));
        }
        if possible < needed {
            return Err(Refusal::Invalid(format!(
                "not enough peers to allocate CID {cid}: {needed} needed, {possible} can take it"
            )));
        }
        let op = Op::Claim {
            cid,
            owner: Owner::Rest,
            options,
            candidates,
            at: self.0.parts.clock.now(),
            fence: None,
        };
        self.propose_one(op).await?;
        self.state().read(|pins| pins.get(&cid).cloned()).ok_or(Refusal::NotFound)
    }

    pub(super) async fn unpin_here(&self, cid: Cid) -> Result<Pin, Refusal> {
        let look = || self.state().read(|pins| pins.get(&cid).cloned());
        let by_rest = |pin: &Pin| pin.claims.contains_key(&Owner::Rest);
        let mut pin = look();
        if !pin.as_ref().is_some_and(by_rest) {
            // A leader that was cut off and does not know it yet must not say what is not there.
            self.catch_up().await?;
            pin = look();
        }
        let pin = pin.ok_or(Refusal::NotFound)?;
        if !by_rest(&pin) {
            let owners: Vec<&str> =
                pin.claims.values().map(|claim| claim.options.name.as_str()).take(3).collect();
            return Err(Refusal::Invalid(format!(
                "{cid} is not pinned by this API but by {}; delete that instead",
                owners.join(", ")
            )));
        }
        let at = self.0.parts.clock.now();
        self.propose_one(Op::Release { cid, owner: Owner::Rest, at, fence: None }).await?;
        Ok(pin)
    }

    /// On the leader: after it, the state includes every write acknowledged before.
    pub(super) async fn catch_up(&self) -> Result<(), Refusal> {
        let index = self.consensus().read_index().await.map_err(refusal)?;
        self.consensus().wait_applied(index, CALL_DEADLINE).await.map_err(refusal)
    }

    async fn propose_one(&self, op: Op) -> Result<(), Refusal> {
        let outcomes = self.consensus().propose(vec![op]).await.map_err(refusal)?;
        match outcomes.first() {
            Some(Outcome::Refused(refused)) => Err(Refusal::Invalid(refused.to_string())),
            _ => Ok(()),
        }
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
                .map(|(cid, pin)| (*cid, pin.clone()))
                .collect()
        });
        pins.into_iter().map(|(cid, pin)| (cid, pin, self.board().statuses(&cid))).collect()
    }
}

pub(super) fn unexpected(response: &Response) -> UseCaseError {
    UseCaseError::Failed(format!("unexpected answer of the leader: {response:?}"))
}
