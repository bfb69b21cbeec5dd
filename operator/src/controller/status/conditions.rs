//! The three conditions of a Pin, as kstatus reads them: Ready, Reconciling, Stalled. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use pinkeeper::types::Timestamp;

use super::judge::{bounded, whole_seconds};
use crate::{controller::objects::PinObject, crd::PinReason};

const TYPES: [&str; 3] = ["Ready", "Reconciling", "Stalled"];

/// The place of a condition among ours.
pub(super) fn rank(kind: &str) -> usize {
    TYPES.iter().position(|own| *own == kind).unwrap_or(TYPES.len())
}

/// All three with the same reason; a condition keeps its transition time while its status stays.
pub(super) fn conditions(
    object: &PinObject,
    reason: PinReason,
    under_replicas: bool,
    message: &str,
    now: Timestamp,
) -> Vec<Condition> {
    let before = object.status.as_ref().map_or(&[][..], |status| &status.conditions[..]);
    let reconciling = !reason.is_stalled() && (!reason.is_ready() || under_replicas);
    let values = [reason.is_ready(), reconciling, reason.is_stalled()];
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
