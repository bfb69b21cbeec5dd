//! Founders whose disk fills up while they found the cluster recover without a person.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{pods::RECORD, world::World};

/// Virtual time for which the disk is full, and then has space.
const SPANS: [(bool, Duration); 2] =
    [(true, Duration::from_secs(2)), (false, Duration::from_secs(2))];
/// Time until an ended process is restarted, as by the kubelet.
const RESTART: Duration = Duration::from_millis(500);

impl World {
    /// Fills the first pod's disk for a while, starting `after` it won the record. Restarts its
    /// process whenever it ends; returns how often.
    ///
    /// # Errors
    /// When it needs a person.
    pub async fn fill_the_founders_disk(&mut self, after: Duration) -> Result<u32, String> {
        while !self.api.lock().home().objects().keys().any(|key| key.name == RECORD) {
            sleep(Duration::from_millis(1)).await;
        }
        sleep(after).await;
        let mut ends = 0;
        for (full, span) in SPANS {
            self.note(format!("the disk of pod-0 is full: {full}"));
            self.pods[0].host.disk.set_full(full);
            let until = Instant::now() + span;
            while Instant::now() < until {
                sleep(RESTART).await;
                if let Some(why) = self.pods[0].ended(&self.api).await {
                    self.note(format!("pod-0 ends, {why}"));
                    ends += 1;
                    if !why.starts_with("exit code 1") {
                        return Err(why);
                    }
                }
                if self.pods[0].cluster().is_none()
                    && let Err(error) = self.pods[0].start(&self.api, 3).await
                {
                    self.note(format!("pod-0 does not start: {error}"));
                }
                self.oracle.lock().set_process(0, self.pods[0].cluster());
            }
        }
        Ok(ends)
    }
}
