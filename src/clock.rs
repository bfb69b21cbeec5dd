//! Wall-clock time for timestamps that people read; never for decisions, which use tokio's clock.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::types::Timestamp;

/// Where wall-clock time comes from.
#[derive(Clone, Copy, Debug)]
pub enum Clock {
    /// The machine's clock.
    System,
    /// A simulated world: starts at a fixed instant and advances with tokio's (paused) clock.
    Simulated {
        /// The wall-clock time at `origin`.
        start: Timestamp,
        /// The tokio instant of `start`.
        origin: Instant,
    },
}

impl Clock {
    /// Now, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => {
                let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                Timestamp(millis(since.unwrap_or_default()))
            }
            Self::Simulated { start, origin } => Timestamp(start.0 + millis(origin.elapsed())),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
