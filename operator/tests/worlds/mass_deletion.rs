//! Most Pins are deleted within seconds, while pods crash. The deletion guard holds under any
//! leader, until a person approves the deletion.

use std::time::Duration;

use pinkeeper::types::Cid;
use rand::RngExt as _;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    api::store::{Key, Kind},
    users::{NAMESPACES, cid_of, pins},
    world::{World, is_ready},
};

/// Number of Pins, each with its own CID, and how many of them are deleted.
const PINS: u32 = 160;
const DELETED: u32 = 120;
/// CIDs that may be unpinned without approval: by watched deletions, and by those that a comparison
/// finds (10 % of all, which is more than 10).
const WATCHED_MAX: usize = 100;
const COMPARED_MAX: usize = 16;
/// Virtual time until all are Ready.
const READY_MAX: Duration = Duration::from_secs(120);
/// Virtual time without an approval, while pods keep crashing.
const UNANSWERED: Duration = Duration::from_secs(60);

impl World {
    /// Deletes most Pins; if `unseen`, while all pods are away.
    ///
    /// # Errors
    /// When too much is unpinned, no approval is requested, or a world's invariant is violated.
    pub async fn delete_most(&mut self, unseen: bool) -> Result<(), String> {
        for n in 0..PINS {
            let spec = json!({"cid": cid(n).to_string(), "replicas": 1});
            self.users.make(&key(n), spec);
        }
        let until = Instant::now() + READY_MAX;
        while pins(&self.api).iter().any(|(_, pin)| !is_ready(pin)) {
            sleep(Duration::from_millis(500)).await;
            self.check().await?;
            if Instant::now() > until {
                return Err("not all Pins become Ready".into());
            }
        }
        for n in 0..self.pods.len() {
            if unseen {
                self.crash(n).await;
            }
        }
        for n in 0..DELETED {
            self.users.delete(&key(n));
            sleep(Duration::from_millis(self.random.random_range(0..40))).await;
            if !unseen {
                self.crash_or_start(0.01).await;
            }
        }
        let most = if unseen { COMPARED_MAX } else { WATCHED_MAX };
        let until = Instant::now() + UNANSWERED;
        while Instant::now() < until {
            self.crash_or_start(0.03).await;
            sleep(Duration::from_millis(200)).await;
            self.check().await?;
            let gone = (0..DELETED).filter(|n| self.oracle.lock().holders(&cid(*n)) == 0).count();
            if gone > most {
                return Err(format!("{gone} of {DELETED} are unpinned, {most} may be"));
            }
        }
        self.heal().await;
        let until = Instant::now() + READY_MAX;
        while self.waiting().is_none() {
            if Instant::now() > until {
                return Err("nobody asks a person".into());
            }
            sleep(Duration::from_millis(500)).await;
        }
        Ok(())
    }

    /// Restarts a pod that is down; sometimes crashes one.
    async fn crash_or_start(&mut self, crashes: f64) {
        let n = self.random.random_range(0..self.pods.len());
        if self.random.random_bool(crashes) {
            self.crash(n).await;
        } else if self.pods[n].cluster().is_none() && self.random.random_bool(0.2) {
            self.start(n).await;
        }
    }
}

fn key(n: u32) -> Key {
    Key::new(Kind::Pin, NAMESPACES[n as usize % NAMESPACES.len()], &format!("many-{n}"))
}

/// A CID that users do not choose.
fn cid(n: u32) -> Cid {
    cid_of(1000 + n)
}
