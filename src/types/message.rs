//! Messages between peers: one request enum, one response enum, and who may send what.
//!
//! The form on the wire is that of [`encoding`](super::encoding) inside the frames of `rpc`. A peer
//! that meets an unknown variant answers an error.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use super::{
    Cid, ClaimOptions, ClusterId, DaemonInfo, GcProgress, GcResult, GcResults, GcState, Member,
    PeerId, Pin, PinStatus, RaftMessage, RaftReply, Run, SnapshotChunk, SnapshotReply, TooOld,
};

/// A request with the cluster it is meant for. A blank peer has none.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Envelope {
    /// The sender's cluster and epoch; absent before it has joined.
    #[n(0)]
    pub cluster: Option<(ClusterId, u64)>,
    /// What is asked.
    #[n(1)]
    pub request: Request,
}

/// What one peer can ask of another.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Request {
    /// Who are you, and may I join?
    #[n(0)]
    Hello(#[n(0)] Hello),
    /// Votes, heartbeats and log entries.
    #[n(1)]
    Raft(#[n(0)] RaftMessage),
    /// A piece of a snapshot.
    #[n(2)]
    Snapshot(#[n(0)] SnapshotChunk),
    /// From any member to the leader.
    #[n(3)]
    Leader(#[n(0)] LeaderRequest),
    /// From the leader to any member.
    #[n(4)]
    RunGcHere(#[n(0)] RunGcHere),
}

/// What members ask of the leader. Others answer that they are not the leader.
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
    /// The position that includes all acknowledged writes.
    #[n(3)]
    ReadIndex(#[n(0)] ReadIndex),
    /// One pin.
    #[n(4)]
    OnePin(#[n(0)] OnePin),
    /// A page of pins.
    #[n(5)]
    PinsAfter(#[n(0)] PinsAfter),
    /// Garbage collection on members.
    #[n(6)]
    RunGc(#[n(0)] RunGc),
}

/// The answer to a [`Request`]. Which one belongs to which question: [`Question`](super::Question).
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Response {
    /// The request was not done.
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
    /// To [`OnePin`], one at most, and to [`PinsAfter`]: empty when there are no more.
    #[n(8)]
    Pins(#[n(0)] Vec<PinEntry>),
    /// To [`RunGcHere`].
    #[n(9)]
    GcHere(#[n(0)] GcProgress<GcResult>),
    /// To [`RunGc`]: the result on each member.
    #[n(10)]
    Gc(#[n(0)] GcProgress<GcResults>),
}

/// Why a peer did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, thiserror::Error)]
pub enum Refusal {
    /// The request is for another cluster or an older epoch.
    #[error("this peer is of cluster {0:?}")]
    #[n(0)]
    OtherCluster(#[n(0)] Option<ClusterId>),
    /// The sender is not a member, and only members may ask that.
    #[error("the sender is not a member of the cluster")]
    #[n(1)]
    NotMember,
    /// The receiver is not the leader; the leader it knows.
    #[error("this peer is not the leader (leader: {0:?})")]
    #[n(2)]
    NotLeader(#[n(0)] Option<PeerId>),
    /// The request cannot be met, and a repetition would not help.
    #[error("{0}")]
    #[n(3)]
    Invalid(#[n(0)] String),
    /// It failed here; a repetition may help. A write may or may not have taken effect.
    #[error("{0}")]
    #[n(4)]
    Failed(#[n(0)] String),
    /// Too many requests are being served.
    #[error("the peer is busy")]
    #[n(5)]
    Busy,
    /// Another member, named here, is already on the sender's daemon.
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
    /// There is no such pin.
    #[error("pin is not part of the pinset")]
    #[n(7)]
    NotFound,
    /// It cannot be done yet, and nothing was done; a repetition may help.
    #[error("{0}")]
    #[n(8)]
    NotYet(#[n(0)] String),
    /// Garbage is being collected already, as the text says.
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
    /// Whether a refused write may have taken effect all the same.
    #[must_use]
    pub fn is_uncertain(&self) -> bool {
        matches!(self, Self::Failed(_))
    }
}

/// A peer presents itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Hello {
    /// What the membership is to say of it.
    #[n(0)]
    pub member: Member,
    /// Its version, as in `0.1.0`.
    #[n(1)]
    pub version: String,
    /// Its daemon's ID, if that is known: two peers on one daemon are refused.
    #[n(2)]
    pub daemon: Option<String>,
    /// It asks to be taken in; else it only says who and where it is.
    #[n(3)]
    pub join: bool,
    /// The cluster that it belongs to, or the only one that it may join. No other one takes it in.
    #[n(4)]
    pub cluster: Option<ClusterId>,
    /// How many members its cluster has, as far as it knows.
    #[n(5)]
    pub size: u64,
    /// To members of its cluster: all of them, with the addresses they have now.
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
    /// Its cluster and epoch; absent when it has none either.
    #[n(2)]
    pub cluster: Option<(ClusterId, u64)>,
    /// The leader it knows.
    #[n(3)]
    pub leader: Option<PeerId>,
    /// Members and the addresses they have now, so that the sender can reach them.
    #[n(4)]
    pub members: BTreeMap<PeerId, Member>,
    /// The sender is a member (after asking to join: the leader has taken it in).
    #[n(5)]
    pub admitted: bool,
}

/// Statuses of the sender's pins, in order of `sequence` from 0; number 0 begins a full set. An empty
/// one only asks whether the leader has all before it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct StatusBatch {
    /// Drawn at random for each full set and what follows it.
    #[n(0)]
    pub stream: u64,
    /// Counts batches since the last full set.
    #[n(1)]
    pub sequence: u64,
    /// More of the full set follows (only while one is being sent).
    #[n(2)]
    pub more: bool,
    /// The statuses are of a time when the sender had seen what so many entries of the log, from the
    /// first on, changed.
    #[n(3)]
    pub entries: u64,
    /// Present: the status; absent: the sender has nothing to do with that CID any more.
    #[n(4)]
    pub statuses: Vec<(Cid, Option<PinStatus>)>,
}

/// The answer to [`StatusBatch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum StatusReply {
    /// Taken in.
    #[n(0)]
    Taken,
    /// The leader misses something: start again with a full set.
    #[n(1)]
    SendAll,
}

/// A peer's metrics, pushed at half their time to live.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Metrics {
    /// The daemon; absent while it does not answer.
    #[n(0)]
    pub daemon: Option<DaemonInfo>,
    /// Bytes free for content: the smaller of the volume's and StorageMax's; absent when unknown.
    #[n(1)]
    pub free_space: Option<u64>,
    /// Bytes the repository takes; absent when unknown.
    #[n(2)]
    pub repository_size: Option<u64>,
    /// Pins the daemon was last confirmed to hold for us.
    #[n(3)]
    pub pins: u64,
    /// Pins queued or in work.
    #[n(4)]
    pub pin_queue: u64,
    /// Labels for placement.
    #[n(5)]
    pub tags: BTreeMap<String, String>,
    /// The sender's version.
    #[n(6)]
    pub version: String,
    /// Where the sender listens.
    #[n(7)]
    pub addresses: Vec<String>,
    /// Milliseconds after which these are stale.
    #[n(8)]
    pub ttl_ms: u64,
    /// How full the daemon's space is, in per cent: the larger of the volume's and StorageMax's; absent
    /// when unknown.
    #[n(9)]
    pub full_percent: Option<u8>,
    /// The daemon's garbage.
    #[n(10)]
    pub gc: GcState,
    /// What `free_space` ends at; absent when unknown.
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
    /// Where peers listen.
    #[n(1)]
    pub addresses: BTreeMap<PeerId, Vec<String>>,
}

/// What the space for content ends at. It never gets another variant: it stands in an `Option`
/// (see [`encoding`](super::encoding)).
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
    /// What is asked for.
    #[n(1)]
    pub options: ClaimOptions,
}

/// What a user can ask the leader to change.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Write {
    /// A claim by REST; answers the pin.
    #[n(0)]
    Pin(#[n(0)] PinRequest),
    /// Release the REST claim; answers the pin as it was.
    #[n(1)]
    Unpin(#[n(0)] Cid),
}

impl Write {
    /// Writes in one request, and ops in the log entry that they become: with the longest names and
    /// many peers still below the largest frame.
    pub const BATCH_LEN_MAX: usize = 256;

    /// What it is about.
    #[must_use]
    pub fn cid(&self) -> &Cid {
        match self {
            Self::Pin(request) => &request.cid,
            Self::Unpin(cid) => cid,
        }
    }
}

/// Writes of users, at most [`Write::BATCH_LEN_MAX`]. Each is answered by itself.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Writes(#[n(0)] pub Vec<Write>);

/// Asks for the position that includes all acknowledged writes, confirmed with a majority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ReadIndex;

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
    /// The last CID before them; absent: from the first.
    #[n(0)]
    pub after: Option<Cid>,
}

/// A pin with what its peers report.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PinEntry {
    /// The content.
    #[n(0)]
    pub cid: Cid,
    /// What the cluster agreed on.
    #[n(1)]
    pub pin: Pin,
    /// The last report of each peer.
    #[n(2)]
    pub statuses: BTreeMap<PeerId, PinStatus>,
}

/// Asks for garbage collection on all members, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RunGc {
    /// The collection.
    #[n(0)]
    pub run: Run,
    /// On this member alone.
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

/// Which stream a request travels on, so that a snapshot never delays a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Votes, heartbeats, log entries.
    Raft,
    /// Everything small.
    Control,
    /// Snapshots.
    Bulk,
}

/// Who may send a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerPolicy {
    /// Whoever knows the cluster secret.
    Anybody,
    /// Members of the receiver's cluster, at its epoch, also by the word of other members: a follower
    /// that is behind may not know yet that the leader is a member.
    Known,
    /// Members of the receiver's cluster, at its epoch.
    Members,
}

impl Request {
    /// The lane it travels on.
    #[must_use]
    pub fn lane(&self) -> Lane {
        match self {
            Self::Raft(_) => Lane::Raft,
            Self::Snapshot(_) => Lane::Bulk,
            Self::Hello(_) | Self::Leader(_) | Self::RunGcHere(_) => Lane::Control,
        }
    }

    /// Who may send it.
    #[must_use]
    pub fn policy(&self) -> CallerPolicy {
        match self {
            Self::Hello(_) => CallerPolicy::Anybody,
            Self::Raft(_) | Self::Snapshot(_) => CallerPolicy::Known,
            Self::Leader(_) | Self::RunGcHere(_) => CallerPolicy::Members,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::types::{Append, Vote, encoding};

    #[test]
    fn who_may_send_what_and_on_which_lane() {
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
        ];
        let mut kinds = BTreeSet::new();
        for (request, policy, lane) in table {
            assert_eq!((request.policy(), request.lane()), (policy, lane), "{request:?}");
            kinds.extend(encoding::to_vec(&request).get(1).copied());
        }
        assert!(kinds.into_iter().eq(0..5), "a kind of request is missing");
    }
}
