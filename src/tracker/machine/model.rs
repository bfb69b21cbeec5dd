//! Random events against a model of the daemon, the ledger's disk and the state.
//!
//! The model answers what the machine asked for in any order, loses pins, restarts and replaces the
//! daemon, fails writes and barriers, and reboots the peer at any moment. It checks each action and,
//! after each step, each status; when the faults stop, everything must come right.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::prelude::*;

use super::*;

const CIDS: u8 = 6;

fn cid(n: u8) -> Cid {
    Cid::from_bytes(&[1, 0x55, 0, 1, n]).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Want(u8),
    Release(u8),
    /// The local state catches up by so many changes.
    Apply(u8),
    ForeignPin(u8),
    ForeignDirectPin(u8),
    Lose(u8),
    Missing(u8, bool),
    Down,
    Up,
    Replace,
    /// Answers the n-th thing under way.
    Answer(u8),
    /// Answers it with a failure.
    Fail(u8),
    /// An unpin is given up, and takes effect later.
    GiveUpUnpin,
    /// Somebody wants garbage collected.
    Collect,
    /// The peer ends and starts again; says whether what was under way took effect.
    Reboot(bool),
    /// The peer ends and comes back as another one, with the same daemon and ledger.
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
    /// The list under way: what is still to be delivered, and what was known when it began.
    list: Option<(Vec<Cid>, BTreeSet<Cid>)>,
    /// Learnt from the daemon directly since the list began.
    fresh: BTreeSet<Cid>,

    id: u32,
    up: bool,
    held: BTreeSet<Cid>,
    foreign: BTreeSet<Cid>,
    /// Pinned directly, by somebody else.
    direct: BTreeSet<Cid>,
    /// What was cancelled and takes effect then.
    late: Vec<(Duration, Effect)>,
    /// Draws the times of that.
    random: u64,
    /// An attempt of ours was begun since the daemon said last that it is not pinned, or may have
    /// been: whose a pin is that appears now nobody can tell.
    attempted: BTreeSet<Cid>,
    /// When the daemon said last that it is not pinned.
    denied_at: BTreeMap<Cid, Duration>,
    missing: BTreeSet<Cid>,

    disk: BTreeMap<Cid, ledger::Entry>,
    bound: Option<String>,

    /// What is committed, in order: whether the CID is wanted from there on.
    log: Vec<(Cid, bool)>,
    committed: BTreeSet<Cid>,
    /// How much of the log is applied here, and what is wanted by then.
    applied: usize,
    local: BTreeSet<Cid>,
    /// How much was committed when the barrier under way was asked for.
    barrier: usize,
    /// How much was committed when a CID was seen to be wanted no more; at least as much as at the start.
    dropped: BTreeMap<Cid, usize>,
    started: usize,

    /// What the daemon said last of each.
    told: BTreeMap<Cid, bool>,
    /// And which daemon that was.
    told_of: Option<String>,
    /// Not wanted behind that barrier, and not unpinned since.
    confirmed: BTreeMap<Cid, usize>,
    /// Whether what is cancelled takes effect all the same.
    effective: bool,
    /// Garbage collection was asked for, and that was not answered yet.
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
        // Longer than the steps of time at the end, so that it comes to rest.
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
        if self.machine.away_shown {
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
                    // What came between question and attempt looks like ours.
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
                            | Action::CollectGarbage
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
            Action::CancelCollection => {
                self.under_way.retain(|action| *action != Action::CollectGarbage);
                return;
            }
            Action::EndCollection(_) => {
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

    /// A collection and a pin would wait for each other.
    fn check_lock(&self, action: &Action) {
        let changes = |a: &Action| matches!(a, Action::Pin(_) | Action::Unpin(_));
        let collects = |a: &Action| *a == Action::CollectGarbage;
        let beside = |which: &dyn Fn(&Action) -> bool| self.under_way.iter().any(which);
        assert!(!(changes(action) && beside(&collects)), "{action:?} beside a collection");
        assert!(!(collects(action) && beside(&changes)), "{:?}", self.under_way);
    }

    fn finish_cancelled(&mut self, cid: Cid) {
        if self.effective && !self.missing.contains(&cid) {
            let theirs = self.is_written(&cid, Origin::Foreign);
            self.delay(Effect::Pin { cid, theirs });
        }
    }

    /// What is cancelled takes effect within the time the machine grants, if the daemon lives.
    fn delay(&mut self, effect: Effect) {
        if self.up {
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let later = Duration::from_millis((self.random >> 33) % 990);
            self.late.push((self.at + later, effect));
        }
    }

    fn run_late(&mut self, until: Duration) {
        let (due, rest) = std::mem::take(&mut self.late).into_iter().partition(|l| l.0 <= until);
        self.late = rest;
        for (_, effect) in Vec::from_iter::<Vec<_>>(due) {
            match effect {
                Effect::Pin { cid, theirs } => self.pin(cid, theirs),
                Effect::Unpin(cid) => {
                    let said = self.machine.status(&cid).map(|status| status.state);
                    let held = self.held.remove(&cid);
                    self.foreign.remove(&cid);
                    assert!(!held || said != Some(PinState::Pinned), "{cid} was unpinned late");
                }
            }
        }
    }

    /// A recursive pin; it replaces a direct one, whose it was.
    fn pin(&mut self, cid: Cid, theirs: bool) {
        if self.direct.remove(&cid) || theirs {
            self.foreign.insert(cid);
        }
        self.held.insert(cid);
    }

    fn is_written(&self, cid: &Cid, origin: Origin) -> bool {
        self.disk.get(cid).is_some_and(|entry| entry.origin == origin)
    }

    fn pinned_now(&self) -> BTreeSet<Cid> {
        self.told.iter().filter(|(_, told)| **told).map(|(cid, _)| *cid).collect()
    }

    fn tell(&mut self, cid: Cid, pinned: bool) {
        self.told.insert(cid, pinned);
        self.fresh.insert(cid);
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

    /// As the driver does: each change is told, by what is wanted after some of them.
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

    fn answer(&mut self, n: u8, fail: bool) {
        if self.under_way.is_empty() {
            return;
        }
        let action = self.under_way.remove(usize::from(n) % self.under_way.len());
        let down = || IpfsError::Down("down".to_owned());
        let failed = || IpfsError::Failed("failed".to_owned());
        let (up, id) = (self.up, format!("daemon-{}", self.id));
        match action {
            Action::Probe => self.feed(Event::Probed(if up { Ok(id) } else { Err(down()) })),
            Action::Bind(id) if fail => {
                // It may have reached the disk all the same.
                if n.is_multiple_of(2) {
                    self.bind(id);
                }
                self.feed(Event::Bound(Err("disk full".to_owned())));
            }
            Action::Write(_) if fail => self.feed(Event::Written(Err("disk full".to_owned()))),
            Action::Bind(id) => {
                let void = self.bind(id.clone());
                if self.told_of.replace(id.clone()).is_some_and(|known| known != id) {
                    self.told.clear();
                }
                self.feed(Event::Bound(Ok(void)));
            }
            Action::Write(changes) => {
                self.write(&changes);
                self.feed(Event::Written(Ok(())));
            }
            Action::Confirm(_) if fail => {
                self.feed(Event::ConfirmFailed("no leader".to_owned()));
            }
            Action::Confirm(cids) => self.confirm(cids),
            Action::Ask(cids) if !up => self.feed(Event::Asked(cids, Err(down()))),
            Action::Ask(cids) if fail => self.feed(Event::Asked(cids, Err(failed()))),
            Action::Ask(cids) => {
                let held = |cid| match (self.held.contains(cid), self.direct.contains(cid)) {
                    (true, _) => Held::Recursive,
                    (false, true) => Held::Direct,
                    (false, false) => Held::No,
                };
                let answers: Vec<Held> = cids.iter().map(held).collect();
                for (cid, held) in cids.iter().zip(&answers) {
                    self.tell(*cid, *held == Held::Recursive);
                    if *held != Held::Recursive {
                        self.denied_at.insert(*cid, self.at);
                        self.attempted.remove(cid);
                    }
                }
                self.feed(Event::Asked(cids, Ok(answers)));
            }
            Action::List => self.list(fail),
            Action::Pin(cid) if !up => self.feed(Event::PinDone(cid, Err(down()))),
            Action::Pin(cid) if fail || self.missing.contains(&cid) => {
                self.tell(cid, false);
                self.feed(Event::PinDone(cid, Err(failed())));
            }
            Action::Pin(cid) => {
                self.pin(cid, self.is_written(&cid, Origin::Foreign));
                self.tell(cid, true);
                self.feed(Event::PinDone(cid, Ok(())));
            }
            Action::Unpin(cid) if !up => self.feed(Event::UnpinDone(cid, Err(down()))),
            Action::Unpin(cid) if fail => self.feed(Event::UnpinDone(cid, Err(failed()))),
            Action::Unpin(cid) => {
                self.held.remove(&cid);
                self.attempted.remove(&cid);
                self.tell(cid, false);
                self.feed(Event::UnpinDone(cid, Ok(())));
            }
            Action::CollectGarbage => self.feed(Event::Collected(match (up, fail) {
                (false, _) => Err(down()),
                (true, true) => Err(failed()),
                (true, false) => Ok(Collected::default()),
            })),
            Action::CancelPin(_)
            | Action::CancelDaemon
            | Action::CancelCollection
            | Action::EndCollection(_) => unreachable!(),
        }
    }

    fn bind(&mut self, id: String) -> bool {
        let void = self.bound.as_ref().is_some_and(|bound| *bound != id);
        if void {
            self.disk.clear();
        }
        self.bound = Some(id);
        void
    }

    fn write(&mut self, changes: &[Change]) {
        for (cid, change) in changes {
            match change {
                Some(entry) => self.disk.insert(*cid, *entry),
                None => self.disk.remove(cid),
            };
        }
    }

    fn confirm(&mut self, cids: Vec<Cid>) {
        self.apply(self.applied.max(self.barrier));
        let answers: Vec<_> = cids.iter().map(|cid| (*cid, self.local.contains(cid))).collect();
        for (cid, wanted) in &answers {
            if *wanted {
                self.confirmed.remove(cid)
            } else {
                self.confirmed.insert(*cid, self.barrier)
            };
        }
        self.feed(Event::Confirmed(answers));
    }

    /// Delivers one more item of the list, or its end.
    fn list(&mut self, fail: bool) {
        let Some((mut rest, known)) = self.list.take() else { return };
        if !self.up || fail {
            let error =
                if self.up { IpfsError::Failed("x".into()) } else { IpfsError::Down("x".into()) };
            self.feed(Event::ListEnded(Err(error)));
        } else if let Some(cid) = rest.pop() {
            if !self.fresh.contains(&cid) {
                self.told.insert(cid, true);
            }
            self.under_way.push(Action::List);
            let mut known = known;
            known.remove(&cid);
            self.list = Some((rest, known));
            self.feed(Event::Listed(vec![cid]));
        } else {
            for cid in known.difference(&self.fresh.clone()) {
                self.told.insert(*cid, false);
            }
            self.feed(Event::ListEnded(Ok(())));
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
        // The ledger does not say whether the attempt was begun, nor what the daemon denied since.
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

    /// The ledger of a peer that is no more: it has to be bound anew, and what was ours is not.
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
                self.feed(Event::CollectGarbage);
            }
            Step::Reboot(effective) => {
                self.effective = effective;
                self.reboot(effective);
            }
            Step::NewIdentity => self.new_identity(),
            Step::Advance(ms) => self.advance(Duration::from_millis(ms.into())),
        }
    }

    /// Another daemon breaks what was under way with the old one. (One that takes the old one's place
    /// without breaking anything is noticed at the next probe only; what was pinned in it until then
    /// is taken for foreign: kept too long, never lost.)
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

    fn check(&self) {
        for (cid, entry) in self.machine.entries.iter() {
            self.check_place(&cid, entry);
        }
        for n in 0..CIDS {
            let cid = cid(n);
            if self.machine.status(&cid).is_some_and(|s| s.state == PinState::Pinned) {
                assert_eq!(self.told.get(&cid), Some(&true), "{n} is not pinned");
            }
        }
        let counters = self.machine.counters();
        let wanted = self.machine.entries.values().filter(|entry| entry.wanted).count();
        assert_eq!(counters.pinned + counters.queued, wanted);
    }

    /// Whether an entry is where its phase says, or something under way leads on from there.
    fn check_place(&self, cid: &Cid, entry: &Entry) {
        let machine = &self.machine;
        let under_way = |action: Action| self.under_way.contains(&action);
        let asked = |action: &Action| matches!(action, Action::Ask(cids) if cids.contains(cid));
        let place = (entry.lane, entry.sequence);
        let timer = machine.timers.get(&(entry.due, entry.sequence)) == Some(cid);
        let ours = entry.whose() == Some(Origin::Ours);
        let right = match entry.phase {
            Phase::Unknown => !entry.wanted,
            Phase::Recheck => entry.wanted,
            Phase::Pinned => entry.wanted && entry.whose().is_some(),
            Phase::Queued => machine.queue.get(&place).is_some_and(|queued| queued.cid() == *cid),
            Phase::Asking => self.under_way.iter().any(asked),
            Phase::Ready => entry.wanted && machine.ready.get(&place) == Some(cid),
            Phase::Pinning => entry.wanted && under_way(Action::Pin(*cid)),
            Phase::Unsure => timer,
            Phase::Waiting => entry.wanted && timer,
            Phase::UnpinWaiting => !entry.wanted && ours && timer,
            Phase::UnpinQueued => {
                !entry.wanted && ours && machine.unpin_queue.contains_key(&entry.sequence)
            }
            Phase::Confirming => !entry.wanted && machine.confirming.contains(cid),
            Phase::Confirmed => !entry.wanted && machine.confirmed.contains_key(&entry.sequence),
            Phase::Unpinning => under_way(Action::Unpin(*cid)),
            Phase::WritingOurs
            | Phase::WritingDirect
            | Phase::WritingForeign
            | Phase::TakingOver
            | Phase::Withdrawing
            | Phase::Forgetting => {
                let writing = machine.writing.iter().any(|(written, _)| written == cid);
                writing || machine.to_write.contains_key(cid)
            }
        };
        assert!(right, "{cid} is lost: {entry:?}");
    }

    /// What is not as it should be when everything has settled.
    fn wrong(&self) -> Option<String> {
        if self.local != self.committed || !self.under_way.is_empty() || self.collecting {
            return Some(format!("under way: {:?}", self.under_way));
        }
        (0..CIDS).find_map(|n| {
            let cid = cid(n);
            let state = self.machine.status(&cid).map(|status| status.state);
            let (held, on_disk) = (self.held.contains(&cid), self.disk.contains_key(&cid));
            let right = if self.committed.contains(&cid) {
                state == Some(PinState::Pinned) && held && on_disk && !self.direct.contains(&cid)
            } else if self.is_written(&cid, Origin::Former) {
                state.is_none()
            } else {
                state.is_none() && !on_disk && held == self.foreign.contains(&cid)
            };
            (!right).then(|| format!("{n}: {state:?}, held {held}, on disk {on_disk}"))
        })
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
