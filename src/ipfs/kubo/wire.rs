//! What Kubo's RPC says: JSON shapes and the meaning of its errors.
//!
//! Kubo gives nearly every error as HTTP 500 with code 0, so some are told apart by their text
//! (core/commands/pin/pin.go and boxo's verifcid, Kubo 0.43); each text is checked against the real
//! daemon by the end-to-end tests.

use std::path::PathBuf;

use serde::Deserialize;

use crate::{
    ipfs::{IpfsError, RepositoryStat},
    types::{Cid, DaemonInfo},
};

/// Longest ID and agent of a daemon that are kept, in bytes and characters: what a ClusterPeer takes.
/// Both go to every peer.
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
    /// Null while it listens nowhere.
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

/// One object of `pin/add?progress=true`: progress (an empty object when there is none yet), or at
/// the end the pins.
#[derive(Debug, Deserialize)]
pub(super) struct PinEvent {
    #[serde(rename = "Pins", default)]
    pub(super) pins: Option<Vec<Cid>>,
    #[serde(rename = "Progress", default)]
    pub(super) blocks: Option<u64>,
    #[serde(rename = "Bytes", default)]
    pub(super) bytes: Option<u64>,
}

/// One object of `pin/ls?stream=true`. The CID is text: a daemon also lists what others have pinned, such
/// as identity CIDs longer than any that [`Cid`] takes.
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

/// What Kubo writes as `Datastore.StorageMax` into a new configuration: "10GB".
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

/// One object of `diag/cmds`: a command that runs, or ran lately.
#[derive(Debug, Deserialize)]
pub(super) struct RunningCommand {
    #[serde(rename = "Command")]
    pub(super) command: String,
    #[serde(rename = "Active")]
    pub(super) active: bool,
}

/// The body of an answer that is an error.
#[derive(Debug, Deserialize)]
struct ErrorBody {
    #[serde(rename = "Message")]
    message: String,
}

/// `pin/rm` of what is not pinned recursively.
pub(super) const NOT_PINNED_RECURSIVELY: &str = "not pinned or pinned indirectly";

/// What `pin/ls` says of the first argument that is not pinned.
pub(super) fn not_pinned(argument: &str) -> String {
    format!("path '{argument}' is not pinned")
}

/// Longest text of an error that is kept, in characters.
const MESSAGE_LEN_MAX: usize = 300;

/// Errors that lie in the CID itself.
const UNPINNABLE: [&str; 5] = [
    "insecure hash functions not allowed",
    "digest too large",
    "invalid path",
    "invalid cid",
    "no decoder registered",
];

/// A text of Kubo's as it is kept.
pub(super) fn shortened(text: &str) -> String {
    text.trim().chars().take(MESSAGE_LEN_MAX).collect()
}

/// The error that a text in Kubo's words stands for.
pub(super) fn error_of(message: &str) -> IpfsError {
    let text = shortened(message);
    if UNPINNABLE.iter().any(|part| message.contains(part)) {
        IpfsError::Unpinnable(text)
    } else {
        IpfsError::Failed(text)
    }
}

/// The error that an answer other than 200 stands for.
pub(super) fn error_of_response(status: http::StatusCode, body: &[u8]) -> IpfsError {
    if let Ok(body) = serde_json::from_slice::<ErrorBody>(body) {
        return error_of(&body.message);
    }
    let text = format!("HTTP {}: {}", status.as_u16(), shortened(&String::from_utf8_lossy(body)));
    if status.is_client_error() {
        // No such command, not allowed: another question would have to be asked.
        IpfsError::Refused(text)
    } else {
        IpfsError::Failed(text)
    }
}
