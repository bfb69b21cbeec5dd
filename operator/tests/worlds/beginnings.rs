//! How some worlds begin: a cluster is founded or grows while the peer that does it is lost.

use std::time::Duration;

use pinkeeper::cluster::Cluster;
use pinkeeper_operator::founding::UNFORMED_MAX;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    api::faults::Faults,
    pods::Pod,
    world::{World, record},
};

/// Mixed into the seed, for a separate random stream.
const STREAM: u64 = 0x6772_6f77;
/// How long the API server hangs: less than clients wait.
const HELD_UP: Duration = Duration::from_secs(8);
/// Longest wait for a change of the voters.
const GROWN_MAX: Duration = Duration::from_secs(20);

impl World {
    pub async fn begin(&mut self) {
        let mut random = StdRng::seed_from_u64(self.seed ^ STREAM);
        if self.random.random_bool(0.2) {
            self.lose_the_founder().await;
        } else if random.random_bool(0.2) {
            let after = Duration::from_millis(random.random_range(0..8));
            self.lose_the_leader_that_changes_voters(after).await;
        }
    }

    /// The founder crashes right after it won the record, and stays away until others may take it
    /// over.
    async fn lose_the_founder(&mut self) {
        self.api.lock().faults = Faults { slow: 200, ..Faults::default() };
        while self.api.lock().home().get(&record()).is_err() {
            sleep(Duration::from_millis(1)).await;
        }
        self.crash(0).await;
        let lost = Instant::now();
        let away = self.random.random_range(110..150);
        if self.random.random_bool(0.8) {
            self.hold_up_the_takers().await;
        }
        sleep_until(lost + Duration::from_secs(away)).await;
    }

    /// The API server hangs while the record expires, so that all waiting peers read it at once and
    /// then act in any order.
    async fn hold_up_the_takers(&mut self) {
        sleep(UNFORMED_MAX - HELD_UP / 4).await;
        self.api.lock().faults = Faults { lag_ms: 1000, ..Faults::default() };
        self.hold_up(true);
        sleep(HELD_UP).await;
        self.hold_up(false);
    }

    fn hold_up(&self, held_up: bool) {
        self.note(format!("the API server hangs: {held_up}"));
        self.api.change(|server| server.held_up = held_up);
    }

    /// The leader crashes `after` it wrote the first of the two entries of a change of the voters.
    async fn lose_the_leader_that_changes_voters(&mut self, after: Duration) {
        let until = Instant::now() + GROWN_MAX;
        while Instant::now() < until {
            if let Some(n) = self.pods.iter().position(changes_voters) {
                sleep(after).await;
                self.crash(n).await;
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
    }
}

fn changes_voters(pod: &Pod) -> bool {
    let leads = |cluster: &Cluster| cluster.leadership().borrow().local;
    pod.cluster().is_some_and(|cluster| cluster.is_joint() && leads(cluster))
}
