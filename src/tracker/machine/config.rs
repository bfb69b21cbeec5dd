//! Limits and times.

use std::time::Duration;

/// Limits and times of the tracker.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Largest number of pins that make progress at the same time.
    pub pins_max: usize,
    /// Largest number of further pins kept open without progress.
    pub idle_pins_max: usize,
    /// Largest number of unpins at the same time.
    pub unpins_max: usize,
    /// A pin without progress for that long is stopped.
    pub stall_time: Duration,
    /// A pin without progress for that long no longer counts towards `pins_max` and may have to give
    /// way.
    pub patience: Duration,
    /// Wait after the first failure; doubles with each further one.
    pub retry_min: Duration,
    /// Longest wait after a failure.
    pub retry_max: Duration,
    /// Time between two full comparisons with the daemon's list.
    pub compare_period: Duration,
    /// Time between two probes of the daemon.
    pub probe_period: Duration,
    /// The same while the daemon is away.
    pub down_probe_period: Duration,
    /// A daemon that is silent for less time changes no status: it may only be restarting.
    pub down_grace: Duration,
    /// Time that pins in flight get before the daemon collects garbage.
    pub drain_time: Duration,
    /// Time that a collection may take.
    pub collect_time: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pins_max: 8,
            idle_pins_max: 32,
            unpins_max: 2,
            stall_time: Duration::from_secs(60),
            patience: Duration::from_secs(2),
            retry_min: Duration::from_secs(5),
            retry_max: Duration::from_secs(300),
            compare_period: Duration::from_secs(300),
            probe_period: Duration::from_secs(2),
            down_probe_period: Duration::from_millis(500),
            down_grace: Duration::from_secs(5),
            drain_time: Duration::from_secs(10),
            collect_time: Duration::from_secs(30 * 60),
        }
    }
}
