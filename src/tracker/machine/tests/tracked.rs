//! The origin of a pin, and the reported state, for all that may be known of a CID.

use super::*;
use crate::tracker::machine::tracked::Kind;

fn entry() -> Tracked {
    Tracked::new(Phase::Queued, Now { at: Duration::ZERO, wall: Timestamp(0) })
}

#[test]
fn only_an_attempt_makes_what_was_intended_ours() {
    use Origin::{Foreign, Former, Ours};
    let table = [
        (None, false, None),
        (None, true, None),
        (Some(Ours), false, None),
        (Some(Ours), true, Some(Ours)),
        (Some(Foreign), false, Some(Foreign)),
        (Some(Foreign), true, Some(Foreign)),
        (Some(Former), false, None),
    ];
    for (origin, attempted, whose) in table {
        let known = Tracked { origin, attempted, ..entry() };
        assert_eq!(known.whose(), whose, "{origin:?} {attempted}");
    }
}

/// Of the ledger's entries, only ours may have been attempted.
#[test]
fn the_ledger_says_whose_a_pin_is_after_a_start() {
    let now = Now { at: Duration::ZERO, wall: Timestamp(0) };
    let origins = [Origin::Ours, Origin::Foreign, Origin::Former];
    let machine = Machine::new(config(), now, Some("d".to_owned()), ledger_of(&origins));
    let whose = (1..4).map(|n| machine.entries.get(&cid(n)).unwrap().whose());
    assert!(whose.eq([Some(Origin::Ours), Some(Origin::Foreign), None]));
}

const PHASES: [Phase; 20] = [
    Phase::Unknown,
    Phase::Recheck,
    Phase::Queued,
    Phase::Asking,
    Phase::WritingOurs,
    Phase::WritingDirect,
    Phase::WritingForeign,
    Phase::TakingOver,
    Phase::Ready,
    Phase::Pinning,
    Phase::Pinned,
    Phase::Unsure,
    Phase::Withdrawing,
    Phase::Waiting,
    Phase::UnpinQueued,
    Phase::Confirming,
    Phase::Confirmed,
    Phase::Unpinning,
    Phase::UnpinWaiting,
    Phase::Forgetting,
];

#[test]
fn what_is_wanted_says_that_it_is_pinned_only_when_it_is() {
    let kinds = [
        None,
        Some(Kind::Stalled),
        Some(Kind::Failed),
        Some(Kind::Refused),
        Some(Kind::Unpinnable),
    ];
    for phase in PHASES {
        for failed in kinds {
            let state = Tracked { wanted: true, phase, failed, ..entry() }.state();
            let expected = match (phase, failed) {
                (Phase::Pinned, _) => PinState::Pinned,
                (_, Some(Kind::Stalled)) => PinState::NotFound,
                (_, Some(Kind::Unpinnable)) => PinState::Unpinnable,
                (_, Some(_)) => PinState::Failed,
                (Phase::Pinning, _) => PinState::Pinning,
                (Phase::Recheck, _) => PinState::Rechecking,
                _ => PinState::Queued,
            };
            assert_eq!(state, Some(expected), "{phase:?} {failed:?}");
        }
    }
}

#[test]
fn what_is_not_wanted_says_so_as_long_as_it_may_be_ours() {
    for phase in PHASES {
        for origin in [None, Some(Origin::Ours), Some(Origin::Foreign), Some(Origin::Former)] {
            for (attempted, failed) in [(false, false), (true, false), (true, true)] {
                let kind = failed.then_some(Kind::Failed);
                let known = Tracked { phase, origin, attempted, failed: kind, ..entry() };
                let ours = origin == Some(Origin::Ours);
                let expected = match phase {
                    Phase::UnpinQueued
                    | Phase::Confirming
                    | Phase::Confirmed
                    | Phase::Unpinning
                    | Phase::UnpinWaiting
                        if failed =>
                    {
                        Some(PinState::UnpinFailed)
                    }
                    Phase::UnpinQueued
                    | Phase::Confirming
                    | Phase::Confirmed
                    | Phase::Unpinning
                    | Phase::UnpinWaiting => Some(PinState::Unpinning),
                    Phase::Unsure | Phase::Queued | Phase::Asking => {
                        (ours && attempted).then_some(PinState::Unpinning)
                    }
                    Phase::Forgetting => ours.then_some(PinState::Unpinning),
                    _ => None,
                };
                assert_eq!(known.state(), expected, "{known:?}");
            }
        }
    }
}
