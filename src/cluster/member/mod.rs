//! What every member does, leader or not: it joins, learns the addresses of the others, reports to the
//! leader, stands for election, passes read barriers, and collects its daemon's garbage when the
//! leader asks for it.

mod acquaint;
mod addresses;
mod barrier;
mod candidacy;
mod confirm;
mod gc;
mod join;
mod report;
mod stuck;
mod taken;

pub(super) use self::{acquaint::Acquaintance, addresses::Source, taken::TakenSince};
pub use self::{addresses::AddressBook, barrier::ReadBarrier};
