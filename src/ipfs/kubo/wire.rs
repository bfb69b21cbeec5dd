//! The JSON of Kubo's RPC and the meaning of its errors.
//!
//! Kubo returns nearly every error as HTTP 500 with code 0, so some are recognized by their text
//! (core/commands/pin/pin.go and boxo's verifcid, Kubo 0.43). The end-to-end tests check each text
//! against the real daemon.

use std::path::PathBuf;

use serde::Deserialize;

use crate::{
    ipfs::{IpfsError, RepositoryStat},
    types::{Cid, DaemonInfo},
};

/// Longest ID and agent of a daemon that are kept, in bytes and characters: the limits of a
/// ClusterPeer. Both go to every peer.
const ID_LEN_MAX: usize = 128;
const AGENT_LEN_MAX: usize = 128;
/// Addresses of a daemon that are kept, and the bytes of each.
const ADDRESSES_MAX: usize = 256;
const ADDRESS_LEN_MAX: usize = 1024;

/// `id`.
#[derive(Debug, Deserialize)]
pub(super) struct Id {
    #[serde(rename = "ID")]
    pub(super) id: String,
    #[serde(rename = "AgentVersion", default)]
    pub(super) agent_version: String,
    /// Null while the daemon listens nowhere.
    #[serde(rename = "Addresses", default)]
    pub(super) addresses: Option<Vec<String>>,
}

impl TryFrom<Id> for DaemonInfo {
    type Error = IpfsError;

    fn try_from(id: Id) -> Result<Self, IpfsError> {
        if !(1..=ID_LEN_MAX).contains(&id.id.len()) {
            let length = id.id.len();
            return Err(IpfsError::Failed(format!("it says that its ID is {length} bytes long")));
        }
        let mut addresses = id.addresses.unwrap_or_default();
        addresses.retain(|address| address.len() <= ADDRESS_LEN_MAX);
        addresses.truncate(ADDRESSES_MAX);
        let agent = id.agent_version.chars().take(AGENT_LEN_MAX).collect();
        Ok(Self { id: id.id, agent, addresses })
    }
}

/// One object of `pin/add?progress=true`: progress (an empty object before there is any), or the pins
/// at the end.
#[derive(Debug, Deserialize)]
pub(super) struct PinEvent {
    #[serde(rename = "Pins", default)]
    pub(super) pins: Option<Vec<Cid>>,
    #[serde(rename = "Progress", default)]
    pub(super) blocks: Option<u64>,
    #[serde(rename = "Bytes", default)]
    pub(super) bytes: Option<u64>,
}

/// One object of `pin/ls?stream=true`. The CID is text, since a daemon also lists pins of others, such
/// as identity CIDs longer than [`Cid`] accepts.
#[derive(Debug, Deserialize)]
pub(super) struct PinLsItem {
    #[serde(rename = "Cid")]
    pub(super) cid: String,
}

/// `repo/stat?size-only=true`.
#[derive(Debug, Deserialize)]
pub(super) struct RepoStat {
    #[serde(rename = "RepoSize")]
    pub(super) repo_size: u64,
    #[serde(rename = "StorageMax")]
    pub(super) storage_max: u64,
    #[serde(rename = "RepoPath", default)]
    pub(super) repo_path: PathBuf,
}

/// The `Datastore.StorageMax` that Kubo writes into a new configuration: "10GB".
const DEFAULT_STORAGE_MAX: u64 = 10_000_000_000;

impl From<RepoStat> for RepositoryStat {
    fn from(stat: RepoStat) -> Self {
        Self {
            size: stat.repo_size,
            storage_max: stat.storage_max,
            is_default: stat.storage_max == DEFAULT_STORAGE_MAX,
            folder: stat.repo_path,
        }
    }
}

/// One object of `repo/gc?stream-errors=true`.
#[derive(Debug, Deserialize)]
pub(super) struct GcItem {
    #[serde(rename = "Error", default)]
    pub(super) error: String,
}

/// One object of `diag/cmds`: a command that runs or ran recently.
#[derive(Debug, Deserialize)]
pub(super) struct RunningCommand {
    #[serde(rename = "Command")]
    pub(super) command: String,
    #[serde(rename = "Active")]
    pub(super) active: bool,
}

/// The body of an error answer.
#[derive(Debug, Deserialize)]
struct ErrorBody {
    #[serde(rename = "Message")]
    message: String,
}

/// The error of `pin/rm` for a CID that is not pinned recursively.
pub(super) const NOT_PINNED_RECURSIVELY: &str = "not pinned or pinned indirectly";

/// The error of `pin/ls` for the first argument that is not pinned.
pub(super) fn not_pinned(argument: &str) -> String {
    format!("path '{argument}' is not pinned")
}

/// Longest error text kept, in characters.
const MESSAGE_LEN_MAX: usize = 300;

/// Texts of errors caused by the CID itself.
const UNPINNABLE: [&str; 5] = [
    "insecure hash functions not allowed",
    "digest too large",
    "invalid path",
    "invalid cid",
    "no decoder registered",
];

/// A text of Kubo's, cut to the length that is kept.
pub(super) fn shortened(text: &str) -> String {
    text.trim().chars().take(MESSAGE_LEN_MAX).collect()
}

/// The error for a text of Kubo's.
pub(super) fn error_of(message: &str) -> IpfsError {
    let text = shortened(message);
    if UNPINNABLE.iter().any(|part| message.contains(part)) {
        IpfsError::Unpinnable(text)
    } else {
        IpfsError::Failed(text)
    }
}

/// The error for an answer other than 200.
pub(super) fn error_of_response(status: http::StatusCode, body: &[u8]) -> IpfsError {
    if let Ok(body) = serde_json::from_slice::<ErrorBody>(body) {
        return error_of(&body.message);
    }
    let text = format!("HTTP {}: {}", status.as_u16(), shortened(&String::from_utf8_lossy(body)));
    if status.is_client_error() {
        // No such command, or not allowed: a retry cannot succeed.
        IpfsError::Refused(text)
    } else {
        IpfsError::Failed(text)
    }
}
