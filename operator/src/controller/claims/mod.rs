//! Pin objects become claims: an object claims its CID, a deleted one releases it.
//!
//! [`decide`] is pure; [`driver`] proposes in batches; [`compare`] finds claims whose objects went
//! away while nobody watched.
//!
//! Invariants: ops carry the term and the object's generation; within a batch claims go before
//! releases, so that content never loses its last claim in between; a claim is dropped only when a
//! deletion was watched, or when a GET proved it.

mod compare;
mod decide;
mod driver;

pub use self::decide::{Basis, Decision, Missing, decide, missing, release, replication};
pub(super) use self::{compare::run as compare, driver::run};
