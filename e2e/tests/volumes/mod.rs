//! Disks that lose power.

mod power;
