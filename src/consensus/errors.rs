//! Why consensus does not start, and why it refuses a proposal. The error texts say what a person can
//! do about a disk, because no caller knows more.

use std::io;

use openraft::errors::{ClientWriteError, RaftError};

use super::{
    raft_types::{CodecError, TypeConfig},
    state_store::StoreError,
};
use crate::types::{ClusterId, LogPosition, PeerId};

/// Why consensus cannot start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log cannot be used.
    #[error(
        "the Raft log in {folder} cannot be used: {source}; if the disk is sound, restore the folder or give the peer an empty data folder so that it joins anew"
    )]
    Log {
        /// Its folder.
        folder: String,
        /// Why.
        source: io::Error,
    },
    /// The state cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record of the log cannot be decoded.
    #[error(
        "the Raft log beside the state is not understood: {0}; if the disk is sound, restore the data folder or give the peer an empty one so that it joins anew"
    )]
    Record(#[from] CodecError),
    /// Log and state belong to different disks.
    #[error(
        "the Raft log belongs to cluster {log:?} and the state to {state:?}: they come from different disks; put back the folder that belongs here, or give the peer an empty data folder so that it joins anew"
    )]
    Mixed {
        /// The log's cluster.
        log: Option<(ClusterId, u64)>,
        /// The state's cluster.
        state: Option<(ClusterId, u64)>,
    },
    /// The log lost entries that the state includes.
    #[error(
        "the Raft log ends at {log:?}, before the state's {state:?}: acknowledged entries are lost on this disk; give the peer an empty data folder so that it joins anew"
    )]
    LogTooShort {
        /// The log's last position.
        log: Option<LogPosition>,
        /// The state's position.
        state: Option<LogPosition>,
    },
    /// The state lacks entries that were purged from the log.
    #[error(
        "the Raft log begins after {log:?}, but the state ends before that, at {state:?}: the entries between are lost on this disk; give the peer an empty data folder so that it joins anew"
    )]
    StateTooOld {
        /// The last position purged from the log.
        log: Option<LogPosition>,
        /// The state's position.
        state: Option<LogPosition>,
    },
    /// The state file is missing.
    #[error(
        "the state in {path} is gone, but this peer has taken part before; put it back, or give the peer an empty data folder so that it joins anew as another peer"
    )]
    StateGone {
        /// Its file.
        path: String,
    },
    /// Log and state belong to another peer.
    #[error(
        "the identity in {folder} is gone, but the log and state there belong to it; put it back, or give the peer an empty data folder so that it joins anew as another peer"
    )]
    IdentityGone {
        /// The data folder.
        folder: String,
    },
    /// Committed entries contain something that this program does not support.
    #[error("{0}")]
    NotKnown(String),
    /// openraft refused to start.
    #[error("consensus cannot start: {0}")]
    Raft(String),
}

impl OpenError {
    /// Whether the disk is full, which may end without any action on this peer.
    #[must_use]
    pub fn is_full_disk(&self) -> bool {
        match self {
            Self::Store(StoreError::Full { .. }) => true,
            Self::Log { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            _ => false,
        }
    }
}

/// Why a proposal was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This peer is not, or no longer, the leader; nothing was written.
    #[error("this peer is not the leader")]
    NotLeader(Option<PeerId>),
    /// Leadership was lost during the write; whether it took effect is unknown.
    #[error("leadership was lost; whether the write took effect is unknown")]
    Unknown,
    /// The ops exceed the size of an entry; nothing was written.
    #[error("{0} bytes are too long for an entry of the log")]
    TooLong(usize),
    /// An op of a level that the cluster has not reached; nothing was written.
    #[error("an op of level {op} was proposed, and the cluster is at level {cluster}")]
    TooEarly {
        /// The op's level.
        op: u32,
        /// The cluster's level.
        cluster: u32,
    },
    /// The log was not applied in time.
    #[error("the log was not applied in time: {0}")]
    Late(String),
    /// The peer is stopping.
    #[error("the peer is stopping: {0}")]
    Stopped(String),
    /// The membership cannot be changed this way, or another change is under way.
    #[error("the membership cannot be changed now: {0}")]
    Membership(String),
}

/// Why a write failed. `is_first` says that no entry of the same proposal was written before.
pub(super) fn write_error(
    error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>,
    is_first: bool,
) -> ProposeError {
    match error {
        RaftError::APIError(_) if !is_first => ProposeError::Unknown,
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            ProposeError::NotLeader(forward.leader_id)
        }
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => ProposeError::Unknown,
        RaftError::APIError(error) => ProposeError::Membership(error.to_string()),
        RaftError::Fatal(error) => ProposeError::Stopped(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use openraft::errors::{Fatal, ForwardToLeader};

    use super::*;
    use crate::types::Member;

    #[test]
    fn a_write_counts_as_not_done_only_if_it_certainly_was_not() {
        let leader = PeerId([2; 32]);
        let member = Member { name: String::new(), addresses: Vec::new() };
        let forward = || ForwardToLeader::new(leader, member.clone());
        let stopped = ProposeError::Stopped(Fatal::<TypeConfig>::Stopped.to_string());
        let cases = [
            (
                RaftError::APIError(ClientWriteError::ForwardToLeader(forward())),
                ProposeError::NotLeader(Some(leader)),
            ),
            (
                RaftError::APIError(ClientWriteError::ForwardToLeader(ForwardToLeader::empty())),
                ProposeError::NotLeader(None),
            ),
            (
                RaftError::APIError(ClientWriteError::LogEntryDiscarded(forward())),
                ProposeError::Unknown,
            ),
            (RaftError::Fatal(Fatal::Stopped), stopped),
        ];
        for (error, expected) in cases {
            assert_eq!(write_error(error, true), expected);
        }
        // An entry of the same proposal was written before.
        let forward = RaftError::APIError(ClientWriteError::ForwardToLeader(forward()));
        assert_eq!(write_error(forward, false), ProposeError::Unknown);
    }

    #[test]
    fn only_a_full_disk_is_said_to_be_full() {
        let path = || "state.redb".to_owned();
        let log = |kind: io::ErrorKind| OpenError::Log { folder: path(), source: kind.into() };
        let database = redb::Error::Io(io::ErrorKind::NotFound.into());
        let database = StoreError::Database { path: path(), source: Box::new(database) };
        let cases = [
            (OpenError::Store(StoreError::Full { path: path() }), true),
            (log(io::ErrorKind::StorageFull), true),
            (log(io::ErrorKind::InvalidData), false),
            (OpenError::Store(database), false),
            (OpenError::LogTooShort { log: None, state: None }, false),
            (OpenError::StateGone { path: path() }, false),
        ];
        for (error, is_full) in cases {
            assert_eq!(error.is_full_disk(), is_full, "{error}");
        }
    }
}
