//! At most one cluster is ever founded per record.
//!
//! The record is a ConfigMap `<release>-cluster`. Whoever creates it, or takes an unformed one over
//! by compare-and-swap, may found the cluster it names, within [`FOUND_WITHIN`]; a take-over names a
//! new cluster, and happens only after [`UNFORMED_MAX`] without a change, so that a founder that was
//! held up in between can at worst found what no record names, and then ends by itself.
//!
//! [`next`] is the whole decision and pure; [`driver`] carries it out.

mod driver;
mod leftovers;
mod next;

pub use self::{
    driver::{FoundingError, run},
    next::{FOUND_WITHIN, Observed, Registered, Step, UNFORMED_MAX, next},
};
