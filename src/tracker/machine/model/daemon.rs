//! How the daemon, the ledger's disk and the barrier act and answer.

use super::*;

impl Model {
    pub(super) fn finish_cancelled(&mut self, cid: Cid) {
        if self.effective && !self.missing.contains(&cid) {
            let theirs = self.is_written(&cid, Origin::Foreign);
            self.delay(Effect::Pin { cid, theirs });
        }
    }

    /// A cancelled action takes effect within the time that the machine allows for it, if the daemon
    /// lives.
    pub(super) fn delay(&mut self, effect: Effect) {
        if self.up {
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let later = Duration::from_millis((self.random >> 33) % 990);
            self.late.push((self.at + later, effect));
        }
    }

    pub(super) fn run_late(&mut self, until: Duration) {
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

    /// A recursive pin; it replaces a direct one of somebody else.
    pub(super) fn pin(&mut self, cid: Cid, theirs: bool) {
        if self.direct.remove(&cid) || theirs {
            self.foreign.insert(cid);
        }
        self.held.insert(cid);
    }

    pub(super) fn is_written(&self, cid: &Cid, origin: Origin) -> bool {
        self.disk.get(cid).is_some_and(|entry| entry.origin == origin)
    }

    pub(super) fn pinned_now(&self) -> BTreeSet<Cid> {
        self.told.iter().filter(|(_, told)| **told).map(|(cid, _)| *cid).collect()
    }

    pub(super) fn tell(&mut self, cid: Cid, pinned: bool) {
        self.told.insert(cid, pinned);
        self.fresh.insert(cid);
    }

    pub(super) fn answer(&mut self, n: u8, fail: bool) {
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
                // A failed write may have reached the disk nevertheless.
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
            Action::RunGc => self.feed(Event::GcReport(match (up, fail) {
                (false, _) => Err(down()),
                (true, true) => Err(failed()),
                (true, false) => Ok(GcReport::default()),
            })),
            Action::CancelPin(_) | Action::CancelDaemon | Action::CancelGc | Action::EndGc(_) => {
                unreachable!()
            }
        }
    }

    pub(super) fn bind(&mut self, id: String) -> bool {
        let void = self.bound.as_ref().is_some_and(|bound| *bound != id);
        if void {
            self.disk.clear();
        }
        self.bound = Some(id);
        void
    }

    pub(super) fn write(&mut self, changes: &[Change]) {
        for (cid, change) in changes {
            match change {
                Some(entry) => self.disk.insert(*cid, *entry),
                None => self.disk.remove(cid),
            };
        }
    }

    pub(super) fn confirm(&mut self, cids: Vec<Cid>) {
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
    pub(super) fn list(&mut self, fail: bool) {
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
}
