//! Messages between peers: one request enum, one response enum, and the allowed senders of each request.
//!
//! On the wire they have the form of [`encoding`](super::encoding), inside the frames of `rpc`. A peer
//! answers an unknown variant with an error.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use super::{
    Cid, ClaimOptions, ClusterId, DaemonInfo, GcProgress, GcResult, GcResults, GcState, Member,
    PeerId, Pin, PinStatus, RaftMessage, RaftReply, Run, SnapshotChunk, SnapshotReply, TooOld,
};

/// A request, and the cluster that it is for.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Envelope {
    /// The sender's cluster and epoch; absent while the sender is blank.
    #[n(0)]
    pub cluster: Option<(ClusterId, u64)>,
    /// The request.
    #[n(1)]
    pub request: Request,
}

/// A request of one peer to another.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Request {
    /// Introduces the sender, and asks for the receiver's identity; it may also ask to join.
    #[n(0)]
    Hello(#[n(0)] Hello),
    /// Votes, heartbeats and log entries.
    #[n(1)]
    Raft(#[n(0)] RaftMessage),
    /// A piece of a snapshot.
    #[n(2)]
    Snapshot(#[n(0)] SnapshotChunk),
    /// A request of any member to the leader.
    #[n(3)]
    Leader(#[n(0)] LeaderRequest),
    /// A request of the leader to any member: collect garbage.
    #[n(4)]
    RunGcHere(#[n(0)] RunGcHere),
    /// A request of the leader to any member: ask the daemon whether it still holds pins.
    #[n(5)]
    ConfirmNow(#[n(0)] ConfirmNow),
}

/// Requests of members to the leader. Other members refuse them.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum LeaderRequest {
    /// Statuses of the sender's pins.
    #[n(0)]
    Statuses(#[n(0)] StatusBatch),
    /// The sender's peer metrics.
    #[n(1)]
    Metrics(#[n(0)] Metrics),
    /// Writes of users.
    #[n(2)]
    Writes(#[n(0)] Writes),
    /// Asks for a position that includes all acknowledged writes.
    #[n(3)]
    ReadIndex(#[n(0)] ReadIndex),
    /// Asks for one pin.
    #[n(4)]
    OnePin(#[n(0)] OnePin),
    /// Asks for a page of pins.
    #[n(5)]
    PinsAfter(#[n(0)] PinsAfter),
    /// Asks for garbage collection on members.
    #[n(6)]
    RunGc(#[n(0)] RunGc),
    /// Asks that a member gives its copies away and leaves, or stays after all.
    #[n(7)]
    Depart(#[n(0)] Depart),
}

/// The answer to a [`Request`]. [`Question`](super::Question) has the type of answer to each request.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Response {
    /// To any request: it was not done.
    #[n(0)]
    Refused(#[n(0)] Refusal),
    /// To [`Hello`].
    #[n(1)]
    Hello(#[n(0)] HelloReply),
    /// To [`RaftMessage`].
    #[n(2)]
    Raft(#[n(0)] RaftReply),
    /// To [`SnapshotChunk`].
    #[n(3)]
    Snapshot(#[n(0)] SnapshotReply),
    /// To [`StatusBatch`].
    #[n(4)]
    Statuses(#[n(0)] StatusReply),
    /// To [`Metrics`].
    #[n(5)]
    Metrics(#[n(0)] MetricsReply),
    /// To [`Writes`]: the result of each, in order.
    #[n(6)]
    Written(#[n(0)] Vec<Result<Pin, Refusal>>),
    /// To [`ReadIndex`]: the log index to wait for; absent when the log is empty.
    #[n(7)]
    Position(#[n(0)] Option<u64>),
    /// To [`OnePin`]: at most one pin. To [`PinsAfter`]: a page, empty after the last pin.
    #[n(8)]
    Pins(#[n(0)] Vec<PinEntry>),
    /// To [`RunGcHere`].
    #[n(9)]
    GcHere(#[n(0)] GcProgress<GcResult>),
    /// To [`RunGc`]: the result on each member.
    #[n(10)]
    Gc(#[n(0)] GcProgress<GcResults>),
    /// To [`Depart`]: the number of copies that the member has.
    #[n(11)]
    Copies(#[n(0)] u64),
    /// To [`ConfirmNow`]: those of the CIDs that the daemon holds.
    #[n(12)]
    Held(#[n(0)] Vec<Cid>),
}

/// Why a peer refused a request.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, thiserror::Error)]
pub enum Refusal {
    /// The request is for another cluster or an older epoch.
    #[error("this peer is of cluster {0:?}")]
    #[n(0)]
    OtherCluster(#[n(0)] Option<ClusterId>),
    /// The sender is not a member, and only members may send this request.
    #[error("the sender is not a member of the cluster")]
    #[n(1)]
    NotMember,
    /// The receiver is not the leader; with the leader that it knows.
    #[error("this peer is not the leader (leader: {0:?})")]
    #[n(2)]
    NotLeader(#[n(0)] Option<PeerId>),
    /// The request cannot succeed; repeating it would not help.
    #[error("{0}")]
    #[n(3)]
    Invalid(#[n(0)] String),
    /// The request failed; repeating it may help. A write may have taken effect.
    #[error("{0}")]
    #[n(4)]
    Failed(#[n(0)] String),
    /// Too many requests are being served.
    #[error("the peer is busy")]
    #[n(5)]
    Busy,
    /// This other member is already on the sender's daemon.
    #[error("peer {0} is already on the same daemon")]
    #[n(6)]
    DaemonTaken(#[n(0)] PeerId),
    /// The sender's program does not know the cluster's level.
    #[error("the cluster is at level {cluster}, the peer's program knows levels up to {program}")]
    #[n(10)]
    TooOld {
        /// The cluster's level.
        #[n(0)]
        cluster: u32,
        /// The program's level.
        #[n(1)]
        program: u32,
    },
    /// This other live member has the sender's name.
    #[error("peer {0} already has this name")]
    #[n(11)]
    NameTaken(#[n(0)] PeerId),
    /// The sender was removed from the cluster for good.
    #[error("the peer was removed from the cluster for good")]
    #[n(12)]
    Removed,
    /// There is no such pin.
    #[error("pin is not part of the pinset")]
    #[n(7)]
    NotFound,
    /// The request cannot succeed yet, and nothing was done; repeating it may help.
    #[error("{0}")]
    #[n(8)]
    NotYet(#[n(0)] String),
    /// Garbage is already being collected; the text has the details.
    #[error("{0}")]
    #[n(9)]
    GcRunning(#[n(0)] String),
}

impl From<TooOld> for Refusal {
    fn from(TooOld { cluster, program }: TooOld) -> Self {
        Self::TooOld { cluster, program }
    }
}

impl Refusal {
    /// Whether a write with this answer may have taken effect.
    #[must_use]
    pub fn is_uncertain(&self) -> bool {
        matches!(self, Self::Failed(_))
    }
}

/// A peer introduces itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Hello {
    /// Its entry in the membership, if it joins.
    #[n(0)]
    pub member: Member,
    /// Its version, as in `0.1.0`.
    #[n(1)]
    pub version: String,
    /// Its daemon's ID, if known: the leader refuses a second peer on one daemon.
    #[n(2)]
    pub daemon: Option<String>,
    /// Whether it asks to join. Otherwise it only reports its identity and addresses.
    #[n(3)]
    pub join: bool,
    /// Its cluster, or the only one that it may join. Other clusters refuse it.
    #[n(4)]
    pub cluster: Option<ClusterId>,
    /// Number of members of its cluster, as far as it knows.
    #[n(5)]
    pub size: u64,
    /// To members of its cluster: all members, with their current addresses.
    #[n(6)]
    pub members: BTreeMap<PeerId, Member>,
    /// The level of its program.
    #[n(7)]
    pub level: u32,
}

/// The answer to [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HelloReply {
    /// The answering peer.
    #[n(0)]
    pub member: Member,
    /// Its version.
    #[n(1)]
    pub version: String,
    /// Its cluster and epoch; absent while it is blank.
    #[n(2)]
    pub cluster: Option<(ClusterId, u64)>,
    /// The leader that it knows.
    #[n(3)]
    pub leader: Option<PeerId>,
    /// Members with their current addresses, so that the sender can reach them.
    #[n(4)]
    pub members: BTreeMap<PeerId, Member>,
    /// Whether the sender is a member. After a request to join: whether the leader has admitted it.
    #[n(5)]
    pub admitted: bool,
}

/// Statuses of the sender's pins. The batches are numbered from 0; batch 0 begins a full set. A batch
/// without statuses only asks whether the leader has all batches before it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StatusBatch {
    /// Random number of one full set and the batches after it.
    #[n(0)]
    pub stream: u64,
    /// Number of this batch in the stream, from 0.
    #[n(1)]
    pub sequence: u64,
    /// More of the full set follows; `false` after the full set.
    #[n(2)]
    pub more: bool,
    /// Log length that the sender had seen when it took the statuses.
    #[n(3)]
    pub entries: u64,
    /// Statuses by CID; absent for a CID that the sender no longer tracks.
    #[n(4)]
    pub statuses: Vec<(Cid, Option<PinStatus>)>,
}

/// The answer to [`StatusBatch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum StatusReply {
    /// The leader has the batch.
    #[n(0)]
    Taken,
    /// The leader lacks earlier batches: begin again with a full set.
    #[n(1)]
    SendAll,
}

/// The metrics of a peer, which it sends at half their time to live.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Metrics {
    /// The daemon; absent while it does not answer.
    #[n(0)]
    pub daemon: Option<DaemonInfo>,
    /// Free bytes for content: the smaller of the volume's and StorageMax's; absent when unknown.
    #[n(1)]
    pub free_space: Option<u64>,
    /// Bytes that the repository takes; absent when unknown.
    #[n(2)]
    pub repository_size: Option<u64>,
    /// Number of this peer's pins that the daemon held when it was last asked.
    #[n(3)]
    pub pins: u64,
    /// Number of pins queued or in progress.
    #[n(4)]
    pub pin_queue: u64,
    /// Tags for placement.
    #[n(5)]
    pub tags: BTreeMap<String, String>,
    /// The sender's version.
    #[n(6)]
    pub version: String,
    /// Addresses on which the sender listens.
    #[n(7)]
    pub addresses: Vec<String>,
    /// Time to live of these metrics, in milliseconds.
    #[n(8)]
    pub ttl_ms: u64,
    /// Used part of the daemon's space in percent: the larger of the volume's and StorageMax's; absent
    /// when unknown.
    #[n(9)]
    pub full_percent: Option<u8>,
    /// Garbage collection of the daemon.
    #[n(10)]
    pub gc: GcState,
    /// The limit that `free_space` counts to; absent when unknown.
    #[n(11)]
    pub space_limit: Option<SpaceLimit>,
    /// The level of the sender's program.
    #[n(12)]
    pub level: u32,
}

/// The answer to [`Metrics`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct MetricsReply {
    /// The daemons of the other peers.
    #[n(0)]
    pub daemons: BTreeMap<PeerId, DaemonInfo>,
    /// The addresses of the peers.
    #[n(1)]
    pub addresses: BTreeMap<PeerId, Vec<String>>,
}

/// The limit of the space for content. It must never get another variant, since an `Option` field holds
/// it (see [`encoding`](super::encoding)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum SpaceLimit {
    /// The volume.
    #[n(0)]
    Volume,
    /// The daemon's setting `Datastore.StorageMax`.
    #[n(1)]
    StorageMax,
}

/// A claim by REST.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PinRequest {
    /// The content.
    #[n(0)]
    pub cid: Cid,
    /// The options of the claim.
    #[n(1)]
    pub options: ClaimOptions,
}

/// A write of a user.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Write {
    /// Adds or changes the REST claim. The answer is the pin.
    #[n(0)]
    Pin(#[n(0)] PinRequest),
    /// Releases the REST claim. The answer is the pin before that.
    #[n(1)]
    Unpin(#[n(0)] Cid),
}

impl Write {
    /// Most writes in one request, and most ops in the log entry that they become. Both stay below the
    /// largest frame, even with the longest names and many peers.
    pub const BATCH_LEN_MAX: usize = 256;

    /// The CID that it changes.
    #[must_use]
    pub fn cid(&self) -> &Cid {
        match self {
            Self::Pin(request) => &request.cid,
            Self::Unpin(cid) => cid,
        }
    }
}

/// Writes of users, at most [`Write::BATCH_LEN_MAX`]. Each has its own answer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Writes(#[n(0)] pub Vec<Write>);

/// Asks for the position that includes all acknowledged writes, confirmed with a majority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ReadIndex;

/// Question whether a member leaves; see [`LeaderRequest::Depart`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Depart {
    /// The member.
    #[n(0)]
    pub peer: PeerId,
    /// Whether it is to leave.
    #[n(1)]
    pub departs: bool,
    /// Because its pod was scaled in, or is wanted again.
    #[n(2)]
    #[cbor(default)]
    pub scaled_in: bool,
}

/// Asks for one pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OnePin {
    /// Its content.
    #[n(0)]
    pub cid: Cid,
}

/// Asks for the next pins in order of their CIDs, at most 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PinsAfter {
    /// The last CID of the page before; absent for the first page.
    #[n(0)]
    pub after: Option<Cid>,
}

/// A pin with the reports of its peers.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PinEntry {
    /// The content.
    #[n(0)]
    pub cid: Cid,
    /// Its claims and allocations.
    #[n(1)]
    pub pin: Pin,
    /// The last report of each peer.
    #[n(2)]
    pub statuses: BTreeMap<PeerId, PinStatus>,
}

/// Asks for garbage collection on members, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RunGc {
    /// The collection.
    #[n(0)]
    pub run: Run,
    /// Only on this member; absent for all members.
    #[n(1)]
    pub only: Option<PeerId>,
}

/// Asks for garbage collection of the daemon beside the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RunGcHere {
    /// The collection.
    #[n(0)]
    pub run: Run,
}

/// Asks which of these CIDs the daemon beside the receiver holds now; at most
/// [`ASK_LEN_MAX`](crate::ipfs::ASK_LEN_MAX).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ConfirmNow {
    /// The CIDs.
    #[n(0)]
    pub cids: Vec<Cid>,
}

/// The stream that a request travels on. Lanes are separate, so that a snapshot never delays a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Votes, heartbeats, log entries.
    Raft,
    /// Small requests.
    Control,
    /// Snapshots.
    Bulk,
}

/// The peers that may send a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerPolicy {
    /// Every peer that knows the cluster secret.
    Anybody,
    /// Members of the receiver's cluster, at its epoch, and peers that a member has named as members. A
    /// follower that is behind may not know yet that the leader is a member.
    Known,
    /// Members of the receiver's cluster, at its epoch.
    Members,
}

impl Request {
    /// The lane that it travels on.
    #[must_use]
    pub fn lane(&self) -> Lane {
        match self {
            Self::Raft(_) => Lane::Raft,
            Self::Snapshot(_) => Lane::Bulk,
            Self::Hello(_) | Self::Leader(_) | Self::RunGcHere(_) | Self::ConfirmNow(_) => {
                Lane::Control
            }
        }
    }

    /// The peers that may send it.
    #[must_use]
    pub fn policy(&self) -> CallerPolicy {
        match self {
            Self::Hello(_) => CallerPolicy::Anybody,
            Self::Raft(_) | Self::Snapshot(_) => CallerPolicy::Known,
            Self::Leader(_) | Self::RunGcHere(_) | Self::ConfirmNow(_) => CallerPolicy::Members,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::types::{Append, Vote, encoding};

    #[test]
    fn each_request_has_its_senders_and_its_lane() {
        let run = Run { ticket: 1, begin: true };
        let vote = Vote { term: 1, candidate: PeerId([1; 32]), committed: false };
        let cid = Cid::from(cid::Cid::default());
        let (stream, sequence, more, entries) = (1, 0, false, 0);
        let batch = StatusBatch { stream, sequence, more, entries, statuses: Vec::new() };
        let chunk = SnapshotChunk { vote, transfer: 1, offset: 0, data: Vec::new(), last: true };
        let append = Append { vote, previous: None, entries: Vec::new(), committed: None };
        let (last, from, to) = (None, vote, PeerId([1; 32]));
        let (anybody, known, members) =
            (CallerPolicy::Anybody, CallerPolicy::Known, CallerPolicy::Members);
        let raft = |message| (Request::Raft(message), known, Lane::Raft);
        let leader = |request| (Request::Leader(request), members, Lane::Control);
        let collect = RunGc { run, only: None };
        let table = [
            (Request::Hello(Hello::default()), anybody, Lane::Control),
            raft(RaftMessage::Vote { vote, last, transfer: false }),
            raft(RaftMessage::PreVote { vote, last }),
            raft(RaftMessage::Append(append)),
            raft(RaftMessage::TransferLeader { from, to, last }),
            (Request::Snapshot(chunk), known, Lane::Bulk),
            leader(LeaderRequest::Statuses(batch)),
            leader(LeaderRequest::Metrics(Metrics::default())),
            leader(LeaderRequest::Writes(Writes(Vec::new()))),
            leader(LeaderRequest::ReadIndex(ReadIndex)),
            leader(LeaderRequest::OnePin(OnePin { cid })),
            leader(LeaderRequest::PinsAfter(PinsAfter { after: None })),
            leader(LeaderRequest::RunGc(collect)),
            (Request::RunGcHere(RunGcHere { run }), members, Lane::Control),
            (Request::ConfirmNow(ConfirmNow { cids: vec![cid] }), members, Lane::Control),
        ];
        let mut kinds = BTreeSet::new();
        for (request, policy, lane) in table {
            assert_eq!((request.policy(), request.lane()), (policy, lane), "{request:?}");
            kinds.extend(encoding::to_vec(&request).get(1).copied());
        }
        assert!(kinds.into_iter().eq(0..6), "a kind of request is missing");
    }
}
