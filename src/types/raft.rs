//! Raft's messages, and the entries and snapshots that they carry.

use std::collections::BTreeMap;

use minicbor::{Decode, Encode};

use super::{Member, PeerId};

/// A position in the Raft log. A term has one leader at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct LogPosition {
    /// Term of the leader that wrote the entry.
    #[n(0)]
    pub term: u64,
    /// Index in the log.
    #[n(1)]
    pub index: u64,
}

/// A Raft vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Vote {
    /// The term voted in.
    #[n(0)]
    pub term: u64,
    /// The candidate.
    #[n(1)]
    pub candidate: PeerId,
    /// A majority granted it.
    #[n(2)]
    pub committed: bool,
}

/// One log entry.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Entry {
    /// Its position.
    #[n(0)]
    pub id: LogPosition,
    /// Its contents.
    #[n(1)]
    pub body: EntryBody,
}

/// The contents of a log entry.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum EntryBody {
    /// A new leader's first entry.
    #[n(0)]
    Blank,
    /// Ops on the state, encoded with a version of their own.
    #[n(1)]
    Ops(
        #[n(0)]
        #[cbor(with = "minicbor::bytes")]
        Vec<u8>,
    ),
    /// Voter sets (two during a change) and all members.
    #[n(2)]
    Membership {
        /// The voter sets.
        #[n(0)]
        voters: Vec<Vec<PeerId>>,
        /// All members, voters and learners.
        #[n(1)]
        members: BTreeMap<PeerId, Member>,
    },
}

/// Raft's own messages.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum RaftMessage {
    /// RequestVote.
    #[n(0)]
    Vote {
        /// The requested vote.
        #[n(0)]
        vote: Vote,
        /// The candidate's last entry.
        #[n(1)]
        last: Option<LogPosition>,
        /// Whether the old leader asked the candidate to take over.
        #[n(2)]
        transfer: bool,
    },
    /// Pre-vote: asks whether the vote would be granted.
    #[n(1)]
    PreVote {
        /// The vote that would be requested.
        #[n(0)]
        vote: Vote,
        /// The candidate's last entry.
        #[n(1)]
        last: Option<LogPosition>,
    },
    /// AppendEntries.
    #[n(2)]
    Append(#[n(0)] Append),
    /// The leader hands leadership over.
    #[n(3)]
    TransferLeader {
        /// The old leader's vote.
        #[n(0)]
        from: Vote,
        /// The peer that takes over.
        #[n(1)]
        to: PeerId,
        /// The last entry that its log must have.
        #[n(2)]
        last: Option<LogPosition>,
    },
}

impl RaftMessage {
    /// The sender's vote.
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
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Append {
    /// The leader's vote.
    #[n(0)]
    pub vote: Vote,
    /// The entry before the first of `entries`.
    #[n(1)]
    pub previous: Option<LogPosition>,
    /// Entries in order, without gaps.
    #[n(2)]
    pub entries: Vec<Entry>,
    /// The leader's commit position.
    #[n(3)]
    pub committed: Option<LogPosition>,
}

/// Answers to Raft's messages.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum RaftReply {
    /// To `Vote` and `PreVote`.
    #[n(0)]
    Vote {
        /// The answering peer's vote.
        #[n(0)]
        vote: Vote,
        /// Its last entry.
        #[n(1)]
        last: Option<LogPosition>,
        /// Whether the vote is granted.
        #[n(2)]
        granted: bool,
    },
    /// To `Append`.
    #[n(1)]
    Append(#[n(0)] AppendReply),
    /// To `TransferLeader`.
    #[n(2)]
    TransferLeader,
}

/// The answer to [`Append`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum AppendReply {
    /// All entries are on disk.
    #[n(0)]
    Success,
    /// The entries up to this position are on disk.
    #[n(1)]
    Partial(#[n(0)] Option<LogPosition>),
    /// The previous entry does not match.
    #[n(2)]
    Conflict,
    /// The answering peer has seen a higher vote.
    #[n(3)]
    HigherVote(#[n(0)] Vote),
}

/// A piece of a snapshot. The pieces of a transfer come in order, one at a time.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SnapshotChunk {
    /// The leader's vote.
    #[n(0)]
    pub vote: Vote,
    /// Identifies the transfer.
    #[n(1)]
    pub transfer: u64,
    /// Position of this piece in the image, in bytes.
    #[n(2)]
    pub offset: u64,
    /// The bytes, at most [`SnapshotChunk::LEN_MAX`].
    #[cbor(with = "minicbor::bytes")]
    #[n(3)]
    pub data: Vec<u8>,
    /// Whether this is the last piece: the receiver then checks and installs the image.
    #[n(4)]
    pub last: bool,
}

/// The answer to [`SnapshotChunk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum SnapshotReply {
    /// The piece was taken; more are expected.
    #[n(0)]
    Taken,
    /// The last piece was taken, and the snapshot is installed; with the answering peer's vote.
    #[n(1)]
    Installed(#[n(0)] Vote),
}

impl SnapshotChunk {
    /// Most bytes in one piece: enough for throughput, and far below the largest frame.
    pub const LEN_MAX: usize = 512 * 1024;
}
