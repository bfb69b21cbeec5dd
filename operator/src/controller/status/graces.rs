//! How long what was written stays although there is other news: pure.
//!
//! Invariant: graces are counted by the leader's own time, from when it first saw the news. Times in
//! reports are of other machines' clocks, and any wall clock may jump: they are for people, and tell
//! one report from another.

use std::{collections::BTreeMap, time::Duration};

use pinkeeper::types::{PeerId, PinState, PinStatus as Report, Timestamp};

/// How long a copy keeps its last written state while its peer or daemon is away.
pub const GRACE: Duration = Duration::from_secs(60);
/// How long a new leader waits for its peers' metrics: as long as these live.
pub(super) const GATHERING: Duration = Duration::from_secs(10);
/// How long a retry may go on before it shows instead of the failure it follows: most retries of
/// content that nobody has end as the attempts before.
pub(super) const RETRY_HIDDEN: Duration = Duration::from_secs(120);
/// How long a copy that was confirmed may wait for its confirmation anew.
pub(super) const ASKING: Duration = Duration::from_secs(10);

/// A moment as the leader knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Since the statuses' driver of this leadership began; never goes back.
    pub at: Duration,
    /// For people.
    pub wall: Timestamp,
}

/// Reports of one object's copies that are held back, by peer; and when they were first seen, as in
/// [`Moment::at`].
pub type Held = BTreeMap<PeerId, (PinState, Timestamp, Duration)>;

/// The graces of one look at an object.
#[derive(Debug)]
pub(super) struct Graces<'a> {
    now: Duration,
    before: &'a Held,
    /// What is held back now, also after its grace: until it is written.
    pub(super) held: Held,
    /// The earliest end of a grace to come.
    pub(super) ends: Option<Duration>,
}

impl<'a> Graces<'a> {
    /// A look at `now`, after the last one held `before` back.
    pub(super) fn new(now: Duration, before: &'a Held) -> Self {
        Self { now, before, held: Held::new(), ends: None }
    }

    /// Whether a grace that began at `since` goes on.
    pub(super) fn last(&mut self, since: Duration, grace: Duration) -> bool {
        let end = since.saturating_add(grace);
        let lasts = self.now < end;
        if lasts {
            self.ends = Some(self.ends.map_or(end, |other| other.min(end)));
        }
        lasts
    }

    /// Whether a report is still held back.
    pub(super) fn hold(&mut self, peer: PeerId, report: &Report, grace: Duration) -> bool {
        let known = self.before.get(&peer);
        let same =
            known.filter(|(state, since, _)| (*state, *since) == (report.state, report.since));
        let seen = same.map_or(self.now, |(_, _, seen)| *seen);
        self.held.insert(peer, (report.state, report.since, seen));
        self.last(seen, grace)
    }
}
