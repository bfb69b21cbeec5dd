//! Merges our settings into Kubo's config file. Pure.
//!
//! There are three layers, and later ones win: our defaults, the settings given by a person, and
//! the settings that we depend on. Other keys stay as they are in the file.
//!
//! Names and meanings: Kubo 0.43, docs/config.md.

use std::str::FromStr;

use serde_json::{Map, Value, json};

/// Keys that cannot be given: Pinkeeper depends on them, or has its own settings for them. Letter
/// case does not matter, since Kubo ignores it.
pub const RESERVED: [&str; 9] = [
    // The daemon's identity, created once.
    "Identity",
    // Only the peer may use these.
    "Addresses.API",
    "Addresses.Gateway",
    "API.Authorizations",
    // Announced addresses have their own setting.
    "Addresses.AppendAnnounce",
    // The layout of the repository; it cannot change.
    "Datastore.Spec",
    // The peer starts garbage collections.
    "Datastore.GCPeriod",
    "Datastore.StorageGCWatermark",
    "Datastore.StorageMax",
];

/// Settings given by a person: an object that is merged into the daemon's config.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given(Map<String, Value>);

impl FromStr for Given {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let given: Map<String, Value> =
            serde_json::from_str(text).map_err(|error| format!("not a JSON object: {error}"))?;
        let mut paths = Vec::new();
        paths_of(&given, "", &mut paths);
        let reserved = |path: &&String| RESERVED.iter().any(|reserved| overlaps(path, reserved));
        match paths.iter().find(reserved) {
            Some(path) => Err(format!("{path} cannot be set: Pinkeeper depends on it")),
            None => Ok(Self(given)),
        }
    }
}

/// The supervisor's settings in the daemon's config.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Multiaddr of the RPC.
    pub api: String,
    /// Multiaddr of the gateway.
    pub gateway: String,
    /// Multiaddrs where it listens for other daemons; empty: those of the config.
    pub swarm: Vec<String>,
    /// Port for all these addresses; absent: their own ports.
    pub swarm_port: Option<u16>,
    /// Additional multiaddrs to announce; empty: the config is unchanged.
    pub announce: Vec<String>,
    /// `Datastore.StorageMax`; absent: the config is unchanged.
    pub storage_max: Option<String>,
    /// The daemon contacts only daemons that it was connected to explicitly.
    pub private: bool,
    /// Settings given by a person.
    pub given: Given,
}

impl Settings {
    /// Our defaults, as pairs of a path in the config and a value.
    fn usual(&self, config: &Value) -> Vec<(&'static str, Value)> {
        let mut pairs = vec![
            // Two daemons on one network would find each other and hide a missing connection.
            ("Discovery.MDNS.Enabled", json!(false)),
            ("Plugins.Plugins.telemetry.Config.Mode", json!("off")),
        ];
        let listening = if self.swarm.is_empty() {
            strings(&config["Addresses"]["Swarm"])
        } else {
            self.swarm.clone()
        };
        let listening: Vec<String> = match self.swarm_port {
            Some(port) => listening.iter().map(|address| with_port(address, port)).collect(),
            None => listening,
        };
        if !listening.is_empty() {
            pairs.push(("Addresses.Swarm", json!(listening)));
        }
        if self.private {
            pairs.extend(private(config));
        }
        pairs
    }

    /// The settings that we depend on.
    fn needed(&self) -> Vec<(&'static str, Value)> {
        let mut pairs = vec![
            ("Addresses.API", json!(self.api)),
            ("Addresses.Gateway", json!(self.gateway)),
            // Automatic collection would wait for stalled pins, and everything else for it. It runs
            // only with `ipfs daemon --enable-gc`, which we never use; this shows it in the config.
            ("Datastore.GCPeriod", json!("0")),
        ];
        if !self.announce.is_empty() {
            pairs.push(("Addresses.AppendAnnounce", json!(self.announce)));
        }
        if let Some(storage_max) = &self.storage_max {
            pairs.push(("Datastore.StorageMax", json!(storage_max)));
        }
        pairs
    }

    /// Merges the settings into a config; returns the changed keys.
    ///
    /// # Errors
    /// Names the key whose parent is not an object.
    pub fn merge(&self, config: &mut Value) -> Result<Vec<String>, String> {
        let before = config.clone();
        for (path, value) in self.usual(&before) {
            set(config, path, value)?;
        }
        let own = config.as_object_mut().ok_or("it is not an object")?;
        patch(own, &self.given.0);
        for (path, value) in self.needed() {
            set(config, path, value)?;
        }
        let mut changed = Vec::new();
        differences(&before, config, "", &mut changed);
        Ok(changed)
    }
}

/// Defaults for a daemon that contacts only daemons that it was connected to explicitly.
fn private(config: &Value) -> Vec<(&'static str, Value)> {
    // Keep entries that are not Kubo's defaults: a person added them.
    let bootstrap = strings(&config["Bootstrap"]);
    let is_kubos = |address: &String| {
        address == "auto"
            || address.contains("bootstrap.libp2p.io")
            || address.contains("/104.131.131.82/")
    };
    let bootstrap: Vec<String> = bootstrap.into_iter().filter(|a| !is_kubos(a)).collect();
    vec![
        ("AutoConf.Enabled", json!(false)),
        ("AutoTLS.Enabled", json!(false)),
        ("Bootstrap", json!(bootstrap)),
        ("DNS.Resolvers", json!({})),
        ("HTTPRetrieval.Enabled", json!(false)),
        ("Ipns.DelegatedPublishers", json!([])),
        ("Routing.Type", json!("none")),
        ("Routing.DelegatedRouters", json!([])),
        ("Swarm.DisableNatPortMap", json!(true)),
        ("Swarm.RelayClient.Enabled", json!(false)),
        ("Swarm.RelayService.Enabled", json!(false)),
        // Kubo does not support it with a swarm key, and would complain at each start.
        ("Swarm.Transports.Network.Websocket", json!(false)),
        ("Version.SwarmCheckEnabled", json!(false)),
    ]
}

fn strings(list: &Value) -> Vec<String> {
    let texts = list.as_array().into_iter().flatten().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

/// A multiaddr with another TCP or UDP port.
fn with_port(address: &str, port: u16) -> String {
    let mut parts: Vec<String> = address.split('/').map(str::to_owned).collect();
    let at = parts.iter().position(|part| part == "tcp" || part == "udp");
    if let Some(number) = at.and_then(|at| parts.get_mut(at + 1)) {
        *number = port.to_string();
    }
    parts.join("/")
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
            .ok_or_else(|| format!("{path}: the parent of {part} is not an object"))?;
        place = object.entry(part).or_insert(Value::Null);
    }
    *place = value;
    Ok(())
}

/// Merges as in RFC 7396: objects are merged, null removes, any other value replaces.
fn patch(config: &mut Map<String, Value>, given: &Map<String, Value>) {
    for (key, value) in given {
        // Reuse the known spelling: with two spellings of one key, Kubo would pick either.
        let known = config.keys().find(|known| known.eq_ignore_ascii_case(key)).cloned();
        let key = known.unwrap_or_else(|| key.clone());
        match value {
            Value::Null => {
                config.remove(&key);
            }
            Value::Object(inner) => {
                let place = config.entry(key).or_insert(Value::Null);
                if !place.is_object() {
                    *place = Value::Object(Map::new());
                }
                if let Some(object) = place.as_object_mut() {
                    patch(object, inner);
                }
            }
            other => {
                config.insert(key, other.clone());
            }
        }
    }
}

/// The paths of all values that are not objects.
fn paths_of(object: &Map<String, Value>, above: &str, into: &mut Vec<String>) {
    for (key, value) in object {
        let path = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
        match value {
            Value::Object(inner) => paths_of(inner, &path, into),
            _ => into.push(path),
        }
    }
}

/// Whether one path is equal to the other, or above or below it.
fn overlaps(one: &str, other: &str) -> bool {
    let mut parts = one.split('.').zip(other.split('.'));
    parts.all(|(one, other)| one.eq_ignore_ascii_case(other))
}

/// The paths at which two configs differ.
fn differences(before: &Value, after: &Value, path: &str, into: &mut Vec<String>) {
    let (Some(old), Some(new)) = (before.as_object(), after.as_object()) else {
        if before != after {
            into.push(path.to_owned());
        }
        return;
    };
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let of = |object: &Map<String, Value>| object.get(key).cloned().unwrap_or(Value::Null);
        differences(&of(old), &of(new), &path, into);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn settings(private: bool) -> Settings {
        Settings {
            api: "/ip4/127.0.0.1/tcp/5001".to_owned(),
            gateway: "/ip4/127.0.0.1/tcp/8080".to_owned(),
            private,
            ..Settings::default()
        }
    }

    fn given(value: &Value) -> Settings {
        Settings { given: value.to_string().parse().unwrap(), ..settings(false) }
    }

    #[test]
    fn merging_keeps_what_is_not_ours_and_changes_nothing_twice() {
        let mut config = json!({
            "Identity": {"PeerID": "12D3", "PrivKey": "secret"},
            "Addresses": {"API": "/ip4/0.0.0.0/tcp/5001", "NoAnnounce": ["x"], "Swarm": ["/ip4/0.0.0.0/tcp/4001"]},
            "Plugins": {"Plugins": null},
            "Bootstrap": ["auto"],
        });
        let changed = settings(false).merge(&mut config).unwrap();
        let expected =
            ["Addresses.API", "Addresses.Gateway", "Datastore", "Discovery", "Plugins.Plugins"];
        assert_eq!(changed, expected);
        assert_eq!(config["Identity"]["PrivKey"], "secret");
        assert_eq!(config["Addresses"]["API"], "/ip4/127.0.0.1/tcp/5001");
        assert_eq!(config["Addresses"]["NoAnnounce"], json!(["x"]));
        assert_eq!(config["Addresses"]["Swarm"], json!(["/ip4/0.0.0.0/tcp/4001"]));
        assert_eq!(config["Plugins"]["Plugins"]["telemetry"]["Config"]["Mode"], "off");
        assert_eq!(config["Bootstrap"], json!(["auto"]));
        assert!(settings(false).merge(&mut config).unwrap().is_empty());
        assert!(settings(true).merge(&mut config).unwrap().contains(&"Bootstrap".to_owned()));
        assert_eq!(config["Bootstrap"], json!([]));
        assert_eq!(config["AutoConf"]["Enabled"], json!(false));
        assert_eq!(config["Routing"]["Type"], "none");
        // Entries that a person adds stay.
        config["Bootstrap"] = json!(["/ip4/10.0.0.1/tcp/4001/p2p/12D3"]);
        assert!(settings(true).merge(&mut config).unwrap().is_empty());
    }

    #[test]
    fn a_config_of_another_shape_is_named() {
        let mut config = json!({"Addresses": 5});
        let error = settings(false).merge(&mut config).unwrap_err();
        assert!(error.contains("Addresses.API"), "{error}");
        assert!(settings(false).merge(&mut json!([])).is_err());
    }

    #[test]
    fn what_is_given_goes_before_what_is_usual() {
        let mut config = json!({"Swarm": {"ConnMgr": {"HighWater": 96}}, "Bootstrap": ["auto"]});
        let mut wanted = given(&json!({
            "swarm": {"connMgr": {"LowWater": 10}},
            "Discovery": {"MDNS": {"Enabled": true}},
            "Bootstrap": ["/ip4/10.0.0.1/tcp/4001/p2p/12D3"],
            "Provide": {"Strategy": "roots"},
        }));
        wanted.private = true;
        wanted.merge(&mut config).unwrap();
        assert_eq!(config["Swarm"]["ConnMgr"], json!({"HighWater": 96, "LowWater": 10}));
        assert!(config.get("swarm").is_none());
        assert_eq!(config["Discovery"]["MDNS"]["Enabled"], true);
        assert_eq!(config["Bootstrap"], json!(["/ip4/10.0.0.1/tcp/4001/p2p/12D3"]));
        assert_eq!(config["Provide"], json!({"Strategy": "roots"}));
        assert!(wanted.merge(&mut config).unwrap().is_empty());
        given(&json!({"Provide": {"Strategy": null}})).merge(&mut config).unwrap();
        assert_eq!(config["Provide"], json!({}));
    }

    #[test]
    fn what_the_operator_depends_on_cannot_be_given() {
        let cases = [
            (json!({"Addresses": {"API": "/ip4/0.0.0.0/tcp/5001"}}), "Addresses.API"),
            (json!({"addresses": {"api": null}}), "addresses.api"),
            (json!({"Addresses": null}), "Addresses"),
            (json!({"Datastore": 5}), "Datastore"),
            (json!({"Datastore": {"Spec": {"type": "mem"}}}), "Datastore.Spec.type"),
            (json!({"Identity": {"PrivKey": "x"}}), "Identity.PrivKey"),
        ];
        for (value, path) in cases {
            let error = value.to_string().parse::<Given>().unwrap_err();
            assert!(error.starts_with(&format!("{path} cannot be set")), "{error}");
        }
        for bad in ["", "[]", "5", "{"] {
            assert!(bad.parse::<Given>().is_err(), "{bad}");
        }
        for fine in ["{}", r#"{"Addresses": {"NoAnnounce": []}, "Datastore": {}}"#] {
            assert!(fine.parse::<Given>().is_ok(), "{fine}");
        }
    }

    #[test]
    fn addresses_keep_all_but_their_port() {
        let mut config = json!({"Addresses": {"Swarm": [
            "/ip4/0.0.0.0/tcp/4001", "/ip6/::/udp/4001/quic-v1/webtransport",
        ]}});
        let other = Settings { swarm_port: Some(4444), ..settings(false) };
        other.merge(&mut config).unwrap();
        let expected = json!(["/ip4/0.0.0.0/tcp/4444", "/ip6/::/udp/4444/quic-v1/webtransport"]);
        assert_eq!(config["Addresses"]["Swarm"], expected);
        let wanted = json!({"Addresses": {"Swarm": ["/ip4/0.0.0.0/tcp/5"]}});
        let own = Settings { swarm_port: Some(4444), ..given(&wanted) };
        own.merge(&mut config).unwrap();
        assert_eq!(config["Addresses"]["Swarm"], json!(["/ip4/0.0.0.0/tcp/5"]));
        assert_eq!(config["Addresses"].get("AppendAnnounce"), None);
        let announce = vec!["/ip4/192.0.2.1/tcp/30001".to_owned()];
        Settings { announce, ..settings(false) }.merge(&mut config).unwrap();
        assert_eq!(config["Addresses"]["AppendAnnounce"], json!(["/ip4/192.0.2.1/tcp/30001"]));
    }
}
