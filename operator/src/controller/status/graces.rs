//! Graces: how long a written state stays although a peer reports another one. Pure.
//!
//! Invariant: graces run on the leader's monotonic clock, from when it first saw the report. Times
//! in reports come from other machines, and any wall clock may jump: they are for people, and to
//! tell reports apart.

use std::{collections::BTreeMap, time::Duration};

use pinkeeper::types::{PeerId, PinState, PinStatus as Report, Timestamp};

/// How long a copy keeps its last written state while its peer or daemon is away.
pub const GRACE: Duration = Duration::from_secs(60);
/// How long a new leader waits for peer metrics: their time to live.
pub(super) const GATHERING: Duration = Duration::from_secs(10);
/// How long a retry runs before it replaces the failure in the status: most retries of missing
/// content fail again.
pub(super) const RETRY_HIDDEN: Duration = Duration::from_secs(120);
/// How long a confirmed copy may wait for its next confirmation.
pub(super) const ASKING: Duration = Duration::from_secs(10);

/// A point in time on the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Monotonic time since the statuses' driver of this leadership began.
    pub at: Duration,
    /// Wall-clock time, for people.
    pub wall: Timestamp,
}

/// Reports about one object that are held back, by peer, with when they were first seen (see
/// [`Moment::at`]).
pub type Held = BTreeMap<PeerId, (PinState, Timestamp, Duration)>;

/// The graces of one check of an object.
#[derive(Debug)]
pub(super) struct Graces<'a> {
    now: Duration,
    before: &'a Held,
    /// Reports held back now. A report stays after its grace, until it is written.
    pub(super) held: Held,
    /// The earliest future end of a grace.
    pub(super) ends: Option<Duration>,
}

impl<'a> Graces<'a> {
    /// A check at `now`; the previous one held `before` back.
    pub(super) fn new(now: Duration, before: &'a Held) -> Self {
        Self { now, before, held: Held::new(), ends: None }
    }

    /// Whether a grace that began at `since` still lasts.
    pub(super) fn last(&mut self, since: Duration, grace: Duration) -> bool {
        let end = since.saturating_add(grace);
        let lasts = self.now < end;
        if lasts {
            self.ends = Some(self.ends.map_or(end, |other| other.min(end)));
        }
        lasts
    }

    /// Holds a report back; returns whether its grace still lasts.
    pub(super) fn hold(&mut self, peer: PeerId, report: &Report, grace: Duration) -> bool {
        let known = self.before.get(&peer);
        let same =
            known.filter(|(state, since, _)| (*state, *since) == (report.state, report.since));
        let seen = same.map_or(self.now, |(_, _, seen)| *seen);
        self.held.insert(peer, (report.state, report.since, seen));
        self.last(seen, grace)
    }
}
