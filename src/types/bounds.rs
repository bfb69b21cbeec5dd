//! Bounds of the data that a peer reports of itself. It goes to all other peers, the leader keeps it, and
//! every membership in the log has a part of it.

use std::collections::BTreeMap;

use super::{DaemonInfo, Hello, HelloReply, Member, Metrics, PeerId};

/// Most bytes of a name, or of a tag's key or value: the longest that the configuration accepts.
const WORD_LEN_MAX: usize = 4 * 253;
/// Most bytes of an address: the longest host name, and the rest of the multiaddr.
const ADDRESS_LEN_MAX: usize = 512;
/// Most addresses of a peer or of a daemon: more than a machine has.
pub const ADDRESSES_MAX: usize = 64;
/// Most tags of a peer.
const TAGS_MAX: usize = 64;
/// Most bytes of a version, or of a daemon's ID.
const ID_LEN_MAX: usize = 128;
/// Most bytes of a daemon's agent.
const AGENT_LEN_MAX: usize = 512;
/// Most members of a cluster.
pub const MEMBERS_MAX: usize = 512;
/// Longest time to live of metrics, in milliseconds: a day.
const TTL_MS_MAX: u64 = 24 * 3600 * 1000;

/// A peer reports more of itself than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found} {what}; at most {most} are allowed")]
pub struct TooMuch {
    /// The counted unit, as in `bytes of a name`.
    pub what: &'static str,
    /// Its number.
    pub found: usize,
    /// The largest number that is allowed.
    pub most: usize,
}

fn check(what: &'static str, found: usize, most: usize) -> Result<(), TooMuch> {
    if found > most { Err(TooMuch { what, found, most }) } else { Ok(()) }
}

fn check_addresses(addresses: &[String]) -> Result<(), TooMuch> {
    check("addresses", addresses.len(), ADDRESSES_MAX)?;
    let mut addresses = addresses.iter();
    addresses.try_for_each(|text| check("bytes of an address", text.len(), ADDRESS_LEN_MAX))
}

fn check_members(members: &BTreeMap<PeerId, Member>) -> Result<(), TooMuch> {
    check("members", members.len(), MEMBERS_MAX)?;
    members.values().try_for_each(Member::check)
}

impl Member {
    /// Checks that it is within the bounds.
    ///
    /// # Errors
    /// The first value that is too large.
    pub fn check(&self) -> Result<(), TooMuch> {
        check("bytes of a name", self.name.len(), WORD_LEN_MAX)?;
        check_addresses(&self.addresses)
    }
}

impl Hello {
    /// Checks that it is within the bounds.
    ///
    /// # Errors
    /// The first value that is too large.
    pub fn check(&self) -> Result<(), TooMuch> {
        self.member.check()?;
        check("bytes of a version", self.version.len(), ID_LEN_MAX)?;
        let daemon = self.daemon.as_ref().map_or(0, String::len);
        check("bytes of a daemon's ID", daemon, ID_LEN_MAX)?;
        check_members(&self.members)
    }
}

impl HelloReply {
    /// Checks that it is within the bounds.
    ///
    /// # Errors
    /// The first value that is too large.
    pub fn check(&self) -> Result<(), TooMuch> {
        self.member.check()?;
        check("bytes of a version", self.version.len(), ID_LEN_MAX)?;
        check_members(&self.members)
    }
}

impl DaemonInfo {
    fn check(&self) -> Result<(), TooMuch> {
        check("bytes of a daemon's ID", self.id.len(), ID_LEN_MAX)?;
        check("bytes of a daemon's agent", self.agent.len(), AGENT_LEN_MAX)?;
        check_addresses(&self.addresses)
    }

    /// Cuts it down to the bounds.
    pub fn shorten(&mut self) {
        self.agent.truncate(self.agent.floor_char_boundary(AGENT_LEN_MAX));
        self.addresses.retain(|address| address.len() <= ADDRESS_LEN_MAX);
        self.addresses.truncate(ADDRESSES_MAX);
    }
}

impl Metrics {
    /// Checks that it is within the bounds.
    ///
    /// # Errors
    /// The first value that is too large.
    pub fn check(&self) -> Result<(), TooMuch> {
        self.daemon.as_ref().map_or(Ok(()), DaemonInfo::check)?;
        check("tags", self.tags.len(), TAGS_MAX)?;
        let mut words = self.tags.iter().flat_map(|(key, value)| [key, value]);
        words.try_for_each(|word| check("bytes of a tag", word.len(), WORD_LEN_MAX))?;
        check("bytes of a version", self.version.len(), ID_LEN_MAX)?;
        check_addresses(&self.addresses)?;
        let (ttl, most) = (self.ttl_ms, TTL_MS_MAX);
        let bounded = |ms| usize::try_from(ms).unwrap_or(usize::MAX);
        check("milliseconds of a time to live", bounded(ttl), bounded(most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(len: usize) -> String {
        "ü".repeat(len.div_ceil(2))
    }

    fn many(len: usize) -> Vec<String> {
        vec!["/ip4/10.0.0.1/tcp/9096".to_owned(); len]
    }

    fn daemon() -> DaemonInfo {
        DaemonInfo { id: "12D3Kubo".to_owned(), agent: String::new(), addresses: Vec::new() }
    }

    #[test]
    fn all_that_a_peer_reports_of_itself_is_bounded() {
        let member = |name: String, addresses| Member { name, addresses };
        let hello = |hello: Hello| hello.check().is_ok();
        let metrics = |metrics: Metrics| metrics.check().is_ok();
        let tags = |len: usize, number: usize| {
            (0..number).map(|n| (n.to_string(), long(len))).collect::<BTreeMap<_, _>>()
        };
        let fellows = |number: usize, name: &str| {
            let ids = (0..number).map(|n| {
                let mut id = [0; 32];
                id[..8].copy_from_slice(&n.to_be_bytes());
                PeerId(id)
            });
            ids.map(|id| (id, member(name.to_owned(), many(1)))).collect::<BTreeMap<_, _>>()
        };
        let (fits, over) = (WORD_LEN_MAX, WORD_LEN_MAX + 1);
        // The value; whether its largest size passes; whether a larger one passes.
        let of_member = |member: Member| hello(Hello { member, ..Hello::default() });
        let of_daemon = |daemon| metrics(Metrics { daemon: Some(daemon), ..Metrics::default() });
        let table = [
            (
                "a name",
                of_member(member(long(fits), many(1))),
                of_member(member(long(over), many(1))),
            ),
            (
                "addresses",
                of_member(member(long(1), many(ADDRESSES_MAX))),
                of_member(member(long(1), many(ADDRESSES_MAX + 1))),
            ),
            (
                "an address",
                of_member(member(long(1), vec![long(ADDRESS_LEN_MAX)])),
                of_member(member(long(1), vec![long(ADDRESS_LEN_MAX + 1)])),
            ),
            (
                "a version",
                hello(Hello { version: long(ID_LEN_MAX), ..Hello::default() }),
                hello(Hello { version: long(ID_LEN_MAX + 1), ..Hello::default() }),
            ),
            (
                "a daemon that is asked about",
                hello(Hello { daemon: Some(long(ID_LEN_MAX)), ..Hello::default() }),
                hello(Hello { daemon: Some(long(ID_LEN_MAX + 1)), ..Hello::default() }),
            ),
            (
                "members",
                hello(Hello { members: fellows(MEMBERS_MAX, "a"), ..Hello::default() }),
                hello(Hello { members: fellows(MEMBERS_MAX + 1, "a"), ..Hello::default() }),
            ),
            (
                "a member's name",
                hello(Hello { members: fellows(1, &long(fits)), ..Hello::default() }),
                hello(Hello { members: fellows(1, &long(over)), ..Hello::default() }),
            ),
            (
                "tags",
                metrics(Metrics { tags: tags(1, TAGS_MAX), ..Metrics::default() }),
                metrics(Metrics { tags: tags(1, TAGS_MAX + 1), ..Metrics::default() }),
            ),
            (
                "a tag",
                metrics(Metrics { tags: tags(fits, 1), ..Metrics::default() }),
                metrics(Metrics { tags: tags(over, 1), ..Metrics::default() }),
            ),
            (
                "a daemon's agent",
                of_daemon(DaemonInfo { agent: long(AGENT_LEN_MAX), ..daemon() }),
                of_daemon(DaemonInfo { agent: long(AGENT_LEN_MAX + 1), ..daemon() }),
            ),
            (
                "a daemon's addresses",
                of_daemon(DaemonInfo { addresses: many(ADDRESSES_MAX), ..daemon() }),
                of_daemon(DaemonInfo { addresses: many(ADDRESSES_MAX + 1), ..daemon() }),
            ),
            (
                "a time to live",
                metrics(Metrics { ttl_ms: TTL_MS_MAX, ..Metrics::default() }),
                metrics(Metrics { ttl_ms: u64::MAX, ..Metrics::default() }),
            ),
        ];
        for (what, at_most, too_much) in table {
            assert_eq!((at_most, too_much), (true, false), "{what}");
        }
    }

    #[test]
    fn a_long_description_of_a_daemon_is_cut_down_to_the_bounds() {
        let addresses = [vec![long(ADDRESS_LEN_MAX + 1)], many(2 * ADDRESSES_MAX)].concat();
        let mut daemon = DaemonInfo { agent: long(2 * AGENT_LEN_MAX), addresses, ..daemon() };
        daemon.shorten();
        assert_eq!((daemon.check(), daemon.addresses.len()), (Ok(()), ADDRESSES_MAX));
    }
}
