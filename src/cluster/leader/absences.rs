//! Counts how long members have been away, and decides whose copies move to others. The decisions are pure.
//!
//! A member is away while the leader hears nothing of it, or its daemon does not answer. The time is added
//! up in the state by the monotonic clocks of the leaders, so a change of the leader does not begin it anew,
//! and no wall clock shortens it.
//!
//! Invariants:
//! - Nothing moves before the grace. Each absence lately doubles it.
//! - Nothing moves while half of the members or more are away: then the network is the likely cause, and
//!   the others could not take all copies.
//! - When all members of a zone of two or more are away, the longer grace of zones applies.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{Leader, sight::with_daemon};
use crate::{
    allocate,
    cluster::{Cluster, FatalError},
    state::{Away, Op},
    types::PeerId,
};

/// Time between two checks.
const LOOK: Duration = Duration::from_millis(500);
/// The time of an absence is noted in steps between these, so that few ops are needed.
const STEP: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// A grace is counted in so many steps, or fewer.
const STEPS: u32 = 10;
/// Earlier absences are forgotten after this time without another one.
const CALM: Duration = Duration::from_secs(3600);
/// The time since an absence is noted this often, and that of a very long absence.
const CALM_STEP: Duration = Duration::from_secs(600);
/// Absences do not make the grace longer than this.
const GRACE_MAX: Duration = Duration::from_secs(3600);

/// When copies of absent members move to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MovePolicy {
    /// The grace of a member.
    pub after: Duration,
    /// The grace while a whole zone is away.
    pub zone_after: Duration,
}

impl MovePolicy {
    /// How often the time of an absence is noted.
    fn step(&self) -> Duration {
        (self.after / STEPS).clamp(STEP.0, STEP.1)
    }

    /// The grace after so many absences lately.
    fn grace(&self, absences: u8) -> Duration {
        let doublings = u32::from(absences.saturating_sub(1).min(16));
        self.after.saturating_mul(1 << doublings).min(GRACE_MAX.max(self.after))
    }

    /// No grace is longer.
    fn longest(&self) -> Duration {
        self.after.max(GRACE_MAX).max(self.zone_after)
    }
}

/// The members as the leader hears them.
#[derive(Clone, Debug, Default)]
struct Attendance {
    members: BTreeSet<PeerId>,
    /// Those that are heard and whose daemon answers.
    here: BTreeSet<PeerId>,
    /// The last known zone of each.
    zones: BTreeMap<PeerId, String>,
}

/// Whose copies move to others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Gone {
    /// These members' copies.
    pub(super) peers: BTreeSet<PeerId>,
    /// Half of the members or more are away: nothing moves.
    pub(super) paused: bool,
}

/// Since when a member has been here or away, as this leader has seen it and not yet noted.
#[derive(Clone, Copy, Debug)]
struct Seen {
    here: bool,
    since: Instant,
}

impl Cluster {
    /// The members, and who is here.
    fn attendance(&self, leader: &Leader) -> Attendance {
        let (members, metrics) = (self.members(), leader.metrics.valid());
        let mut zones: BTreeMap<PeerId, String> = self.state().read(|pins| {
            let zoned =
                pins.away().iter().filter_map(|(peer, away)| Some((*peer, away.zone.clone()?)));
            zoned.collect()
        });
        zones.extend(leader.metrics.last_tags(allocate::ZONE_TAG));
        let here = with_daemon(&metrics, &members);
        Attendance { members: members.into_keys().collect(), here, zones }
    }

    /// Whose copies move to others now. All members must have had time to report to this leader.
    pub(super) fn gone(&self, leader: &Leader) -> Gone {
        self.gone_of(&self.attendance(leader))
    }

    fn gone_of(&self, attendance: &Attendance) -> Gone {
        self.state().read(|pins| gone(attendance, pins.away(), self.0.parts.moves))
    }

    /// Notes in the state how long members are away, and says so in the log.
    pub(super) async fn count_absences(
        self,
        leader: Arc<Leader>,
        term: u64,
    ) -> Result<(), FatalError> {
        let policy = self.0.parts.moves;
        let mut seen: BTreeMap<PeerId, Seen> = BTreeMap::new();
        let mut before = Gone::default();
        loop {
            sleep(LOOK).await;
            if !self.0.leadership.borrow().local || !leader.metrics.all_could_report() {
                // What happened meanwhile is not known.
                seen.clear();
                continue;
            }
            let attendance = self.attendance(&leader);
            let now = Instant::now();
            see(&mut seen, &attendance, now);
            let known = self.state().read(|pins| pins.away().clone());
            let news = attendance.members.iter().filter_map(|peer| {
                let Seen { here, since } = seen[peer];
                let zone = attendance.zones.get(peer);
                Some((*peer, next(known.get(peer), here, now - since, zone, policy)?))
            });
            let news: BTreeMap<PeerId, Option<Away>> = news.collect();
            if !news.is_empty() {
                let op = |(peer, away): (&PeerId, &Option<Away>)| Op::Away {
                    peer: *peer,
                    away: away.clone(),
                    term,
                };
                let noted = self.submit(term, news.iter().map(op).collect()).await;
                match noted {
                    Ok(_) => news.keys().for_each(|peer| {
                        seen.entry(*peer).and_modify(|seen| seen.since = now);
                    }),
                    Err(error) => tracing::debug!(%error, "an absence was not noted"),
                }
            }
            let gone = self.gone_of(&attendance);
            self.tell(&before, &gone);
            before = gone;
        }
    }

    fn tell(&self, before: &Gone, now: &Gone) {
        if now.paused && !before.paused {
            tracing::warn!("half of the members or more are away: no copies move to others");
        }
        let mut members = self.members();
        let mut name =
            |peer: &PeerId| members.remove(peer).map(|view| view.member.name).unwrap_or_default();
        for peer in now.peers.difference(&before.peers) {
            let (name, copies) = (name(peer), self.state().read(|pins| pins.copies_of(*peer)));
            tracing::warn!(%peer, name, copies, "a member is away: its copies move to others");
        }
        for peer in before.peers.difference(&now.peers) {
            tracing::info!(%peer, name = name(peer), "copies of a member do not move any more");
        }
    }
}

/// Notes who is here now.
fn see(seen: &mut BTreeMap<PeerId, Seen>, attendance: &Attendance, now: Instant) {
    seen.retain(|peer, _| attendance.members.contains(peer));
    for peer in &attendance.members {
        let here = attendance.here.contains(peer);
        let known = seen.entry(*peer).or_insert(Seen { here, since: now });
        if known.here != here {
            *known = Seen { here, since: now };
        }
    }
}

/// What to note of a member that has been here or away for `time` since the last note, if it is time for
/// that.
fn next(
    known: Option<&Away>,
    here: bool,
    time: Duration,
    zone: Option<&String>,
    policy: MovePolicy,
) -> Option<Option<Away>> {
    let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    let before = known.cloned().unwrap_or_default();
    if !here {
        let longest = u32::try_from(policy.longest().as_secs()).unwrap_or(u32::MAX);
        // Beyond the longest grace it is counted for people alone.
        let step = if before.seconds < longest { policy.step() } else { CALM_STEP };
        if time < step {
            return None;
        }
        let begins = u8::from(before.seconds == 0);
        return Some(Some(Away {
            seconds: before.seconds.saturating_add(seconds),
            absences: before.absences.saturating_add(begins),
            back_seconds: 0,
            zone: zone.cloned().or(before.zone),
        }));
    }
    known?;
    if before.seconds > 0 {
        return Some(Some(Away { seconds: 0, back_seconds: 0, ..before }));
    }
    if time < CALM_STEP {
        return None;
    }
    let back_seconds = before.back_seconds.saturating_add(seconds);
    let calm = Duration::from_secs(back_seconds.into()) >= CALM;
    Some((!calm).then_some(Away { back_seconds, ..before }))
}

/// The members whose copies move to others.
fn gone(attendance: &Attendance, away: &BTreeMap<PeerId, Away>, policy: MovePolicy) -> Gone {
    let Attendance { members, here, zones } = attendance;
    let absent: BTreeSet<PeerId> = members.difference(here).copied().collect();
    if absent.len() * 2 >= members.len() {
        return Gone { peers: BTreeSet::new(), paused: !absent.is_empty() };
    }
    let is_whole_zone_away = |peer: &PeerId| {
        let Some(zone) = zones.get(peer) else { return false };
        let mut peers = members.iter().filter(|peer| zones.get(*peer) == Some(zone));
        peers.clone().count() > 1 && peers.all(|peer| absent.contains(peer))
    };
    let is_gone = |peer: &PeerId| {
        let Some(away) = away.get(peer) else { return false };
        let mut grace = policy.grace(away.absences);
        if is_whole_zone_away(peer) {
            grace = grace.max(policy.zone_after);
        }
        away.seconds > 0 && Duration::from_secs(away.seconds.into()) >= grace
    };
    let peers = absent.iter().filter(|peer| is_gone(peer)).copied().collect();
    Gone { peers, paused: false }
}

#[cfg(test)]
mod tests;
