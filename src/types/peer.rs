//! Peers and daemons.

use std::{fmt, str::FromStr};

use minicbor::{Decode, Encode};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A peer's identity: its ed25519 public key, shown as libp2p's peer ID (`12D3KooW…`).
///
/// It is also the Raft node ID. So a node ID never comes back on another disk, which has another key.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct PeerId(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 32]);

/// libp2p's peer ID of an ed25519 key is the identity multihash (code 0, length 36) of the key's
/// protobuf (field 1: type 1 = ed25519; field 2: 32 bytes).
/// <https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md>
const PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// The text or bytes are not the peer ID of an ed25519 key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the peer ID of an ed25519 key (12D3KooW…)")]
pub struct PeerIdError(String);

impl PeerId {
    /// The multihash form that libp2p uses.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 38] {
        let mut bytes = [0; 38];
        bytes[..6].copy_from_slice(&PREFIX);
        bytes[6..].copy_from_slice(&self.0);
        bytes
    }

    /// Reads the multihash form.
    ///
    /// # Errors
    /// When it is not that of an ed25519 key.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PeerIdError> {
        let error = || PeerIdError(hex::encode(&bytes[..bytes.len().min(48)]));
        let key = bytes.strip_prefix(&PREFIX).ok_or_else(error)?;
        key.try_into().map(Self).map_err(|_| error())
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bs58::encode(self.to_bytes()).into_string())
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PeerId {
    type Err = PeerIdError;

    fn from_str(text: &str) -> Result<Self, PeerIdError> {
        let error = || PeerIdError(text.chars().take(80).collect());
        if text.len() > 64 {
            return Err(error());
        }
        let bytes = bs58::decode(text).into_vec().map_err(|_| error())?;
        Self::from_bytes(&bytes).map_err(|_| error())
    }
}

/// In JSON, as text.
impl Serialize for PeerId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PeerId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The identity of one cluster, drawn at random when it is founded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct ClusterId(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 16]);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ClusterId {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes).map(|()| Self(bytes))
    }
}

/// The entry of a peer in the membership, besides its ID.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Member {
    /// Its name for people; in Kubernetes the name of its pod.
    #[n(0)]
    pub name: String,
    /// Multiaddrs at which it was reachable when it joined, without `/p2p/…`.
    #[n(1)]
    pub addresses: Vec<String>,
}

/// The daemon beside a peer, as it describes itself.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct DaemonInfo {
    /// The daemon ID: Kubo's own peer ID.
    #[n(0)]
    pub id: String,
    /// Agent and version, as in `kubo/0.43.1`.
    #[n(1)]
    pub agent: String,
    /// Multiaddrs with `/p2p/…` at which other daemons reach it.
    #[n(2)]
    pub addresses: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_id_reads_what_it_writes() {
        let id = PeerId([7; 32]);
        let text = id.to_string();
        assert!(text.starts_with("12D3KooW"), "{text}");
        assert_eq!(text.parse::<PeerId>().unwrap(), id);
        assert!("12D3KooW".parse::<PeerId>().is_err());
        assert!("QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR".parse::<PeerId>().is_err());
    }
}
