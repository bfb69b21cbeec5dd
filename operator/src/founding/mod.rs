//! Decides which cluster a pod belongs to, and founds it.
//!
//! Invariant: at most one cluster is ever founded per record, the ConfigMap `<release>-cluster`.
//! - The peer that creates the record may found the cluster that it names, within [`FOUND_WITHIN`].
//! - Another peer may take over an unformed record by compare-and-swap, after [`UNFORMED_MAX`]
//!   without a change. A takeover names a new cluster. So a founder that was delayed can at worst
//!   found a cluster that no record names, and then it ends.
//!
//! [`next`] is the whole decision and pure; [`driver`] executes it.

mod driver;
mod leftovers;
mod next;

pub use self::{
    driver::{FoundingError, run},
    next::{FOUND_WITHIN, Observed, Registered, Step, UNFORMED_MAX, next},
};
