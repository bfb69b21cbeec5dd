//! The origin of a pin, and the reported state, for all that may be known of a CID.

use super::*;
use crate::tracker::machine::{
    entries::Tracked,
    failures::Kind,
    phase::Finding,
    turns::{Place, Turn},
};

fn entry(phase: Phase) -> Tracked {
    Tracked::new(phase, Now { at: Duration::ZERO, wall: Timestamp(0) })
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
        let mut known = entry(Phase::Pinned);
        (known.origin, known.attempted) = (origin, attempted);
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

/// Each phase once, with any data.
fn phases() -> [Phase; 20] {
    let turn = Turn::Fresh;
    let (number, answered_at) = (1, Duration::ZERO);
    let timer = Timers::default().timer(Duration::ZERO);
    let writing = |finding| Phase::Writing { finding, turn, answered_at, outdated: false };
    [
        Phase::Unknown,
        Phase::Recheck,
        Phase::Queued(Place { turn, number }),
        Phase::Asking { turn },
        writing(Finding::Ours),
        writing(Finding::Direct),
        writing(Finding::Foreign),
        writing(Finding::Former),
        Phase::Ready { turn, number, answered_at },
        Phase::Pinning { turn },
        Phase::Pinned,
        Phase::Unsure { turn, timer },
        Phase::Withdrawing,
        Phase::Waiting(timer),
        Phase::UnpinQueued { number },
        Phase::Confirming,
        Phase::Confirmed { number, confirmed_at: answered_at },
        Phase::Unpinning,
        Phase::UnpinWaiting(timer),
        Phase::Forgetting,
    ]
}

#[test]
fn what_is_wanted_says_that_it_is_pinned_only_when_it_is() {
    let kinds = [
        None,
        Some(Kind::Stalled),
        Some(Kind::Failed),
        Some(Kind::Refused),
        Some(Kind::Unpinnable),
    ];
    for phase in phases() {
        for failed in kinds {
            let mut known = entry(phase);
            (known.wanted, known.failed) = (true, failed);
            let expected = match (phase, failed) {
                (Phase::Pinned, _) => PinState::Pinned,
                (_, Some(Kind::Stalled)) => PinState::NotFound,
                (_, Some(Kind::Unpinnable)) => PinState::Unpinnable,
                (_, Some(_)) => PinState::Failed,
                (Phase::Pinning { .. }, _) => PinState::Pinning,
                (Phase::Recheck, _) => PinState::Rechecking,
                _ => PinState::Queued,
            };
            assert_eq!(known.state(), Some(expected), "{phase:?} {failed:?}");
        }
    }
}

#[test]
fn what_is_not_wanted_says_so_as_long_as_it_may_be_ours() {
    for phase in phases() {
        for origin in [None, Some(Origin::Ours), Some(Origin::Foreign), Some(Origin::Former)] {
            for (attempted, failed) in [(false, false), (true, false), (true, true)] {
                let mut known = entry(phase);
                (known.origin, known.attempted) = (origin, attempted);
                known.failed = failed.then_some(Kind::Failed);
                let ours = origin == Some(Origin::Ours);
                let expected = match phase {
                    Phase::UnpinQueued { .. }
                    | Phase::Confirming
                    | Phase::Confirmed { .. }
                    | Phase::Unpinning
                    | Phase::UnpinWaiting(_)
                        if failed =>
                    {
                        Some(PinState::UnpinFailed)
                    }
                    Phase::UnpinQueued { .. }
                    | Phase::Confirming
                    | Phase::Confirmed { .. }
                    | Phase::Unpinning
                    | Phase::UnpinWaiting(_) => Some(PinState::Unpinning),
                    Phase::Unsure { .. } | Phase::Queued(_) | Phase::Asking { .. } => {
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
