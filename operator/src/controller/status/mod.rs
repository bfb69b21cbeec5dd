//! Statuses of Pins: what they must say ([`judge`]), when they are written ([`pace`]), and the
//! Events that go with them.
//!
//! Invariants: written by server-side apply with the version they were decided on, by the leader of
//! the term alone; nothing changes, nothing is written; a Pin that is done within [`LINGER`] is
//! written once.

mod conditions;
mod driver;
mod events;
mod failures;
mod graces;
mod judge;
mod news;
mod pace;
mod presence;
mod tell;
mod timers;
mod writer;

pub(super) use self::{
    driver::run,
    tell::{QUEUE_LEN_MAX as NOTES_MAX, Told, run as tell},
};
pub use self::{
    events::{Bucket, Note, note},
    graces::{Held, Moment},
    judge::{Difference, GRACE, PeerView, Verdict, View, difference, judge},
    pace::LINGER,
};
#[cfg(test)]
mod tests;
