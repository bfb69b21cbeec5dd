//! Pins in flight: which start, how they get on, and which give way.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Action, Config, Machine, Origin, Phase,
    failures::Kind,
    pace::Pace,
    phase::Finding,
    turns::{Turn, Turns},
};
use crate::{
    ipfs::IpfsError,
    types::{Cid, Progress},
};

/// Older answers are asked for again before `pin/add`, and older barriers passed again before `pin/rm`.
pub(super) const ANSWER_AGE_MAX: Duration = Duration::from_secs(5);
/// A retried pin gives way to another retry after so many times the patience.
const RETRY_PATIENCE: u32 = 5;
/// A pin without progress for that long is reported as stalled, but continues until the stall time:
/// finding providers of rare content may take longer.
const TELL_STALL: Duration = Duration::from_secs(20);
/// Time between two checks of the pins in flight.
const FLIGHT_PERIOD: Duration = Duration::from_millis(500);
/// Shortest time between two progress reports of a pin.
const TELL_PERIOD: Duration = Duration::from_secs(5);
/// The reason shown for a stalled pin.
const NO_PROGRESS: &str = "no progress";

/// A pin in flight.
#[derive(Clone, Copy, Debug)]
struct Flight {
    progress: Progress,
    /// Time of the last progress, or of the start.
    progressed_at: Duration,
    /// When progress was last reported.
    told_at: Duration,
}

impl Flight {
    /// For how long it has made no progress.
    fn idle(&self, now: Duration) -> Duration {
        now.saturating_sub(self.progressed_at)
    }
}

/// Pins that may start, and those in flight, which are bounded.
#[derive(Debug)]
pub(super) struct Pins {
    /// Not pinned when asked, with the intent on disk.
    pub(super) ready: Turns,
    flights: BTreeMap<Cid, Flight>,
    /// Those that started recently.
    pace: Pace,
    /// When flights were last checked.
    looked_at: Duration,
}

/// Whether one more pin may start.
enum Room {
    Free,
    /// If this one is stopped.
    InPlaceOf(Cid),
    None,
}

impl Pins {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            ready: Turns::default(),
            flights: BTreeMap::new(),
            pace: Pace::default(),
            looked_at: now,
        }
    }

    pub(super) fn begin(&mut self, cid: Cid, now: Duration) {
        if self.flights.is_empty() {
            self.looked_at = now;
        }
        let flight = Flight { progress: Progress::default(), progressed_at: now, told_at: now };
        self.flights.insert(cid, flight);
    }

    pub(super) fn end(&mut self, cid: &Cid) {
        self.flights.remove(cid);
    }

    pub(super) fn in_flight(&self) -> impl ExactSizeIterator<Item = &Cid> {
        self.flights.keys()
    }

    /// Progress of a pin in flight; none if it is not.
    pub(super) fn progress(&self, cid: &Cid) -> Option<Progress> {
        self.flights.get(cid).map(|flight| flight.progress)
    }

    /// How many started within the time after which an answer is old, roughly.
    pub(super) fn recent(&self, now: Duration) -> usize {
        self.pace.recent(now)
    }

    /// Progress up to now is known.
    pub(super) fn look(&mut self, now: Duration) {
        self.looked_at = now;
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        (!self.flights.is_empty()).then_some(self.looked_at + FLIGHT_PERIOD)
    }

    /// Pins without progress for at least that long, with that time.
    fn silent(&self, now: Duration, least: Duration) -> Vec<(Cid, Duration)> {
        let idle = self.flights.iter().map(|(cid, flight)| (*cid, flight.idle(now)));
        idle.filter(|(_, idle)| *idle >= least).collect()
    }

    fn room(&self, turn: Turn, now: Duration, config: &Config) -> Room {
        let patience = config.patience;
        let busy = self.flights.values().filter(|flight| flight.idle(now) < patience).count();
        if busy >= config.pins_max {
            return Room::None;
        }
        if self.flights.len() < config.pins_max + config.idle_pins_max {
            return Room::Free;
        }
        let least = if turn == Turn::Retry { patience * RETRY_PATIENCE } else { patience };
        // Of equally long ones, the first by CID.
        let longest = self.flights.iter().rev().max_by_key(|(_, flight)| flight.idle(now));
        match longest {
            Some((cid, flight)) if flight.idle(now) >= least => Room::InPlaceOf(*cid),
            _ => Room::None,
        }
    }

    /// Notes progress; returns whether to tell it, or none if it is not more than before.
    fn progressed(&mut self, cid: &Cid, progress: Progress, now: Duration) -> Option<bool> {
        let flight =
            self.flights.get_mut(cid).filter(|flight| is_more(progress, flight.progress))?;
        flight.progress = progress;
        flight.progressed_at = now;
        let tell = now.saturating_sub(flight.told_at) >= TELL_PERIOD;
        if tell {
            flight.told_at = now;
        }
        Some(tell)
    }
}

fn is_more(progress: Progress, than: Progress) -> bool {
    progress.blocks > than.blocks || progress.bytes > than.bytes
}

impl Machine {
    /// The daemon says that it holds the pin.
    pub(super) fn is_pinned(&mut self, cid: Cid, turn: Turn) {
        let Some(entry) = self.entries.get(&cid) else { return };
        match (entry.origin, entry.whose()) {
            (Some(Origin::Former), _) => self.write_origin(cid, Finding::Former, turn),
            (_, None) => self.write_origin(cid, Finding::Foreign, turn),
            _ => {
                self.clear_failure(&cid);
                self.enter(cid, Phase::Pinned);
            }
        }
    }

    pub(super) fn make_ready(&mut self, cid: Cid, turn: Turn, answered_at: Duration) {
        let number = self.pins.ready.place(turn).number;
        self.enter(cid, Phase::Ready { turn, number, answered_at });
    }

    pub(super) fn start_pins(&mut self) {
        let now = self.now.at;
        while let Some((turn, cid)) = self.pins.ready.next()
            && let Some(Phase::Ready { answered_at, .. }) = self.phase(&cid)
        {
            if now.saturating_sub(answered_at) > ANSWER_AGE_MAX {
                self.enqueue(cid, turn);
                continue;
            }
            match self.pins.room(turn, now, &self.config) {
                Room::Free => {}
                Room::InPlaceOf(other) => self.give_up(other),
                Room::None => break,
            }
            self.pins.ready.alternate();
            self.pins.pace.count(now);
            self.update(&cid, |entry| entry.attempted = true);
            self.enter(cid, Phase::Pinning { turn });
            self.actions.push(Action::Pin(cid));
        }
    }

    /// Stops pins without progress, and reports those that will be stopped soon.
    pub(super) fn stop_stalled(&mut self) {
        let stall_time = self.config.stall_time;
        for (cid, idle) in self.pins.silent(self.now.at, stall_time.min(TELL_STALL)) {
            if idle >= stall_time {
                self.give_up(cid);
            } else if self.entries[&cid].failed.is_none() {
                self.show_failure(cid, Kind::Stalled, NO_PROGRESS);
            }
        }
    }

    /// Stops a pin without progress.
    fn give_up(&mut self, cid: Cid) {
        self.actions.push(Action::CancelPin(cid));
        self.fail(cid, Kind::Stalled, NO_PROGRESS);
    }

    pub(super) fn progressed(&mut self, cid: Cid, progress: Progress) {
        let Some(tell) = self.pins.progressed(&cid, progress, self.now.at) else { return };
        let failure = self.failures.get(&cid);
        if failure.is_none_or(|failure| is_more(progress, failure.progress)) {
            // It got further than before: the last failure no longer applies.
            self.update(&cid, |entry| entry.failed = None);
        }
        if tell {
            self.entries.touch(cid);
        }
    }

    pub(super) fn pin_done(&mut self, cid: Cid, result: Result<(), IpfsError>) {
        let Some(Phase::Pinning { turn }) = self.phase(&cid) else { return };
        match result {
            Ok(()) => {
                self.overrule_lists(&cid);
                self.is_pinned(cid, turn);
            }
            Err(error) => {
                self.fail(cid, Kind::of(&error), &error.to_string());
                if let IpfsError::Down(reason) = error {
                    self.daemon_down(&reason);
                }
            }
        }
    }
}
