//! What every member does, whether it leads or not: it joins, knows where the others are, reports to
//! the leader, stands for election, passes read barriers, and runs garbage collection of its daemon
//! when the leader asks for it.

mod acquaint;
mod addresses;
mod barrier;
mod candidacy;
mod gc;
mod join;
mod report;
mod stuck;

pub(super) use self::{acquaint::Acquaintance, addresses::Said};
pub use self::{addresses::AddressBook, barrier::ReadBarrier};
