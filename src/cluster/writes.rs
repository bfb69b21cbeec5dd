//! Writes of users, many to one log entry.
//!
//! A write costs a sync of two disks and a round between peers, whatever its size. So writes wait in
//! one bounded queue, and what waits goes to the leader together, as one entry there; a few batches
//! may be under way, so that one is gathered while another is written. Each write keeps its own
//! answer, and whoever waits for it decides whether to try again.

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{Cluster, FatalError, placement::Placement, serve::refusal};
use crate::{
    state::{Applied, Op, Outcome, Refused},
    types::{Cid, Factor, Owner, Pin, PinRequest, Refusal, Request, Response, Write},
};

/// Writes that may wait; more wait in front of the queue.
pub(super) const QUEUE_MAX: usize = 4 * Write::BATCH_LEN_MAX;
/// Batches under way at once: one is on its way to the disks while another is gathered.
const IN_FLIGHT_MAX: usize = 3;

/// What became of a write, in one attempt.
pub(super) type Written = Result<Pin, Refusal>;

/// A write and where its answer goes.
#[derive(Debug)]
pub(super) struct Waiting {
    write: Write,
    answer: oneshot::Sender<Written>,
}

impl Cluster {
    /// Has the leader do one write, together with others; one attempt.
    pub(super) async fn write_once(&self, write: Write) -> Written {
        let (answer, written) = oneshot::channel();
        let stopping = || Refusal::Failed("the peer is stopping".to_owned());
        self.0.writes.send(Waiting { write, answer }).await.map_err(|_| stopping())?;
        written.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Sends what waits to the leader until the token stops it.
    pub(super) async fn send_writes(
        self,
        mut queue: mpsc::Receiver<Waiting>,
        token: CancellationToken,
    ) -> Result<(), FatalError> {
        let mut in_flight = JoinSet::new();
        let mut batch: Vec<Waiting> = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = token.cancelled() => break,
                Some(_) = in_flight.join_next() => {}
                _ = queue.recv_many(&mut batch, Write::BATCH_LEN_MAX),
                    if in_flight.len() < IN_FLIGHT_MAX =>
                {
                    // Those that gave up meanwhile do not want it any more.
                    batch.retain(|waiting| !waiting.answer.is_closed());
                    if !batch.is_empty() {
                        in_flight.spawn(self.clone().send_batch(std::mem::take(&mut batch)));
                    }
                }
            }
        }
        in_flight.shutdown().await;
        Ok(())
    }

    async fn send_batch(self, batch: Vec<Waiting>) {
        let (writes, answers): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|waiting| (waiting.write, waiting.answer)).unzip();
        for (answer, written) in answers.into_iter().zip(self.write_all_once(writes).await) {
            // The caller may have given up.
            let _ = answer.send(written);
        }
    }

    /// Has the leader do writes together, at most [`Write::BATCH_LEN_MAX`]; one attempt.
    pub(super) async fn write_all_once(&self, writes: Vec<Write>) -> Vec<Written> {
        let count = writes.len();
        match self.ask_once(Request::Writes(writes)).await {
            Ok(Response::Written(written)) if written.len() == count => written,
            Ok(_) => {
                let refusal = Refusal::Failed("the leader answers another question".to_owned());
                vec![Err(refusal); count]
            }
            Err(refusal) => vec![Err(refusal); count],
        }
    }

    /// On the leader: does writes as one entry; acknowledged when it returns.
    pub(super) async fn write_here(&self, writes: Vec<Write>) -> Result<Vec<Written>, Refusal> {
        if writes.len() > Write::BATCH_LEN_MAX {
            return Err(Refusal::Invalid(format!("{} writes are too many at once", writes.len())));
        }
        if self.releases_unknown(&writes) {
            // A leader that was cut off and does not know it yet must not say what is not there.
            self.catch_up().await.map_err(|error| Refusal::NotYet(error.to_string()))?;
        }
        let placement = self.placement();
        let mut ops = Vec::with_capacity(writes.len());
        let decide = |write| {
            ops.push(match write {
                Write::Pin(request) => self.claim(&placement, request)?,
                Write::Unpin(cid) => self.release(cid)?,
            });
            Ok(())
        };
        let decided: Vec<Result<(), Refusal>> = writes.into_iter().map(decide).collect();
        let applied = match ops.is_empty() {
            true => Vec::new(),
            false => self.consensus().propose(ops).await.map_err(refusal)?,
        };
        let mut applied = applied.into_iter();
        let become_of = |decided: Result<(), Refusal>| {
            decided?;
            let unanswered =
                || Refusal::Failed("the log does not say what became of it".to_owned());
            let Applied { outcome, pin } = applied.next().ok_or_else(unanswered)?;
            match outcome {
                Outcome::Refused(Refused::NoSuchPin) => Err(Refusal::NotFound),
                Outcome::Refused(refused) => Err(Refusal::Invalid(refused.to_string())),
                // Another release may have come first.
                Outcome::Changed | Outcome::Unchanged => {
                    pin.filter(by_rest).ok_or(Refusal::NotFound)
                }
            }
        };
        Ok(decided.into_iter().map(become_of).collect())
    }

    /// Whether something is to be released that is not pinned by REST, as far as this peer knows.
    fn releases_unknown(&self, writes: &[Write]) -> bool {
        self.state().read(|pins| {
            writes.iter().any(|write| match write {
                Write::Pin(_) => false,
                Write::Unpin(cid) => !pins.get(cid).is_some_and(by_rest),
            })
        })
    }

    fn claim(&self, placement: &Placement, request: PinRequest) -> Result<Op, Refusal> {
        let PinRequest { cid, options } = request;
        let candidates = self.candidates_in(placement, &cid, options.replication);
        let holders =
            self.state().read(|pins| pins.get(&cid).map_or(0, |pin| pin.holders().count()));
        let possible = holders + candidates.len();
        // Everywhere is wherever there are peers: one that is away takes it when it is back.
        let needed = match options.replication.min {
            Factor::Everywhere => 1,
            Factor::Count(count) => usize::from(count),
        };
        if possible < needed {
            let reason = format!(
                "not enough peers to allocate CID {cid}: {needed} needed, {possible} can take it"
            );
            // A member that is away or full need not stay so, and a leader that is new or was asleep
            // has yet to hear of some.
            let possible_later = needed <= placement.members;
            return Err(match possible_later {
                true => Refusal::NotYet(reason),
                false => Refusal::Invalid(reason),
            });
        }
        let at = self.0.parts.clock.now();
        Ok(Op::Claim { cid, owner: Owner::Rest, options, candidates, at, fence: None })
    }

    fn release(&self, cid: Cid) -> Result<Op, Refusal> {
        let pin = self.state().read(|pins| pins.get(&cid).cloned()).ok_or(Refusal::NotFound)?;
        if let Some((Owner::Waiting(_), claim)) = pin.claims.last() {
            return Err(Refusal::Invalid(format!(
                "{cid} waits to be unpinned since its Pin {} was deleted: kubectl describe \
                 clusterpeers says how to allow it",
                claim.options.name
            )));
        }
        if !by_rest(&pin) {
            let owners: Vec<&str> =
                pin.claims.values().map(|claim| claim.options.name.as_str()).take(3).collect();
            return Err(Refusal::Invalid(format!(
                "{cid} is not pinned by this API but by {}; delete that instead",
                owners.join(", ")
            )));
        }
        let at = self.0.parts.clock.now();
        Ok(Op::Release { cid, owner: Owner::Rest, at, fence: None })
    }
}

fn by_rest(pin: &Pin) -> bool {
    pin.claims.contains(&Owner::Rest)
}
