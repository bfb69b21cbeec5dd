//! Pin objects become claims: an object claims its CID, a deleted one releases it.
//!
//! [`decide`] and [`rule`] are pure; `driver` proposes in batches; `release` asks what has to be known
//! about gone objects; `compare` finds claims whose objects went away while nobody watched; `anchors`
//! gives out no "not found" that is not proven; `approvals` looks after what waits for a person. What may
//! go without one, `pinkeeper::state` knows.
//!
//! Invariants:
//! - No claim is made before the anchors are noted: its end is judged by them.
//! - Ops carry the term and the object's generation.
//! - Claims that are known go before releases, so that content never loses its last claim in between.
//! - A claim is dropped only when a deletion was watched while the definition of Pins stands, or when a
//!   GET proved it. It is never dropped past the deletion guard.

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
