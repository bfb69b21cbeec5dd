//! The API server's data is set back, as by a restored backup of etcd: pods notice it and recover.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    api::store::{Key, Kind},
    pods::NAMESPACE,
    world::{World, is_ready},
};

/// Number of lost versions: more than are written again meanwhile.
const LOST: u64 = 1000;
/// Virtual time until pods know these versions, from bookmarks and lists.
const KNOWN_AFTER: Duration = Duration::from_secs(130);
/// Virtual time within which requests take effect.
const PATIENCE: Duration = Duration::from_secs(180);

impl World {
    /// Sets the data back; then creates a Pin and stops a daemon.
    ///
    /// # Errors
    /// When the statuses do not show them in time.
    pub async fn set_the_data_back(&mut self) -> Result<(), String> {
        let pin = |name| Key::new(Kind::Pin, "web", name);
        self.make_a_pin(&pin("before"));
        self.until(&pin("before"), is_ready).await?;
        let peer = Key::new(Kind::ClusterPeer, NAMESPACE, "pod-1");
        self.until(&peer, |peer| condition(peer, "Ready") == "True").await?;
        let revision = self.api.lock().home().revision();
        for n in 0..LOST {
            let label = json!({"metadata": {"labels": {"n": n.to_string()}}});
            self.api.change(|server| server.home_mut().merge(&pin("before"), &label).unwrap());
        }
        self.pods[1].host.daemon.set_down(true);
        self.until(&peer, |peer| condition(peer, "Ready") == "False").await?;
        self.pods[1].host.daemon.set_down(false);
        self.until(&peer, |peer| condition(peer, "Ready") == "True").await?;
        sleep(KNOWN_AFTER).await;
        self.note(format!("the data is set back to revision {revision}"));
        self.api.change(|server| server.home_mut().set_back(revision).unwrap());
        self.make_a_pin(&pin("after"));
        self.pods[1].host.daemon.set_down(true);
        self.until(&pin("after"), is_ready).await?;
        self.until(&peer, |peer| condition(peer, "Ready") == "False").await
    }

    fn make_a_pin(&self, key: &Key) {
        let object = json!({"metadata": {}, "spec": {"cid": "bafkqabaaaaaao", "replicas": 1}});
        self.api.change(|server| server.home_mut().create(key, object).unwrap());
    }

    async fn until(&self, key: &Key, is_so: fn(&Value) -> bool) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let object = self.api.lock().home().get(key).map_err(|error| error.message)?;
            if is_so(&object) {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!("{key} after {PATIENCE:?}: {}", object["status"]));
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let found = conditions.filter(|c| c["type"] == kind).find_map(|c| c["status"].as_str());
    found.unwrap_or_default()
}
