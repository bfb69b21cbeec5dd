//! The conditions of a Pin: Ready, Reconciling and Stalled as kstatus reads them, and FullyReplicated.
//! Pure.
//!
//! A Pin that is Ready by `minReplicas` is not Reconciling, even if copies are missing: tools wait
//! for
//! the end of Reconciling, and the missing copies may need a new peer.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use pinkeeper::types::Timestamp;

use super::words::{bounded, whole_seconds};
use crate::{controller::objects::PinObject, crd::PinReason};

const TYPES: [&str; 4] = ["Ready", "Reconciling", "Stalled", "FullyReplicated"];

/// Sort position of a condition type; unknown types come last.
pub(super) fn rank(kind: &str) -> usize {
    TYPES.iter().position(|own| *own == kind).unwrap_or(TYPES.len())
}

/// The conditions, all with the same reason and message. A condition keeps its transition time
/// while its status stays the same.
pub(super) fn conditions(
    object: &PinObject,
    reason: PinReason,
    fully_replicated: bool,
    message: &str,
    now: Timestamp,
) -> Vec<Condition> {
    let before = object.status.as_ref().map_or(&[][..], |status| &status.conditions[..]);
    let (ready, stalled) = (reason.is_ready(), reason.is_stalled());
    let values = [ready, !ready && !stalled, stalled, fully_replicated];
    let condition = |(kind, value): (&str, bool)| {
        let status = if value { "True" } else { "False" };
        let since = before
            .iter()
            .find(|c| c.type_ == kind && c.status == status)
            .map_or_else(|| whole_seconds(now), |c| c.last_transition_time.clone());
        Condition {
            type_: kind.into(),
            status: status.into(),
            reason: reason.as_str().into(),
            message: bounded(message),
            observed_generation: Some(object.generation),
            last_transition_time: since,
        }
    };
    TYPES.into_iter().zip(values).map(condition).collect()
}
