//! A ClusterPeer of a removed installation: pods found a cluster once its volume claim is gone, and
//! not before.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    api::store::{Key, Kind, Store},
    pods::NAMESPACE,
    users::volume_claim,
    world::{World, record},
};

/// Its name.
const LEFT: &str = "pod-7";
/// Virtual time within which pods found a cluster if they may.
const FOUNDED_WITHIN: Duration = Duration::from_secs(30);
/// Virtual time for which pods are observed not to found one.
const OBSERVED: Duration = Duration::from_secs(60);

/// Adds the ClusterPeer and its volume claim to the store.
pub fn leave(store: &mut Store) {
    let status = json!({
        "peerID": "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp",
        "clusterID": "00112233445566778899aabbccddeeff",
    });
    let peer = Key::new(Kind::ClusterPeer, NAMESPACE, LEFT);
    store.create(&peer, json!({"metadata": {}, "spec": {}, "status": status})).unwrap();
    store.provide(volume_claim(LEFT));
}

impl World {
    /// # Errors
    /// When a cluster is founded too early, or not at all.
    pub async fn found_beside_a_leftover(&mut self) -> Result<(), String> {
        sleep(OBSERVED).await;
        if self.api.lock().home().get(&record()).is_ok() {
            return Err("founded although a volume of another cluster is there".into());
        }
        self.note("the volume is removed".into());
        self.api.change(|server| server.home_mut().delete(&volume_claim(LEFT)).unwrap());
        let until = Instant::now() + FOUNDED_WITHIN;
        while self.api.lock().home().get(&record()).is_err() {
            if Instant::now() > until {
                return Err("not founded".into());
            }
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }
}
