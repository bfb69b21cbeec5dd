//! Disks that are slow or lose power.

mod power;
mod slow;
