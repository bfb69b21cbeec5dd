//! Messages between peers: one request enum, one response enum, and who may send what.
//!
//! The form on the wire is postcard inside the frames of `rpc`. Variants are only ever added at the
//! end, and a peer that meets an unknown one answers an error, so that one minor version apart
//! understand each other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Cid, ClaimOptions, ClusterId, CollectResult, DaemonInfo, Garbage, Member, PeerId, Pin,
    PinStatus, Run,
};

/// A request with the cluster it is meant for. A blank peer has none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// The sender's cluster and epoch; absent before it has joined.
    pub cluster: Option<(ClusterId, u64)>,
    /// What is asked.
    pub request: Request,
}

/// What one peer can ask of another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Who are you, and may I join?
    Hello(Hello),
    /// Votes, heartbeats and log entries.
    Raft(RaftMessage),
    /// A piece of a snapshot.
    Snapshot(SnapshotChunk),
    /// To the leader: statuses of the sender's pins.
    Statuses(StatusBatch),
    /// To the leader: the sender's peer metrics.
    Metrics(Metrics),
    /// To the leader: writes of users, at most [`Write::BATCH_LEN_MAX`]. Each is answered for itself.
    Writes(Vec<Write>),
    /// To the leader: the position that includes all acknowledged writes.
    ReadIndex,
    /// To the leader: one pin with what each peer says of it.
    PinView(Cid),
    /// To the leader: the next pins after a CID, in order, at most 1000.
    PinViews(Option<Cid>),
    /// To the leader: collect garbage on all members, one after the other, or on the one named.
    CollectGarbage(Run, Option<PeerId>),
    /// From the leader: collect the garbage of the daemon beside you.
    CollectHere(Run),
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Response {
    /// To `Hello`.
    Hello(HelloReply),
    /// To `Raft` and to the last `Snapshot` chunk.
    Raft(RaftReply),
    /// Done, nothing to say: to a `Snapshot` chunk that is not the last.
    Done,
    /// To `Metrics`: the daemons of the other peers, and where peers are.
    Known(BTreeMap<PeerId, DaemonInfo>, BTreeMap<PeerId, Vec<String>>),
    /// To `Statuses`.
    Statuses(StatusReply),
    /// To `Writes`: what became of each, in order.
    Written(Vec<Result<Pin, Refusal>>),
    /// To `ReadIndex`: the log index to wait for; absent when the log is empty.
    Position(Option<u64>),
    /// To `PinView`; absent when there is no such pin.
    PinView(Option<(Pin, BTreeMap<PeerId, PinStatus>)>),
    /// To `PinViews`: empty when there are no more.
    PinViews(Vec<(Cid, Pin, BTreeMap<PeerId, PinStatus>)>),
    /// It was not done.
    Refused(Refusal),
    /// To `CollectGarbage` and `CollectHere`: it is under way, ask again.
    Collecting,
    /// To `CollectHere`: it has ended.
    Collected(CollectResult),
    /// To `CollectGarbage`: it has ended on each of these.
    CollectedAll(BTreeMap<PeerId, CollectResult>),
}

/// Why a peer did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The request is for another cluster or an older epoch.
    #[error("this peer is of cluster {0:?}")]
    OtherCluster(Option<ClusterId>),
    /// The sender is not a member, and only members may ask that.
    #[error("the sender is not a member of the cluster")]
    NotMember,
    /// The receiver is not the leader; the leader it knows.
    #[error("this peer is not the leader (leader: {0:?})")]
    NotLeader(Option<PeerId>),
    /// The request cannot be met, and a repetition would not help.
    #[error("{0}")]
    Invalid(String),
    /// It failed here; a repetition may help. A write may or may not have taken effect.
    #[error("{0}")]
    Failed(String),
    /// Too many requests are being served.
    #[error("the peer is busy")]
    Busy,
    /// Another member, named here, is already on the sender's daemon.
    #[error("peer {0} is already on the same daemon")]
    DaemonTaken(PeerId),
    /// There is no such pin.
    #[error("pin is not part of the pinset")]
    NotFound,
    /// It cannot be done yet, and nothing was done; a repetition may help.
    #[error("{0}")]
    NotYet(String),
    /// Garbage is being collected already, as the text says.
    #[error("{0}")]
    Collecting(String),
}

impl Refusal {
    /// Whether a refused write may have taken effect all the same.
    #[must_use]
    pub fn is_uncertain(&self) -> bool {
        matches!(self, Self::Failed(_))
    }
}

/// A peer presents itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// What the membership is to say of it.
    pub member: Member,
    /// Its version, as in `0.1.0`.
    pub version: String,
    /// Its daemon's ID, if that is known: two peers on one daemon are refused.
    pub daemon: Option<String>,
    /// It asks to be taken in; else it only says who and where it is.
    pub join: bool,
    /// The cluster that it belongs to, or the only one that it may join. No other one takes it in.
    pub cluster: Option<ClusterId>,
    /// How many members its cluster has, as far as it knows.
    pub size: u64,
    /// To members of its cluster: all of them, with the addresses they have now.
    pub members: BTreeMap<PeerId, Member>,
}

/// The answer to [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloReply {
    /// The answering peer.
    pub member: Member,
    /// Its version.
    pub version: String,
    /// Its cluster and epoch; absent when it has none either.
    pub cluster: Option<(ClusterId, u64)>,
    /// The leader it knows.
    pub leader: Option<PeerId>,
    /// Members and the addresses they have now, so that the sender can reach them.
    pub members: BTreeMap<PeerId, Member>,
    /// The sender is a member (after asking to join: the leader has taken it in).
    pub admitted: bool,
}

/// A position in the Raft log. A term has one leader at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LogPosition {
    /// Term of the leader that wrote the entry.
    pub term: u64,
    /// Index in the log.
    pub index: u64,
}

/// A Raft vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// The term voted in.
    pub term: u64,
    /// The candidate.
    pub candidate: PeerId,
    /// A majority granted it.
    pub committed: bool,
}

/// One log entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its position.
    pub id: LogPosition,
    /// What it holds.
    pub body: EntryBody,
}

/// The contents of a log entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryBody {
    /// A new leader's first entry.
    Blank,
    /// Ops on the state, in the state's own versioned form.
    Ops(#[serde(with = "super::bytes")] Vec<u8>),
    /// Voter sets (two during a change) and all members.
    Membership {
        /// The voter sets.
        voters: Vec<Vec<PeerId>>,
        /// Everybody, voters and learners.
        members: BTreeMap<PeerId, Member>,
    },
}

/// Raft's own messages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RaftMessage {
    /// RequestVote.
    Vote {
        /// The vote asked for.
        vote: Vote,
        /// The candidate's last entry.
        last: Option<LogPosition>,
        /// The candidate was asked by the old leader to take over.
        transfer: bool,
    },
    /// Pre-vote: would you?
    PreVote {
        /// The vote that would be asked for.
        vote: Vote,
        /// The candidate's last entry.
        last: Option<LogPosition>,
    },
    /// AppendEntries.
    Append(Append),
    /// The leader hands over.
    TransferLeader {
        /// The old leader's vote.
        from: Vote,
        /// Who is to take over.
        to: PeerId,
        /// The log it must have.
        last: Option<LogPosition>,
    },
}

impl RaftMessage {
    /// The vote of whoever sends it.
    #[must_use]
    pub fn vote(&self) -> &Vote {
        match self {
            Self::Vote { vote, .. } | Self::PreVote { vote, .. } => vote,
            Self::Append(append) => &append.vote,
            Self::TransferLeader { from, .. } => from,
        }
    }
}

/// AppendEntries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Append {
    /// The leader's vote.
    pub vote: Vote,
    /// The entry before the first of `entries`.
    pub previous: Option<LogPosition>,
    /// Entries, in order, without a hole.
    pub entries: Vec<Entry>,
    /// The leader's commit position.
    pub committed: Option<LogPosition>,
}

/// Answers to Raft's messages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RaftReply {
    /// To `Vote` and `PreVote`.
    Vote {
        /// The answering peer's vote.
        vote: Vote,
        /// Its last entry.
        last: Option<LogPosition>,
        /// Granted.
        granted: bool,
    },
    /// To `Append`.
    Append(AppendReply),
    /// To the last chunk of a snapshot: the answering peer's vote.
    Snapshot(Vote),
    /// To `TransferLeader`.
    TransferLeader,
}

/// The answer to [`Append`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppendReply {
    /// All entries are on disk.
    Success,
    /// Entries up to there are on disk.
    Partial(Option<LogPosition>),
    /// The previous entry does not match.
    Conflict,
    /// The answering peer has seen a higher vote.
    HigherVote(Vote),
}

/// A piece of a snapshot; pieces of one transfer come in order, one at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotChunk {
    /// The leader's vote.
    pub vote: Vote,
    /// Tells transfers apart.
    pub transfer: u64,
    /// Position of this piece in bytes.
    pub offset: u64,
    /// The bytes, at most [`SnapshotChunk::LEN_MAX`].
    #[serde(with = "super::bytes")]
    pub data: Vec<u8>,
    /// Nothing follows: check and install.
    pub last: bool,
}

impl SnapshotChunk {
    /// Bytes in one piece: large enough for throughput, far below the largest frame.
    pub const LEN_MAX: usize = 512 * 1024;
}

/// Statuses of the sender's pins, in order of `sequence` from 0; number 0 begins a full set. An empty
/// one only asks whether the leader has all before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusBatch {
    /// Drawn at random for each full set and what follows it.
    pub stream: u64,
    /// Counts batches since the last full set.
    pub sequence: u64,
    /// More of the full set follows (only while one is being sent).
    pub more: bool,
    /// The statuses are of a time when the sender had seen what so many entries of the log, from the
    /// first on, changed.
    pub entries: u64,
    /// Present: the status; absent: the sender has nothing to do with that CID any more.
    pub statuses: Vec<(Cid, Option<PinStatus>)>,
}

/// The answer to [`StatusBatch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StatusReply {
    /// Taken in.
    Taken,
    /// The leader misses something: start again with a full set.
    SendAll,
}

/// A peer's metrics, pushed at half their time to live.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metrics {
    /// The daemon; absent while it does not answer.
    pub daemon: Option<DaemonInfo>,
    /// Bytes free for content: the smaller of the volume's and StorageMax's; absent when unknown.
    pub free_space: Option<u64>,
    /// Bytes the repository takes; absent when unknown.
    pub repository_size: Option<u64>,
    /// Pins the daemon was last confirmed to hold for us.
    pub pins: u64,
    /// Pins queued or in work.
    pub pin_queue: u64,
    /// Labels for placement.
    pub tags: BTreeMap<String, String>,
    /// The sender's version.
    pub version: String,
    /// Where the sender listens.
    pub addresses: Vec<String>,
    /// Milliseconds after which these are stale.
    pub ttl_ms: u64,
    /// How full the daemon's space is, in per cent: the larger of the volume's and StorageMax's; absent
    /// when unknown.
    pub full_percent: Option<u8>,
    /// The daemon's garbage.
    pub garbage: Garbage,
    /// What `free_space` ends at; absent when unknown.
    pub space_limit: Option<SpaceLimit>,
}

/// What the space for content ends at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SpaceLimit {
    /// The volume.
    Volume,
    /// The daemon's setting `Datastore.StorageMax`.
    StorageMax,
}

/// A claim by REST.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinRequest {
    /// The content.
    pub cid: Cid,
    /// What is asked for.
    pub options: ClaimOptions,
}

/// What a user can ask the leader to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Write {
    /// A claim by REST; answers the pin.
    Pin(PinRequest),
    /// Release the REST claim; answers the pin as it was.
    Unpin(Cid),
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
            Self::Hello(_)
            | Self::Statuses(_)
            | Self::Metrics(_)
            | Self::Writes(_)
            | Self::ReadIndex
            | Self::PinView(_)
            | Self::PinViews(_)
            | Self::CollectGarbage(..)
            | Self::CollectHere(_) => Lane::Control,
        }
    }

    /// Who may send it.
    #[must_use]
    pub fn policy(&self) -> CallerPolicy {
        match self {
            Self::Hello(_) => CallerPolicy::Anybody,
            Self::Raft(_) | Self::Snapshot(_) => CallerPolicy::Known,
            Self::Statuses(_)
            | Self::Metrics(_)
            | Self::Writes(_)
            | Self::ReadIndex
            | Self::PinView(_)
            | Self::PinViews(_)
            | Self::CollectGarbage(..)
            | Self::CollectHere(_) => CallerPolicy::Members,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

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
        let table = [
            (Request::Hello(Hello::default()), anybody, Lane::Control),
            raft(RaftMessage::Vote { vote, last, transfer: false }),
            raft(RaftMessage::PreVote { vote, last }),
            raft(RaftMessage::Append(append)),
            raft(RaftMessage::TransferLeader { from, to, last }),
            (Request::Snapshot(chunk), known, Lane::Bulk),
            (Request::Statuses(batch), members, Lane::Control),
            (Request::Metrics(Metrics::default()), members, Lane::Control),
            (Request::Writes(Vec::new()), members, Lane::Control),
            (Request::ReadIndex, members, Lane::Control),
            (Request::PinView(cid), members, Lane::Control),
            (Request::PinViews(None), members, Lane::Control),
            (Request::CollectGarbage(run, None), members, Lane::Control),
            (Request::CollectHere(run), members, Lane::Control),
        ];
        let mut kinds = BTreeSet::new();
        for (request, policy, lane) in table {
            assert_eq!((request.policy(), request.lane()), (policy, lane), "{request:?}");
            kinds.extend(
                postcard::to_stdvec(&request).ok().and_then(|bytes| bytes.first().copied()),
            );
        }
        assert!(kinds.into_iter().eq(0..11), "a kind of request is missing");
    }
}
