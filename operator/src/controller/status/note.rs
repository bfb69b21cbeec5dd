//! Decides which status changes become Events. Pure.
//!
//! An Event reports a problem, or its end. A Pin without problems gets none.

use crate::{
    controller::events::Note,
    crd::{self, PinReason},
};

/// The Event for a change of status into a problem or out of one.
#[must_use]
pub fn note(
    before: Option<&crd::PinStatus>,
    after: &crd::PinStatus,
    reason: PinReason,
) -> Option<Note> {
    let ready =
        |status: &crd::PinStatus| status.conditions.iter().find(|c| c.type_ == "Ready").cloned();
    let was = before.and_then(ready).map(|condition| condition.reason);
    let now = ready(after)?;
    if was.as_deref() == Some(reason.as_str()) {
        return None;
    }
    let was_trouble = was.is_some_and(|was| TROUBLE.iter().any(|t| t.as_str() == was));
    let warning = TROUBLE.contains(&reason);
    let told = warning || (reason == PinReason::Pinned && was_trouble);
    told.then_some(Note { warning, reason: reason.as_str(), text: now.message })
}

const TROUBLE: [PinReason; 5] = [
    PinReason::ContentNotFound,
    PinReason::PinError,
    PinReason::NotEnoughPeers,
    PinReason::InvalidCID,
    PinReason::Unpinnable,
];

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

    use super::*;

    fn status(reason: PinReason) -> crd::PinStatus {
        let condition = Condition {
            type_: "Ready".into(),
            status: "False".into(),
            reason: reason.as_str().into(),
            message: "why".into(),
            observed_generation: None,
            last_transition_time: Time(jiff::Timestamp::UNIX_EPOCH),
        };
        crd::PinStatus { conditions: vec![condition], ..crd::PinStatus::default() }
    }

    #[test]
    fn people_are_told_of_trouble_and_of_its_end() {
        use PinReason::{
            ContentNotFound, DaemonDown, InvalidCID, NotEnoughPeers, PinError, Pinned, Pinning,
            Queued,
        };
        let cases = [
            (None, Pinned, None),
            (None, InvalidCID, Some(true)),
            (Some(Pinning), Pinned, None),
            (Some(Pinning), ContentNotFound, Some(true)),
            (Some(ContentNotFound), ContentNotFound, None),
            (Some(ContentNotFound), PinError, Some(true)),
            (Some(ContentNotFound), Pinning, None),
            (Some(ContentNotFound), Pinned, Some(false)),
            (Some(PinError), Pinned, Some(false)),
            (Some(NotEnoughPeers), Pinned, Some(false)),
            (Some(InvalidCID), Pinned, Some(false)),
            (Some(Queued), NotEnoughPeers, Some(true)),
            (Some(Pinned), PinError, Some(true)),
            (Some(Pinned), DaemonDown, None),
            (Some(DaemonDown), Pinned, None),
            (Some(NotEnoughPeers), Queued, None),
            (Some(Pinned), Pinned, None),
        ];
        for (was, reason, warning) in cases {
            let before = was.map(status);
            let note = note(before.as_ref(), &status(reason), reason);
            assert_eq!(note.as_ref().map(|note| note.warning), warning, "{was:?} to {reason:?}");
            let said = note.map(|note| (note.reason, note.text));
            assert!(said.is_none_or(|said| said == (reason.as_str(), "why".into())));
        }
        // Only Ready counts, and a status without it has no Event.
        let mut other = status(ContentNotFound);
        other.conditions[0].type_ = "Reconciling".into();
        assert!(note(Some(&other), &status(Pinned), Pinned).is_none());
        assert!(note(None, &other, ContentNotFound).is_none());
    }
}
