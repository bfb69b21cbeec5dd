//! Values of settings, parsed once: addresses, Kubo's RPC, time spans.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener},
    time::Duration,
};

use libp2p::{Multiaddr, multiaddr::Protocol};
use serde::Deserialize;
use serde_json::Value;

use super::{ConfigError, Spelling, invalid};
use crate::types::PeerId;

/// `/ip4/…/tcp/…` or `/ip6/…/tcp/…`, with or without a peer's `/p2p/…`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PeerAddress {
    address: Multiaddr,
    port: u16,
    unspecified: bool,
    identified: bool,
}

impl TryFrom<String> for PeerAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let address: Multiaddr =
            text.parse().map_err(|error| format!("{text:?} is not a multiaddr: {error}"))?;
        let parts: Vec<Protocol<'_>> = address.iter().collect();
        let (unspecified, rest) = match parts.as_slice() {
            [Protocol::Ip4(ip), rest @ ..] => (ip.is_unspecified(), rest),
            [Protocol::Ip6(ip), rest @ ..] => (ip.is_unspecified(), rest),
            _ => return Err(format!("{text:?} must begin with /ip4/<address> or /ip6/<address>")),
        };
        let (port, identified) = match rest {
            [Protocol::Tcp(port)] => (*port, false),
            [Protocol::Tcp(port), Protocol::P2p(id)] => {
                PeerId::from_bytes(&id.to_bytes()).map_err(|error| error.to_string())?;
                (*port, true)
            }
            _ => {
                return Err(format!(
                    "{text:?} must go on with /tcp/<port>, then at most /p2p/<id>"
                ));
            }
        };
        Ok(Self { unspecified, port, identified, address: address.clone() })
    }
}

pub(super) fn listen(addresses: Vec<PeerAddress>) -> Result<Vec<Multiaddr>, ConfigError> {
    if addresses.is_empty() {
        return Err(invalid("listen", "needs an address"));
    }
    let check = |given: PeerAddress| match given.identified {
        true => Err(invalid("listen", format!("{} must not have /p2p/…", given.address))),
        false => Ok(given.address),
    };
    addresses.into_iter().map(check).collect()
}

/// All addresses of this machine: IPv6, where available, and IPv4.
pub(super) fn everywhere(port: u16) -> Vec<Multiaddr> {
    // A system may support IPv6 without any interface having an address.
    let has_v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let v6 = has_v6.then_some(Protocol::Ip6(Ipv6Addr::UNSPECIFIED));
    let both = v6.into_iter().chain([Protocol::Ip4(Ipv4Addr::UNSPECIFIED)]);
    both.map(|ip| Multiaddr::empty().with(ip).with(Protocol::Tcp(port))).collect()
}

pub(super) fn announce(addresses: Vec<PeerAddress>) -> Result<Vec<Multiaddr>, ConfigError> {
    let check = |given: PeerAddress| {
        if given.identified {
            return Err(invalid("announce", format!("{} must not have /p2p/…", given.address)));
        }
        reachable("announce", given)
    };
    addresses.into_iter().map(check).collect()
}

pub(super) fn bootstrap(addresses: Vec<PeerAddress>) -> Result<Vec<Multiaddr>, ConfigError> {
    addresses.into_iter().map(|given| reachable("bootstrap", given)).collect()
}

fn reachable(key: &'static str, given: PeerAddress) -> Result<Multiaddr, ConfigError> {
    if given.unspecified || given.port == 0 {
        return Err(invalid(
            key,
            format!("{} is not an address that can be reached", given.address),
        ));
    }
    Ok(given.address)
}

/// Kubo's RPC as a URL without a path, parsed from a URL or a multiaddr.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct KuboApi(String);

impl KuboApi {
    /// As in `http://127.0.0.1:5001`, without a trailing slash.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KuboApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Default for KuboApi {
    fn default() -> Self {
        Self("http://127.0.0.1:5001".to_owned())
    }
}

impl TryFrom<String> for KuboApi {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let url = if text.starts_with('/') { url_of_multiaddr(&text)? } else { text.clone() };
        let url = reqwest::Url::parse(&url).map_err(|error| format!("{text:?}: {error}"))?;
        let plain = url.query().is_none() && url.fragment().is_none();
        let anonymous = url.username().is_empty() && url.password().is_none();
        let host = url.scheme() == "http" && url.has_host();
        if !(plain && anonymous && host && matches!(url.path(), "" | "/")) {
            return Err(format!("{text:?} must be http://<host>:<port>, or a multiaddr"));
        }
        Ok(Self(url.as_str().trim_end_matches('/').to_owned()))
    }
}

fn url_of_multiaddr(text: &str) -> Result<String, String> {
    let address: Multiaddr =
        text.parse().map_err(|error| format!("{text:?} is not a multiaddr: {error}"))?;
    let parts: Vec<Protocol<'_>> = address.iter().collect();
    let (host, rest) = match parts.as_slice() {
        [Protocol::Ip4(ip), rest @ ..] => (ip.to_string(), rest),
        [Protocol::Ip6(ip), rest @ ..] => (format!("[{ip}]"), rest),
        [Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name), rest @ ..] => {
            (name.to_string(), rest)
        }
        _ => return Err(format!("{text:?} must begin with /ip4, /ip6 or /dns")),
    };
    match rest {
        [Protocol::Tcp(port)] | [Protocol::Tcp(port), Protocol::Http] => {
            Ok(format!("http://{host}:{port}"))
        }
        _ => Err(format!("{text:?} must go on with /tcp/<port>")),
    }
}

/// A host name or address, in lower case and without a port.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct HostName(String);

impl TryFrom<String> for HostName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let name = text.strip_suffix('.').unwrap_or(&text).to_ascii_lowercase();
        if let Ok(address) = name.parse::<IpAddr>() {
            return Ok(Self(address.to_canonical().to_string()));
        }
        let is_part = |part: &str| {
            !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
        };
        if name.len() > 253 || !name.split('.').all(is_part) {
            return Err(format!("{text:?} must be a host's name or address, without a port"));
        }
        Ok(Self(name))
    }
}

pub(super) fn names(hosts: Vec<HostName>) -> Vec<String> {
    hosts.into_iter().map(|HostName(name)| name).collect()
}

/// A positive time span, as in `500ms`, `90s`, `2m` or `1h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Period(pub Duration);

/// Two minutes, as IPFS Cluster's `pin_timeout`.
impl Default for Period {
    fn default() -> Self {
        Self(Duration::from_secs(120))
    }
}

impl TryFrom<String> for Period {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let error = || format!("{text:?} must be a time span as in 500ms, 90s, 2m or 1h");
        let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
        let (number, unit) = text.split_at(unit_at);
        let unit_ms = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(error()),
        };
        let number: u64 = number.parse().map_err(|_| error())?;
        match number.checked_mul(unit_ms) {
            Some(ms) if ms > 0 => Ok(Self(Duration::from_millis(ms))),
            _ => Err(error()),
        }
    }
}

/// Converts the text of a flag or variable to the value a file would contain.
pub(super) fn spelled(spelling: Spelling, text: &str) -> Result<Value, String> {
    let parts = || text.split(',').map(str::trim).filter(|part| !part.is_empty());
    match spelling {
        Spelling::Text => Ok(text.into()),
        Spelling::Number => {
            text.trim().parse::<i64>().map(Value::from).map_err(|_| "must be a number".to_owned())
        }
        Spelling::Truth => text
            .trim()
            .parse::<bool>()
            .map(Value::from)
            .map_err(|_| "must be true or false".to_owned()),
        Spelling::List => Ok(parts().map(Value::from).collect()),
        Spelling::Map => {
            let pair = |part: &str| match part.split_once('=') {
                Some((key, value)) => Ok((key.to_owned(), Value::from(value))),
                None => Err(format!("{part:?} must be key=value")),
            };
            parts().map(pair).collect::<Result<serde_json::Map<_, _>, _>>().map(Value::from)
        }
    }
}
