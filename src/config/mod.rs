//! Configuration of a peer: a YAML file, overridden by the environment, overridden by flags.
//!
//! [`PeerOptions`] holds the given settings, each key optional; [`PeerConfig`] is complete and checked
//! once, and the peer runs on it. Every error is one line with the key and where it was set.

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

/// IPFS Cluster's port, on loopback because there is no authentication.
const REST_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9094);
/// Probes come from the node, over IPv6 or IPv4.
const HEALTH_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 9095);
/// The port for other peers.
const PEER_PORT: u16 = 9096;
/// Upper limit of `concurrent_pins`.
const CONCURRENT_PINS_MAX: usize = 1024;
/// Time between two garbage collections of one daemon.
const GC_PAUSE: Duration = Duration::from_secs(3600);
/// A collection walks all pinned content, and pins wait for it.
const GC_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// The copies of a member that is away for so long move to others.
const MOVE_AFTER: Duration = Duration::from_secs(300);
/// The same while all members of a zone are away.
const MOVE_ZONE_AFTER: Duration = Duration::from_secs(3600);
/// Most tags of one peer: they are sent with every push of its metrics.
const TAGS_MAX: usize = 64;
/// Longest name, tag name or tag value, in characters.
const WORD_LEN_MAX: usize = 253;
/// Upper limit of `election_max_ms`.
const ELECTION_MS_MAX: u64 = 60_000;

/// The given settings; absent ones have defaults. A file cannot contain other keys.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PeerOptions {
    /// Name of the peer, for people.
    pub name: Option<String>,
    /// Folder of the identity, the log and the state (the Raft volume).
    pub data_dir: Option<PathBuf>,
    /// Folder of the ledger, beside the daemon's repository; default: the data folder.
    pub ledger_dir: Option<PathBuf>,
    /// File with the cluster secret: 64 hex characters.
    pub secret_file: Option<PathBuf>,
    /// Addresses to listen on for peers.
    pub listen: Option<Vec<PeerAddress>>,
    /// Addresses announced to other peers; default: those listened on.
    pub announce: Option<Vec<PeerAddress>>,
    /// Addresses of peers to join.
    pub bootstrap: Option<Vec<PeerAddress>>,
    /// Found a cluster if the disk is empty.
    pub found: Option<bool>,
    /// Address of Kubo's RPC.
    pub ipfs_api: Option<KuboApi>,
    /// Folder on the daemon's volume; its free space is reported to other peers.
    pub ipfs_path: Option<PathBuf>,
    /// Address of the REST API.
    pub rest_listen: Option<SocketAddr>,
    /// Host names accepted by the REST API, besides loopback and the listen address.
    pub rest_hosts: Option<Vec<HostName>>,
    /// Address of health probes and Prometheus metrics.
    pub health_listen: Option<SocketAddr>,
    /// Milliseconds between a leader's heartbeats.
    pub heartbeat_ms: Option<u64>,
    /// Shortest wait of a peer, in milliseconds, between the leader's loss and standing for election.
    pub election_min_ms: Option<u64>,
    /// Longest such wait; also the milliseconds without a heartbeat after which a leader counts as
    /// lost.
    pub election_max_ms: Option<u64>,
    /// A pin without progress for this time is stopped and retried later.
    pub pin_stall_timeout: Option<Period>,
    /// Largest number of pins under way.
    pub concurrent_pins: Option<usize>,
    /// Default for the copies needed of a REST pin; -1 is every peer.
    pub replication_min: Option<i32>,
    /// Default for the copies wanted of a REST pin; -1 is every peer.
    pub replication_max: Option<i32>,
    /// Used space of the daemon, in per cent, that triggers garbage collection; 0: never.
    pub gc_watermark: Option<u8>,
    /// Time between two triggered collections of one daemon.
    pub gc_pause: Option<Period>,
    /// Deadline of a collection.
    pub gc_timeout: Option<Period>,
    /// Absence of a member after which its copies move to others.
    pub move_after: Option<Period>,
    /// The same while all members of a zone are away.
    pub move_zone_after: Option<Period>,
    /// Labels for placement.
    pub tags: Option<BTreeMap<String, String>>,
    /// Log level, or levels by module.
    pub log_level: Option<LogFilter>,
    /// Format of log lines.
    pub log_format: Option<LogFormat>,
}

/// How a flag or variable spells a key's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// Taken literally.
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
    /// The name in the file.
    pub name: &'static str,
    /// The spelling in flags and variables.
    pub spelling: Spelling,
    /// The help text.
    pub help: &'static str,
}

const fn key(name: &'static str, spelling: Spelling, help: &'static str) -> Key {
    Key { name, spelling, help }
}

/// Every key of [`PeerOptions`], so that flags and variables match the file.
pub const KEYS: [Key; 28] = [
    key("name", Spelling::Text, "name of the peer, for people"),
    key("data_dir", Spelling::Text, "folder of the identity, the log and the state"),
    key("ledger_dir", Spelling::Text, "folder of the ledger (default: the data folder)"),
    key("secret_file", Spelling::Text, "file with the cluster secret: 64 hex characters"),
    key(
        "listen",
        Spelling::List,
        "addresses to listen on for peers (default: port 9096 of every address)",
    ),
    key("announce", Spelling::List, "addresses for other peers (default: those listened on)"),
    key("bootstrap", Spelling::List, "peers to join: multiaddrs, /p2p/<id> is optional"),
    key("found", Spelling::Truth, "found a cluster if the disk is empty (default: false)"),
    key(
        "ipfs_api",
        Spelling::Text,
        "Kubo's RPC, URL or multiaddr (default: http://127.0.0.1:5001)",
    ),
    key("ipfs_path", Spelling::Text, "folder on the daemon's volume, to measure free space"),
    key("rest_listen", Spelling::Text, "address of the REST API (default: 127.0.0.1:9094)"),
    key("rest_hosts", Spelling::List, "further host names that the REST API accepts"),
    key(
        "health_listen",
        Spelling::Text,
        "address of probes and metrics (default: [::]:9095, IPv4 too)",
    ),
    key("heartbeat_ms", Spelling::Number, "time between a leader's heartbeats (default: 100)"),
    key("election_min_ms", Spelling::Number, "shortest wait before an election (default: 300)"),
    key("election_max_ms", Spelling::Number, "longest such wait, and the lease (default: 500)"),
    key(
        "pin_stall_timeout",
        Spelling::Text,
        "stop a pin after this time without progress (default: 2m)",
    ),
    key("concurrent_pins", Spelling::Number, "largest number of pins under way (default: 10)"),
    key(
        "replication_min",
        Spelling::Number,
        "copies needed of a REST pin, unless it sets them (default: -1)",
    ),
    key(
        "replication_max",
        Spelling::Number,
        "copies wanted of a REST pin, unless it sets them (default: -1)",
    ),
    key(
        "gc_watermark",
        Spelling::Number,
        "collect garbage at this percentage of used space (default: 0, only on request)",
    ),
    key("gc_pause", Spelling::Text, "time between two such collections of a daemon (default: 1h)"),
    key("gc_timeout", Spelling::Text, "time a garbage collection may take (default: 30m)"),
    key("move_after", Spelling::Text, "absence after which a peer's copies move (default: 5m)"),
    key("move_zone_after", Spelling::Text, "the same while a whole zone is away (default: 1h)"),
    key("tags", Spelling::Map, "labels for placement, as in zone=a,disk=ssd"),
    key("log_level", Spelling::Text, "log level or filter, as in info,pinkeeper::rpc=debug"),
    key("log_format", Spelling::Text, "format of log lines: text or json"),
];

/// A peer's checked settings.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// Name of the peer, for people.
    pub name: String,
    /// Folder of the identity, the log and the state; exists and is writable.
    pub data_dir: PathBuf,
    /// Folder of the ledger; exists and is writable.
    pub ledger_dir: PathBuf,
    /// The cluster secret.
    pub secret: ClusterSecret,
    /// Addresses to listen on for peers; at least one.
    pub listen: Vec<Multiaddr>,
    /// Addresses announced to other peers; empty: those listened on.
    pub announce: Vec<Multiaddr>,
    /// Addresses of peers to join; with `/p2p/…` if it was given.
    pub bootstrap: Vec<Multiaddr>,
    /// Whether to found a cluster if the disk is empty.
    pub found: bool,
    /// Address of Kubo's RPC.
    pub ipfs_api: KuboApi,
    /// Folder on the daemon's volume.
    pub ipfs_path: Option<PathBuf>,
    /// Address of the REST API.
    pub rest_listen: SocketAddr,
    /// Further host names accepted by the REST API.
    pub rest_hosts: Vec<String>,
    /// Address of health probes and Prometheus metrics.
    pub health_listen: SocketAddr,
    /// Time between a leader's heartbeats.
    pub heartbeat: Duration,
    /// Shortest and longest wait before an election.
    pub election: (Duration, Duration),
    /// A pin without progress for this time is stopped.
    pub pin_stall_timeout: Duration,
    /// Largest number of pins under way.
    pub concurrent_pins: usize,
    /// Default for REST pins.
    pub replication: Replication,
    /// Used space, in per cent, that triggers garbage collection; absent: never.
    pub gc_watermark: Option<u8>,
    /// Time between two triggered collections of one daemon.
    pub gc_pause: Duration,
    /// Deadline of a collection.
    pub gc_timeout: Duration,
    /// Absence of a member after which its copies move to others.
    pub move_after: Duration,
    /// The same while all members of a zone are away.
    pub move_zone_after: Duration,
    /// Labels for placement.
    pub tags: BTreeMap<String, String>,
    /// Log level, or levels by module.
    pub log_level: LogFilter,
    /// Format of log lines.
    pub log_format: LogFormat,
}

/// Why a configuration cannot be used. The process ends with exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the config file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file contains something invalid.
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
    /// A flag or variable contains something invalid.
    #[error("{origin} ({text:?}): {reason}")]
    Setting {
        /// The flag or variable.
        origin: String,
        /// Its value.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A setting is missing, or contradicts another.
    #[error("{key}: {reason} (config file, --{flag}, or PINKEEPER_{variable})",
        flag = key.replace('_', "-"), variable = key.to_uppercase())]
    Invalid {
        /// The key in the file.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A folder cannot be used.
    #[error("{key}: cannot use the folder {}: {source}", path.display())]
    Folder {
        /// The key in the file.
        key: &'static str,
        /// The folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The cluster secret cannot be used.
    #[error("secret_file: {0}")]
    Secret(#[from] SecretError),
}

impl ConfigError {
    /// The exit code for an unusable configuration.
    pub const EXIT_CODE: u8 = 2;
}

fn invalid(key: &'static str, reason: impl Into<String>) -> ConfigError {
    ConfigError::Invalid { key, reason: reason.into() }
}

impl PeerOptions {
    /// Reads a config file.
    ///
    /// # Errors
    /// When it cannot be read or contains something invalid.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        Self::from_yaml(path, &text)
    }

    /// Parses the text of a file; `path` names it in errors.
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

    /// Parses one key from a flag or variable; `origin` names it in errors.
    ///
    /// # Errors
    /// When the text is not a value of that key.
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

    /// These settings, completed by those of `other`.
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
            move_after: self.move_after.or(other.move_after),
            move_zone_after: self.move_zone_after.or(other.move_zone_after),
            tags: self.tags.or(other.tags),
            log_level: self.log_level.or(other.log_level),
            log_format: self.log_format.or(other.log_format),
        }
    }
}

impl PeerConfig {
    /// Combines a file, if given, with `overrides`; checks and completes the settings. Creates missing
    /// folders and reads the cluster secret.
    ///
    /// # Errors
    /// At the first setting that is missing or invalid.
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
            move_after: given.move_after.map_or(MOVE_AFTER, |period| period.0),
            move_zone_after: given.move_zone_after.map_or(MOVE_ZONE_AFTER, |period| period.0),
            tags,
            log_level: given.log_level.unwrap_or_default(),
            log_format: given.log_format.unwrap_or_default(),
        })
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Removes the place from a message of the parser, since our text has it already.
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
            format!("{} given; at most {TAGS_MAX} are allowed", tags.len()),
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

/// Creates the folder if it is missing, and checks that files can be created in it.
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
