//! Computes a Pin's status. Pure.
//!
//! Invariants:
//! - There is no status for a generation whose claim is not in the state.
//! - Ready depends on the object's own spec.
//! - A copy without a report keeps its last written state.
//! - The same view gives the same status, so nothing is written when nothing changes.
//! - Only the leader's monotonic clock affects decisions.

use std::{collections::BTreeMap, time::Duration};

use pinkeeper::{
    state::Refused,
    types::{Owner, PeerId, Pin, PinState, PinStatus as Report, Timestamp},
};

use super::{
    conditions::conditions,
    count::Count,
    graces::{ASKING, GATHERING, GRACE, Graces, Held, Moment, RETRY_HIDDEN},
    presence::PeerView,
    words::{bounded, message, not_enough, obstacles, whole_seconds},
};
use crate::{
    controller::{claims::replication, objects::PinObject},
    crd::{self, AllocationState, PinAllocation, PinReason},
};

/// Inputs about the object's content.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The pin in the state.
    pub pin: Option<&'a Pin>,
    /// The state refused the claim of this generation.
    pub refused: Option<Refused>,
    /// Reports of the peers about it.
    pub reports: &'a BTreeMap<PeerId, Report>,
    /// All members.
    pub peers: &'a BTreeMap<PeerId, PeerView>,
    /// Log length that the pin reflects.
    pub entries: u64,
    /// Log length when this leader began to write statuses.
    pub entries_at_start: u64,
    /// Copies of a Pin without `replicas`.
    pub default_replicas: u16,
    /// Reports that the last check of this object held back.
    pub held: &'a Held,
    /// Now.
    pub now: Moment,
}

/// A status and how to write it.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The status that the object should have.
    pub status: crd::PinStatus,
    /// Ready's reason.
    pub reason: PinReason,
    /// No further change is expected soon, so it is written at once.
    pub settled: bool,
    /// When the verdict may change by time alone (see [`Moment::at`]).
    pub recheck: Option<Duration>,
    /// Reports held back, for the next check.
    pub held: Held,
}

/// Judges one object; absent if this generation has no claim yet.
#[must_use]
pub fn judge(object: &PinObject, view: View<'_>) -> Option<Verdict> {
    let spec = object.spec.as_ref()?;
    if let Err(error) = &object.cid {
        let message = format!(
            "{error}. The cid of a Pin cannot be changed: delete this Pin and create one with the \
             right CID"
        );
        return Some(stalled(object, PinReason::InvalidCID, &message, view.now.wall));
    }
    if let Some(refused) = view.refused {
        let message = format!("the cluster refuses it: {refused}");
        return Some(stalled(object, PinReason::Unallocatable, &message, view.now.wall));
    }
    let pin = view.pin?;
    let claim = pin.claims.get(&Owner::Object(object.uid.clone()))?;
    // A claim of a later generation means that the API server's data was set back, or that the
    // cached object is old. In the second case the API server will reject the write.
    if claim.generation < object.generation {
        return None;
    }
    let (min, wanted) = replication(spec, view.default_replicas);
    let mut graces = Graces::new(view.now.at, view.held);
    let copies = copies(object, pin, view, &mut graces);
    let count = Count::of(&copies, usize::from(min), usize::from(wanted), view.peers.len());
    let mut reason = reason(&copies, &count);
    if reason == PinReason::NotEnoughPeers && graces.last(Duration::ZERO, GATHERING) {
        reason = PinReason::Queued;
    }
    let full = count.confirmed >= count.wanted;
    let message = match reason {
        PinReason::NotEnoughPeers => not_enough(&count, &obstacles(&copies, view.peers)),
        reason => message(reason, &copies, &count),
    };
    let conditions = conditions(object, reason, full, &message, view.now.wall);
    let number = |count| Some(i32::try_from(count).unwrap_or(i32::MAX));
    let status = crd::PinStatus {
        conditions,
        observed_generation: Some(object.generation),
        observed_entries: Some(i64::try_from(view.entries).unwrap_or(i64::MAX)),
        copies: Some(format!("{}/{}", count.confirmed, count.wanted)),
        replicas: number(count.holders),
        ready_replicas: number(count.confirmed),
        desired_replicas: number(count.wanted),
        allocations: copies.into_iter().take(crd::ALLOCATIONS_LEN_MAX).collect(),
    };
    let Graces { held, ends: recheck, .. } = graces;
    let moves = status.allocations.iter().any(|copy| copy.leaving);
    Some(Verdict { status, reason, settled: reason.is_ready() && full && !moves, recheck, held })
}

fn stalled(object: &PinObject, reason: PinReason, message: &str, now: Timestamp) -> Verdict {
    let status = crd::PinStatus {
        conditions: conditions(object, reason, false, message, now),
        observed_generation: Some(object.generation),
        ..crd::PinStatus::default()
    };
    Verdict { status, reason, settled: true, recheck: None, held: Held::new() }
}

/// The shown copies, by peer name. A name is shown once: two identities with one name are a peer
/// that lost its volume and its successor.
fn copies(
    object: &PinObject,
    pin: &Pin,
    view: View<'_>,
    graces: &mut Graces<'_>,
) -> Vec<PinAllocation> {
    let before = object.status.as_ref().map_or(&[][..], |status| &status.allocations[..]);
    let observed = object.status.as_ref().and_then(|status| status.observed_entries);
    let observed = observed.and_then(|count| u64::try_from(count).ok()).unwrap_or_default();
    let mut copies: BTreeMap<String, PinAllocation> = BTreeMap::new();
    for allocation in &pin.allocations {
        let peer = view.peers.get(&allocation.peer);
        let name = peer.map_or_else(|| allocation.peer.to_string(), |peer| peer.name.clone());
        // The written state is about this copy only if the copy was allocated before it was
        // written. A new cluster counts entries from zero again, so there copies wait for a first
        // report too.
        let is_known =
            allocation.at_entry <= view.entries_at_start || peer.is_some_and(|peer| peer.reported);
        let of_this = allocation.at_entry <= observed && is_known;
        let before = before.iter().find(|copy| copy.peer == name && of_this);
        let report = view.reports.get(&allocation.peer).map(|report| (allocation.peer, report));
        let copy = copy(name, peer, before, report, view.now.wall, graces);
        let copy = PinAllocation { leaving: allocation.leaving, ..copy };
        if copies.get(&copy.peer).is_none_or(|other| worth(&copy) > worth(other)) {
            copies.insert(copy.peer.clone(), copy);
        }
    }
    copies.into_values().collect()
}

/// Rank for choosing between two identities: one that stays before one that leaves, then a confirmed
/// copy.
fn worth(copy: &PinAllocation) -> (bool, bool) {
    (!copy.leaving, copy.state == AllocationState::Pinned)
}

/// One copy: the peer's report, or the last written state if there is no report.
fn copy(
    name: String,
    peer: Option<&PeerView>,
    before: Option<&PinAllocation>,
    report: Option<(PeerId, &Report)>,
    now: Timestamp,
    graces: &mut Graces<'_>,
) -> PinAllocation {
    let shown = |state, since, message: &str| {
        // A state keeps its first written time: a restarted peer reports a later one.
        let first = before.filter(|copy| copy.state == state).and_then(|copy| copy.since.clone());
        let since = Some(first.unwrap_or_else(|| whole_seconds(since)));
        let message = bounded(message);
        PinAllocation { peer: name.clone(), state, leaving: false, since, message }
    };
    let Some(peer) = peer else {
        return shown(AllocationState::PeerDown, now, "the peer is no longer a member");
    };
    if let Some(since) = peer.silent
        && !graces.last(since.at, GRACE)
    {
        return shown(
            AllocationState::PeerDown,
            since.wall,
            "the leader hears nothing of the peer",
        );
    }
    let Some((id, report)) = report else {
        return match before {
            Some(before) if !peer.reported => before.clone(),
            _ => shown(AllocationState::Queued, now, ""),
        };
    };
    let state = state_of(report.state);
    if let Some(before) = before
        && stays(before.state, state, report, |grace| graces.hold(id, report, grace))
    {
        return before.clone();
    }
    shown(state, report.since, &report.message)
}

/// Whether the written state of a copy stays although its peer reports another one.
fn stays(
    before: AllocationState,
    state: AllocationState,
    report: &Report,
    held: impl FnOnce(Duration) -> bool,
) -> bool {
    use AllocationState::{
        ContentNotFound, DaemonDown, PeerDown, PinError, Pinned, Pinning, Queued, Unpinnable,
    };
    match (before, state) {
        (Pinned, DaemonDown) => held(GRACE),
        // A starting peer first asks its daemon. A peer that waits for its turn has a new
        // allocation, and the written state is about an earlier copy.
        (Pinned, Queued) if report.state == PinState::Rechecking => held(ASKING),
        (Unpinnable | ContentNotFound | PinError | DaemonDown, Queued) => report.attempts > 0,
        (Unpinnable | ContentNotFound | PinError | DaemonDown, Pinning) => {
            report.attempts > 0 && held(RETRY_HIDDEN)
        }
        (PeerDown, Queued) if report.attempts == 0 => held(ASKING),
        _ => false,
    }
}

fn state_of(state: PinState) -> AllocationState {
    match state {
        // A pin that is being unpinned is pinned again after that.
        PinState::Queued | PinState::Rechecking | PinState::Unpinning | PinState::UnpinFailed => {
            AllocationState::Queued
        }
        PinState::Pinning => AllocationState::Pinning,
        PinState::Pinned => AllocationState::Pinned,
        PinState::NotFound => AllocationState::ContentNotFound,
        PinState::Failed => AllocationState::PinError,
        PinState::Unpinnable => AllocationState::Unpinnable,
        PinState::DaemonDown => AllocationState::DaemonDown,
    }
}

fn reason(copies: &[PinAllocation], count: &Count) -> PinReason {
    let in_state =
        |state| copies.iter().filter(|copy| copy.state == state && !copy.leaving).count();
    let working = in_state(AllocationState::Queued) + in_state(AllocationState::Pinning);
    if count.confirmed >= count.min {
        PinReason::Pinned
    } else if count.holders < count.min {
        PinReason::NotEnoughPeers
    } else if count.confirmed + working >= count.min {
        // Enough copies are in progress, so failing ones do not decide.
        let begun = count.confirmed > 0 || in_state(AllocationState::Pinning) > 0;
        if begun { PinReason::Pinning } else { PinReason::Queued }
    } else if count.holders.saturating_sub(in_state(AllocationState::Unpinnable)) < count.min {
        PinReason::Unpinnable
    } else if in_state(AllocationState::ContentNotFound) > 0 {
        PinReason::ContentNotFound
    } else if in_state(AllocationState::PinError) > 0 {
        PinReason::PinError
    } else {
        PinReason::DaemonDown
    }
}
