//! Garbage collection between pins.
//!
//! A pin in flight holds the daemon's lock. A collection waits for that lock, and all later requests
//! wait for the collection. So no pin or unpin starts meanwhile, those in flight get a short time, pins
//! that need longer return to the queue, and a collection always ends.

use std::time::Duration;

use super::{Action, Machine, Phase};
use crate::{
    ipfs::IpfsError,
    types::{Cid, GcCounters, GcReport, GcResult, GcState, PackedCid},
};

/// Stage of a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gc {
    None,
    /// Operations in flight may continue until then.
    Draining {
        until: Duration,
    },
    /// The daemon collects, until then at most.
    Running {
        until: Duration,
    },
}

/// Results of earlier collections.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) totals: GcCounters,
    pub(super) unpinned: bool,
    pub(super) ended_at: Option<Duration>,
}

impl Default for Memory {
    /// Before the first collection it is unknown whether anything was unpinned.
    fn default() -> Self {
        Self { totals: GcCounters::default(), unpinned: true, ended_at: None }
    }
}

impl Machine {
    /// State of the daemon's garbage, for peer metrics.
    #[must_use]
    pub fn gc(&self) -> GcState {
        let minutes = |ended: Duration| self.now.at.saturating_sub(ended).as_secs() / 60;
        GcState {
            running: self.is_collecting(),
            unpinned: self.memory.unpinned,
            idle_minutes: self.memory.ended_at.map(|at| minutes(at).try_into().unwrap_or(u32::MAX)),
        }
    }

    /// Totals of collections.
    #[must_use]
    pub fn collections(&self) -> GcCounters {
        GcCounters { running: self.is_collecting(), ..self.memory.totals }
    }

    pub(super) fn is_collecting(&self) -> bool {
        self.gc != Gc::None
    }

    pub(super) fn begin_gc(&mut self) {
        if let Some(absence) = self.watch.absence() {
            let reason = absence.to_string();
            return self.end_gc(Err(reason));
        }
        self.gc = Gc::Draining { until: self.now.at + self.config.drain_time };
        self.touch_waiting();
    }

    pub(super) fn advance_gc(&mut self) {
        match self.gc {
            Gc::Draining { until } => {
                let drained = self.flights.is_empty() && self.unpinning == 0;
                if until <= self.now.at && self.unpinning > 0 {
                    // An unpin cannot be cancelled, and must not run beside a collection.
                    self.end_gc(Err("an unpin did not end".to_owned()));
                } else if drained || until <= self.now.at {
                    self.give_way();
                    let until = self.now.at + self.config.collect_time;
                    self.gc = Gc::Running { until };
                    self.actions.push(Action::RunGc);
                }
            }
            Gc::Running { until } if until <= self.now.at => {
                self.actions.push(Action::CancelGc);
                let time = self.config.collect_time.as_secs();
                self.end_gc(Err(format!("it did not end within {time} s")));
            }
            Gc::None | Gc::Running { .. } => {}
        }
    }

    /// When a collection next advances by itself.
    pub(super) fn gc_deadline(&self) -> Option<Duration> {
        match self.gc {
            Gc::None => None,
            Gc::Draining { until } | Gc::Running { until } => Some(until),
        }
    }

    pub(super) fn collected(&mut self, result: Result<GcReport, IpfsError>) {
        match result {
            // This ends the collection too.
            Err(IpfsError::Down(reason)) => self.daemon_down(&reason),
            Err(error) => self.end_gc(Err(error.to_string())),
            Ok(collected) => self.end_gc(Ok(collected)),
        }
    }

    /// Ends the requested or running collection and resumes pins.
    pub(super) fn end_gc(&mut self, result: GcResult) {
        self.gc = Gc::None;
        let memory = &mut self.memory;
        memory.ended_at = Some(self.now.at);
        match &result {
            Ok(collected) => {
                memory.unpinned = false;
                memory.totals.done += 1;
                memory.totals.removed += collected.removed;
                memory.totals.done_at = Some(self.now.wall);
            }
            Err(_) => memory.totals.failed += 1,
        }
        // Earlier confirmations are outdated by now.
        self.doubt_all();
        self.touch_waiting();
        self.actions.push(Action::EndGc(result));
    }

    /// Returns pins in flight to the queue without counting a failure.
    fn give_way(&mut self) {
        let in_flight: Vec<Cid> = self.flights.keys().copied().collect();
        for cid in in_flight {
            self.actions.push(Action::CancelPin(cid));
            self.take_out(&cid);
            let turn = self.entries[&cid].turn;
            self.be_unsure(cid, turn);
        }
    }

    /// Waiting pins show the collection as their reason, so their statuses change at its start and end.
    fn touch_waiting(&mut self) {
        let queued = self.queue.values().map(PackedCid::cid);
        let unsure = |cid: &&Cid| self.phase(cid) == Some(Phase::Unsure);
        let others = self.ready.values().chain(self.timers.values().filter(unsure));
        let waiting: Vec<Cid> = queued.chain(others.copied()).collect();
        for cid in waiting {
            self.touch(cid);
        }
    }
}
