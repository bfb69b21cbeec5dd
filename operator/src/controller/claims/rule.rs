//! Decides the ops for deleted Pins, under the deletion guard. Pure.
//!
//! Invariants: all known deletions are decided on together. Each CID counts once; it counts as
//! found by the comparison if the comparison found any of its Pins.

use std::collections::BTreeMap;

use pinkeeper::{
    state::{Fence, Limits, Lost, Op, PinSet},
    types::{Cid, ClaimOptions, Owner, Timestamp, Uid},
};

use crate::controller::deletions::Deletion;

/// What to propose next about deleted Pins.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// Note their last `deletionPolicy`, where their claims do not have it.
    Note(Vec<Op>),
    /// Drop their claims, or make them wait.
    Rule(Vec<Op>),
}

/// Decides what to propose next; for `at` and `limits` see [`rule`].
pub(super) fn next(
    pins: &PinSet,
    deletions: &[Deletion],
    term: u64,
    at: Timestamp,
    limits: &Limits,
) -> Next {
    let policies = last_policies(pins, deletions, term, at);
    match policies.is_empty() {
        true => Next::Rule(rule(pins, deletions, term, at, limits)),
        false => Next::Note(policies),
    }
}

/// The ops that drop the claims of deleted Pins, or make them wait. `at` is the leader's time,
/// `limits` are its settings.
#[must_use]
pub fn rule(
    pins: &PinSet,
    deletions: &[Deletion],
    term: u64,
    at: Timestamp,
    limits: &Limits,
) -> Vec<Op> {
    let mut contents: BTreeMap<Cid, Vec<&Deletion>> = BTreeMap::new();
    for deletion in deletions {
        if let Some(cid) = pins.cid_of(&deletion.uid) {
            contents.entry(cid).or_default().push(deletion);
        }
    }
    let mut lost = Lost::default();
    for (cid, of) in &mut contents {
        // The last op of a CID takes its last claim, and decides how the loss counts.
        of.sort_by_key(|deletion| deletion.found);
        let unpins = pins
            .get(cid)
            .is_some_and(|pin| pin.goes_with_objects() && pin.claims.len() == of.len());
        if let (true, Some(last)) = (unpins, of.last()) {
            lost.add(last.found);
        }
    }
    let holds = pins.guard(lost, at, limits);
    let op = |cid: Cid, deletion: &Deletion| {
        let uid = deletion.uid.clone();
        let ruling = holds.ruling(deletion.found);
        let claim = pins.get(&cid)?.claims.get(&Owner::Object(uid.clone()))?;
        // The deletion is the last change of an object, so no generation is newer.
        let generation = deletion.generation.max(claim.generation);
        Some(Op::Gone { cid, uid, ruling, at, fence: Fence { term, generation } })
    };
    contents
        .iter()
        .flat_map(|(cid, of)| of.iter().filter_map(|deletion| op(*cid, deletion)))
        .collect()
}

/// The ops that note the last `deletionPolicy` of deleted Pins, where their claims do not have it:
/// a Pin may be deleted right after it was changed.
fn last_policies(pins: &PinSet, deletions: &[Deletion], term: u64, at: Timestamp) -> Vec<Op> {
    let op = |deletion: &Deletion| {
        let (retain, owner) = (deletion.retain?, Owner::Object(deletion.uid.clone()));
        let cid = pins.cid_of(&deletion.uid)?;
        let claim = pins.get(&cid)?.claims.get(&owner)?;
        let is_new = claim.options.retain != retain && claim.generation <= deletion.generation;
        is_new.then(|| Op::Claim {
            cid,
            owner,
            options: ClaimOptions { retain, ..claim.options.clone() },
            candidates: Vec::new(),
            at,
            fence: Some(Fence { term, generation: deletion.generation }),
        })
    };
    deletions.iter().filter_map(op).collect()
}

/// Names of some Pins whose content waits for approval.
#[must_use]
pub(super) fn some_waiting(pins: &PinSet, count: usize) -> Vec<String> {
    let name = |(uid, cid): (&Uid, &Cid)| {
        let claim = pins.get(cid)?.claims.get(&Owner::Waiting(uid.clone()))?;
        Some(claim.options.name.to_string())
    };
    pins.waiting_objects().filter_map(name).take(count).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use pinkeeper::{
        state::{Found, Outcome, Ruling},
        types::{ClaimName, Factor, LogPosition, ObjectKey, Replication},
    };

    use super::*;

    const TERM: u64 = 3;
    const AT: LogPosition = LogPosition { term: TERM, index: 0 };
    const NOW: Timestamp = Timestamp(1000);

    fn cid(n: u16) -> Cid {
        let hash = cid::multihash::Multihash::<64>::wrap(0, &n.to_be_bytes()).unwrap();
        cid::Cid::new_v1(0x55, hash).into()
    }

    fn claim(pins: &mut PinSet, n: u16, uid: &str, retain: bool) {
        let one = Factor::Count(1);
        let replication = Replication { min: one, max: one };
        let key = ObjectKey { namespace: "web".into(), name: uid.into() };
        let name = ClaimName::Object(Box::new(key));
        let claim = Op::Claim {
            cid: cid(n),
            owner: Owner::Object(Uid(uid.into())),
            options: ClaimOptions { replication, retain, name },
            candidates: Vec::new(),
            at: NOW,
            fence: Some(Fence { term: TERM, generation: 4 }),
        };
        assert_eq!(pins.apply(AT, &claim), Outcome::Changed);
    }

    /// The state with that many CIDs, each claimed by the object of its number.
    fn pins(count: u16) -> PinSet {
        let mut pins = PinSet::default();
        (0..count).for_each(|n| claim(&mut pins, n, &n.to_string(), false));
        pins
    }

    fn gone(uid: impl ToString, found: Found) -> Deletion {
        let uid = Uid(uid.to_string());
        Deletion { uid, generation: 0, found, retain: None, is_old: false }
    }

    fn ruled(pins: &mut PinSet, deletions: &[Deletion]) -> (usize, u64) {
        for op in rule(pins, deletions, TERM, NOW, &Limits::default()) {
            assert_eq!(pins.apply(AT, &op), Outcome::Changed, "{op:?}");
        }
        (pins.len(), pins.waiting().map_or(0, |waiting| waiting.cids))
    }

    #[test]
    fn all_that_is_known_passes_or_waits_together() {
        use Found::{Compared, Watched};
        // CIDs, deletions; CIDs pinned afterwards, and those of them that wait.
        let cases = [
            (100, 10, Compared, (90, 0)),
            (100, 11, Compared, (100, 11)),
            (2, 2, Compared, (2, 2)),
            (2, 1, Compared, (1, 0)),
            (120, 100, Watched, (20, 0)),
            (120, 101, Watched, (120, 101)),
            (2, 2, Watched, (0, 0)),
        ];
        for (count, deleted, found, expected) in cases {
            let mut pins = pins(count);
            let deletions: Vec<Deletion> = (0..deleted).map(|n| gone(n, found)).collect();
            assert_eq!(ruled(&mut pins, &deletions), expected, "{count} {deleted} {found:?}");
        }
    }

    #[test]
    fn small_parts_do_not_get_past_it() {
        let mut pins = pins(200);
        let steps: Vec<(usize, u64)> = (0..3)
            .map(|step| {
                let part = step * 9..(step + 1) * 9;
                let part: Vec<_> = part.map(|n| gone(n, Found::Compared)).collect();
                ruled(&mut pins, &part)
            })
            .collect();
        assert_eq!(steps, [(191, 0), (182, 0), (182, 9)]);
        // Each counts once, even if the comparison finds it again.
        let again = [gone(26, Found::Compared)];
        assert_eq!(rule(&pins, &again, TERM, NOW, &Limits::default()), []);
    }

    #[test]
    fn what_does_not_unpin_does_not_count() {
        let mut pins = pins(20);
        // Each CID has two Pins, and the second Pins are deleted.
        (0..20).for_each(|n| claim(&mut pins, n, &format!("second-{n}"), false));
        let second = |n| gone(format!("second-{n}"), Found::Compared);
        let seconds: Vec<_> = (0..20).map(second).collect();
        assert_eq!(ruled(&mut pins, &seconds), (20, 0));
        // Retained.
        claim(&mut pins, 100, "kept", true);
        assert_eq!(ruled(&mut pins, &[gone("kept", Found::Compared)]), (21, 0));
        let all: Vec<_> = (0..20).map(|n| gone(n, Found::Compared)).collect();
        // None of that has counted.
        assert_eq!(pins.window(), PinSet::default().window());
        assert_eq!(ruled(&mut pins, &all), (21, 20));
    }

    #[test]
    fn two_pins_of_one_cid_count_once() {
        let mut pins = pins(100);
        (0..10).for_each(|n| claim(&mut pins, n, &format!("second-{n}"), false));
        let both = |n| [gone(n, Found::Compared), gone(format!("second-{n}"), Found::Compared)];
        let ten: Vec<_> = (0..10).flat_map(both).collect();
        assert_eq!(ruled(&mut pins.clone(), &ten), (90, 0));
        let mut eleven = ten;
        eleven.push(gone(10, Found::Compared));
        assert_eq!(ruled(&mut pins, &eleven), (100, 11));
    }

    #[test]
    fn some_of_what_waits_is_named() {
        let mut pins = pins(3);
        let all: Vec<_> = (0..3).map(|n| gone(n, Found::Compared)).collect();
        assert_eq!(ruled(&mut pins, &all), (3, 3));
        assert_eq!(some_waiting(&pins, 2), ["web/0", "web/1"]);
    }

    #[test]
    fn what_was_said_last_of_retaining_counts() {
        let mut pins = pins(3);
        claim(&mut pins, 3, "kept", true);
        let said = |uid: &str, generation, retain| Deletion {
            generation,
            retain,
            ..gone(uid, Found::Watched)
        };
        let all = [
            said("0", 5, Some(true)),
            said("1", 4, Some(false)),
            said("2", 3, Some(true)), // older than the claim
            said("kept", 5, Some(false)),
            said("unknown", 5, Some(true)),
        ];
        let ops = last_policies(&pins, &all, TERM, NOW);
        assert_eq!(ops.len(), 2, "{ops:?}");
        for op in ops {
            assert_eq!(pins.apply(AT, &op), Outcome::Changed);
        }
        assert_eq!(last_policies(&pins, &all, TERM, NOW), []);
        assert_eq!(ruled(&mut pins, &all), (1, 0));
        assert!(pins.get(&cid(0)).is_some(), "retained");
    }

    #[test]
    fn what_was_said_last_is_noted_before_anything_goes() {
        let mut pins = pins(1);
        let deletions = [Deletion { generation: 5, retain: Some(true), ..gone(0, Found::Watched) }];
        let step = |pins: &PinSet| next(pins, &deletions, TERM, NOW, &Limits::default());
        let Next::Note(ops) = step(&pins) else { panic!() };
        // The same again after a failed proposal.
        assert_eq!(step(&pins), Next::Note(ops.clone()));
        let [Op::Claim { owner, options, candidates, fence, .. }] = &ops[..] else { panic!() };
        let claim = pins.get(&cid(0)).unwrap().claims.get(owner).unwrap();
        assert_eq!(options, &ClaimOptions { retain: true, ..claim.options.clone() });
        assert_eq!((candidates.len(), *fence), (0, Some(Fence { term: TERM, generation: 5 })));
        ops.iter().for_each(|op| assert_eq!(pins.apply(AT, op), Outcome::Changed));
        let Next::Rule(ops) = step(&pins) else { panic!() };
        ops.iter().for_each(|op| assert_eq!(pins.apply(AT, op), Outcome::Changed));
        assert!(pins.get(&cid(0)).unwrap().claims.contains(&Owner::Retained));
    }

    #[test]
    fn content_counts_as_a_loss_of_the_comparison_if_that_found_any_of_its_pins() {
        for first in [Found::Compared, Found::Watched] {
            let mut pins = PinSet::default();
            let mut deletions = Vec::new();
            let second = if first == Found::Compared { Found::Watched } else { Found::Compared };
            for n in 0..11 {
                for (name, found) in [("a", first), ("b", second)] {
                    let uid = format!("{name}-{n}");
                    claim(&mut pins, n, &uid, false);
                    deletions.push(gone(uid, found));
                }
            }
            assert_eq!(ruled(&mut pins, &deletions), (11, 11), "{first:?}");
        }
    }

    #[test]
    fn only_what_is_unpinned_makes_others_wait() {
        let also_claim = |pins: &mut PinSet, n: u16, owner: Owner, retain: bool| {
            let (uid, at) = (Uid(n.to_string()), NOW);
            let options = pins.get(&cid(n)).unwrap().claims.get(&Owner::Object(uid)).unwrap();
            let options = ClaimOptions { retain, ..options.options.clone() };
            let (cid, candidates) = (cid(n), Vec::new());
            let fence =
                matches!(owner, Owner::Object(_)).then_some(Fence { term: TERM, generation: 4 });
            let op = Op::Claim { cid, owner, options, candidates, at, fence };
            assert_eq!(pins.apply(AT, &op), Outcome::Changed);
        };
        // Ten may go; the eleventh would exceed the limit.
        let object = |uid: &str| Owner::Object(Uid(uid.into()));
        let cases = [
            ("its last Pin", None, (100, 11)),
            ("another Pin is left", Some((object("other"), false)), (90, 0)),
            ("pinned by REST too", Some((Owner::Rest, false)), (90, 0)),
            ("retained", Some((object("10"), true)), (90, 0)),
        ];
        for (case, owner, expected) in cases {
            let mut pins = pins(100);
            if let Some((owner, retain)) = owner {
                also_claim(&mut pins, 10, owner, retain);
            }
            let all: Vec<_> = (0..11).map(|n| gone(n, Found::Compared)).collect();
            assert_eq!(ruled(&mut pins, &all), expected, "{case}");
        }
    }

    #[test]
    fn an_op_is_fenced_by_the_newest_generation_that_is_known() {
        let pins = pins(2);
        let of = |n: u16, generation| Deletion { generation, ..gone(n, Found::Watched) };
        let ops = rule(&pins, &[of(0, 2), of(1, 7)], TERM, NOW, &Limits::default());
        let op = |n: u16, generation| Op::Gone {
            cid: cid(n),
            uid: Uid(n.to_string()),
            ruling: Ruling::Take(Found::Watched),
            at: NOW,
            fence: Fence { term: TERM, generation },
        };
        assert_eq!(ops, [op(0, 4), op(1, 7)]);
    }

    #[test]
    fn an_older_generation_does_not_hinder_a_deletion() {
        let mut pins = pins(1);
        let deletion = Deletion { generation: 2, ..gone(0, Found::Watched) };
        assert_eq!(ruled(&mut pins, &[deletion]), (0, 0));
    }
}
