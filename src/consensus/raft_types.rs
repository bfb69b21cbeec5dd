//! openraft's type configuration and the conversions between its types and ours.
//!
//! Disk and wire carry only our own types ([`crate::types`]) in our own versioned encoding; openraft's
//! types never leave `consensus`.

use std::{collections::BTreeSet, fmt, sync::Arc};

use openraft::{
    EntryPayload, Membership, StoredMembership,
    alias::{EntryOf, LogIdOf, StoredMembershipOf, VoteOf},
    impls::leader_id_std,
    vote::{RaftLeaderId, leader_id_std::CommittedLeaderId},
};

use super::runtime::Runtime;
use crate::{
    state::{Applied, Op},
    types::{Entry, EntryBody, FIRST_LEVEL, LogPosition, Member, PeerId, Vote, encoding},
};

/// Ops applied together, in order, with their encoding for disk and wire: each peer encodes or decodes
/// an entry once, however often it is logged, sent and applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    ops: Arc<[Op]>,
    bytes: Arc<[u8]>,
}

impl Batch {
    pub(super) fn new(ops: Vec<Op>) -> Self {
        let bytes = encode(BATCH_VERSION, &ops).into();
        Self { ops: ops.into(), bytes }
    }

    fn read(bytes: Vec<u8>) -> Result<Self, CodecError> {
        let ops: Vec<Op> = decode("a log entry's ops", BATCH_VERSION, &bytes)?;
        Ok(Self { ops: ops.into(), bytes: bytes.into() })
    }

    /// Length of its encoding in bytes.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// Approximate memory in bytes.
    pub(super) fn size(&self) -> usize {
        self.bytes.len() + size_of_val(&*self.ops)
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ops", self.ops.len())
    }
}

/// The result of each op of a batch, in order. Empty for entries without ops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcomes(pub Vec<Applied>);

impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} outcomes", self.0.len())
    }
}

openraft::declare_raft_types!(
    /// The types of Raft: one leader per term, node ID = peer ID.
    pub TypeConfig:
        D = Batch,
        R = Outcomes,
        NodeId = PeerId,
        Node = Member,
        LeaderId = leader_id_std::LeaderId<u64, PeerId>,
        AsyncRuntime = Runtime,
);

pub(crate) type RaftVote = VoteOf<TypeConfig>;
pub(crate) type RaftLogId = LogIdOf<TypeConfig>;
pub(crate) type RaftEntry = EntryOf<TypeConfig>;
pub(crate) type RaftMembership = StoredMembershipOf<TypeConfig>;

/// Version of the op batches inside log entries. A batch of another version stops the peer.
const BATCH_VERSION: u8 = 1;

/// Why stored or received bytes cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Written by a newer version.
    #[error(
        "{what} is of format version {found}, this version of pinkeeper knows {known}; run the version that wrote it, or a newer one"
    )]
    Version {
        /// What was read.
        what: &'static str,
        /// The version found.
        found: u8,
        /// The version known.
        known: u8,
    },
    /// Damaged, or containing something this version does not know.
    #[error(
        "{what} cannot be read: {reason}; it is damaged, or a newer version of pinkeeper wrote it: then run the version that the other peers run"
    )]
    Damaged {
        /// What was read.
        what: &'static str,
        /// Why.
        reason: String,
    },
}

impl From<CodecError> for std::io::Error {
    fn from(error: CodecError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// Encodes `value` behind a version byte.
pub(super) fn encode<T: minicbor::Encode<()>>(version: u8, value: &T) -> Vec<u8> {
    let mut bytes = vec![version];
    encoding::append(value, &mut bytes);
    bytes
}

/// Decodes what [`encode`] wrote; refuses other versions and trailing bytes.
pub(super) fn decode<T: encoding::Readable>(
    what: &'static str,
    version: u8,
    bytes: &[u8],
) -> Result<T, CodecError> {
    let damaged = |reason: &str| CodecError::Damaged { what, reason: reason.to_owned() };
    let (&found, rest) = bytes.split_first().ok_or_else(|| damaged("it is empty"))?;
    if found != version {
        return Err(CodecError::Version { what, found, known: version });
    }
    encoding::from_slice(rest).map_err(|error| damaged(&error.to_string()))
}

pub(super) fn vote_out(vote: &RaftVote) -> Vote {
    Vote {
        term: vote.leader_id.term,
        candidate: *vote.leader_id.node_id(),
        committed: vote.committed,
    }
}

pub(super) fn vote_in(vote: Vote) -> RaftVote {
    let mut inner = RaftVote::new(vote.term, vote.candidate);
    inner.committed = vote.committed;
    inner
}

pub(super) fn position_out(id: RaftLogId) -> LogPosition {
    LogPosition { term: *id.leader_id, index: id.index }
}

pub(super) fn position_in(position: LogPosition) -> RaftLogId {
    RaftLogId::new(CommittedLeaderId::new(position.term), position.index)
}

pub(super) fn entry_out(entry: &RaftEntry) -> Entry {
    Entry { id: position_out(entry.log_id), body: body_out(&entry.payload) }
}

pub(super) type Payload = EntryPayload<Batch, PeerId, Member>;

pub(super) fn body_out(payload: &Payload) -> EntryBody {
    match payload {
        EntryPayload::Blank => EntryBody::Blank,
        EntryPayload::Normal(batch) => EntryBody::Ops(batch.bytes.to_vec()),
        EntryPayload::Membership(membership) => membership_out(membership),
    }
}

fn membership_out(membership: &Membership<PeerId, Member>) -> EntryBody {
    EntryBody::Membership {
        voters: membership
            .get_joint_config()
            .iter()
            .map(|set| set.iter().copied().collect())
            .collect(),
        members: membership.nodes().map(|(id, member)| (*id, member.clone())).collect(),
    }
}

/// Decodes an entry from the wire or the disk.
///
/// # Errors
/// When this version does not know the encoding of its ops. The caller must stop then: applying
/// anything else would make replicas differ.
pub(super) fn entry_in(entry: Entry) -> Result<RaftEntry, CodecError> {
    Ok(RaftEntry { log_id: position_in(entry.id), payload: body_in(entry.body)? })
}

/// The highest level of an entry's ops.
pub(super) fn level_of(entry: &RaftEntry) -> u32 {
    match &entry.payload {
        EntryPayload::Normal(batch) => {
            batch.ops().iter().map(Op::level).max().unwrap_or(FIRST_LEVEL)
        }
        EntryPayload::Blank | EntryPayload::Membership(_) => FIRST_LEVEL,
    }
}

fn body_in(body: EntryBody) -> Result<Payload, CodecError> {
    Ok(match body {
        EntryBody::Blank => EntryPayload::Blank,
        EntryBody::Ops(bytes) => EntryPayload::Normal(Batch::read(bytes)?),
        EntryBody::Membership { .. } => EntryPayload::Membership(membership_in(body)?),
    })
}

pub(super) fn membership_in(body: EntryBody) -> Result<Membership<PeerId, Member>, CodecError> {
    let EntryBody::Membership { voters, members } = body else {
        return Ok(Membership::default());
    };
    let voters: Vec<BTreeSet<PeerId>> =
        voters.into_iter().map(|set| set.into_iter().collect()).collect();
    Membership::new(voters, members)
        .map_err(|error| CodecError::Damaged { what: "a membership", reason: error.to_string() })
}

pub(super) fn stored_membership_out(stored: &RaftMembership) -> (Option<LogPosition>, EntryBody) {
    (stored.log_id().map(position_out), membership_out(stored.membership()))
}

pub(super) fn stored_membership_in(
    stored: (Option<LogPosition>, EntryBody),
) -> Result<RaftMembership, CodecError> {
    Ok(StoredMembership::new(stored.0.map(position_in), membership_in(stored.1)?))
}

#[cfg(test)]
impl From<u64> for PeerId {
    /// For openraft's store suite, which numbers its nodes.
    fn from(number: u64) -> Self {
        let mut key = [0; 32];
        key[24..].copy_from_slice(&number.to_be_bytes());
        Self(key)
    }
}
