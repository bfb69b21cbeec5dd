//! Random events against a model of the daemon, the ledger's disk and the state.
//!
//! The model answers the machine's actions in any order, loses pins, restarts and replaces the daemon,
//! fails writes and barriers, and reboots the peer at any moment. It checks each action and, after each
//! step, each status. Once the faults stop, everything must be correct.
#![allow(clippy::unwrap_used)]

mod checks;
mod daemon;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::prelude::*;

use super::*;
use crate::{
    ipfs::{Held, IpfsError},
    types::{GcReport, PinState, Timestamp},
};

const CIDS: u8 = 6;

fn cid(n: u8) -> Cid {
    Cid::from_bytes(&[1, 0x55, 0, 1, n]).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Want(u8),
    Release(u8),
    /// Applies so many more changes to the local state.
    Apply(u8),
    ForeignPin(u8),
    ForeignDirectPin(u8),
    Lose(u8),
    Missing(u8, bool),
    Down,
    Up,
    Replace,
    /// Answers the n-th action under way.
    Answer(u8),
    /// Answers it with a failure.
    Fail(u8),
    /// An unpin is abandoned and takes effect later.
    GiveUpUnpin,
    /// Requests a collection.
    Collect,
    /// The peer ends and starts again; whether actions under way took effect.
    Reboot(bool),
    /// The peer ends and returns with a new identity, the same daemon and the same ledger.
    NewIdentity,
    Advance(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let n = 0..CIDS;
    prop_oneof![
        4 => n.clone().prop_map(Step::Want),
        3 => n.clone().prop_map(Step::Release),
        4 => (1_u8..4).prop_map(Step::Apply),
        1 => n.clone().prop_map(Step::ForeignPin),
        1 => n.clone().prop_map(Step::ForeignDirectPin),
        1 => n.clone().prop_map(Step::Lose),
        1 => (n, any::<bool>()).prop_map(|(n, missing)| Step::Missing(n, missing)),
        1 => Just(Step::Down),
        2 => Just(Step::Up),
        1 => Just(Step::Replace),
        24 => any::<u8>().prop_map(Step::Answer),
        2 => any::<u8>().prop_map(Step::Fail),
        1 => Just(Step::GiveUpUnpin),
        1 => Just(Step::Collect),
        1 => any::<bool>().prop_map(Step::Reboot),
        1 => Just(Step::NewIdentity),
        4 => (0_u16..8000).prop_map(Step::Advance),
    ]
}

#[derive(Clone, Copy, Debug)]
enum Effect {
    Pin { cid: Cid, theirs: bool },
    Unpin(Cid),
}

struct Model {
    machine: Machine,
    at: Duration,
    under_way: Vec<Action>,
    /// The list under way: the CIDs still to deliver, and those held when it began.
    list: Option<(Vec<Cid>, BTreeSet<Cid>)>,
    /// Learnt from the daemon directly since the list began.
    fresh: BTreeSet<Cid>,

    id: u32,
    up: bool,
    held: BTreeSet<Cid>,
    foreign: BTreeSet<Cid>,
    /// Pinned directly by somebody else.
    direct: BTreeSet<Cid>,
    /// Cancelled actions that take effect at a later time.
    late: Vec<(Duration, Effect)>,
    /// Seed for these times.
    random: u64,
    /// An attempt of ours was, or may have been, begun since the daemon last said that it is not
    /// pinned: whose pin appears now cannot be known.
    attempted: BTreeSet<Cid>,
    /// When the daemon last said that it is not pinned.
    denied_at: BTreeMap<Cid, Duration>,
    missing: BTreeSet<Cid>,

    disk: BTreeMap<Cid, ledger::LedgerEntry>,
    bound: Option<String>,

    /// The committed changes in order: whether the CID is wanted from then on.
    log: Vec<(Cid, bool)>,
    committed: BTreeSet<Cid>,
    /// How much of the log is applied here, and what is wanted then.
    applied: usize,
    local: BTreeSet<Cid>,
    /// Length of the log when the barrier under way was requested.
    barrier: usize,
    /// Length of the log when a CID was seen to be released; at least the length at the start.
    dropped: BTreeMap<Cid, usize>,
    started: usize,

    /// The daemon's last answer for each CID.
    told: BTreeMap<Cid, bool>,
    /// The daemon that gave them.
    told_of: Option<String>,
    /// Not wanted after that barrier, and not unpinned since.
    confirmed: BTreeMap<Cid, usize>,
    /// Whether cancelled actions take effect nevertheless.
    effective: bool,
    /// A collection was requested and has not been answered.
    collecting: bool,
}

/// More in soaks.
fn cases() -> u32 {
    if std::env::var_os("PINKEEPER_SOAK").is_some() { 50_000 } else { 1_000 }
}

fn config() -> Config {
    Config {
        pins_max: 2,
        idle_pins_max: 1,
        stall_time: Duration::from_secs(5),
        compare_period: Duration::from_secs(60),
        // Longer than the time steps at the end, so that the machine comes to rest.
        probe_period: Duration::from_secs(5),
        ..Config::default()
    }
}

impl Model {
    fn new() -> Self {
        let now = Now { at: Duration::ZERO, wall: Timestamp(0) };
        let mut model = Self {
            machine: Machine::new(config(), now, None, Vec::new()),
            at: Duration::ZERO,
            under_way: Vec::new(),
            list: None,
            fresh: BTreeSet::new(),
            id: 1,
            up: true,
            held: BTreeSet::new(),
            foreign: BTreeSet::new(),
            direct: BTreeSet::new(),
            late: Vec::new(),
            random: 1,
            attempted: BTreeSet::new(),
            denied_at: BTreeMap::new(),
            missing: BTreeSet::new(),
            disk: BTreeMap::new(),
            bound: None,
            log: Vec::new(),
            committed: BTreeSet::new(),
            applied: 0,
            local: BTreeSet::new(),
            barrier: 0,
            dropped: BTreeMap::new(),
            started: 0,
            told: BTreeMap::new(),
            told_of: None,
            confirmed: BTreeMap::new(),
            effective: false,
            collecting: false,
        };
        model.compare();
        model
    }

    fn feed(&mut self, event: Event) {
        let wall = Timestamp(u64::try_from(self.at.as_millis()).unwrap());
        for action in self.machine.handle(Now { at: self.at, wall }, event) {
            self.act(action);
        }
        if self.machine.watch.shown_absence().is_some() {
            self.told.clear();
        }
    }

    fn act(&mut self, action: Action) {
        self.check_lock(&action);
        match &action {
            Action::Pin(cid) => {
                let origin = self.disk.get(cid).map(|entry| entry.origin);
                assert!(origin.is_some(), "no intent for {cid}");
                assert_eq!(self.told.get(cid), Some(&false), "{cid} was not asked about");
                let age = self.at.saturating_sub(self.denied_at[cid]);
                assert!(age <= Duration::from_secs(5), "{cid} was asked about {age:?} ago");
                if origin == Some(Origin::Ours) {
                    // A pin made between question and attempt looks like ours.
                    self.foreign.remove(cid);
                    self.direct.remove(cid);
                }
                self.attempted.insert(*cid);
            }
            Action::Unpin(cid) => {
                let origin = self.disk.get(cid).map(|entry| entry.origin);
                assert_eq!(origin, Some(Origin::Ours), "{cid} is not ours");
                assert!(
                    !self.foreign.contains(cid) && !self.direct.contains(cid),
                    "{cid} is foreign"
                );
                let barrier =
                    self.confirmed.remove(cid).unwrap_or_else(|| panic!("no barrier for {cid}"));
                let needed = self.dropped.get(cid).copied().unwrap_or_default().max(self.started);
                assert!(barrier >= needed, "{cid}: a barrier at {barrier}, released at {needed}");
            }
            Action::CancelPin(cid) => {
                self.under_way.retain(|action| *action != Action::Pin(*cid));
                self.finish_cancelled(*cid);
                return;
            }
            Action::CancelDaemon => {
                self.list = None;
                let all = std::mem::take(&mut self.under_way);
                let (cancelled, kept) = all.into_iter().partition(|action| {
                    matches!(
                        action,
                        Action::Ask(_)
                            | Action::List
                            | Action::Pin(_)
                            | Action::Unpin(_)
                            | Action::RunGc
                    )
                });
                self.under_way = kept;
                for action in Vec::from_iter::<Vec<Action>>(cancelled) {
                    match action {
                        Action::Pin(cid) => self.finish_cancelled(cid),
                        Action::Unpin(cid) => self.delay(Effect::Unpin(cid)),
                        _ => {}
                    }
                }
                return;
            }
            Action::CancelGc => {
                self.under_way.retain(|action| *action != Action::RunGc);
                return;
            }
            Action::EndGc(_) => {
                assert!(std::mem::take(&mut self.collecting), "nobody asked for it");
                return;
            }
            Action::List => {
                self.list = Some((self.held.iter().copied().collect(), self.pinned_now()));
                self.fresh.clear();
            }
            Action::Confirm(_) => {
                let confirms = |a: &Action| matches!(a, Action::Confirm(_));
                assert!(!self.under_way.iter().any(confirms), "two barriers at once");
                self.barrier = self.log.len();
            }
            Action::Bind(_) | Action::Write(_) => {
                let busy = |a: &Action| matches!(a, Action::Bind(_) | Action::Write(_));
                assert!(!self.under_way.iter().any(busy), "two writes at once");
            }
            _ => {}
        }
        self.under_way.push(action);
        let pins = self.under_way.iter().filter(|a| matches!(a, Action::Pin(_))).count();
        assert!(pins <= 3, "{pins} pins at once");
    }

    fn compare(&mut self) {
        let wanted = self.local.iter().copied().collect();
        self.feed(Event::DesiredRange { after: None, until: None, wanted });
    }

    fn commit(&mut self, cid: Cid, wanted: bool) {
        let changed = if wanted { self.committed.insert(cid) } else { self.committed.remove(&cid) };
        if changed {
            self.log.push((cid, wanted));
        }
    }

    /// Like the driver: each change is fed with whether the CID is wanted after the whole batch.
    fn apply(&mut self, until: usize) {
        let changes = self.log[self.applied..until].to_vec();
        self.applied = until;
        for (cid, wanted) in &changes {
            if *wanted {
                self.local.insert(*cid);
            } else {
                self.local.remove(cid);
                self.dropped.insert(*cid, self.log.len());
            }
        }
        for (cid, _) in changes {
            self.feed(Event::Desired(vec![(cid, self.local.contains(&cid))]));
        }
    }

    fn reboot(&mut self, effective: bool) {
        self.run_late(Duration::MAX);
        for action in std::mem::take(&mut self.under_way) {
            match action {
                Action::Write(changes) if effective => self.write(&changes),
                Action::Bind(id) if effective => {
                    self.bind(id);
                }
                Action::Pin(cid) if effective && self.up && !self.missing.contains(&cid) => {
                    self.pin(cid, self.is_written(&cid, Origin::Foreign));
                }
                Action::Unpin(cid) if effective && self.up => {
                    self.held.remove(&cid);
                }
                _ => {}
            }
        }
        self.list = None;
        self.collecting = false;
        self.told.clear();
        self.confirmed.clear();
        // The ledger does not say whether an attempt began, nor what the daemon denied since.
        if self.bound == Some(format!("daemon-{}", self.id)) {
            for (cid, entry) in self.disk.iter().filter(|(_, e)| e.origin != Origin::Foreign) {
                self.foreign.remove(cid);
                self.attempted.insert(*cid);
                if entry.origin == Origin::Ours {
                    self.direct.remove(cid);
                }
            }
        }
        self.machine = self.started_machine();
        self.compare();
    }

    fn started_machine(&mut self) -> Machine {
        let ledger = self.disk.iter().map(|(cid, entry)| (*cid, *entry)).collect();
        let now = Now { at: self.at, wall: Timestamp(0) };
        self.started = self.log.len();
        Machine::new(config(), now, self.bound.clone(), ledger)
    }

    /// The ledger of a former peer: it must be bound again, and what was ours is not ours now.
    fn new_identity(&mut self) {
        self.reboot(true);
        let ours = self.disk.values_mut().filter(|entry| entry.origin == Origin::Ours);
        ours.for_each(|entry| entry.origin = Origin::Former);
        self.under_way.clear();
        self.list = None;
        self.machine = self.started_machine().with_former_ledger();
        self.compare();
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Want(n) => self.commit(cid(n), true),
            Step::Release(n) => self.commit(cid(n), false),
            Step::Apply(n) => self.apply(self.log.len().min(self.applied + usize::from(n))),
            Step::ForeignPin(n) => self.foreign_pin(cid(n)),
            Step::ForeignDirectPin(n) => {
                let cid = cid(n);
                if self.up && !self.attempted.contains(&cid) && !self.held.contains(&cid) {
                    self.direct.insert(cid);
                }
            }
            Step::GiveUpUnpin => self.give_up_unpin(),
            Step::Lose(n) => {
                self.held.remove(&cid(n));
                self.foreign.remove(&cid(n));
            }
            Step::Missing(n, true) => {
                self.missing.insert(cid(n));
            }
            Step::Missing(n, false) => {
                self.missing.remove(&cid(n));
            }
            Step::Down => self.up = false,
            Step::Up => self.up = true,
            Step::Replace => self.replace(),
            Step::Answer(n) => self.answer(n, false),
            Step::Fail(n) => self.answer(n, true),
            Step::Collect if self.collecting => {}
            Step::Collect => {
                self.collecting = true;
                self.feed(Event::RunGc);
            }
            Step::Reboot(effective) => {
                self.effective = effective;
                self.reboot(effective);
            }
            Step::NewIdentity => self.new_identity(),
            Step::Advance(ms) => self.advance(Duration::from_millis(ms.into())),
        }
    }

    /// Replacing the daemon breaks everything under way with the old one. (A replacement that breaks
    /// nothing is noticed only at the next probe; pins made in it until then count as foreign: kept too
    /// long, never lost.)
    fn replace(&mut self) {
        self.under_way.retain(|action| *action != Action::Probe);
        self.feed(Event::Probed(Err(IpfsError::Down("reset".to_owned()))));
        self.id += 1;
        self.late.clear();
        self.held.clear();
        self.foreign.clear();
        self.direct.clear();
        self.attempted.clear();
    }

    fn foreign_pin(&mut self, cid: Cid) {
        if self.up && !self.attempted.contains(&cid) && self.held.insert(cid) {
            self.direct.remove(&cid);
            self.foreign.insert(cid);
        }
    }

    fn give_up_unpin(&mut self) {
        let unpin = |action: &Action| matches!(action, Action::Unpin(_));
        let Some(at) = self.under_way.iter().position(unpin) else { return };
        let Action::Unpin(cid) = self.under_way.remove(at) else { unreachable!() };
        self.delay(Effect::Unpin(cid));
        let slow = IpfsError::Slow("no answer".to_owned());
        self.feed(Event::UnpinDone(cid, Err(slow)));
    }

    fn advance(&mut self, by: Duration) {
        let until = self.at + by;
        while self.at < until {
            let next = self.late.iter().map(|late| late.0).min().unwrap_or(until);
            let next = self.machine.deadline().min(next);
            self.at = next.max(self.at + Duration::from_millis(1)).min(until);
            self.run_late(self.at);
            self.feed(Event::Tick);
        }
    }

    fn settle(&mut self) {
        self.up = true;
        self.missing.clear();
        for _ in 0..400 {
            if self.wrong().is_none() {
                return;
            }
            self.apply(self.log.len());
            for _ in 0..20 {
                self.answer(0, false);
                self.check();
            }
            self.advance(Duration::from_secs(2));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_false_and_right_in_the_end(steps in proptest::collection::vec(step(), 1..250)) {
        let mut model = Model::new();
        for step in steps {
            model.step(step);
            model.check();
        }
        model.settle();
        prop_assert_eq!(model.wrong(), None);
    }
}
