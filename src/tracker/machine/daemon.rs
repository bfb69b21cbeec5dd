//! Whether the daemon answers, and which one it is.

use std::{fmt, sync::Arc, time::Duration};

use super::{Action, Config, Machine, Now, Phase, Turn, timers::CANCEL_TIME};
use crate::ipfs::IpfsError;

/// What the probes tell of the daemon. One probe at a time. The daemon is used only while it is up: it
/// answers, and the ledger is bound to it.
#[derive(Debug)]
pub(super) struct Watch {
    daemon: Daemon,
    /// When the daemon last answered a probe.
    heard: Now,
    probe: Probe,
}

#[derive(Debug)]
enum Daemon {
    Up {
        id: String,
    },
    Away {
        why: Absence,
        since: Now,
        /// It lasts, so statuses tell it.
        shown: bool,
    },
}

/// Why the daemon is not used.
#[derive(Debug)]
pub(super) enum Absence {
    Down {
        reason: Arc<str>,
    },
    /// It answers, and the ledger must be bound to it first.
    Binding {
        id: String,
    },
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down { reason } => write!(f, "the daemon is away: {reason}"),
            Self::Binding { .. } => f.write_str("the ledger is being bound to the daemon"),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Probe {
    /// The next probe is sent then.
    Due(Duration),
    UnderWay,
}

impl Watch {
    pub(super) fn new(now: Now) -> Self {
        let why = Absence::Down { reason: "not asked yet".into() };
        let daemon = Daemon::Away { why, since: now, shown: false };
        Self { daemon, heard: now, probe: Probe::Due(now.at) }
    }

    pub(super) fn is_up(&self) -> bool {
        self.absence().is_none()
    }

    /// Why the daemon is not used; none while it is up.
    pub(super) fn absence(&self) -> Option<&Absence> {
        match &self.daemon {
            Daemon::Up { .. } => None,
            Daemon::Away { why, .. } => Some(why),
        }
    }

    /// The absence that statuses tell, and since when.
    pub(super) fn shown_absence(&self) -> Option<(&Absence, Now)> {
        match &self.daemon {
            Daemon::Away { why, since, shown: true } => Some((why, *since)),
            _ => None,
        }
    }

    /// The daemon that the ledger must be bound to.
    pub(super) fn to_bind(&self) -> Option<&str> {
        match self.absence()? {
            Absence::Binding { id } => Some(id),
            Absence::Down { .. } => None,
        }
    }

    /// The daemon that answers.
    fn id(&self) -> Option<&str> {
        match &self.daemon {
            Daemon::Up { id } => Some(id),
            Daemon::Away { .. } => self.to_bind(),
        }
    }

    /// When the next probe is due, and when an absence is shown.
    pub(super) fn deadlines(&self, config: &Config) -> [Option<Duration>; 2] {
        let probe = match self.probe {
            Probe::Due(at) => Some(at),
            Probe::UnderWay => None,
        };
        let show = match &self.daemon {
            Daemon::Away { since, shown: false, .. } => Some(since.at + config.down_grace),
            _ => None,
        };
        [probe, show]
    }

    /// Begins a probe if it is time for one.
    fn begin_probe(&mut self, now: Duration) -> bool {
        let begins = matches!(self.probe, Probe::Due(at) if at <= now);
        if begins {
            self.probe = Probe::UnderWay;
        }
        begins
    }

    fn heard(&mut self, now: Now, config: &Config) {
        self.heard = now;
        self.probe = Probe::Due(now.at + config.probe_period);
    }

    /// Returns whether the daemon answered until now.
    fn down(&mut self, reason: &str, now: Duration, config: &Config) -> bool {
        let down = Absence::Down { reason: reason.into() };
        match &mut self.daemon {
            Daemon::Away { why: why @ Absence::Down { .. }, .. } => {
                *why = down;
                return false;
            }
            // A daemon that hangs was away before the machine noticed it.
            Daemon::Away { why, since, .. } => (*why, *since) = (down, self.heard),
            Daemon::Up { .. } => {
                self.daemon = Daemon::Away { why: down, since: self.heard, shown: false };
            }
        }
        if let Probe::Due(at) = &mut self.probe {
            *at = (now + config.down_probe_period).min(*at);
        }
        true
    }

    fn binding(&mut self, to: String) {
        if let Daemon::Away { why, .. } = &mut self.daemon {
            *why = Absence::Binding { id: to };
        }
    }

    fn up(&mut self, id: String) {
        self.daemon = Daemon::Up { id };
    }

    /// Shows an absence that lasts; returns whether it was not shown before.
    fn show_absence(&mut self, now: Duration, config: &Config) -> bool {
        match &mut self.daemon {
            Daemon::Away { since, shown, .. } if !*shown && since.at + config.down_grace <= now => {
                *shown = true;
                true
            }
            _ => false,
        }
    }
}

impl Machine {
    pub(super) fn start_probe(&mut self) {
        if self.watch.begin_probe(self.now.at) {
            self.actions.push(Action::Probe);
        }
    }

    pub(super) fn show_absence(&mut self) {
        if self.watch.show_absence(self.now.at, &self.config) {
            self.settled = true;
            self.entries.touch_all();
        }
    }

    pub(super) fn probed(&mut self, result: Result<String, IpfsError>) {
        match result {
            Ok(id) => {
                self.watch.heard(self.now, &self.config);
                match self.watch.id() {
                    Some(known) if *known == id => {}
                    Some(_) => {
                        self.daemon_down("another daemon is in its place");
                        self.meet(id);
                    }
                    None => self.meet(id),
                }
            }
            Err(error) => {
                let (IpfsError::Down(reason)
                | IpfsError::Slow(reason)
                | IpfsError::Failed(reason)
                | IpfsError::Refused(reason)
                | IpfsError::Unpinnable(reason)) = error;
                self.daemon_down(&reason);
                self.watch.probe = Probe::Due(self.now.at + self.config.down_probe_period);
            }
        }
    }

    fn meet(&mut self, id: String) {
        if self.writer.is_bound_to(&id) {
            self.daemon_up(id);
        } else {
            self.watch.binding(id);
        }
    }

    pub(super) fn daemon_up(&mut self, id: String) {
        let was_shown = self.watch.shown_absence().is_some();
        self.watch.up(id);
        self.listing.hasten(self.now.at);
        if was_shown {
            for cid in self.entries.find(|entry| entry.phase() == Phase::Pinned) {
                self.enter(cid, Phase::Recheck);
            }
            self.entries.touch_all();
        }
    }

    /// The daemon does not answer: everything under way with it is void.
    pub(super) fn daemon_down(&mut self, reason: &str) {
        if !self.watch.down(reason, self.now.at, &self.config) {
            return;
        }
        self.actions.push(Action::CancelDaemon);
        if self.collection.is_under_way()
            && let Some(absence) = self.watch.absence()
        {
            let reason = absence.to_string();
            self.end_gc(Err(reason));
        }
        self.listing.abandon(self.now.at);
        self.questions.cancel();
        for cid in self.writer.cids().collect::<Vec<_>>() {
            self.entries.outdate(&cid);
        }
        for cid in self.entries.find(|entry| entry.phase().needs_daemon()) {
            let entry = &self.entries[&cid];
            match (entry.phase(), entry.wanted) {
                (Phase::Confirmed { .. }, _) => self.enqueue_unpin(cid),
                (Phase::Unpinning, false) => self.unpin_later(cid, CANCEL_TIME),
                (Phase::Unpinning, true) => {
                    self.listing.unpin_is_lost(self.now.at);
                    self.be_unsure(cid, Turn::Fresh);
                }
                (Phase::Pinning { turn }, true) => self.be_unsure(cid, turn),
                (Phase::Asking { turn } | Phase::Ready { turn, .. }, true) => {
                    self.enqueue(cid, turn);
                }
                _ => self.let_go(cid),
            }
        }
    }
}
