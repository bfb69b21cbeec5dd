//! A leader whose disk hangs hands leadership over.
//!
//! Raft does not notice a hanging disk: the disks of the other voters are enough to commit, and
//! heartbeats need no disk. But the leader answers no write that it has not applied.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::cluster::{Cluster, FatalError};
use crate::consensus::LogProgress;

/// Time between two checks.
const LOOK: Duration = Duration::from_millis(250);
/// A leader is stuck if it has applied none of the committed entries for this long. It is longer than
/// a healthy disk needs to store the largest transaction or a checkpoint.
const PATIENCE: Duration = Duration::from_secs(3);

/// The number of the last applied entry, and since when it has been the last.
#[derive(Default)]
struct Applying(Option<(Option<u64>, Instant)>);

impl Applying {
    /// Whether committed entries wait and none was applied for too long.
    fn is_stuck(&mut self, progress: LogProgress, now: Instant) -> bool {
        if progress.applied >= progress.committed {
            self.0 = None;
            return false;
        }
        match self.0 {
            Some((applied, since)) if applied == progress.applied => now - since >= PATIENCE,
            _ => {
                self.0 = Some((progress.applied, now));
                false
            }
        }
    }
}

impl Cluster {
    pub(in crate::cluster) async fn notice_stuck_disk(self) -> Result<(), FatalError> {
        let mut applying = Applying::default();
        loop {
            sleep(LOOK).await;
            if self.consensus().leadership().leader != Some(self.id()) {
                // A new leader gets the full time.
                applying = Applying::default();
            } else if applying.is_stuck(self.consensus().progress(), Instant::now()) {
                tracing::warn!(
                    patience = ?PATIENCE,
                    "nothing committed is applied, as when the disk hangs: handing over leadership"
                );
                applying = Applying::default();
                self.hand_over().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_is_stuck_when_it_applies_no_waiting_entry_for_long() {
        let start = Instant::now();
        let mut applying = Applying::default();
        let mut is_stuck = |applied, committed, after| {
            let progress = LogProgress { last: committed, applied, committed };
            applying.is_stuck(progress, start + after)
        };
        let second = Duration::from_secs(1);
        assert!(!is_stuck(None, None, Duration::ZERO));
        assert!(!is_stuck(None, Some(1), second), "the wait begins");
        assert!(!is_stuck(Some(0), Some(2), second * 4), "it is slow, but applies entries");
        assert!(!is_stuck(Some(0), Some(9), second * 6));
        assert!(is_stuck(Some(0), Some(9), second * 7));
        assert!(!is_stuck(Some(9), Some(9), second * 20));
        assert!(!is_stuck(Some(9), Some(10), second * 40), "idle time does not count");
    }
}
