//! Questions, each with its own kind of answer.
//!
//! Who asks gets the answer to the question, or learns that the other peer answered something else.

use super::{
    GcProgress, GcResult, GcResults, Hello, HelloReply, LeaderRequest, Metrics, MetricsReply,
    OnePin, Pin, PinEntry, PinsAfter, RaftMessage, RaftReply, ReadIndex, Refusal, Request,
    Response, RunGc, RunGcHere, SnapshotChunk, SnapshotReply, StatusBatch, StatusReply, Writes,
};

/// What one peer can ask of another.
pub trait Question {
    /// The answer to it.
    type Answer;

    /// The request.
    fn into_request(self) -> Request;

    /// The answer.
    ///
    /// # Errors
    /// The beginning of the response as text, if it is no answer to this question.
    fn read(response: Response) -> Result<Self::Answer, String>;
}

/// What any member can ask of the leader.
pub trait LeaderQuestion {
    /// The answer to it.
    type Answer;

    /// The request.
    fn into_request(self) -> LeaderRequest;

    /// The answer.
    ///
    /// # Errors
    /// The beginning of the response as text, if it is no answer to this question.
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

/// Bytes of an unexpected response that an error shows.
const SHOWN_MAX: usize = 200;

fn beginning_of(response: &Response) -> String {
    let mut text = format!("{response:?}");
    text.truncate(text.floor_char_boundary(SHOWN_MAX));
    text
}

/// A question of this type becomes that variant, and its answer comes in that one.
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

question!(LeaderQuestion, LeaderRequest: StatusBatch, Statuses, StatusReply, Statuses);
question!(LeaderQuestion, LeaderRequest: Metrics, Metrics, MetricsReply, Metrics);
question!(LeaderQuestion, LeaderRequest: Writes, Writes, Vec<Result<Pin, Refusal>>, Written);
question!(LeaderQuestion, LeaderRequest: ReadIndex, ReadIndex, Option<u64>, Position);
question!(LeaderQuestion, LeaderRequest: OnePin, OnePin, Vec<PinEntry>, Pins);
question!(LeaderQuestion, LeaderRequest: PinsAfter, PinsAfter, Vec<PinEntry>, Pins);
question!(LeaderQuestion, LeaderRequest: RunGc, RunGc, GcProgress<GcResults>, Gc);
