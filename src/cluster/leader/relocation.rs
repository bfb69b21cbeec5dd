//! Moves copies off members that depart or are gone for long, and off holders that fail for long.
//!
//! The moves in flight are the pins with a leaving peer, so a new leader continues where the last one was.
//!
//! Invariants:
//! - At most [`IN_FLIGHT_MAX`] copies at a time are on their way to one member, so that new pins do not wait
//!   behind them. Copies that fail do not count: others are not to wait for them.
//! - One step reads a bounded number of pins, and their order is the same each time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{Leader, sight::Senses};
use crate::{
    allocate::{self, Need, Plan},
    cluster::{Cluster, FatalError, SubmitError},
    state::Op,
    types::{Cid, PeerId, Pin},
};

/// Copies on their way to one member.
const IN_FLIGHT_MAX: usize = 32;
/// Time between two steps.
const STEP: Duration = Duration::from_millis(250);
/// Time until the pins are read again after nothing in them could move.
const PAUSE: Duration = Duration::from_secs(5);
/// Pins read in one step.
const SCAN_LEN: usize = 10_000;
/// Failing copies looked at in one step.
const FAILING_MAX: usize = 256;

/// How far the pins were read.
#[derive(Debug, Default)]
struct Scan {
    after: Option<Cid>,
    /// How far the failing ones were.
    failing_after: Option<Cid>,
    /// How long it took to count the moves in flight.
    counting: Duration,
    /// Something has moved since the first pin, or will as soon as there is room.
    moved: bool,
}

impl Cluster {
    pub(super) async fn relocate(self, leader: Arc<Leader>, term: u64) -> Result<(), FatalError> {
        let mut scan = Scan::default();
        loop {
            // With very many moves it costs time to count them: at most a tenth of it.
            sleep(STEP.max(scan.counting * 10)).await;
            if !self.0.leadership.borrow().local || !leader.metrics.all_could_report() {
                continue;
            }
            let relocated = self.relocate_some(&leader, term, &mut scan).await;
            if let Err(error) = relocated {
                tracing::debug!(%error, "copies were not moved");
            }
            if scan.after.is_none() && !std::mem::take(&mut scan.moved) {
                sleep(PAUSE).await;
            }
        }
    }

    async fn relocate_some(
        &self,
        leader: &Leader,
        term: u64,
        scan: &mut Scan,
    ) -> Result<(), SubmitError> {
        let gone = self.gone(leader);
        let from = self.giving_away(&gone.peers);
        let failing = match gone.paused {
            true => Vec::new(),
            false => self.failing(leader, scan),
        };
        if from.is_empty() && failing.is_empty() {
            (scan.after, scan.moved) = (None, true);
            return Ok(());
        }
        let senses = self.senses(leader);
        let began = Instant::now();
        let room = self.room(&senses);
        scan.counting = began.elapsed();
        let free: usize = room.values().sum();
        if free == 0 {
            scan.moved = true;
            return Ok(());
        }
        let mut cids = failing;
        cids.extend(self.scan(scan, &from, free));
        let mut fleet = self.fleet().with_moves(gone.peers, room);
        let mut ops = Vec::new();
        for cid in cids {
            let Some(pin) = self.state().read(|pins| pins.get(&cid).cloned()) else { continue };
            let plan = allocate::plan(&Need::of(&cid, &pin), &fleet, &senses.of(&cid, &pin));
            let plan = Plan { moves: plan.moves, ..Plan::default() };
            self.reserve(&mut fleet, &plan);
            ops.extend(plan.moves.into_iter().map(|moved| Op::Move {
                cid,
                from: moved.from,
                candidates: moved.to,
            }));
        }
        if ops.is_empty() {
            return Ok(());
        }
        scan.moved = true;
        self.submit(term, ops).await.map(drop)
    }

    /// The next pins that a holder fails to make.
    fn failing(&self, leader: &Leader, scan: &mut Scan) -> Vec<Cid> {
        let (time, after) = (self.0.parts.moves.after, scan.failing_after.take());
        let failing = leader.reports.all_failing(time, after.as_ref(), FAILING_MAX);
        if failing.len() == FAILING_MAX {
            scan.failing_after = failing.last().copied();
        }
        failing
    }

    /// The members that depart or are gone, and have copies.
    fn giving_away(&self, gone: &BTreeSet<PeerId>) -> BTreeSet<PeerId> {
        self.state().read(|pins| {
            let all = pins.departing().union(gone);
            all.filter(|peer| pins.copies_of(**peer) > 0).copied().collect()
        })
    }

    /// How many more copies may be on their way to each member that can be heard.
    fn room(&self, senses: &Senses<'_>) -> BTreeMap<PeerId, usize> {
        let moving: Vec<(Cid, Pin)> = self.state().read(|pins| {
            let pin = |cid| Some((cid, pins.get(&cid)?.clone()));
            pins.moving().filter_map(pin).collect()
        });
        let mut room: BTreeMap<PeerId, usize> =
            senses.with_daemon.iter().map(|peer| (*peer, IN_FLIGHT_MAX)).collect();
        for peer in moving.iter().flat_map(|(cid, pin)| senses.pending(cid, pin)) {
            if let Some(room) = room.get_mut(&peer) {
                *room = room.saturating_sub(1);
            }
        }
        room
    }

    /// The next pins of these holders, at most `most`.
    fn scan(&self, scan: &mut Scan, from: &BTreeSet<PeerId>, most: usize) -> Vec<Cid> {
        if from.is_empty() {
            scan.after = None;
            return Vec::new();
        }
        let holds = |pin: &Pin| pin.holders().any(|holder| from.contains(&holder));
        self.state().read(|pins| {
            let mut found = Vec::new();
            let mut last = None;
            for (cid, pin) in pins.after(scan.after.as_ref()).take(SCAN_LEN) {
                last = Some(cid);
                if holds(pin) {
                    found.push(cid);
                }
                if found.len() >= most {
                    break;
                }
            }
            scan.after = last;
            found
        })
    }
}

#[cfg(test)]
mod tests;
