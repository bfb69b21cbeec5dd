//! Tables of single decisions; `model` has the random sequences.
#![allow(clippy::unwrap_used)]

mod daemon;
mod desired;
mod gc;
mod pinning;
mod places;
mod statuses;
mod tracked;
mod unpinning;
mod written;

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::{
    ipfs::{Held, IpfsError},
    types::{GcReport, PinState, PinStatus, Progress, Timestamp},
};

fn cid(n: u16) -> Cid {
    let [a, b] = n.to_be_bytes();
    Cid::from_bytes(&[1, 0x55, 0, 2, a, b]).unwrap()
}

/// A machine with its clock; answers ledger writes and probes itself.
struct Bench {
    machine: Machine,
    at: Duration,
    /// Actions not yet examined.
    actions: Vec<Action>,
    written: Vec<Change>,
    /// The test answers writes itself.
    holds_writes: bool,
    /// The test answers probes and bindings itself.
    holds_probes: bool,
}

/// Many more than any test needs.
const STEPS_MAX: usize = 10_000;

impl Bench {
    fn new(config: Config) -> Self {
        Self::with_ledger(config, Vec::new())
    }

    fn with_ledger(config: Config, ledger: Vec<(Cid, ledger::LedgerEntry)>) -> Self {
        let mut bench = Self::unlisted(config, ledger);
        bench.feed(Event::ListEnded(Ok(())));
        bench
    }

    /// Its first list is under way.
    fn unlisted(config: Config, ledger: Vec<(Cid, ledger::LedgerEntry)>) -> Self {
        let bound = (!ledger.is_empty()).then(|| "d".to_owned());
        let now = Now { at: Duration::ZERO, wall: Timestamp(0) };
        let machine = Machine::new(config, now, bound, ledger);
        let mut bench = Self {
            machine,
            at: Duration::ZERO,
            actions: Vec::new(),
            written: Vec::new(),
            holds_writes: false,
            holds_probes: false,
        };
        bench.feed(Event::Tick);
        bench
    }

    /// With these entries in the ledger: wanted, missing in the list, and asked about.
    fn asking(origins: &[Origin]) -> Self {
        let mut bench = Self::unlisted(config(), ledger_of(origins));
        let wanted = (1..).zip(origins).map(|(n, _)| cid(n)).collect();
        bench.feed(Event::DesiredRange { after: None, until: None, wanted });
        bench.feed(Event::ListEnded(Ok(())));
        bench
    }

    /// With this pin of ours.
    fn holding(n: u16) -> Self {
        let mut bench = Self::new(config());
        bench.want(n);
        bench.answer_no();
        bench.feed(Event::PinDone(cid(n), Ok(())));
        assert_eq!(bench.state(n), Some(PinState::Pinned));
        bench.take();
        bench
    }

    fn feed(&mut self, event: Event) {
        let wall = Timestamp(u64::try_from(self.at.as_millis()).unwrap());
        let before = self.machine.statuses(None, usize::MAX).0;
        let actions = self.machine.handle(Now { at: self.at, wall }, event);
        self.check_told(&before);
        for action in actions {
            match action {
                Action::Probe if !self.holds_probes => {
                    self.feed(Event::Probed(Ok("d".to_owned())));
                }
                Action::Bind(_) if !self.holds_probes => self.feed(Event::Bound(Ok(false))),
                Action::Write(changes) if !self.holds_writes => {
                    self.written.extend(changes);
                    self.feed(Event::Written(Ok(())));
                }
                other => self.actions.push(other),
            }
        }
    }

    /// Checks that every changed state was among the changes.
    fn check_told(&mut self, before: &[(Cid, PinStatus)]) {
        let changes = self.machine.take_changes();
        if changes.everything {
            return;
        }
        let before: BTreeMap<Cid, PinState> =
            before.iter().map(|(cid, status)| (*cid, status.state)).collect();
        let now: BTreeMap<Cid, PinState> = self
            .machine
            .statuses(None, usize::MAX)
            .0
            .into_iter()
            .map(|(c, s)| (c, s.state))
            .collect();
        for cid in before.keys().chain(now.keys()) {
            let (before, now) = (before.get(cid), now.get(cid));
            // A new CID that waits for its turn is not reported.
            let expected = before == now || (before, now) == (None, Some(&PinState::Queued));
            assert!(expected || changes.cids.contains(cid), "{cid}: {before:?} {now:?}");
        }
    }

    fn want(&mut self, n: u16) {
        self.feed(Event::Desired(vec![(cid(n), true)]));
    }

    fn release(&mut self, n: u16) {
        self.feed(Event::Desired(vec![(cid(n), false)]));
    }

    /// The next question under way.
    fn next_ask(&mut self) -> Option<Vec<Cid>> {
        let at = self.actions.iter().position(|a| matches!(a, Action::Ask(_)))?;
        match self.actions.remove(at) {
            Action::Ask(cids) => Some(cids),
            _ => None,
        }
    }

    /// Answers all questions with "not pinned".
    fn answer_no(&mut self) {
        for _ in 0..STEPS_MAX {
            let Some(cids) = self.next_ask() else { return };
            let answers = vec![Held::No; cids.len()];
            self.feed(Event::Asked(cids, Ok(answers)));
        }
        panic!("it never stops asking");
    }

    /// Answers a question about this CID alone.
    fn answer(&mut self, n: u16, held: Held) {
        assert_eq!(self.next_ask(), Some(vec![cid(n)]));
        self.feed(Event::Asked(vec![cid(n)], Ok(vec![held])));
    }

    fn advance(&mut self, seconds: u64) {
        self.advance_by(Duration::from_secs(seconds));
    }

    fn advance_by(&mut self, time: Duration) {
        let until = self.at + time;
        while self.at < until {
            let next = self.machine.deadline().min(until);
            assert!(next > self.at, "it waits for a time that has passed");
            self.at = next;
            self.feed(Event::Tick);
        }
    }

    /// Advances second by second until the action occurs; returns the seconds.
    fn advance_until(&mut self, action: &Action) -> u64 {
        for second in 0..1000 {
            if self.actions.contains(action) {
                return second;
            }
            self.advance(1);
        }
        panic!("never: {action:?}");
    }

    /// Advances to the next list.
    fn begin_list(&mut self) {
        self.machine.listing.hasten(self.at);
        self.feed(Event::Tick);
        let at = self.actions.iter().position(|action| *action == Action::List);
        self.actions.remove(at.unwrap());
    }

    fn away(&mut self, reason: &str) {
        self.feed(Event::Probed(Err(IpfsError::Down(reason.to_owned()))));
    }

    fn take(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    fn state(&self, n: u16) -> Option<PinState> {
        self.machine.status(&cid(n)).map(|status| status.state)
    }

    fn message(&self, n: u16) -> String {
        self.machine.status(&cid(n)).unwrap().message
    }

    /// The origin that was last written.
    fn written_of(&self, n: u16) -> Option<Option<Origin>> {
        let last = self.written.iter().rev().find(|(written, _)| *written == cid(n))?;
        Some(last.1.map(|entry| entry.origin))
    }
}

fn ledger_of(origins: &[Origin]) -> Vec<(Cid, ledger::LedgerEntry)> {
    let entry = |origin: &Origin| ledger::LedgerEntry { origin: *origin, since: Timestamp(0) };
    (1..).zip(origins).map(|(n, origin)| (cid(n), entry(origin))).collect()
}

fn down() -> IpfsError {
    IpfsError::Down("reset".to_owned())
}

fn slow() -> IpfsError {
    IpfsError::Slow("no answer".to_owned())
}

fn failed() -> IpfsError {
    IpfsError::Failed("disk full".to_owned())
}

fn refused() -> IpfsError {
    IpfsError::Refused("invalid cid".to_owned())
}

fn config() -> Config {
    Config { pins_max: 2, idle_pins_max: 1, ..Config::default() }
}

fn progress(blocks: u64, bytes: u64) -> Progress {
    Progress { blocks, bytes }
}
