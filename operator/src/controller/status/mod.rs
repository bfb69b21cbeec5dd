//! Statuses of Pins: what they must say ([`judge`]), when they are written ([`pace`]), and which of
//! their changes are told by Events ([`note()`]).
//!
//! Invariants: the leader of the term alone writes statuses, by server-side apply with the version of
//! the object that they were decided on. Where nothing changes, nothing is written. A Pin that is done
//! within [`LINGER`] is written once.

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
