//! Questions between peers, each with the type of its answer.
//!
//! The asking peer gets an answer of that type, or an error if the other peer answered something else.

use super::{
    Cid, ConfirmNow, Depart, GcProgress, GcResult, GcResults, Hello, HelloReply, LeaderRequest,
    Metrics, MetricsReply, OnePin, Pin, PinEntry, PinsAfter, RaftMessage, RaftReply, ReadIndex,
    Refusal, Request, Response, RunGc, RunGcHere, SnapshotChunk, SnapshotReply, StatusBatch,
    StatusReply, Writes,
};

/// A question of one peer to another.
pub trait Question {
    /// The type of its answer.
    type Answer;

    /// The question as a request.
    fn into_request(self) -> Request;

    /// The answer in a response.
    ///
    /// # Errors
    /// The beginning of the response as text, if it does not answer this question.
    fn read(response: Response) -> Result<Self::Answer, String>;
}

/// A question of any member to the leader.
pub trait LeaderQuestion {
    /// The type of its answer.
    type Answer;

    /// The question as a request.
    fn into_request(self) -> LeaderRequest;

    /// The answer in a response.
    ///
    /// # Errors
    /// The beginning of the response as text, if it does not answer this question.
    fn read(response: Response) -> Result<Self::Answer, String>;
}

impl<Q: LeaderQuestion> Question for Q {
    type Answer = Q::Answer;

    fn into_request(self) -> Request {
        Request::Leader(LeaderQuestion::into_request(self))
    }

    fn read(response: Response) -> Result<Q::Answer, String> {
        <Q as LeaderQuestion>::read(response)
    }
}

/// Most bytes of an unexpected response that an error shows.
const SHOWN_MAX: usize = 200;

fn beginning_of(response: &Response) -> String {
    let mut text = format!("{response:?}");
    text.truncate(text.floor_char_boundary(SHOWN_MAX));
    text
}

/// Implements a question: the variant of the request that carries it, and that of the response with its
/// answer.
macro_rules! question {
    ($trait:ident, $request:ident: $question:ident, $variant:ident, $answer:ty, $response:ident) => {
        impl $trait for $question {
            type Answer = $answer;

            fn into_request(self) -> $request {
                $request::$variant(self)
            }

            fn read(response: Response) -> Result<$answer, String> {
                match response {
                    Response::$response(answer) => Ok(answer),
                    other => Err(beginning_of(&other)),
                }
            }
        }
    };
}

question!(Question, Request: Hello, Hello, HelloReply, Hello);
question!(Question, Request: RaftMessage, Raft, RaftReply, Raft);
question!(Question, Request: SnapshotChunk, Snapshot, SnapshotReply, Snapshot);
question!(Question, Request: RunGcHere, RunGcHere, GcProgress<GcResult>, GcHere);
question!(Question, Request: ConfirmNow, ConfirmNow, Vec<Cid>, Held);

question!(LeaderQuestion, LeaderRequest: StatusBatch, Statuses, StatusReply, Statuses);
question!(LeaderQuestion, LeaderRequest: Metrics, Metrics, MetricsReply, Metrics);
question!(LeaderQuestion, LeaderRequest: Writes, Writes, Vec<Result<Pin, Refusal>>, Written);
question!(LeaderQuestion, LeaderRequest: ReadIndex, ReadIndex, Option<u64>, Position);
question!(LeaderQuestion, LeaderRequest: OnePin, OnePin, Vec<PinEntry>, Pins);
question!(LeaderQuestion, LeaderRequest: PinsAfter, PinsAfter, Vec<PinEntry>, Pins);
question!(LeaderQuestion, LeaderRequest: RunGc, RunGc, GcProgress<GcResults>, Gc);
question!(LeaderQuestion, LeaderRequest: Depart, Depart, u64, Copies);
