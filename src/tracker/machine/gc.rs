//! Garbage collection between pins.
//!
//! A pin in flight holds the daemon's lock. A collection waits for that lock, and all later requests
//! wait for the collection. So no pin or unpin starts meanwhile, those in flight get a short time, pins
//! that need longer return to the queue, and a collection always ends.

use std::time::Duration;

use super::{Action, Config, Machine, Now, Phase};
use crate::{
    ipfs::IpfsError,
    types::{Cid, GcCounters, GcReport, GcResult, GcState},
};

/// The collection under way, and what is known of earlier ones.
#[derive(Debug)]
pub(super) struct Collection {
    stage: Stage,
    totals: GcCounters,
    /// Something was unpinned since the last one that succeeded.
    unpinned: bool,
    ended_at: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
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

/// What a collection does next.
enum Step {
    /// It begins at the daemon.
    Run,
    /// It ends without having begun there, for this reason.
    GiveUp(String),
    /// It is stopped at the daemon, for this reason.
    Stop(String),
}

impl Collection {
    pub(super) fn new() -> Self {
        // Before the first collection it is unknown whether anything was unpinned.
        Self { stage: Stage::None, totals: GcCounters::default(), unpinned: true, ended_at: None }
    }

    pub(super) fn is_under_way(&self) -> bool {
        !matches!(self.stage, Stage::None)
    }

    /// When it next advances by itself.
    pub(super) fn deadline(&self) -> Option<Duration> {
        match self.stage {
            Stage::None => None,
            Stage::Draining { until } | Stage::Running { until } => Some(until),
        }
    }

    /// Something was unpinned.
    pub(super) fn note_unpin(&mut self) {
        self.unpinned = true;
    }

    fn begin(&mut self, now: Duration, config: &Config) {
        self.stage = Stage::Draining { until: now + config.drain_time };
    }

    /// `pins`, `unpins`: whether any are in flight.
    fn advance(
        &mut self,
        now: Duration,
        pins: bool,
        unpins: bool,
        config: &Config,
    ) -> Option<Step> {
        match self.stage {
            // An unpin cannot be cancelled, and must not run beside a collection.
            Stage::Draining { until } if until <= now && unpins => {
                Some(Step::GiveUp("an unpin did not end".to_owned()))
            }
            Stage::Draining { until } if until <= now || !(pins || unpins) => {
                self.stage = Stage::Running { until: now + config.collect_time };
                Some(Step::Run)
            }
            Stage::Running { until } if until <= now => {
                let time = config.collect_time.as_secs();
                Some(Step::Stop(format!("it did not end within {time} s")))
            }
            Stage::None | Stage::Draining { .. } | Stage::Running { .. } => None,
        }
    }

    fn end(&mut self, now: Now, result: &GcResult) {
        self.stage = Stage::None;
        self.ended_at = Some(now.at);
        match result {
            Ok(collected) => {
                self.unpinned = false;
                self.totals.done += 1;
                self.totals.removed += collected.removed;
                self.totals.done_at = Some(now.wall);
            }
            Err(_) => self.totals.failed += 1,
        }
    }
}

impl Machine {
    /// State of the daemon's garbage, for peer metrics.
    #[must_use]
    pub fn gc(&self) -> GcState {
        let minutes = |ended: Duration| self.now.at.saturating_sub(ended).as_secs() / 60;
        let ended_at = self.collection.ended_at;
        GcState {
            running: self.collection.is_under_way(),
            unpinned: self.collection.unpinned,
            idle_minutes: ended_at.map(|at| minutes(at).try_into().unwrap_or(u32::MAX)),
        }
    }

    /// Totals of collections.
    #[must_use]
    pub fn collections(&self) -> GcCounters {
        GcCounters { running: self.collection.is_under_way(), ..self.collection.totals }
    }

    pub(super) fn begin_gc(&mut self) {
        if let Some(absence) = self.watch.absence() {
            let reason = absence.to_string();
            self.end_gc(Err(reason));
        } else {
            self.collection.begin(self.now.at, &self.config);
            self.touch_waiting();
        }
    }

    pub(super) fn advance_gc(&mut self) {
        let (pins, unpins) = (self.pins.in_flight().len() > 0, self.unpins.is_under_way());
        match self.collection.advance(self.now.at, pins, unpins, &self.config) {
            Some(Step::Run) => {
                self.give_way();
                self.actions.push(Action::RunGc);
            }
            Some(Step::GiveUp(reason)) => self.end_gc(Err(reason)),
            Some(Step::Stop(reason)) => {
                self.actions.push(Action::CancelGc);
                self.end_gc(Err(reason));
            }
            None => {}
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
        self.collection.end(self.now, &result);
        // Earlier confirmations are outdated by now.
        self.doubt_all();
        self.touch_waiting();
        self.actions.push(Action::EndGc(result));
    }

    /// Returns pins in flight to the queue without counting a failure.
    fn give_way(&mut self) {
        let in_flight: Vec<Cid> = self.pins.in_flight().copied().collect();
        for cid in in_flight {
            let Some(Phase::Pinning { turn }) = self.phase(&cid) else { continue };
            self.actions.push(Action::CancelPin(cid));
            self.be_unsure(cid, turn);
        }
    }

    /// Waiting pins show the collection as their reason, so their statuses change at its start and end.
    fn touch_waiting(&mut self) {
        let is_unsure = |cid: &Cid| matches!(self.phase(cid), Some(Phase::Unsure { .. }));
        let unsure = self.timers.cids().filter(is_unsure);
        let waiting: Vec<Cid> =
            self.questions.queue.cids().chain(self.pins.ready.cids()).chain(unsure).collect();
        for cid in waiting {
            self.entries.touch(cid);
        }
    }
}
