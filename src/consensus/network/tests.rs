//! What is sent to another peer, and how its answers, or missing answers, are treated.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, OnceLock},
};

use futures::{FutureExt as _, future::BoxFuture};
use openraft::{EntryPayload, Snapshot, alias::SnapshotMetaOf};

use super::{
    super::{
        raft_types::{Batch, RaftEntry, RaftMembership, entry_in},
        state_store::StateStore,
    },
    *,
};
use crate::{
    rpc::Transport,
    state::Op,
    types::{
        ClaimName, ClaimOptions, Envelope, Factor, Owner, Refusal, Replication, Request, Response,
        Timestamp, Uid, Vote,
    },
};

const CLUSTER: (ClusterId, u64) = (ClusterId([1; 16]), 7);
const PEER: PeerId = PeerId([2; 32]);

type Answer = Result<Response, CallError>;

/// Gives these answers in turn and records the requests.
#[derive(Default)]
struct Peer {
    answers: Mutex<VecDeque<Answer>>,
    asked: Mutex<Vec<Envelope>>,
    connected: Vec<PeerId>,
}

impl Transport for Peer {
    fn call(&self, _: PeerId, envelope: Envelope, _: Duration) -> BoxFuture<'_, Answer> {
        self.asked.lock().unwrap().push(envelope);
        let answer = self.answers.lock().unwrap().pop_front().unwrap();
        async { answer }.boxed()
    }

    fn set_addresses(&self, _: BTreeMap<PeerId, Vec<String>>) {}

    fn set_members(&self, _: BTreeMap<PeerId, String>) {}

    fn connected(&self) -> Vec<PeerId> {
        self.connected.clone()
    }
}

/// A connection to a peer with these answers.
fn connection(answers: impl IntoIterator<Item = Answer>) -> (Connection, Arc<Peer>) {
    to_peer(Peer { answers: Mutex::new(answers.into_iter().collect()), ..Peer::default() })
}

fn to_peer(peer: Peer) -> (Connection, Arc<Peer>) {
    let peer = Arc::new(peer);
    let cluster = Arc::new(OnceLock::from(CLUSTER));
    let network = Network { transport: peer.clone(), cluster, piece_len: 10 };
    (Connection { network, target: PEER }, peer)
}

fn option() -> RPCOption {
    RPCOption::new(Duration::from_secs(1))
}

fn vote(term: u64) -> Vote {
    Vote { term, candidate: PEER, committed: true }
}

fn at(index: u64) -> LogPosition {
    LogPosition { term: 1, index }
}

fn entry(index: u64, len: usize) -> Entry {
    Entry { id: at(index), body: EntryBody::Ops(vec![0; len]) }
}

/// All kinds of answers, each with the name of the kind; only an answer of the matching kind counts.
fn answers() -> Vec<(&'static str, Answer)> {
    let raft = |reply| Ok(Response::Raft(reply));
    let reason = String::new();
    vec![
        ("vote", raft(RaftReply::Vote { vote: vote(3), last: Some(at(5)), granted: true })),
        ("append", raft(RaftReply::Append(AppendReply::Success))),
        ("snapshot", Ok(Response::Snapshot(SnapshotReply::Installed(vote(3))))),
        ("transfer", raft(RaftReply::TransferLeader)),
        ("", Ok(Response::Snapshot(SnapshotReply::Taken))),
        ("", Ok(Response::Position(Some(5)))),
        ("", Ok(Response::Refused(Refusal::OtherCluster(None)))),
        ("", Ok(Response::Refused(Refusal::Failed("a full disk".to_owned())))),
        ("", Err(CallError::Unreachable { peer: PEER, reason, sent: true })),
        ("", Err(CallError::Timeout { peer: PEER, deadline: Duration::ZERO })),
    ]
}

fn append_of(entries: impl IntoIterator<Item = Entry>) -> AppendEntriesRequest<TypeConfig> {
    let entries = entries.into_iter().map(entry_in);
    AppendEntriesRequest {
        vote: vote_in(vote(3)),
        prev_log_id: Some(position_in(at(4))),
        entries: entries.map(Result::unwrap).collect(),
        leader_commit: Some(position_in(at(2))),
    }
}

#[tokio::test]
async fn only_an_answer_to_the_question_is_an_answer() {
    let request = || VoteRequest::new(vote_in(vote(3)), Some(position_in(at(4))));
    for (kind, answer) in answers() {
        let case = format!("{answer:?}");
        let (mut peer, asked) = connection([answer.clone()]);
        assert_eq!(
            peer.append_entries(append_of([]), option()).await.is_ok(),
            kind == "append",
            "{case}"
        );
        assert_eq!(asked.asked.lock().unwrap()[0].cluster, Some(CLUSTER));
        let (mut peer, _) = connection([answer.clone()]);
        assert_eq!(peer.vote(request(), option()).await.is_ok(), kind == "vote", "{case}");
        let (mut peer, _) = connection([answer.clone()]);
        assert_eq!(peer.pre_vote(request(), option()).await.is_ok(), kind == "vote", "{case}");
        let (mut peer, _) = connection([answer.clone()]);
        let transfer = TransferLeaderRequest::new(vote_in(vote(3)), PEER, None);
        let transferred = peer.transfer_leader(transfer, option()).await;
        assert_eq!(transferred.is_ok(), kind == "transfer", "{case}");
        let (peer, _) = connection([answer]);
        let sent = peer.send_image(vote_in(vote(3)), &[0; 10], Duration::ZERO).await;
        assert_eq!(sent.is_ok(), kind == "snapshot", "{case}");
    }
}

#[tokio::test]
async fn a_vote_is_what_the_peer_said() {
    for granted in [true, false] {
        let reply = RaftReply::Vote { vote: vote(9), last: Some(at(5)), granted };
        let answer = || [Ok(Response::Raft(reply.clone()))];
        let request = || VoteRequest::new(vote_in(vote(3)), Some(position_in(at(4))));
        let said = VoteResponse::new(vote_in(vote(9)), Some(position_in(at(5))), granted);
        let (mut peer, asked) = connection(answer());
        let mut transfer = request();
        transfer.leadership_transfer = true;
        assert_eq!(peer.vote(transfer, option()).await.unwrap(), said);
        let message = RaftMessage::Vote { vote: vote(3), last: Some(at(4)), transfer: true };
        assert_eq!(asked.asked.lock().unwrap()[0].request, Request::Raft(message));
        let (mut peer, asked) = connection(answer());
        assert_eq!(peer.pre_vote(request(), option()).await.unwrap(), said);
        let message = RaftMessage::PreVote { vote: vote(3), last: Some(at(4)) };
        assert_eq!(asked.asked.lock().unwrap()[0].request, Request::Raft(message));
    }
}

#[test]
fn entries_count_as_taken_only_as_far_as_they_were_sent_and_taken() {
    let partial = |last: Option<u64>| {
        AppendEntriesResponse::PartialSuccess(last.map(|index| position_in(at(index))))
    };
    let higher = AppendEntriesResponse::HigherVote(vote_in(vote(9)));
    // The answer, the last entry sent if not all were, and the result.
    let cases = [
        (AppendReply::Success, None, AppendEntriesResponse::Success),
        (AppendReply::Success, Some(at(6)), partial(Some(6))),
        (AppendReply::Partial(Some(at(5))), None, partial(Some(5))),
        (AppendReply::Partial(Some(at(5))), Some(at(6)), partial(Some(5))),
        (AppendReply::Partial(None), Some(at(6)), partial(None)),
        (AppendReply::Conflict, None, AppendEntriesResponse::Conflict),
        (AppendReply::Conflict, Some(at(6)), AppendEntriesResponse::Conflict),
        (AppendReply::HigherVote(vote(9)), Some(at(6)), higher),
    ];
    for (reply, cut, counts) in cases {
        assert_eq!(appended(reply, cut), counts, "{reply:?}, cut {cut:?}");
    }
}

#[tokio::test]
async fn entries_are_sent_with_what_is_before_them_and_what_is_committed() {
    let (mut peer, asked) =
        connection([Ok(Response::Raft(RaftReply::Append(AppendReply::Success)))]);
    let blank = |index| Entry { id: at(index), body: EntryBody::Blank };
    let taken = peer.append_entries(append_of((5..8).map(blank)), option()).await.unwrap();
    assert_eq!(taken, AppendEntriesResponse::Success);
    let sent = Append {
        vote: vote(3),
        previous: Some(at(4)),
        entries: (5..8).map(blank).collect(),
        committed: Some(at(2)),
    };
    let message = Request::Raft(RaftMessage::Append(sent));
    assert_eq!(asked.asked.lock().unwrap()[0].request, message);
}

#[tokio::test]
async fn entries_that_were_not_sent_do_not_count_as_taken() {
    let one = Factor::Count(1);
    let replication = Replication { min: one, max: one };
    let name = ClaimName::Given("x".repeat(OPS_LEN_MAX / 2 + 1));
    let claim = Op::Claim {
        cid: "bafkqaaa".parse().unwrap(),
        owner: Owner::Object(Uid("a".to_owned())),
        options: ClaimOptions { replication, retain: false, name },
        candidates: Vec::new(),
        at: Timestamp(1),
        fence: None,
    };
    let payload = EntryPayload::Normal(Batch::new(vec![claim]));
    let mut request = append_of([]);
    let entry = |index| RaftEntry { log_id: position_in(at(index)), payload: payload.clone() };
    request.entries = (5..7).map(entry).collect();
    let (mut peer, _) = connection([Ok(Response::Raft(RaftReply::Append(AppendReply::Success)))]);
    let taken = peer.append_entries(request, option()).await.unwrap();
    assert_eq!(taken, AppendEntriesResponse::PartialSuccess(Some(position_in(at(5)))));
}

#[test]
fn entries_that_do_not_fit_one_frame_are_left_for_the_next() {
    let half = OPS_LEN_MAX / 2;
    // The lengths of the entries, how many are taken, and the last of them if not all are.
    let cases: [(&[usize], usize, Option<u64>); 6] = [
        (&[], 0, None),
        (&[half, half], 2, None),
        (&[half, half, 1, 1], 2, Some(1)),
        (&[half, 1, 1], 3, None),
        (&[OPS_LEN_MAX + 1], 1, None),
        (&[OPS_LEN_MAX + 1, 1], 1, Some(0)),
    ];
    for (lens, taken, cut) in cases {
        let entries = (0..).zip(lens).map(|(n, len)| entry(n, *len));
        let (entries, left_at) = fitting(entries);
        assert_eq!((entries.len(), left_at), (taken, cut.map(at)), "{lens:?}");
    }
}

#[tokio::test]
async fn an_image_is_sent_whole_and_in_order_until_a_piece_is_refused() {
    let image: Vec<u8> = (0..25).collect();
    let done = || Ok(Response::Snapshot(SnapshotReply::Taken));
    let installed = || Ok(Response::Snapshot(SnapshotReply::Installed(vote(8))));
    let send = |answers: Vec<Answer>| async {
        let (connection, peer) = connection(answers);
        let sent = connection.send_image(vote_in(vote(3)), &image, Duration::ZERO).await;
        let asked = std::mem::take(&mut *peer.asked.lock().unwrap());
        let piece = |envelope: Envelope| match envelope.request {
            Request::Snapshot(chunk) => chunk,
            other => panic!("{other:?}"),
        };
        (sent, asked.into_iter().map(piece).collect::<Vec<_>>())
    };
    let (sent, pieces) = send(vec![done(), done(), installed()]).await;
    assert_eq!(sent.unwrap().vote, vote_in(vote(8)));
    let told: Vec<_> = pieces.iter().map(|p| (p.offset, p.data.len(), p.last)).collect();
    assert_eq!(told, [(0, 10, false), (10, 10, false), (20, 5, true)]);
    assert_eq!(pieces.iter().flat_map(|piece| piece.data.clone()).collect::<Vec<_>>(), image);
    assert!(pieces.iter().all(|piece| piece.transfer == pieces[0].transfer));
    assert!(pieces.iter().all(|piece| piece.vote == vote(3)));
    let refused = Ok(Response::Refused(Refusal::Failed("a piece is missing".to_owned())));
    let (sent, pieces) = send(vec![done(), refused]).await;
    assert!(sent.is_err() && pieces.len() == 2);
    let (sent, _) = send(vec![done(), done(), done()]).await;
    assert!(sent.is_err(), "nobody said that it is installed");
}

#[tokio::test]
async fn a_snapshot_is_made_only_for_a_peer_that_is_connected() {
    let snapshot = || {
        let store = StateStore::with_backend(redb::backends::InMemoryBackend::new()).unwrap();
        let snapshot = SnapshotData::Own(Box::new(store.view().unwrap()));
        let meta = SnapshotMetaOf::<TypeConfig> {
            last_log_id: None,
            last_membership: RaftMembership::default(),
        };
        Snapshot { meta, snapshot }
    };
    for (connected, is_sent) in [(vec![], false), (vec![PEER], true)] {
        let installed = Ok(Response::Snapshot(SnapshotReply::Installed(vote(8))));
        let taken = || Ok(Response::Snapshot(SnapshotReply::Taken));
        // More pieces than an empty state has; the last one is answered.
        let answers: VecDeque<Answer> = (0..99).map(|_| taken()).chain([installed]).collect();
        let answers = Mutex::new(answers);
        let (mut way, peer) = to_peer(Peer { answers, connected, ..Peer::default() });
        let never = std::future::pending();
        let sent = way.full_snapshot(vote_in(vote(3)), snapshot(), never, option()).await;
        assert!(sent.is_err(), "it was not said that it is installed");
        assert_eq!(!peer.asked.lock().unwrap().is_empty(), is_sent);
    }
}
