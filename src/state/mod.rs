//! The replicated state: the claims and allocations of all pins, the counts of the deletion guard, and the
//! level.

mod deletion_guard;
mod derived;
mod op;
mod pin_set;
mod shared;

pub use self::{
    deletion_guard::{
        Found, Holds, Limit, Limits, Lost, NoDigest, Ruling, Waiting, WaitingDigest, Window,
    },
    op::{Applied, Fence, Op, Outcome, Refused},
    pin_set::{Away, Beside, Page, PinSet},
    shared::{Changed, SharedState},
};

#[cfg(test)]
mod tests;
