//! Raft's messages to other peers, over the transport.

use std::{future::Future, sync::Arc, time::Duration};

use openraft::{
    OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    alias::SnapshotOf,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};

use super::{
    image,
    machine::SnapshotData,
    raft_types::{RaftVote, TypeConfig, entry_out, position_in, position_out, vote_in, vote_out},
};
use crate::{
    rpc::{self, AskError, CallError, SharedTransport},
    runtime::{block, random_u64},
    types::{
        Append, AppendReply, ClusterId, Entry, EntryBody, LogPosition, Member, PeerId, Question,
        RaftMessage, RaftReply, SnapshotChunk, SnapshotReply,
    },
};

/// Deadline of one snapshot piece: an fsync of a slow disk and a busy network.
const CHUNK_DEADLINE: Duration = Duration::from_secs(10);

/// Shortest deadline of entries: an fsync of a slow or busy disk. openraft allows a heartbeat's time
/// and resends what is late.
const APPEND_DEADLINE_MIN: Duration = Duration::from_secs(1);

/// Bytes of ops per message, so that it stays below the largest frame.
const OPS_LEN_MAX: usize = 2 * 1024 * 1024;

/// Creates connections for openraft.
#[derive(Clone)]
pub(super) struct Network {
    pub(super) transport: SharedTransport,
    pub(super) cluster: Arc<std::sync::OnceLock<(ClusterId, u64)>>,
    /// Bytes of a snapshot per message.
    pub(super) piece_len: usize,
}

/// Raft's connection to one peer.
pub(super) struct Connection {
    network: Network,
    target: PeerId,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: PeerId, _member: &Member) -> Connection {
        Connection { network: self.clone(), target }
    }
}

type Rpc<T> = Result<T, RPCError<TypeConfig>>;

impl Connection {
    async fn ask<Q: Question>(&self, question: Q, deadline: Duration) -> Rpc<Q::Answer> {
        let Network { transport, cluster, .. } = &self.network;
        let cluster = cluster.get().copied();
        let answer = rpc::ask(&**transport, self.target, cluster, question, deadline).await;
        answer.map_err(|error| match error {
            AskError::Call(error @ CallError::Timeout { .. }) => NetworkError::new(&error).into(),
            // openraft waits before it retries an unreachable peer; other errors it retries at once.
            AskError::Call(error) => Unreachable::new(&error).into(),
            AskError::Refused(refusal) => Unreachable::new(&refusal).into(),
            AskError::Unexpected(_) => NetworkError::new(&error).into(),
        })
    }

    async fn send_vote(
        &self,
        message: RaftMessage,
        option: &RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        match self.ask(message, option.hard_ttl()).await? {
            RaftReply::Vote { vote, last, granted } => {
                Ok(VoteResponse::new(vote_in(vote), last.map(position_in), granted))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Writing an image is much work, and openraft asks for one repeatedly while a peer is away.
    fn check_connected(&self) -> Result<(), Unreachable<TypeConfig>> {
        let peer = self.target;
        if self.network.transport.connected().contains(&peer) {
            return Ok(());
        }
        let reason = "there is no connection to send a snapshot on".to_owned();
        Err(Unreachable::new(&CallError::Unreachable { peer, reason, sent: false }))
    }

    /// The last piece has `deadline`, since it is answered once everything is installed.
    async fn send_image(
        &self,
        vote: RaftVote,
        image: &[u8],
        deadline: Duration,
    ) -> Rpc<SnapshotResponse<TypeConfig>> {
        let transfer = random_u64();
        let mut chunks = image.chunks(self.network.piece_len).peekable();
        let mut offset = 0;
        while let Some(data) = chunks.next() {
            let last = chunks.peek().is_none();
            let chunk = SnapshotChunk {
                vote: vote_out(&vote),
                transfer,
                offset,
                data: data.to_vec(),
                last,
            };
            offset += data.len() as u64;
            let deadline = if last { deadline } else { CHUNK_DEADLINE };
            match self.ask(chunk, deadline).await? {
                SnapshotReply::Taken if !last => {}
                SnapshotReply::Installed(vote) => {
                    return Ok(SnapshotResponse { vote: vote_in(vote) });
                }
                SnapshotReply::Taken => return Err(unexpected(&SnapshotReply::Taken)),
            }
        }
        Err(NetworkError::from_string("an image is never empty").into())
    }
}

/// As many entries as fit into one frame, at least one, and the position of the last of them if not all
/// fit.
fn fitting(entries: impl Iterator<Item = Entry>) -> (Vec<Entry>, Option<LogPosition>) {
    let mut len = 0;
    let mut taken: Vec<Entry> = Vec::new();
    for entry in entries {
        len += match &entry.body {
            EntryBody::Ops(bytes) => bytes.len(),
            EntryBody::Blank | EntryBody::Membership { .. } => 0,
        };
        if len > OPS_LEN_MAX
            && let Some(last) = taken.last()
        {
            let cut = Some(last.id);
            return (taken, cut);
        }
        taken.push(entry);
    }
    (taken, None)
}

/// The result of an answer for the entries sent; `cut` is the last one sent, if not all were.
fn appended(reply: AppendReply, cut: Option<LogPosition>) -> AppendEntriesResponse<TypeConfig> {
    match (reply, cut) {
        (AppendReply::Success, None) => AppendEntriesResponse::Success,
        (AppendReply::Success, Some(last)) => {
            AppendEntriesResponse::PartialSuccess(Some(position_in(last)))
        }
        (AppendReply::Partial(last), _) => {
            AppendEntriesResponse::PartialSuccess(last.map(position_in))
        }
        (AppendReply::Conflict, _) => AppendEntriesResponse::Conflict,
        (AppendReply::HigherVote(vote), _) => AppendEntriesResponse::HigherVote(vote_in(vote)),
    }
}

fn unexpected(response: &impl std::fmt::Debug) -> RPCError<TypeConfig> {
    NetworkError::from_string(format!("unexpected answer: {response:?}")).into()
}

impl RaftNetworkV2<TypeConfig> for Connection {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        let (entries, cut) = fitting(rpc.entries.iter().map(entry_out));
        let deadline = match entries.is_empty() {
            false => option.hard_ttl().max(APPEND_DEADLINE_MIN),
            true => option.hard_ttl(),
        };
        let message = RaftMessage::Append(Append {
            vote: vote_out(&rpc.vote),
            previous: rpc.prev_log_id.map(position_out),
            entries,
            committed: rpc.leader_commit.map(position_out),
        });
        match self.ask(message, deadline).await? {
            RaftReply::Append(reply) => Ok(appended(reply, cut)),
            other => Err(unexpected(&other)),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        let message = RaftMessage::Vote {
            vote: vote_out(&rpc.vote),
            last: rpc.last_log_id.map(position_out),
            transfer: rpc.leadership_transfer,
        };
        self.send_vote(message, &option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        let message = RaftMessage::PreVote {
            vote: vote_out(&rpc.vote),
            last: rpc.last_log_id.map(position_out),
        };
        self.send_vote(message, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: RaftVote,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        self.check_connected()?;
        let cluster = self.network.cluster.get().copied();
        let image = match (snapshot.snapshot, cluster) {
            (SnapshotData::Own(view), Some(cluster)) => {
                block(|| image::write(&view, cluster)).map_err(|error| NetworkError::new(&error))?
            }
            (SnapshotData::Received(_), _) => {
                return Err(NetworkError::from_string(
                    "only a snapshot of this peer's own state can be sent",
                )
                .into());
            }
            (_, None) => return Err(NetworkError::from_string("this peer has no cluster").into()),
        };
        tokio::select! {
            biased;
            closed = cancel => Err(closed.into()),
            sent = self.send_image(vote, &image, option.hard_ttl()) => Ok(sent?),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        let message = RaftMessage::TransferLeader {
            from: vote_out(req.from_leader()),
            to: *req.to_node_id(),
            last: req.last_log_id().copied().map(position_out),
        };
        match self.ask(message, option.hard_ttl()).await? {
            RaftReply::TransferLeader => Ok(Ok(())),
            other => Err(unexpected(&other)),
        }
    }
}

#[cfg(test)]
mod tests;
