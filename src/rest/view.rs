//! The JSON of IPFS Cluster 1.1 (its `api/types.go`), built from our types. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use serde::Serialize;

use crate::{
    cluster::Listed,
    types::{
        Cid, DaemonInfo, Factor, GcReport, GcResult, Member, Owner, PeerId, Pin, PinEntry,
        PinState, PinStatus, Timestamp, millis,
    },
};

/// Go's zero time: no time is known.
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// A status by its name in IPFS Cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Status {
    ClusterError,
    PinError,
    UnpinError,
    Pinned,
    Pinning,
    Unpinning,
    Unpinned,
    /// Allocated to other peers.
    Remote,
    PinQueued,
    UnpinQueued,
    Sharded,
    UnexpectedlyUnpinned,
    Undefined,
}

impl Status {
    /// The names allowed in a filter.
    pub(super) const NAMES: [&str; 15] = [
        "cluster_error",
        "pin_error",
        "unpin_error",
        "error",
        "pinned",
        "pinning",
        "unpinning",
        "unpinned",
        "remote",
        "pin_queued",
        "unpin_queued",
        "queued",
        "sharded",
        "unexpectedly_unpinned",
        "undefined",
    ];

    /// The statuses for a name, which may be a group.
    pub(super) fn named(name: &str) -> Option<Vec<Self>> {
        Some(match name {
            "cluster_error" => vec![Self::ClusterError],
            "pin_error" => vec![Self::PinError],
            "unpin_error" => vec![Self::UnpinError],
            "error" => vec![Self::ClusterError, Self::PinError, Self::UnpinError],
            "pinned" => vec![Self::Pinned],
            "pinning" => vec![Self::Pinning],
            "unpinning" => vec![Self::Unpinning],
            "unpinned" => vec![Self::Unpinned],
            "remote" => vec![Self::Remote],
            "pin_queued" => vec![Self::PinQueued],
            "unpin_queued" => vec![Self::UnpinQueued],
            "queued" => vec![Self::PinQueued, Self::UnpinQueued],
            "sharded" => vec![Self::Sharded],
            "unexpectedly_unpinned" => vec![Self::UnexpectedlyUnpinned],
            "undefined" => vec![Self::Undefined],
            _ => return None,
        })
    }

    fn of(state: PinState) -> Self {
        match state {
            PinState::Queued | PinState::Rechecking => Self::PinQueued,
            PinState::Pinning => Self::Pinning,
            PinState::Pinned => Self::Pinned,
            PinState::NotFound | PinState::Failed | PinState::Unpinnable => Self::PinError,
            PinState::DaemonDown => Self::ClusterError,
            PinState::Unpinning => Self::Unpinning,
            PinState::UnpinFailed => Self::UnpinError,
        }
    }
}

/// A pin (Go's `Pin`).
#[derive(Debug, Serialize)]
pub(super) struct PinView {
    replication_factor_min: i32,
    replication_factor_max: i32,
    name: String,
    mode: &'static str,
    shard_size: u64,
    user_allocations: [(); 0],
    expire_at: &'static str,
    metadata: BTreeMap<String, String>,
    pin_update: Option<Cid>,
    origins: [(); 0],
    cid: Cid,
    #[serde(rename = "type")]
    kind: &'static str,
    allocations: Vec<PeerId>,
    max_depth: i32,
    reference: Option<Cid>,
    timestamp: String,
}

/// A pin and its status at each peer (Go's `GlobalPinInfo`).
#[derive(Debug, Serialize)]
pub(super) struct PinInfoView {
    cid: Cid,
    name: String,
    allocations: Vec<PeerId>,
    origins: [(); 0],
    created: String,
    metadata: BTreeMap<String, String>,
    peer_map: BTreeMap<PeerId, PeerPinView>,
}

/// A pin's status at one peer (Go's `PinInfoShort`).
#[derive(Debug, Serialize)]
struct PeerPinView {
    peername: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    ipfs_peer_id: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ipfs_peer_addresses: Vec<String>,
    status: Status,
    timestamp: String,
    error: String,
    attempt_count: u32,
    priority_pin: bool,
}

/// A member in a list: a peer, and how it takes part.
#[derive(Debug, Serialize)]
pub(super) struct ListedView {
    #[serde(flatten)]
    peer: IdView,
    voter: bool,
    departing: bool,
    allocations: u64,
    /// How long it has been away; 0 if it is not.
    away_seconds: u64,
}

/// A member that is away (Go's `Alert`: a metric that has expired, and when that was noticed).
#[derive(Debug, Serialize)]
pub(super) struct AlertView {
    name: &'static str,
    peer: PeerId,
    value: String,
    expire: i64,
    valid: bool,
    weight: i64,
    partitionable: bool,
    received_at: i64,
    triggered_at: String,
}

/// A peer (Go's `ID`).
#[derive(Debug, Serialize)]
pub(super) struct IdView {
    id: PeerId,
    addresses: Vec<String>,
    cluster_peers: Vec<PeerId>,
    cluster_peers_addresses: Vec<String>,
    version: &'static str,
    commit: &'static str,
    rpc_protocol_version: &'static str,
    error: &'static str,
    ipfs: DaemonView,
    peername: String,
}

/// The daemon beside a peer (Go's `IPFSID`).
#[derive(Debug, Serialize)]
struct DaemonView {
    id: String,
    addresses: Vec<String>,
    error: &'static str,
}

/// The results of garbage collection (Go's `GlobalRepoGC`).
#[derive(Debug, Serialize)]
pub(super) struct GcView {
    peer_map: BTreeMap<PeerId, PeerGcView>,
}

/// The result at one peer (Go's `RepoGC`, and the number of blocks).
#[derive(Debug, Serialize)]
struct PeerGcView {
    peer: PeerId,
    peername: String,
    /// Blocks that could not be removed, with the reason. Removed blocks are only counted: there may be
    /// millions.
    keys: Vec<KeyErrorView>,
    removed: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
}

/// Go's `IPFSRepoGC` of a block that was not removed.
#[derive(Debug, Serialize)]
struct KeyErrorView {
    error: String,
}

/// Appends an object as one line of JSON.
pub(super) fn write_line(lines: &mut Vec<u8>, object: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *lines, object)?;
    lines.push(b'\n');
    Ok(())
}

/// A pin with the options of its REST claim; without one, those of the whole pin.
pub(super) fn pin(cid: Cid, pin: &Pin) -> PinView {
    let claim = pin.claims.get(&Owner::Rest);
    let replication = claim.map_or_else(|| pin.replication(), |claim| claim.options.replication);
    PinView {
        replication_factor_min: number(replication.min),
        replication_factor_max: number(replication.max),
        name: name(pin),
        mode: "recursive",
        shard_size: 0,
        user_allocations: [],
        expire_at: ZERO_TIME,
        metadata: BTreeMap::new(),
        pin_update: None,
        origins: [],
        cid,
        kind: "pin",
        allocations: pin.allocations.iter().map(|allocation| allocation.peer).collect(),
        max_depth: -1,
        reference: None,
        timestamp: claim.map_or(pin.created, |claim| claim.since).to_string(),
    }
}

fn number(factor: Factor) -> i32 {
    match factor {
        Factor::Count(count) => i32::from(count),
        Factor::Everywhere => -1,
    }
}

/// The name given by REST; without one, the first claim's.
fn name(pin: &Pin) -> String {
    let rest = pin.claims.get(&Owner::Rest);
    let claim = rest.or_else(|| pin.claims.values().next());
    claim.map(|claim| claim.options.name.to_string()).unwrap_or_default()
}

/// The peers whose statuses are shown.
#[derive(Debug)]
pub(super) struct Peers {
    /// Members, or this peer alone.
    pub(super) members: BTreeMap<PeerId, Member>,
    /// As far as known here.
    pub(super) daemons: BTreeMap<PeerId, DaemonInfo>,
    /// The time of statuses that have none.
    pub(super) now: Timestamp,
}

impl Peers {
    /// A pin's status at each of the peers.
    pub(super) fn info(&self, entry: &PinEntry) -> PinInfoView {
        let PinEntry { cid, pin, statuses } = entry;
        let peer_map = self.members.iter().map(|(peer, member)| {
            let view = match statuses.get(peer) {
                Some(status) => self.reported(*peer, member, status),
                // An allocation without a report is queued.
                None if pin.is_on(*peer) => self.quiet(*peer, member, Status::PinQueued),
                None => self.quiet(*peer, member, Status::Remote),
            };
            (*peer, view)
        });
        PinInfoView {
            cid: *cid,
            name: name(pin),
            allocations: pin.allocations.iter().map(|allocation| allocation.peer).collect(),
            origins: [],
            created: pin.created.to_string(),
            metadata: BTreeMap::new(),
            peer_map: peer_map.collect(),
        }
    }

    /// A CID outside the state is unpinned everywhere: IPFS Cluster answers this instead of 404.
    pub(super) fn unpinned(&self, cid: Cid) -> PinInfoView {
        let peer_map = self
            .members
            .iter()
            .map(|(peer, member)| (*peer, self.quiet(*peer, member, Status::Unpinned)));
        PinInfoView {
            cid,
            name: String::new(),
            allocations: Vec::new(),
            origins: [],
            created: ZERO_TIME.to_owned(),
            metadata: BTreeMap::new(),
            peer_map: peer_map.collect(),
        }
    }

    fn reported(&self, peer: PeerId, member: &Member, status: &PinStatus) -> PeerPinView {
        let named = Status::of(status.state);
        let failed = matches!(named, Status::ClusterError | Status::PinError | Status::UnpinError);
        PeerPinView {
            // Clients treat any text here as an error; progress is not one.
            error: if failed { status.message.clone() } else { String::new() },
            timestamp: status.since.to_string(),
            attempt_count: status.attempts,
            ..self.quiet(peer, member, named)
        }
    }

    fn quiet(&self, peer: PeerId, member: &Member, status: Status) -> PeerPinView {
        let (id, addresses) = match self.daemons.get(&peer) {
            Some(DaemonInfo { id, addresses, .. }) => (id.clone(), addresses.clone()),
            None => (String::new(), Vec::new()),
        };
        PeerPinView {
            peername: member.name.clone(),
            ipfs_peer_id: id,
            ipfs_peer_addresses: addresses,
            status,
            timestamp: self.now.to_string(),
            error: String::new(),
            attempt_count: 0,
            priority_pin: false,
        }
    }
}

impl PinInfoView {
    /// Whether a peer has one of these statuses; always true for an empty filter.
    pub(super) fn matches(&self, filter: &BTreeSet<Status>) -> bool {
        filter.is_empty() || self.peer_map.values().any(|peer| filter.contains(&peer.status))
    }
}

/// The results of garbage collection at each of the peers asked.
pub(super) fn collected(
    results: &BTreeMap<PeerId, GcResult>,
    members: &BTreeMap<PeerId, Member>,
) -> GcView {
    let view = |(peer, result): (&PeerId, &GcResult)| {
        let (done, error) = match result {
            Ok(done) => (done.clone(), String::new()),
            Err(reason) => (GcReport::default(), reason.clone()),
        };
        let view = PeerGcView {
            peer: *peer,
            peername: members.get(peer).map(|member| member.name.clone()).unwrap_or_default(),
            keys: done.errors.into_iter().map(|error| KeyErrorView { error }).collect(),
            removed: done.removed,
            error,
        };
        (*peer, view)
    };
    GcView { peer_map: results.iter().map(view).collect() }
}

/// This peer.
pub(super) fn id(
    own: PeerId,
    member: &Member,
    members: &BTreeMap<PeerId, Member>,
    daemon: Option<&DaemonInfo>,
    addresses: &[String],
) -> IdView {
    let with_id = |peer: PeerId, addresses: &[String]| {
        addresses.iter().map(|address| format!("{address}/p2p/{peer}")).collect::<Vec<_>>()
    };
    let ipfs = match daemon {
        Some(daemon) => {
            DaemonView { id: daemon.id.clone(), addresses: daemon.addresses.clone(), error: "" }
        }
        None => DaemonView {
            id: String::new(),
            addresses: Vec::new(),
            error: "the daemon does not answer",
        },
    };
    IdView {
        id: own,
        addresses: with_id(own, addresses),
        cluster_peers: members.keys().copied().collect(),
        cluster_peers_addresses: members
            .iter()
            .flat_map(|(peer, member)| with_id(*peer, &member.addresses))
            .collect(),
        version: env!("CARGO_PKG_VERSION"),
        commit: crate::telemetry::COMMIT,
        rpc_protocol_version: crate::rpc::PROTOCOL,
        error: "",
        ipfs,
        peername: member.name.clone(),
    }
}

/// A member in a list. The versions of the others are not known.
pub(super) fn listed(
    own: PeerId,
    peer: PeerId,
    member: &Member,
    members: &BTreeMap<PeerId, Member>,
    daemon: Option<&DaemonInfo>,
    listed: Listed,
) -> ListedView {
    let Listed { votes, departs, copies, away } = listed;
    let mut view = id(peer, member, members, daemon, &member.addresses);
    if peer != own {
        (view.version, view.commit) = ("", "");
    }
    let away_seconds = away.as_secs();
    ListedView { peer: view, voter: votes, departing: departs, allocations: copies, away_seconds }
}

/// The members that are away. The state knows for how long, not since when: the times are by this
/// peer's clock.
pub(super) fn alerts(roster: &BTreeMap<PeerId, Listed>, now: Timestamp) -> Vec<AlertView> {
    let alert = |(peer, listed): (&PeerId, &Listed)| {
        let away = millis(listed.away);
        let since = Timestamp(now.0.saturating_sub(away));
        AlertView {
            name: "ping",
            peer: *peer,
            value: String::new(),
            expire: nanoseconds(since),
            valid: false,
            weight: 0,
            partitionable: false,
            received_at: nanoseconds(since),
            triggered_at: since.to_string(),
        }
    };
    roster.iter().filter(|(_, listed)| !listed.away.is_zero()).map(alert).collect()
}

fn nanoseconds(time: Timestamp) -> i64 {
    i64::try_from(time.0.saturating_mul(1_000_000)).unwrap_or(i64::MAX)
}
