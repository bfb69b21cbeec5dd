//! The tracker.

pub mod ledger;
