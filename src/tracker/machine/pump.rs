//! Starts everything that may start now, and computes when to look again.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Action, Flight, Machine, Phase, Turn,
    pinning::NO_PROGRESS,
    tracked::{Failure, Kind},
};
use crate::types::{Cid, Progress};

/// CIDs in one question.
const ASK_LEN: usize = 64;
/// CIDs in one question while nothing may start: a short question is answered sooner.
const ASK_LEN_MIN: usize = 8;
/// Questions under way at the same time.
const ASKS_MAX: usize = 4;
/// Per turn: no further questions while so many CIDs of this turn or a better one may start.
const READY_MAX: [usize; 4] = [128, 128, 128, 32];
/// Nor while more CIDs may start than have started recently, if these are more than this: their answers
/// would get old, and new work would wait behind them.
const READY_MIN: usize = ASK_LEN_MIN;
/// Older answers are asked for again before `pin/add`, and older barriers passed again before `pin/rm`.
const ANSWER_AGE_MAX: Duration = Duration::from_secs(5);
/// A retried pin gives way to another retry after so many times the patience.
const RETRY_PATIENCE: u32 = 5;
/// A pin without progress for that long is reported as stalled, but continues until the stall time:
/// finding providers of rare content may take longer.
const TELL_STALL: Duration = Duration::from_secs(20);
/// Time between two checks of the pins in flight.
const FLIGHT_PERIOD: Duration = Duration::from_millis(500);
/// CIDs covered by one barrier.
const CONFIRM_LEN: usize = 64;
/// Wait after the first failed barrier; doubles with each further one.
pub(super) const CONFIRM_RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest wait after a failed barrier.
pub(super) const CONFIRM_RETRY_MAX: Duration = Duration::from_secs(30);

/// The next place: the first, or, among fresh ones, alternately the newest. So new work does not wait
/// behind a backlog without progress, and the oldest still advances with every second turn.
fn next_place<V>(of: &BTreeMap<(Turn, u64), V>, newest: bool) -> Option<(Turn, u64)> {
    let (first, _) = of.first_key_value()?;
    if !newest || first.0 != Turn::Fresh {
        return Some(*first);
    }
    of.range(..=(Turn::Fresh, u64::MAX)).next_back().map(|(place, _)| *place)
}

/// Counts the pins that started recently.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    since: Duration,
    now: usize,
    before: usize,
}

impl Pace {
    fn count(&mut self, at: Duration) {
        *self = self.at(at);
        self.now += 1;
    }

    /// Roughly within the time after which an answer is old.
    fn recent(self, at: Duration) -> usize {
        let pace = self.at(at);
        pace.now.max(pace.before)
    }

    fn at(self, at: Duration) -> Self {
        match at.saturating_sub(self.since) {
            passed if passed < ANSWER_AGE_MAX => self,
            passed if passed < 2 * ANSWER_AGE_MAX => {
                Self { since: self.since + ANSWER_AGE_MAX, now: 0, before: self.now }
            }
            _ => Self { since: at, now: 0, before: 0 },
        }
    }
}

impl Machine {
    pub(super) fn pump(&mut self) {
        self.run_timers();
        self.show_absence();
        self.start_probe();
        if self.watch.is_up() {
            self.stop_stalled();
            self.start_list();
            self.advance_gc();
            if !self.collection.is_under_way() {
                self.start_pins();
            }
            self.start_asks();
            if !self.collection.is_under_way() {
                self.start_unpins();
                self.start_confirm();
            }
        }
        self.start_write();
    }

    /// When to send a [`super::Event::Tick`] if nothing else happens before.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        let up = self.watch.is_up();
        let [probe, absence] = self.watch.deadlines(&self.config);
        let confirm = up && self.confirming.is_empty() && !self.unpin_queue.is_empty();
        [
            probe,
            absence,
            self.listing.deadline().filter(|_| up),
            (!self.flights.is_empty()).then_some(self.looked_at + FLIGHT_PERIOD),
            confirm.then_some(self.confirm_at),
            self.collection.deadline(),
            self.writer.deadline(),
            self.timers.keys().next().map(|(due, _)| *due),
        ]
        .into_iter()
        .flatten()
        // Something that is due and did not happen does not wait for time.
        .filter(|at| *at > self.now.at)
        .min()
        // Nothing to wait for: a probe is under way, and its answer is an event.
        .unwrap_or(self.now.at + self.config.probe_period)
    }

    fn run_timers(&mut self) {
        while let Some(timer) = self.timers.first_entry() {
            if timer.key().0 > self.now.at {
                break;
            }
            let cid = timer.remove();
            match self.phase(&cid) {
                Some(Phase::Unsure) => {
                    // Lists up to now may describe the time before the attempt ended.
                    let (turn, number) = (self.entries[&cid].turn, self.listing.number());
                    self.update(&cid, |entry| entry.seen = number);
                    self.enqueue(cid, turn);
                }
                Some(Phase::Waiting) => self.enqueue(cid, Turn::Retry),
                Some(Phase::UnpinWaiting) => self.enqueue_unpin(cid),
                _ => {}
            }
        }
    }

    /// Stops pins without progress, and reports those that will be stopped soon.
    fn stop_stalled(&mut self) {
        let (now, stall_time) = (self.now.at, self.config.stall_time);
        let idle = |flight: &Flight| now.saturating_sub(flight.progressed_at);
        let silent: Vec<(Cid, Flight)> = self
            .flights
            .iter()
            .filter(|(_, flight)| idle(flight) >= stall_time.min(TELL_STALL))
            .map(|(cid, flight)| (*cid, *flight))
            .collect();
        for (cid, flight) in silent {
            if idle(&flight) >= stall_time {
                self.give_up(cid);
            } else if self.entries[&cid].failed.is_none() {
                self.update(&cid, |entry| entry.failed = Some(Kind::Stalled));
                let (reason, progress) = (NO_PROGRESS.into(), flight.progress);
                self.set_failure(cid, Failure { reason, progress });
            }
        }
    }

    fn start_pins(&mut self) {
        while let Some(key) = next_place(&self.ready, self.newest_starts) {
            let cid = self.ready[&key];
            if self.is_answer_old(&cid) {
                self.take_out(&cid);
                self.enqueue(cid, key.0);
                continue;
            }
            if !self.has_room(key.0) {
                break;
            }
            self.ready.remove(&key);
            self.newest_starts = !self.newest_starts;
            self.pace.count(self.now.at);
            self.update(&cid, |entry| {
                entry.phase = Phase::Pinning;
                entry.attempted = true;
            });
            let now = self.now.at;
            if self.flights.is_empty() {
                self.looked_at = now;
            }
            let flight = Flight { progress: Progress::default(), progressed_at: now, told_at: now };
            self.flights.insert(cid, flight);
            self.actions.push(Action::Pin(cid));
        }
    }

    /// Whether the answer that allows a pin or an unpin is too old.
    fn is_answer_old(&self, cid: &Cid) -> bool {
        self.now.at.saturating_sub(self.entries[cid].due) > ANSWER_AGE_MAX
    }

    /// Whether one more pin may start; makes room by stopping one without progress.
    fn has_room(&mut self, turn: Turn) -> bool {
        let now = self.now.at;
        let idle = |flight: &Flight| now.saturating_sub(flight.progressed_at);
        let patience = self.config.patience;
        let busy = self.flights.values().filter(|flight| idle(flight) < patience).count();
        if busy >= self.config.pins_max {
            return false;
        }
        if self.flights.len() < self.config.pins_max + self.config.idle_pins_max {
            return true;
        }
        let least = if turn == Turn::Retry { patience * RETRY_PATIENCE } else { patience };
        // Of equally long ones, the first by CID.
        let longest = self.flights.iter().rev().max_by_key(|(_, flight)| idle(flight));
        match longest.map(|(cid, flight)| (*cid, idle(flight))) {
            Some((cid, waited)) if waited >= least => {
                self.give_up(cid);
                true
            }
            _ => false,
        }
    }

    fn start_asks(&mut self) {
        while self.asks < ASKS_MAX {
            let batch = self.next_questions();
            if batch.is_empty() {
                break;
            }
            self.asks += 1;
            self.asking += batch.len();
            self.actions.push(Action::Ask(batch));
        }
    }

    fn next_questions(&mut self) -> Vec<Cid> {
        let mut batch = Vec::new();
        let len = self.ready.len().clamp(ASK_LEN_MIN, ASK_LEN);
        let mut room = [const { None }; READY_MAX.len()];
        while batch.len() < len {
            let place = next_place(&self.queue, self.newest_is_asked);
            let Some((turn, sequence)) = place else { break };
            let cid = self.queue[&(turn, sequence)].cid();
            if batch.len() >= *room[turn as usize].get_or_insert_with(|| self.room_to_ask(turn)) {
                break;
            }
            let alone = self.alone.contains(&cid);
            if alone && !batch.is_empty() {
                break;
            }
            self.queue.remove(&(turn, sequence));
            self.newest_is_asked = !self.newest_is_asked;
            self.update(&cid, |entry| entry.phase = Phase::Asking);
            batch.push(cid);
            if alone {
                break;
            }
        }
        batch
    }

    /// How many more CIDs may be asked about, so that not too many wait with an answer. Never only a
    /// few: each question, and the ledger write that follows, has a fixed cost.
    fn room_to_ask(&self, turn: Turn) -> usize {
        let ready = self.ready.range(..=(turn, u64::MAX)).count();
        let most = READY_MAX[turn as usize].min(self.pace.recent(self.now.at).max(READY_MIN));
        let step = ASK_LEN.min(most);
        let room = (most + step).saturating_sub(ready + self.asking);
        if room < step { 0 } else { room }
    }

    fn start_confirm(&mut self) {
        let due = self.confirming.is_empty() && self.confirm_at <= self.now.at;
        if !due || self.unpin_queue.is_empty() || self.confirmed.len() >= CONFIRM_LEN / 2 {
            return;
        }
        while self.confirming.len() < CONFIRM_LEN {
            let Some((_, cid)) = self.unpin_queue.pop_first() else { break };
            self.update(&cid, |entry| entry.phase = Phase::Confirming);
            self.confirming.push(cid);
        }
        self.actions.push(Action::Confirm(self.confirming.clone()));
    }

    fn start_unpins(&mut self) {
        while self.unpinning < self.config.unpins_max {
            let Some((_, cid)) = self.confirmed.pop_first() else { break };
            if self.is_answer_old(&cid) {
                self.enqueue_unpin(cid);
                continue;
            }
            self.unpinning += 1;
            self.update(&cid, |entry| entry.phase = Phase::Unpinning);
            self.actions.push(Action::Unpin(cid));
        }
    }
}
