//! Messages for people, and times in the format of Kubernetes. Pure.
//!
//! Messages of conditions do not contain progress: that would be a write per block. No decision may
//! depend on a message.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use pinkeeper::types::{PeerId, Timestamp};

use super::{count::Count, presence::PeerView};
use crate::crd::{self, AllocationState, PinAllocation, PinReason};

/// Peers named in one message.
const NAMES_MAX: usize = 3;

/// The message of the conditions.
pub(super) fn message(reason: PinReason, copies: &[PinAllocation], count: &Count) -> String {
    let Count { confirmed, holders, min, wanted, peers } = *count;
    let so_far = format!("{confirmed} of {wanted} copies are confirmed");
    match reason {
        PinReason::Pinned if confirmed >= wanted => so_far,
        PinReason::Pinned if holders < wanted && confirmed >= holders => {
            format!("{so_far}; the cluster has {peers} peers, {holders} can take it")
        }
        PinReason::Pinned | PinReason::Queued | PinReason::Pinning => match trouble(copies, None) {
            Some(trouble) => format!("{so_far}, {min} are needed; {trouble}"),
            None => format!("{so_far}, {min} are needed"),
        },
        PinReason::ContentNotFound => {
            let trouble = trouble(copies, Some(AllocationState::ContentNotFound));
            format!(
                "nobody seems to provide the content: {}. Add it to one of the cluster's daemons, \
                 or start a node with it that they can reach; it is tried again by itself",
                trouble.unwrap_or_default()
            )
        }
        PinReason::Unpinnable => {
            let trouble = trouble(copies, Some(AllocationState::Unpinnable)).unwrap_or_default();
            format!(
                "{so_far}, {min} are needed; {trouble}. Daemons that know this kind of CID are needed, \
                 or other content"
            )
        }
        PinReason::PinError => {
            let trouble = trouble(copies, Some(AllocationState::PinError)).unwrap_or_default();
            format!("{so_far}, {min} are needed; {trouble}. It is tried again by itself")
        }
        PinReason::DaemonDown => {
            let trouble = trouble(copies, None).unwrap_or_default();
            format!("{so_far}, {min} are needed; {trouble}. It goes on when they are back")
        }
        // Unreachable: these have their own messages.
        PinReason::InvalidCID | PinReason::Unallocatable | PinReason::NotEnoughPeers => so_far,
    }
}

/// The message of `NotEnoughPeers`; `obstacles` says why other peers can take no copy.
pub(super) fn not_enough(count: &Count, obstacles: &str) -> String {
    let Count { confirmed, holders, min, wanted, peers } = *count;
    format!(
        "{min} copies are needed, but of the cluster's {peers} peers only {holders} can take \
         one{obstacles}; {confirmed} of {wanted} copies are confirmed. Add peers, or ask for fewer \
         copies"
    )
}

/// Why peers without a copy can take none, for example " (a: its daemon does not answer, and 2
/// more)".
pub(super) fn obstacles(copies: &[PinAllocation], peers: &BTreeMap<PeerId, PeerView>) -> String {
    let holds = |name: &str| copies.iter().any(|copy| copy.peer == name && !copy.leaving);
    let mut told: Vec<String> = peers
        .values()
        .filter(|peer| !holds(&peer.name))
        .filter_map(|peer| Some(format!("{}: {}", peer.name, peer.obstacle?)))
        .collect();
    told.sort_unstable();
    let more = told.len().saturating_sub(NAMES_MAX);
    told.truncate(NAMES_MAX);
    if more > 0 {
        told.push(format!("and {more} more"));
    }
    if told.is_empty() { String::new() } else { format!(" ({})", told.join(", ")) }
}

/// Failing peers and the reason of the first, for example "on a, b and 3 more: block not found".
fn trouble(copies: &[PinAllocation], only: Option<AllocationState>) -> Option<String> {
    let in_trouble = |state| {
        use AllocationState::{ContentNotFound, DaemonDown, PeerDown, PinError, Unpinnable};
        matches!(state, Unpinnable | ContentNotFound | PinError | DaemonDown | PeerDown)
    };
    let mut seen: Vec<&PinAllocation> = copies
        .iter()
        .filter(|copy| !copy.leaving)
        .filter(|copy| match only {
            Some(state) => copy.state == state,
            None => in_trouble(copy.state),
        })
        .collect();
    // Worst first; the sort is stable, so names stay in order.
    seen.sort_by_key(|copy| copy.state);
    let first = *seen.first()?;
    let names: Vec<&str> = seen.iter().take(NAMES_MAX).map(|copy| copy.peer.as_str()).collect();
    let more = match seen.len().saturating_sub(NAMES_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let words = match first.state {
        _ if !first.message.is_empty() => first.message.as_str(),
        AllocationState::ContentNotFound => "content not found",
        AllocationState::PinError => "the daemon failed",
        AllocationState::Unpinnable => "the daemon cannot pin it",
        AllocationState::PeerDown => "the peer is silent",
        _ => "the daemon does not answer",
    };
    // The caller appends what happens next.
    let words = words.trim_end_matches("; trying again").trim_end_matches('.');
    Some(format!("on {}{more}: {words}", names.join(", ")))
}

/// Cuts a text to the length that the definition of the objects allows.
pub(super) fn bounded(text: &str) -> String {
    match text.char_indices().nth(crd::MESSAGE_LEN_MAX - 1) {
        Some((end, _)) if text.len() > end + 1 => format!("{}…", &text[..end]),
        _ => text.to_owned(),
    }
}

/// A time without fractions of a second, as Kubernetes writes it.
pub(super) fn whole_seconds(time: Timestamp) -> Time {
    let second = i64::try_from(time.0 / 1000).unwrap_or(i64::MAX);
    Time(jiff::Timestamp::from_second(second).unwrap_or(jiff::Timestamp::MAX))
}
