//! What the cluster agreed on: claims and allocations of every pin.

mod op;
mod pin_set;
mod shared;

pub use self::{
    op::{Applied, Fence, Op, Outcome, Refused},
    pin_set::PinSet,
    shared::{Changed, SharedState},
};

#[cfg(test)]
mod tests;
