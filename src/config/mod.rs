//! How a peer is set up: a YAML file, overridden by the environment, overridden by flags.
//!
//! [`PeerOptions`] is what can be said, each key optional; [`PeerConfig`] is what the peer runs on,
//! checked once and complete. Every error is one line that names the key and where it was said.

mod values;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use libp2p::Multiaddr;
use serde::Deserialize;

pub use self::values::{HostName, KuboApi, PeerAddress, Period};
use crate::{
    files,
    identity::{ClusterSecret, SecretError, concealed},
    telemetry::{LogFilter, LogFormat},
    types::{Factor, Replication},
};

/// IPFS Cluster's port, on loopback: there is no authentication.
const REST_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9094);
/// Probes come from the node, by IPv6 or IPv4.
const HEALTH_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 9095);
/// Where peers listen for each other.
const PEER_PORT: u16 = 9096;
/// Pins a peer may work on at once, at most.
const CONCURRENT_PINS_MAX: usize = 1024;
/// Between two garbage collections of one daemon.
const GC_PAUSE: Duration = Duration::from_secs(3600);
/// A garbage collection walks all that is pinned, and pins wait for it.
const GC_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// Tags of one peer, at most: they travel with every push of its metrics.
const TAGS_MAX: usize = 64;
/// Characters of a name, a tag's name or a tag's value, at most.
const WORD_LEN_MAX: usize = 253;
/// Milliseconds an election may wait, at most.
const ELECTION_MS_MAX: u64 = 60_000;

/// Settings as they are given; absent ones have defaults. A file cannot hold other keys.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PeerOptions {
    /// What people call the peer.
    pub name: Option<String>,
    /// Folder of identity, log and state (the Raft volume).
    pub data_dir: Option<PathBuf>,
    /// Folder of the ledger, beside the daemon's repository; the data folder unless given.
    pub ledger_dir: Option<PathBuf>,
    /// File with the cluster secret: 64 hex characters.
    pub secret_file: Option<PathBuf>,
    /// Where to listen for peers.
    pub listen: Option<Vec<PeerAddress>>,
    /// Addresses told to others; those listened on unless given.
    pub announce: Option<Vec<PeerAddress>>,
    /// Peers to join by.
    pub bootstrap: Option<Vec<PeerAddress>>,
    /// Found a cluster if the disk is empty.
    pub found: Option<bool>,
    /// Kubo's RPC.
    pub ipfs_api: Option<KuboApi>,
    /// Folder on the daemon's volume, whose free space is told to others.
    pub ipfs_path: Option<PathBuf>,
    /// Where the REST API listens.
    pub rest_listen: Option<SocketAddr>,
    /// Hosts by whose names the REST API is asked, beside loopback and the address it listens on.
    pub rest_hosts: Option<Vec<HostName>>,
    /// Where health and Prometheus metrics are served.
    pub health_listen: Option<SocketAddr>,
    /// Milliseconds between a leader's heartbeats.
    pub heartbeat_ms: Option<u64>,
    /// Milliseconds that a peer waits, once a leader counts as lost, before it stands for election: at
    /// least.
    pub election_min_ms: Option<u64>,
    /// The same: at most; and milliseconds without a heartbeat until a leader counts as lost.
    pub election_max_ms: Option<u64>,
    /// How long a pin may make no progress before it is stopped and tried again later.
    pub pin_stall_timeout: Option<Period>,
    /// Pins in work at once.
    pub concurrent_pins: Option<usize>,
    /// Copies needed of a REST pin that does not say; -1 is every peer.
    pub replication_min: Option<i32>,
    /// Copies wanted of a REST pin that does not say; -1 is every peer.
    pub replication_max: Option<i32>,
    /// How full the daemon's space is, in per cent, when garbage is collected unasked; 0: never.
    pub gc_watermark: Option<u8>,
    /// Time between two such collections of one daemon.
    pub gc_pause: Option<Period>,
    /// Time a collection may take.
    pub gc_timeout: Option<Period>,
    /// Labels for placement.
    pub tags: Option<BTreeMap<String, String>>,
    /// What is logged.
    pub log_level: Option<LogFilter>,
    /// How a log line is written.
    pub log_format: Option<LogFormat>,
}

/// How a key's value is spelled in a flag or variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// As it is.
    Text,
    /// A whole number.
    Number,
    /// `true` or `false`.
    Truth,
    /// Parts separated by commas.
    List,
    /// `key=value` parts separated by commas.
    Map,
}

/// One key: a flag `--data-dir`, a variable `PINKEEPER_DATA_DIR` and `data_dir` in the file.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// As in the file.
    pub name: &'static str,
    /// How a flag or variable spells it.
    pub spelling: Spelling,
    /// For the help text.
    pub help: &'static str,
}

const fn key(name: &'static str, spelling: Spelling, help: &'static str) -> Key {
    Key { name, spelling, help }
}

/// Every key of [`PeerOptions`], so that flags and variables cannot differ from the file.
pub const KEYS: [Key; 26] = [
    key("name", Spelling::Text, "what people call the peer"),
    key("data_dir", Spelling::Text, "folder of identity, log and state"),
    key("ledger_dir", Spelling::Text, "folder of the ledger (default: the data folder)"),
    key("secret_file", Spelling::Text, "file with the cluster secret: 64 hex characters"),
    key(
        "listen",
        Spelling::List,
        "where to listen for peers (default: port 9096 of every address)",
    ),
    key("announce", Spelling::List, "addresses told to others (default: those listened on)"),
    key("bootstrap", Spelling::List, "peers to join by: multiaddrs, /p2p/<id> is optional"),
    key("found", Spelling::Truth, "found a cluster if the disk is empty (default: false)"),
    key(
        "ipfs_api",
        Spelling::Text,
        "Kubo's RPC, URL or multiaddr (default: http://127.0.0.1:5001)",
    ),
    key("ipfs_path", Spelling::Text, "folder on the daemon's volume, for its free space"),
    key("rest_listen", Spelling::Text, "where the REST API listens (default: 127.0.0.1:9094)"),
    key("rest_hosts", Spelling::List, "further host names that the REST API is asked by"),
    key("health_listen", Spelling::Text, "health and metrics (default: [::]:9095, IPv4 too)"),
    key("heartbeat_ms", Spelling::Number, "between a leader's heartbeats (default: 100)"),
    key("election_min_ms", Spelling::Number, "shortest wait before standing (default: 300)"),
    key("election_max_ms", Spelling::Number, "longest such wait, and lease (default: 500)"),
    key("pin_stall_timeout", Spelling::Text, "a pin without progress stops after (default: 2m)"),
    key("concurrent_pins", Spelling::Number, "pins in work at once (default: 10)"),
    key(
        "replication_min",
        Spelling::Number,
        "copies needed if a REST pin does not say (default: -1)",
    ),
    key(
        "replication_max",
        Spelling::Number,
        "copies wanted if a REST pin does not say (default: -1)",
    ),
    key(
        "gc_watermark",
        Spelling::Number,
        "collect garbage when so full, in per cent (default: 0, only when asked)",
    ),
    key("gc_pause", Spelling::Text, "between two such collections of a daemon (default: 1h)"),
    key("gc_timeout", Spelling::Text, "time a garbage collection may take (default: 30m)"),
    key("tags", Spelling::Map, "labels for placement, as in zone=a,disk=ssd"),
    key("log_level", Spelling::Text, "what is logged, as in info,pinkeeper::rpc=debug"),
    key("log_format", Spelling::Text, "text or json"),
];

/// A peer's settings, checked.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// What people call the peer.
    pub name: String,
    /// Folder of identity, log and state; exists and is writable.
    pub data_dir: PathBuf,
    /// Folder of the ledger; exists and is writable.
    pub ledger_dir: PathBuf,
    /// The cluster secret.
    pub secret: ClusterSecret,
    /// Where to listen for peers; at least one.
    pub listen: Vec<Multiaddr>,
    /// Addresses told to others; empty: those listened on.
    pub announce: Vec<Multiaddr>,
    /// Peers to join by; with `/p2p/…` if it was given.
    pub bootstrap: Vec<Multiaddr>,
    /// May found a cluster if the disk is empty.
    pub found: bool,
    /// Kubo's RPC.
    pub ipfs_api: KuboApi,
    /// Folder on the daemon's volume.
    pub ipfs_path: Option<PathBuf>,
    /// Where the REST API listens.
    pub rest_listen: SocketAddr,
    /// Further host names by which the REST API is asked.
    pub rest_hosts: Vec<String>,
    /// Where health and Prometheus metrics are served.
    pub health_listen: SocketAddr,
    /// Between a leader's heartbeats.
    pub heartbeat: Duration,
    /// Shortest and longest wait for a leader.
    pub election: (Duration, Duration),
    /// How long a pin may make no progress.
    pub pin_stall_timeout: Duration,
    /// Pins in work at once.
    pub concurrent_pins: usize,
    /// Of REST pins that do not say.
    pub replication: Replication,
    /// From so full on, in per cent, garbage is collected unasked; absent: never.
    pub gc_watermark: Option<u8>,
    /// Time between two such collections of one daemon.
    pub gc_pause: Duration,
    /// Time a collection may take.
    pub gc_timeout: Duration,
    /// Labels for placement.
    pub tags: BTreeMap<String, String>,
    /// What is logged.
    pub log_level: LogFilter,
    /// How a log line is written.
    pub log_format: LogFormat,
}

/// Why a peer cannot be set up. The process ends with exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the config file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file holds something that is not understood.
    #[error("config file {}, line {line} ({text:?}): {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// The line.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A flag or variable holds something that is not understood.
    #[error("{origin} ({text:?}): {reason}")]
    Setting {
        /// The flag or variable.
        origin: String,
        /// Its value.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A setting is missing, or does not go with another.
    #[error("{key}: {reason} (config file, --{flag}, or PINKEEPER_{variable})",
        flag = key.replace('_', "-"), variable = key.to_uppercase())]
    Invalid {
        /// As in the file.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A folder cannot be used.
    #[error("{key}: cannot use the folder {}: {source}", path.display())]
    Folder {
        /// As in the file.
        key: &'static str,
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is no cluster secret.
    #[error("secret_file: {0}")]
    Secret(#[from] SecretError),
}

impl ConfigError {
    /// The exit code of a process that cannot be set up.
    pub const EXIT_CODE: u8 = 2;
}

fn invalid(key: &'static str, reason: impl Into<String>) -> ConfigError {
    ConfigError::Invalid { key, reason: reason.into() }
}

impl PeerOptions {
    /// Reads a config file.
    ///
    /// # Errors
    /// When it cannot be read or holds what is not understood.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        Self::from_yaml(path, &text)
    }

    /// The settings in the text of a file; `path` names it in errors.
    ///
    /// # Errors
    /// As [`Self::from_file`].
    pub(crate) fn from_yaml(path: &Path, text: &str) -> Result<Self, ConfigError> {
        if text.lines().all(|line| line.trim().is_empty() || line.trim().starts_with('#')) {
            return Ok(Self::default());
        }
        let options = serde_saphyr::options! { with_snippet: false };
        serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let line = error.location().map_or(1, |location| location.line().max(1));
            let index = usize::try_from(line - 1).unwrap_or(0);
            let shown = text.lines().nth(index).unwrap_or_default().trim();
            ConfigError::File {
                path: path.to_owned(),
                line,
                text: concealed(shown).chars().take(120).collect(),
                reason: concealed(without_place(&one_line(&error.to_string()))),
            }
        })
    }

    /// One key from a flag or variable; `origin` names it in errors.
    ///
    /// # Errors
    /// When the text is no value of that key.
    pub fn from_text(key: &Key, text: &str, origin: &str) -> Result<Self, ConfigError> {
        let value = values::spelled(key.spelling, text).and_then(|value| {
            let object = serde_json::Map::from_iter([(key.name.to_owned(), value)]);
            serde_json::from_value(object.into()).map_err(|error| one_line(&error.to_string()))
        });
        value.map_err(|reason| ConfigError::Setting {
            origin: origin.to_owned(),
            text: concealed(text).chars().take(120).collect(),
            reason: concealed(&reason),
        })
    }

    /// These settings, and `other`'s where these say nothing.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            name: self.name.or(other.name),
            data_dir: self.data_dir.or(other.data_dir),
            ledger_dir: self.ledger_dir.or(other.ledger_dir),
            secret_file: self.secret_file.or(other.secret_file),
            listen: self.listen.or(other.listen),
            announce: self.announce.or(other.announce),
            bootstrap: self.bootstrap.or(other.bootstrap),
            found: self.found.or(other.found),
            ipfs_api: self.ipfs_api.or(other.ipfs_api),
            ipfs_path: self.ipfs_path.or(other.ipfs_path),
            rest_listen: self.rest_listen.or(other.rest_listen),
            rest_hosts: self.rest_hosts.or(other.rest_hosts),
            health_listen: self.health_listen.or(other.health_listen),
            heartbeat_ms: self.heartbeat_ms.or(other.heartbeat_ms),
            election_min_ms: self.election_min_ms.or(other.election_min_ms),
            election_max_ms: self.election_max_ms.or(other.election_max_ms),
            pin_stall_timeout: self.pin_stall_timeout.or(other.pin_stall_timeout),
            concurrent_pins: self.concurrent_pins.or(other.concurrent_pins),
            replication_min: self.replication_min.or(other.replication_min),
            replication_max: self.replication_max.or(other.replication_max),
            gc_watermark: self.gc_watermark.or(other.gc_watermark),
            gc_pause: self.gc_pause.or(other.gc_pause),
            gc_timeout: self.gc_timeout.or(other.gc_timeout),
            tags: self.tags.or(other.tags),
            log_level: self.log_level.or(other.log_level),
            log_format: self.log_format.or(other.log_format),
        }
    }
}

impl PeerConfig {
    /// The settings of a file, if one is given, under `overrides`: checked and completed. Makes the
    /// folders if they are missing, and reads the cluster secret.
    ///
    /// # Errors
    /// At the first setting that is missing or cannot be used.
    pub fn resolve(file: Option<&Path>, overrides: PeerOptions) -> Result<Self, ConfigError> {
        let given = match file {
            Some(path) => overrides.or(PeerOptions::from_file(path)?),
            None => overrides,
        };
        let name = given.name.ok_or_else(|| invalid("name", "is missing"))?;
        check_word("name", &name)?;
        let data_dir = given.data_dir.ok_or_else(|| invalid("data_dir", "is missing"))?;
        let secret_file = given.secret_file.ok_or_else(|| invalid("secret_file", "is missing"))?;
        let secret = ClusterSecret::from_file(&secret_file)?;
        writable("data_dir", &data_dir)?;
        let ledger_dir = match given.ledger_dir {
            Some(path) => writable("ledger_dir", &path).map(|()| path)?,
            None => data_dir.clone(),
        };
        if let Some(path) = &given.ipfs_path {
            readable("ipfs_path", path)?;
        }
        let listen = match given.listen {
            Some(addresses) => values::listen(addresses)?,
            None => values::everywhere(PEER_PORT),
        };
        let tags = given.tags.unwrap_or_default();
        check_tags(&tags)?;
        Ok(Self {
            name,
            data_dir,
            ledger_dir,
            secret,
            listen,
            announce: values::announce(given.announce.unwrap_or_default())?,
            bootstrap: values::bootstrap(given.bootstrap.unwrap_or_default())?,
            found: given.found.unwrap_or(false),
            ipfs_api: given.ipfs_api.unwrap_or_default(),
            ipfs_path: given.ipfs_path,
            rest_listen: given.rest_listen.unwrap_or(REST_LISTEN),
            rest_hosts: values::names(given.rest_hosts.unwrap_or_default()),
            health_listen: given.health_listen.unwrap_or(HEALTH_LISTEN),
            heartbeat: Duration::from_millis(given.heartbeat_ms.unwrap_or(100)),
            election: election(
                given.heartbeat_ms.unwrap_or(100),
                given.election_min_ms.unwrap_or(300),
                given.election_max_ms.unwrap_or(500),
            )?,
            pin_stall_timeout: given.pin_stall_timeout.unwrap_or_default().0,
            concurrent_pins: concurrent_pins(given.concurrent_pins.unwrap_or(10))?,
            replication: replication(
                given.replication_min.unwrap_or(-1),
                given.replication_max.unwrap_or(-1),
            )?,
            gc_watermark: gc_watermark(given.gc_watermark.unwrap_or(0))?,
            gc_pause: given.gc_pause.map_or(GC_PAUSE, |period| period.0),
            gc_timeout: given.gc_timeout.map_or(GC_TIMEOUT, |period| period.0),
            tags,
            log_level: given.log_level.unwrap_or_default(),
            log_format: given.log_format.unwrap_or_default(),
        })
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The parser ends its messages with the place, which is said already.
fn without_place(reason: &str) -> &str {
    reason.rfind(" at line ").map_or(reason, |at| &reason[..at])
}

fn check_word(key: &'static str, word: &str) -> Result<(), ConfigError> {
    let len = word.chars().count();
    if (1..=WORD_LEN_MAX).contains(&len) && !word.chars().any(char::is_control) {
        return Ok(());
    }
    Err(invalid(key, format!("must have 1 to {WORD_LEN_MAX} characters and no control characters")))
}

fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    if tags.len() > TAGS_MAX {
        return Err(invalid(
            "tags",
            format!("{} are given, at most {TAGS_MAX} can be", tags.len()),
        ));
    }
    tags.iter().try_for_each(|(name, value)| {
        check_word("tags", name)?;
        check_word("tags", value)
    })
}

fn election(heartbeat: u64, min: u64, max: u64) -> Result<(Duration, Duration), ConfigError> {
    if heartbeat == 0 {
        return Err(invalid("heartbeat_ms", "must be at least 1"));
    }
    if min < heartbeat.saturating_mul(2) {
        let reason = format!("{min} must be at least twice heartbeat_ms ({heartbeat})");
        return Err(invalid("election_min_ms", reason));
    }
    if max <= min || max > ELECTION_MS_MAX {
        let reason =
            format!("{max} must be over election_min_ms ({min}), at most {ELECTION_MS_MAX}");
        return Err(invalid("election_max_ms", reason));
    }
    Ok((Duration::from_millis(min), Duration::from_millis(max)))
}

fn concurrent_pins(number: usize) -> Result<usize, ConfigError> {
    if (1..=CONCURRENT_PINS_MAX).contains(&number) {
        return Ok(number);
    }
    Err(invalid("concurrent_pins", format!("{number} must be from 1 to {CONCURRENT_PINS_MAX}")))
}

fn gc_watermark(percent: u8) -> Result<Option<u8>, ConfigError> {
    match percent {
        0 => Ok(None),
        1..=100 => Ok(Some(percent)),
        _ => Err(invalid("gc_watermark", format!("{percent} must be from 0 (off) to 100"))),
    }
}

fn replication(min: i32, max: i32) -> Result<Replication, ConfigError> {
    let factor = |key, number| match u16::try_from(number) {
        Ok(count) if count > 0 => Ok(Factor::Count(count)),
        _ if number == -1 => Ok(Factor::Everywhere),
        _ => Err(invalid(key, format!("{number} must be -1 (every peer) or 1 to {}", u16::MAX))),
    };
    let replication =
        Replication { min: factor("replication_min", min)?, max: factor("replication_max", max)? };
    if replication.min > replication.max {
        let reason = format!("{min} must not be over replication_max ({max})");
        return Err(invalid("replication_min", reason));
    }
    Ok(replication)
}

/// Makes the folder if it is missing and tries that files can be made in it.
fn writable(key: &'static str, path: &Path) -> Result<(), ConfigError> {
    let probe = path.join(format!(".pinkeeper-probe-{}", std::process::id()));
    files::folder(path)
        .and_then(|()| files::create_anew(&probe))
        .and_then(|_| fs::remove_file(&probe))
        .map_err(|source| ConfigError::Folder { key, path: path.to_owned(), source })
}

fn readable(key: &'static str, path: &Path) -> Result<(), ConfigError> {
    fs::read_dir(path).map(drop).map_err(|source| ConfigError::Folder {
        key,
        path: path.to_owned(),
        source,
    })
}
