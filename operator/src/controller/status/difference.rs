//! Compares a status with the one on the object. Pure.

use super::conditions::rank;
use crate::crd;

/// How a status differs from the one on the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// Equal.
    None,
    /// Only messages differ.
    Words,
    /// Fields for programs differ.
    Facts,
}

/// Compares a status with the one on the object. Ignores foreign conditions and `observedEntries`.
#[must_use]
pub fn difference(before: Option<&crd::PinStatus>, after: &crd::PinStatus) -> Difference {
    let Some(before) = before else { return Difference::Facts };
    let mut before = before.clone();
    before.conditions.retain(|c| after.conditions.iter().any(|own| own.type_ == c.type_));
    before.conditions.sort_by_key(|c| rank(&c.type_));
    before.allocations.sort_by(|a, b| a.peer.cmp(&b.peer));
    before.observed_entries = after.observed_entries;
    if before == *after {
        return Difference::None;
    }
    let mut after = after.clone();
    for status in [&mut before, &mut after] {
        status.conditions.iter_mut().for_each(|c| c.message.clear());
        status.allocations.iter_mut().for_each(|a| a.message.clear());
    }
    if before == after { Difference::Words } else { Difference::Facts }
}
