//! Serves Raft messages and snapshots from other peers.

use openraft::{
    Snapshot,
    alias::SnapshotMetaOf,
    async_runtime::watch::WatchReceiver,
    raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest},
};

use super::{
    Consensus, image,
    machine::SnapshotData,
    raft_types::{
        CodecError, RaftEntry, TypeConfig, entry_in, level_of, position_in, position_out, vote_in,
        vote_out,
    },
};
use crate::{
    runtime::block,
    types::{
        Append, AppendReply, Entry, PeerId, RaftMessage, RaftReply, Refusal, SnapshotChunk,
        SnapshotReply, TooOld, Vote,
    },
};

/// Largest image a peer accepts: about ten million pins.
const IMAGE_LEN_MAX: usize = 2 * 1024 * 1024 * 1024;

/// How many terms a message may be ahead of a member. An election takes at least the shortest election
/// timeout, tenths of a second, and the term rises only if a majority answers: so many terms take days
/// of constant elections, which would be noticed. A leap in terms cannot be undone, and after the last
/// term no leader is possible.
const TERMS_AHEAD_MAX: u64 = 1_000_000;

/// The pieces received of a snapshot. There is one leader and so one transfer: a new transfer replaces
/// an unfinished one, and entries show that none is under way any more.
#[derive(Debug, Default)]
pub(super) struct SnapshotInbox {
    transfer: u64,
    image: Vec<u8>,
}

impl SnapshotInbox {
    /// Accepts a piece; returns the whole image with the last one.
    fn take(&mut self, chunk: SnapshotChunk) -> Result<Option<Vec<u8>>, Refusal> {
        if chunk.offset == 0 {
            *self = Self { transfer: chunk.transfer, image: Vec::new() };
        }
        if self.transfer != chunk.transfer || self.image.len() as u64 != chunk.offset {
            return Err(Refusal::Failed("a piece of the snapshot is missing".to_owned()));
        }
        if self.image.len() + chunk.data.len() > IMAGE_LEN_MAX {
            *self = Self::default();
            return Err(Refusal::Invalid(format!("the snapshot is over {IMAGE_LEN_MAX} bytes")));
        }
        self.image.extend_from_slice(&chunk.data);
        Ok(chunk.last.then(|| std::mem::take(self).image))
    }
}

fn failed(error: &impl std::fmt::Display) -> Refusal {
    Refusal::Failed(error.to_string())
}

/// Whether a vote can be its sender's. `term` is this peer's term if it is a member; a peer that is
/// joining knows no term yet.
fn check_vote(from: PeerId, vote: &Vote, term: Option<u64>) -> Result<(), Refusal> {
    if vote.candidate != from {
        let reason = format!("a vote of {} does not come from {from}", vote.candidate);
        return Err(Refusal::Invalid(reason));
    }
    match term {
        Some(term) if vote.term > term.saturating_add(TERMS_AHEAD_MAX) => {
            let reason = format!(
                "term {} is more than {TERMS_AHEAD_MAX} ahead of term {term}: no elections explain that",
                vote.term
            );
            tracing::warn!(%from, reason, "refused a Raft message");
            Err(Refusal::Invalid(reason))
        }
        _ => Ok(()),
    }
}

/// Why an entry from the leader cannot be applied.
#[derive(Debug, thiserror::Error)]
enum NotUnderstood {
    /// It has another encoding, or contains something this program does not support.
    #[error(transparent)]
    Form(#[from] CodecError),
    /// It is of a higher level.
    #[error(transparent)]
    Level(#[from] TooOld),
}

impl Consensus {
    /// Answers a Raft message of another member.
    ///
    /// # Errors
    /// When the vote cannot be the sender's, or Raft refuses the message.
    pub async fn serve(&self, from: PeerId, message: RaftMessage) -> Result<RaftReply, Refusal> {
        check_vote(from, message.vote(), self.member_term())?;
        self.try_serve(message).await
    }

    /// This peer's term, once its log makes it a member.
    fn member_term(&self) -> Option<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let is_member = metrics.membership_config.nodes().any(|(id, _)| *id == self.id);
        is_member.then_some(metrics.current_term)
    }

    async fn try_serve(&self, message: RaftMessage) -> Result<RaftReply, Refusal> {
        match message {
            RaftMessage::Vote { vote, last, transfer } => {
                let mut request = VoteRequest::new(vote_in(vote), last.map(position_in));
                request.leadership_transfer = transfer;
                let reply = self.raft.vote(request).await.map_err(|e| failed(&e))?;
                Ok(vote_reply(&reply))
            }
            RaftMessage::PreVote { vote, last } => {
                let request = VoteRequest::new(vote_in(vote), last.map(position_in));
                let reply = self.raft.pre_vote(request).await.map_err(|e| failed(&e))?;
                Ok(vote_reply(&reply))
            }
            RaftMessage::Append(append) => self.append(append).await,
            RaftMessage::TransferLeader { from, to, last } => {
                let request = TransferLeaderRequest::new(vote_in(from), to, last.map(position_in));
                let taken =
                    self.raft.handle_transfer_leader(request).await.map_err(|e| failed(&e))?;
                taken.map_err(|e| failed(&e))?;
                Ok(RaftReply::TransferLeader)
            }
        }
    }

    /// This peer's vote, if `vote` is an older one: its sender was deposed and does not know it.
    fn newer_vote(&self, vote: Vote) -> Option<Vote> {
        let own = self.raft.metrics().borrow_watched().vote;
        (vote_in(vote) < own).then(|| vote_out(&own))
    }

    async fn append(&self, append: Append) -> Result<RaftReply, Refusal> {
        if let Some(newer) = self.newer_vote(append.vote) {
            return Ok(RaftReply::Append(AppendReply::HigherVote(newer)));
        }
        if !append.entries.is_empty() {
            *self.inbox.lock() = SnapshotInbox::default();
        }
        let entries = append.entries.into_iter().map(|entry| self.understand(entry));
        let entries = entries.collect::<Result<Vec<_>, _>>();
        let request = AppendEntriesRequest::<TypeConfig> {
            vote: vote_in(append.vote),
            prev_log_id: append.previous.map(position_in),
            entries: entries.map_err(|error| {
                self.not_known.note(&error);
                Refusal::Invalid(error.to_string())
            })?,
            leader_commit: append.committed.map(position_in),
        };
        let reply = self.raft.append_entries(request).await.map_err(|e| failed(&e))?;
        Ok(RaftReply::Append(append_reply(reply)))
    }

    /// Decodes an entry from the leader.
    fn understand(&self, entry: Entry) -> Result<RaftEntry, NotUnderstood> {
        let entry = entry_in(entry)?;
        self.program.check(level_of(&entry))?;
        Ok(entry)
    }

    /// Accepts a piece of a snapshot; installs the snapshot with the last one.
    ///
    /// # Errors
    /// When the vote cannot be the sender's, a piece is missing, or the image is damaged.
    pub async fn serve_snapshot(
        &self,
        from: PeerId,
        chunk: SnapshotChunk,
    ) -> Result<SnapshotReply, Refusal> {
        check_vote(from, &chunk.vote, self.member_term())?;
        if let Some(newer) = self.newer_vote(chunk.vote) {
            return Ok(SnapshotReply::Installed(newer));
        }
        let vote = vote_in(chunk.vote);
        let taken = {
            let mut inbox = self.inbox.lock();
            inbox.take(chunk)?
        };
        let Some(bytes) = taken else { return Ok(SnapshotReply::Taken) };
        let image = block(|| image::read(&bytes)).map_err(|e| Refusal::Invalid(e.to_string()))?;
        let meta = SnapshotMetaOf::<TypeConfig> {
            last_log_id: image.head.applied.map(position_in),
            last_membership: image.head.raft_membership().map_err(|e| failed(&e))?,
        };
        drop(bytes);
        let snapshot = Snapshot { meta, snapshot: SnapshotData::Received(Box::new(image)) };
        let reply =
            self.raft.install_full_snapshot(vote, snapshot).await.map_err(|e| failed(&e))?;
        Ok(SnapshotReply::Installed(vote_out(&reply.vote)))
    }
}

fn vote_reply(reply: &openraft::raft::VoteResponse<TypeConfig>) -> RaftReply {
    RaftReply::Vote {
        vote: vote_out(&reply.vote),
        last: reply.last_log_id.map(position_out),
        granted: reply.vote_granted,
    }
}

fn append_reply(reply: AppendEntriesResponse<TypeConfig>) -> AppendReply {
    match reply {
        AppendEntriesResponse::Success => AppendReply::Success,
        AppendEntriesResponse::PartialSuccess(last) => AppendReply::Partial(last.map(position_out)),
        AppendEntriesResponse::Conflict => AppendReply::Conflict,
        AppendEntriesResponse::HigherVote(vote) => AppendReply::HigherVote(vote_out(&vote)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use openraft::raft::VoteResponse;

    use super::*;
    use crate::types::LogPosition;

    const VOTE: Vote = Vote { term: 3, candidate: PeerId([1; 32]), committed: true };
    const AT: LogPosition = LogPosition { term: 2, index: 5 };

    fn piece(transfer: u64, offset: u64, data: &[u8], last: bool) -> SnapshotChunk {
        SnapshotChunk { vote: VOTE, transfer, offset, data: data.to_vec(), last }
    }

    #[test]
    fn an_image_is_taken_only_when_all_pieces_of_one_transfer_came_in_order() {
        let part = Ok(None);
        let missing = Err(());
        // The pieces in order, and the result of each.
        let cases: [(&str, Vec<_>); 7] = [
            ("at once", vec![(piece(1, 0, b"abc", true), Ok(Some("abc")))]),
            (
                "in pieces",
                vec![
                    (piece(1, 0, b"ab", false), part),
                    (piece(1, 2, b"c", false), part),
                    (piece(1, 3, b"d", true), Ok(Some("abcd"))),
                    (piece(1, 4, b"e", true), missing),
                ],
            ),
            ("without the first", vec![(piece(1, 2, b"c", true), missing)]),
            (
                "one is left out",
                vec![(piece(1, 0, b"a", false), part), (piece(1, 2, b"c", true), missing)],
            ),
            (
                "one twice",
                vec![
                    (piece(1, 0, b"ab", false), part),
                    (piece(1, 2, b"c", false), part),
                    (piece(1, 2, b"c", true), missing),
                    (piece(1, 3, b"d", true), Ok(Some("abcd"))),
                ],
            ),
            (
                "of another transfer",
                vec![(piece(1, 0, b"ab", false), part), (piece(2, 2, b"c", true), missing)],
            ),
            (
                "begun anew",
                vec![
                    (piece(1, 0, b"ab", false), part),
                    (piece(2, 0, b"x", false), part),
                    (piece(1, 2, b"c", true), missing),
                    (piece(2, 1, b"y", true), Ok(Some("xy"))),
                ],
            ),
        ];
        for (case, pieces) in cases {
            let mut inbox = SnapshotInbox::default();
            for (n, (piece, becomes)) in pieces.into_iter().enumerate() {
                let taken = inbox.take(piece).map_err(|_| ());
                let becomes = becomes.map(|image| image.map(|image| image.as_bytes().to_vec()));
                assert_eq!(taken, becomes, "{case}, piece {n}");
            }
        }
    }

    #[test]
    fn a_vote_is_its_senders_and_of_a_term_that_elections_explain() {
        let (sender, another) = (PeerId([1; 32]), PeerId([2; 32]));
        let far = 5 + TERMS_AHEAD_MAX;
        // The vote's candidate and term, the peer's own term, and whether it is accepted.
        let table = [
            (sender, 6, Some(5), true),
            (sender, 1, Some(5), true),
            (sender, far, Some(5), true),
            (sender, far + 1, Some(5), false),
            (sender, u64::MAX, Some(5), false),
            (sender, u64::MAX, Some(u64::MAX - 1), true),
            (sender, far + 1, None, true),
            (another, 6, Some(5), false),
            (another, 6, None, false),
        ];
        for (from, term, own, counts) in table {
            let vote = Vote { term, ..VOTE };
            let found = check_vote(from, &vote, own);
            assert_eq!(found.is_ok(), counts, "{term} beside {own:?}: {found:?}");
        }
    }

    #[test]
    fn an_answer_says_what_was_done() {
        let at = position_in(AT);
        let cases = [
            (AppendEntriesResponse::Success, AppendReply::Success),
            (AppendEntriesResponse::PartialSuccess(Some(at)), AppendReply::Partial(Some(AT))),
            (AppendEntriesResponse::PartialSuccess(None), AppendReply::Partial(None)),
            (AppendEntriesResponse::Conflict, AppendReply::Conflict),
            (AppendEntriesResponse::HigherVote(vote_in(VOTE)), AppendReply::HigherVote(VOTE)),
        ];
        for (done, said) in cases {
            assert_eq!(append_reply(done), said);
        }
        for granted in [true, false] {
            let reply = VoteResponse::new(vote_in(VOTE), Some(at), granted);
            let said = RaftReply::Vote { vote: VOTE, last: Some(AT), granted };
            assert_eq!(vote_reply(&reply), said);
        }
    }
}
