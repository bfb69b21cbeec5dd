//! Statuses of Pins: their content ([`judge`]), when they are written ([`pace`]), and which changes
//! become Events ([`note()`]).
//!
//! Invariants:
//! - Only the leader of the term writes statuses, by server-side apply with the version of the object
//!   that they were computed from.
//! - Nothing is written if nothing changes.
//! - A Pin that is pinned within [`LINGER`] is written once.

mod conditions;
mod count;
mod difference;
mod driver;
mod failures;
mod graces;
mod judge;
mod memory;
mod news;
mod note;
mod pace;
mod presence;
mod words;
mod writer;

pub(super) use self::driver::run;
pub use self::{
    difference::{Difference, difference},
    graces::{GRACE, Held, Moment},
    judge::{Verdict, View, judge},
    note::note,
    pace::LINGER,
    presence::PeerView,
};
#[cfg(test)]
mod tests;
