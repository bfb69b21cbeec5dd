//! Turns Pins into claims: a Pin claims its CID, a deleted Pin releases it.
//!
//! - [`decide`] and [`rule`] decide (pure);
//! - `driver` proposes claims in batches;
//! - `release` drops the claims of deleted Pins;
//! - `compare` finds claims whose Pins were deleted while no leader watched;
//! - `anchors` proves each "not found";
//! - `approvals` handles deletions that wait for a person.
//!
//! The deletion guard itself is in `pinkeeper::state`.
//!
//! Invariants:
//! - No claim is made before the anchors are noted: they decide later whether the claim may end.
//! - Ops carry the term and the object's generation.
//! - Pending claims go before releases, so that content never loses its last claim in between.
//! - A claim is dropped only if its deletion was watched while the definition of Pins exists, or if
//!   a GET proved it. The deletion guard always applies.

mod anchors;
mod approvals;
mod compare;
mod decide;
mod driver;
mod release;
mod rule;

pub use self::{
    approvals::message,
    decide::{Basis, Decision, Missing, decide, missing, replication},
    rule::rule,
};
pub(super) use self::{approvals::run as approvals, compare::run as compare, driver::run};
