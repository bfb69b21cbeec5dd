//! Wall-clock time, for timestamps that people read. Decisions use tokio's clock; only the deletion
//! guard's time begins with this one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use tokio::time::Instant;

use crate::types::{Timestamp, millis};

/// The source of wall-clock time.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's clock.
    System,
    /// A simulated machine's clock.
    Simulated(SimulatedClock),
}

/// Advances with tokio's (paused) clock from a given time on, and can be set; clones share the clock.
#[derive(Clone, Debug)]
pub struct SimulatedClock {
    origin: Instant,
    /// Milliseconds since the Unix epoch at `origin`.
    start: Arc<AtomicU64>,
}

impl Clock {
    /// The current time in milliseconds since the Unix epoch.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => {
                let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                Timestamp(millis(since.unwrap_or_default()))
            }
            Self::Simulated(clock) => clock.now(),
        }
    }
}

impl SimulatedClock {
    /// A clock that shows `start` now.
    #[must_use]
    pub fn new(start: Timestamp) -> Self {
        Self { origin: Instant::now(), start: Arc::new(AtomicU64::new(start.0)) }
    }

    /// Moves the clock by so many milliseconds, back if negative.
    pub fn jump(&self, by: i64) {
        let start = self.start.load(Ordering::Relaxed);
        self.start.store(start.saturating_add_signed(by), Ordering::Relaxed);
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.start.load(Ordering::Relaxed).saturating_add(millis(self.origin.elapsed())))
    }
}
