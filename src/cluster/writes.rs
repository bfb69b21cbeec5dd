//! Writes of users, many of them in one log entry.
//!
//! An entry costs syncs of two disks and a round trip between peers, whatever its size. So writes wait
//! in one bounded queue, and those that wait go to the leader together and become one entry. A few
//! batches may be under way, so that one is gathered while another is written. Each write has its own
//! answer, and its caller decides whether to try again.

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{Cluster, FatalError, serve::refusal};
use crate::{
    allocate::{self, Fleet, Need, Sight},
    state::{Applied, Op, Outcome, PinSet, Refused},
    types::{Cid, Owner, Pin, PinRequest, Refusal, Replication, Write, Writes},
};

/// Bound on the queue. When it is full, callers wait for a place.
pub(super) const QUEUE_MAX: usize = 4 * Write::BATCH_LEN_MAX;
/// Bound on batches under way. One can be gathered while another is written to the disks.
const IN_FLIGHT_MAX: usize = 3;

/// The result of one attempt at a write.
pub(super) type Written = Result<Pin, Refusal>;

/// A write and where its answer goes.
#[derive(Debug)]
pub(super) struct QueuedWrite {
    write: Write,
    answer: oneshot::Sender<Written>,
}

impl Cluster {
    /// Asks the leader once to do a write, in a batch with others.
    pub(super) async fn write_once(&self, write: Write) -> Written {
        let (answer, written) = oneshot::channel();
        let stopping = || "the peer is stopping".to_owned();
        let sent = self.0.writes.send(QueuedWrite { write, answer }).await;
        sent.map_err(|_| Refusal::NotYet(stopping()))?;
        written.await.unwrap_or_else(|_| Err(Refusal::Failed(stopping())))
    }

    /// Sends queued writes to the leader until the token is cancelled.
    pub(super) async fn send_writes(
        self,
        mut queue: mpsc::Receiver<QueuedWrite>,
        token: CancellationToken,
    ) -> Result<(), FatalError> {
        let mut in_flight = JoinSet::new();
        let mut batch: Vec<QueuedWrite> = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = token.cancelled() => break,
                Some(_) = in_flight.join_next() => {}
                _ = queue.recv_many(&mut batch, Write::BATCH_LEN_MAX),
                    if in_flight.len() < IN_FLIGHT_MAX =>
                {
                    // Leaves out writes whose callers have given up.
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

    async fn send_batch(self, batch: Vec<QueuedWrite>) {
        let (writes, answers): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|waiting| (waiting.write, waiting.answer)).unzip();
        for (answer, written) in answers.into_iter().zip(self.write_all_once(writes).await) {
            // Sending fails only if the caller has given up.
            let _ = answer.send(written);
        }
    }

    /// Asks the leader once to do writes together, at most [`Write::BATCH_LEN_MAX`].
    pub(super) async fn write_all_once(&self, writes: Vec<Write>) -> Vec<Written> {
        let count = writes.len();
        one_for_each(count, self.ask_leader_once(Writes(writes)).await)
    }

    /// On the leader: does writes as one entry, and returns once they are acknowledged.
    pub(super) async fn write_here(&self, writes: Vec<Write>) -> Result<Vec<Written>, Refusal> {
        if writes.len() > Write::BATCH_LEN_MAX {
            return Err(Refusal::Invalid(format!("{} writes are too many at once", writes.len())));
        }
        if self.state().read(|pins| releases_unknown(pins, &writes)) {
            // A leader that was cut off may be behind, and must not report a pin as missing.
            self.pass_barrier().await.map_err(|error| Refusal::NotYet(error.to_string()))?;
        }
        let mut fleet = self.fleet();
        let mut ops = Vec::with_capacity(writes.len());
        let decide = |write| {
            ops.push(match write {
                Write::Pin(request) => self.claim(&mut fleet, request)?,
                Write::Unpin(cid) => self.release(cid)?,
            });
            Ok(())
        };
        let decided: Vec<Result<(), Refusal>> = writes.into_iter().map(decide).collect();
        let applied = match ops.is_empty() {
            true => Vec::new(),
            false => self.consensus().propose(ops).await.map_err(refusal)?,
        };
        Ok(results(decided, applied))
    }

    fn claim(&self, fleet: &mut Fleet, request: PinRequest) -> Result<Op, Refusal> {
        let PinRequest { cid, options } = request;
        let (holders, plan) = self.state().read(|pins| {
            let need = Need::with_claim(&cid, pins.get(&cid), options.replication);
            (need.holders().count(), allocate::plan(&need, fleet, &Sight::default()))
        });
        let possible = holders + plan.add.len();
        check_peers(&cid, options.replication, possible, fleet.members())?;
        self.reserve(fleet, &plan);
        let candidates = plan.add;
        let at = self.0.parts.clock.now();
        Ok(Op::Claim { cid, owner: Owner::Rest, options, candidates, at, fence: None })
    }

    fn release(&self, cid: Cid) -> Result<Op, Refusal> {
        self.state().read(|pins| check_release(&cid, pins.get(&cid)))?;
        let at = self.0.parts.clock.now();
        Ok(Op::Release { cid, owner: Owner::Rest, at, fence: None })
    }
}

/// The results of `count` writes, from the leader's answer to all of them.
fn one_for_each(count: usize, answer: Result<Vec<Written>, Refusal>) -> Vec<Written> {
    match answer {
        Ok(written) if written.len() == count => written,
        Ok(_) => {
            let refusal =
                Refusal::Failed("the leader's answer does not match the writes".to_owned());
            vec![Err(refusal); count]
        }
        Err(refusal) => vec![Err(refusal); count],
    }
}

/// The result of each write. `applied` has one element for each write that was not refused, in order.
fn results(decided: Vec<Result<(), Refusal>>, applied: Vec<Applied>) -> Vec<Written> {
    let mut applied = applied.into_iter();
    let result = |decided: Result<(), Refusal>| {
        decided?;
        let unanswered = || Refusal::Failed("the log has no outcome for this write".to_owned());
        let Applied { outcome, pin } = applied.next().ok_or_else(unanswered)?;
        match outcome {
            Outcome::Refused(Refused::NoSuchPin) => Err(Refusal::NotFound),
            Outcome::Refused(refused) => Err(Refusal::Invalid(refused.to_string())),
            // Another release may have been applied first.
            Outcome::Changed | Outcome::Unchanged => pin.filter(by_rest).ok_or(Refusal::NotFound),
        }
    };
    decided.into_iter().map(result).collect()
}

/// Whether a write releases a pin that has no claim by REST, as far as this peer knows.
fn releases_unknown(pins: &PinSet, writes: &[Write]) -> bool {
    writes.iter().any(|write| match write {
        Write::Pin(_) => false,
        Write::Unpin(cid) => !pins.get(cid).is_some_and(by_rest),
    })
}

/// Checks that there are enough peers. `possible` counts the peers that hold the pin or can take it.
fn check_peers(
    cid: &Cid,
    replication: Replication,
    possible: usize,
    members: usize,
) -> Result<(), Refusal> {
    // For a copy on every peer one is enough now: peers that are away take theirs when they are back.
    let needed = replication.needed(1);
    if possible >= needed {
        return Ok(());
    }
    let reason =
        format!("not enough peers to allocate CID {cid}: {needed} needed, {possible} can take it");
    // A member that is away or full may take content later, and a leader that is new or was paused may
    // not have the metrics of all members yet.
    let possible_later = needed <= members;
    Err(if possible_later { Refusal::NotYet(reason) } else { Refusal::Invalid(reason) })
}

/// Checks that REST may release a pin.
fn check_release(cid: &Cid, pin: Option<&Pin>) -> Result<(), Refusal> {
    let pin = pin.ok_or(Refusal::NotFound)?;
    if let Some((Owner::Waiting(_), claim)) = pin.claims.last() {
        return Err(Refusal::Invalid(format!(
            "{cid} waits to be unpinned since its Pin {} was deleted: kubectl describe \
             clusterpeers shows how to allow it",
            claim.options.name
        )));
    }
    if !by_rest(pin) {
        let owners: Vec<String> =
            pin.claims.values().map(|claim| claim.options.name.to_string()).take(3).collect();
        return Err(Refusal::Invalid(format!(
            "{cid} is not pinned by this API but by {}; delete that instead",
            owners.join(", ")
        )));
    }
    Ok(())
}

fn by_rest(pin: &Pin) -> bool {
    pin.claims.contains(&Owner::Rest)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::types::{Claim, ClaimName, ClaimOptions, Factor, Timestamp, Uid};

    fn cid(n: u8) -> Cid {
        let hash = cid::multihash::Multihash::wrap(0, &[n]).unwrap();
        Cid::from(cid::Cid::new_v1(0x55, hash))
    }

    fn options(name: &str) -> ClaimOptions {
        let replication = Replication { min: Factor::Count(1), max: Factor::Count(1) };
        ClaimOptions { replication, retain: false, name: ClaimName::Given(name.to_owned()) }
    }

    fn pin(owners: &[(Owner, &str)]) -> Pin {
        let claim = |name| Claim { options: options(name), generation: 0, since: Timestamp(0) };
        let claims = owners.iter().map(|(owner, name)| (owner.clone(), claim(name)));
        Pin { claims: claims.collect(), allocations: Vec::new(), created: Timestamp(0) }
    }

    fn object() -> Owner {
        Owner::Object(Uid("a".to_owned()))
    }

    #[test]
    fn too_few_peers_may_be_enough_later_when_there_are_enough_members() {
        use Factor::{Count, Everywhere};
        // Minimum, holders and takers, members; the result, where `Err(true)` means perhaps later.
        let table = [
            (Count(1), 1, 3, Ok(())),
            (Count(2), 2, 2, Ok(())),
            (Count(2), 3, 3, Ok(())),
            (Count(2), 1, 2, Err(true)),
            (Count(1), 0, 1, Err(true)),
            (Count(3), 1, 2, Err(false)),
            (Count(3), 2, 2, Err(false)),
            (Everywhere, 1, 3, Ok(())),
            (Everywhere, 0, 3, Err(true)),
        ];
        for (min, possible, members, expected) in table {
            let found = check_peers(&cid(1), Replication { min, max: min }, possible, members);
            let later = found.map_err(|refusal| match refusal {
                Refusal::NotYet(_) => true,
                Refusal::Invalid(_) => false,
                other => panic!("{other:?}"),
            });
            assert_eq!(later, expected, "{min:?}: {possible} of {members}");
        }
    }

    #[test]
    fn rest_releases_only_its_own_claim() {
        let waiting = Owner::Waiting(Uid("a".to_owned()));
        type Row<'a> = (&'a [(Owner, &'a str)], Option<&'a str>);
        let table: &[Row<'_>] = &[
            (&[(Owner::Rest, "r")], None),
            (&[(object(), "ns/a"), (Owner::Rest, "r")], None),
            (&[(Owner::Rest, "r"), (Owner::Retained, "ns/b")], None),
            (&[(object(), "ns/a")], Some("ns/a")),
            (&[(Owner::Retained, "ns/b")], Some("ns/b")),
            (&[(waiting, "ns/a")], Some("waits to be unpinned")),
        ];
        for (owners, refused) in table {
            let found = check_release(&cid(1), Some(&pin(owners)));
            match refused {
                None => assert_eq!(found, Ok(()), "{owners:?}"),
                Some(why) => assert!(
                    matches!(&found, Err(Refusal::Invalid(reason)) if reason.contains(why)),
                    "{owners:?}: {found:?}"
                ),
            }
        }
        assert_eq!(check_release(&cid(1), None), Err(Refusal::NotFound));
    }

    #[test]
    fn a_leader_catches_up_before_it_reports_a_pin_to_release_as_missing() {
        let mut pins = PinSet::default();
        pins.restore(cid(1), pin(&[(Owner::Rest, "r")]));
        pins.restore(cid(2), pin(&[(object(), "ns/a")]));
        let claim = |n| Write::Pin(PinRequest { cid: cid(n), options: options("") });
        let table = [
            (vec![], false),
            (vec![claim(1), claim(9)], false),
            (vec![Write::Unpin(cid(1))], false),
            (vec![Write::Unpin(cid(2))], true),
            (vec![Write::Unpin(cid(9))], true),
            (vec![claim(9), Write::Unpin(cid(1)), Write::Unpin(cid(9))], true),
        ];
        for (writes, unknown) in table {
            assert_eq!(releases_unknown(&pins, &writes), unknown, "{writes:?}");
        }
    }

    #[test]
    fn each_write_gets_its_own_answer() {
        let applied = |outcome, name: Option<&str>| Applied {
            outcome,
            pin: name.map(|name| pin(&[(Owner::Rest, name)])),
        };
        let of_object = Applied { outcome: Outcome::Unchanged, pin: Some(pin(&[(object(), "")])) };
        let no_peers = || Refusal::NotYet("no peers".to_owned());
        let decided = vec![Ok(()), Err(no_peers()), Ok(()), Ok(()), Ok(()), Ok(()), Ok(()), Ok(())];
        let all = vec![
            applied(Outcome::Changed, Some("one")),
            applied(Outcome::Unchanged, Some("two")),
            applied(Outcome::Refused(Refused::NoSuchPin), None),
            applied(Outcome::Refused(Refused::TooManyClaims), Some("three")),
            of_object,
            applied(Outcome::Unchanged, None),
        ];
        let shown: Vec<Result<String, Refusal>> = results(decided, all)
            .into_iter()
            .map(|written| Ok(written?.claims.get(&Owner::Rest).unwrap().options.name.to_string()))
            .collect();
        let unanswered = Refusal::Failed("the log has no outcome for this write".to_owned());
        let expected = [
            Ok("one".to_owned()),
            Err(no_peers()),
            Ok("two".to_owned()),
            Err(Refusal::NotFound),
            Err(Refusal::Invalid(Refused::TooManyClaims.to_string())),
            Err(Refusal::NotFound),
            Err(Refusal::NotFound),
            Err(unanswered),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn an_answer_of_another_length_leaves_all_writes_uncertain() {
        let written = vec![Ok(pin(&[(Owner::Rest, "one")])), Err(Refusal::NotFound)];
        let whole = Ok(written.clone());
        assert_eq!(one_for_each(2, whole.clone()), written);
        for (count, answer) in [(1, whole.clone()), (3, whole), (2, Ok(Vec::new()))] {
            let all = one_for_each(count, answer);
            let uncertain = |one: &Written| one.as_ref().is_err_and(Refusal::is_uncertain);
            assert!(all.len() == count && all.iter().all(uncertain), "{all:?}");
        }
        let refused = Refusal::NotLeader(None);
        assert_eq!(one_for_each(2, Err(refused.clone())), vec![Err(refused); 2]);
    }
}
