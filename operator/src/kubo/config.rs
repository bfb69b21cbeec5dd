//! Our settings within Kubo's config file. Pure.
//!
//! Names and meanings: Kubo 0.43, docs/config.md. What is not named here stays as it is.

use serde_json::{Map, Value, json};

/// What the supervisor decides in the daemon's config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Multiaddr of the RPC.
    pub api: String,
    /// Multiaddr of the gateway.
    pub gateway: String,
    /// Multiaddrs where other daemons reach it.
    pub swarm: Vec<String>,
    /// `Datastore.StorageMax`; absent: left alone.
    pub storage_max: Option<String>,
    /// Nobody is contacted but the daemons it is told to connect to.
    pub private: bool,
}

impl Settings {
    /// The settings as pairs of a path into the config and a value.
    fn pairs(&self) -> Vec<(&'static str, Value)> {
        let mut pairs = vec![
            ("Addresses.API", json!(self.api)),
            ("Addresses.Gateway", json!(self.gateway)),
            ("Addresses.Swarm", json!(self.swarm)),
            // Two daemons on one network would find each other and hide a missing connection.
            ("Discovery.MDNS.Enabled", json!(false)),
            // Automatic collection waits for a pin that stalls, and everything else for it. It runs
            // only with `ipfs daemon --enable-gc`, which is never given; this is for who looks here.
            ("Datastore.GCPeriod", json!("0")),
            ("Plugins.Plugins.telemetry.Config.Mode", json!("off")),
        ];
        if let Some(storage_max) = &self.storage_max {
            pairs.push(("Datastore.StorageMax", json!(storage_max)));
        }
        if self.private {
            pairs.extend([
                ("AutoConf.Enabled", json!(false)),
                ("AutoTLS.Enabled", json!(false)),
                ("Bootstrap", json!([])),
                ("DNS.Resolvers", json!({})),
                ("HTTPRetrieval.Enabled", json!(false)),
                ("Ipns.DelegatedPublishers", json!([])),
                ("Routing.Type", json!("none")),
                ("Routing.DelegatedRouters", json!([])),
                ("Swarm.DisableNatPortMap", json!(true)),
                ("Swarm.RelayClient.Enabled", json!(false)),
                ("Swarm.RelayService.Enabled", json!(false)),
                // Not to be had with a swarm key, and Kubo complains at each start.
                ("Swarm.Transports.Network.Websocket", json!(false)),
                ("Version.SwarmCheckEnabled", json!(false)),
            ]);
        }
        pairs
    }

    /// Puts the settings into a config; says whether it is different now.
    ///
    /// # Errors
    /// Names the place where the config is not an object.
    pub fn merge(&self, config: &mut Value) -> Result<bool, String> {
        let before = config.clone();
        for (path, value) in self.pairs() {
            set(config, path, value)?;
        }
        Ok(*config != before)
    }
}

fn set(config: &mut Value, path: &str, value: Value) -> Result<(), String> {
    let mut place = config;
    for part in path.split('.') {
        // Kubo writes null for an object without members.
        if place.is_null() {
            *place = Value::Object(Map::new());
        }
        let object = place
            .as_object_mut()
            .ok_or_else(|| format!("{path}: there is no object to put {part} into"))?;
        place = object.entry(part).or_insert(Value::Null);
    }
    *place = value;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn settings(private: bool) -> Settings {
        Settings {
            api: "/ip4/127.0.0.1/tcp/5001".to_owned(),
            gateway: "/ip4/127.0.0.1/tcp/8080".to_owned(),
            swarm: vec!["/ip4/0.0.0.0/tcp/4001".to_owned()],
            storage_max: None,
            private,
        }
    }

    #[test]
    fn merging_keeps_what_is_not_ours_and_changes_nothing_twice() {
        let mut config = json!({
            "Identity": {"PeerID": "12D3", "PrivKey": "secret"},
            "Addresses": {"API": "/ip4/0.0.0.0/tcp/5001", "NoAnnounce": ["x"]},
            "Plugins": {"Plugins": null},
            "Bootstrap": ["auto"],
        });
        assert!(settings(false).merge(&mut config).unwrap());
        assert_eq!(config["Identity"]["PrivKey"], "secret");
        assert_eq!(config["Addresses"]["API"], "/ip4/127.0.0.1/tcp/5001");
        assert_eq!(config["Addresses"]["NoAnnounce"], json!(["x"]));
        assert_eq!(config["Plugins"]["Plugins"]["telemetry"]["Config"]["Mode"], "off");
        assert_eq!(config["Bootstrap"], json!(["auto"]));
        assert!(!settings(false).merge(&mut config).unwrap());
        assert!(settings(true).merge(&mut config).unwrap());
        assert_eq!(config["Bootstrap"], json!([]));
        assert_eq!(config["AutoConf"]["Enabled"], json!(false));
        assert_eq!(config["Routing"]["Type"], "none");
    }

    #[test]
    fn a_config_of_another_shape_is_named() {
        let mut config = json!({"Addresses": 5});
        let error = settings(false).merge(&mut config).unwrap_err();
        assert!(error.contains("Addresses.API"), "{error}");
        assert!(settings(false).merge(&mut json!([])).is_err());
    }
}
