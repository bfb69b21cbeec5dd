//! Streams opened by peers: their requests come in, and our answers go out on the same stream.
//!
//! Invariants: the reader never waits for the writer or the server; it refuses instead (`Busy`). Frames
//! of non-members are short. Requests are handed on in order of arrival. A stream whose peer does not
//! read its answers, or sends something other than frames, is closed, and no other is affected. Each
//! stream ends with its connection.

use std::{io, sync::Arc, time::Duration};

use futures::{
    AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _, StreamExt as _,
    io::{BufReader, BufWriter},
    stream::FuturesUnordered,
};
use libp2p::Stream;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    IN_FLIGHT_MAX, STREAM_BUFFER_LEN, WRITE_TIMEOUT, peer_of,
    shared::Shared,
    streams::{Accept, Incoming},
};
use crate::{
    rpc::{
        Inbound,
        frame::{self, Frame, Kind},
    },
    types::{Envelope, PeerId, Refusal, Response},
};

/// A request's place is released after so long: longer than any caller waits.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// Answers that may be queued for the writer: those in flight, and as many refusals.
const ANSWERS_MAX: usize = 2 * IN_FLIGHT_MAX;

/// An answer, now or later.
enum Answer {
    Now(u64, Response),
    Later(u64, oneshot::Receiver<Response>, OwnedSemaphorePermit),
}

/// Serves each stream opened by a peer in its own task.
pub(super) fn acceptor(shared: Arc<Shared>, requests: mpsc::Sender<Inbound>) -> Accept {
    Arc::new(move |incoming| {
        let Incoming { peer, lane, stream, closed, place } = incoming;
        let Some(from) = peer_of(&peer) else { return };
        let (own, requests) = (Arc::clone(&shared), requests.clone());
        shared.tasks.spawn(async move {
            let reason = serve(&own, from, stream, &closed, requests).await;
            tracing::debug!(peer = %from, ?lane, reason, "a stream from a peer ended");
            drop(place);
        });
    })
}

/// Serves one stream until it ends or its connection is gone; returns the reason.
async fn serve(
    shared: &Shared,
    from: PeerId,
    stream: Stream,
    closed: &CancellationToken,
    requests: mpsc::Sender<Inbound>,
) -> String {
    let token = closed.child_token();
    let (reader, writer) = stream.split();
    let (answers, queue) = mpsc::channel(ANSWERS_MAX);
    let writer = {
        let token = token.clone();
        shared.tasks.spawn(async move {
            let written = write_answers(writer, queue, &token).await;
            token.cancel();
            written
        })
    };
    let mut reader = BufReader::with_capacity(STREAM_BUFFER_LEN, reader);
    let places = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let reason = loop {
        let frame = tokio::select! {
            biased;
            () = token.cancelled() => break "it was given up".to_owned(),
            frame = frame::read_within(&mut reader, || shared.frame_len_max(&from)) => frame,
        };
        let answer = match frame {
            Ok(Some(frame)) if frame.kind == Kind::Request => {
                hand_on(from, &frame, &places, &requests)
            }
            Ok(Some(_)) => break "the peer sent an answer instead of a request".to_owned(),
            Ok(None) => break "the peer closed the stream".to_owned(),
            Err(error) => break error.to_string(),
        };
        if answers.try_send(answer).is_err() {
            break "the peer does not read its answers".to_owned();
        }
    };
    token.cancel();
    match writer.await {
        Ok(Ok(())) => reason,
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    }
}

/// Hands a request to the server, or refuses it.
fn hand_on(
    from: PeerId,
    frame: &Frame,
    places: &Arc<Semaphore>,
    requests: &mpsc::Sender<Inbound>,
) -> Answer {
    let refuse = |refusal| Answer::Now(frame.id, Response::Refused(refusal));
    let envelope: Envelope = match frame::decode(&frame.payload) {
        Ok(envelope) => envelope,
        Err(error) => return refuse(Refusal::Invalid(error.to_string())),
    };
    let Ok(place) = Arc::clone(places).try_acquire_owned() else { return refuse(Refusal::Busy) };
    let (reply, answer) = oneshot::channel();
    match requests.try_send(Inbound { from, envelope, reply }) {
        Ok(()) => Answer::Later(frame.id, answer, place),
        Err(mpsc::error::TrySendError::Full(_)) => refuse(Refusal::Busy),
        Err(mpsc::error::TrySendError::Closed(_)) => {
            refuse(Refusal::Failed("the peer is stopping".to_owned()))
        }
    }
}

/// Writes answers as they become available, in any order.
async fn write_answers(
    writer: futures::io::WriteHalf<Stream>,
    mut queue: mpsc::Receiver<Answer>,
    token: &CancellationToken,
) -> io::Result<()> {
    let mut writer = BufWriter::with_capacity(STREAM_BUFFER_LEN, writer);
    let mut later = FuturesUnordered::new();
    let mut unflushed = false;
    loop {
        let mut ready = later.next().now_or_never().flatten();
        while ready.is_none() {
            match queue.try_recv() {
                Ok(Answer::Now(id, response)) => ready = Some((id, response)),
                Ok(Answer::Later(id, answer, place)) => later.push(wait(id, answer, place)),
                Err(_) => break,
            }
        }
        let (id, response) = match ready {
            Some(ready) => ready,
            None => {
                if std::mem::take(&mut unflushed) {
                    within(token, writer.flush()).await?;
                }
                tokio::select! {
                    biased;
                    () = token.cancelled() => return Ok(()),
                    Some(ready) = later.next(), if !later.is_empty() => ready,
                    answer = queue.recv() => match answer {
                        Some(Answer::Now(id, response)) => (id, response),
                        Some(Answer::Later(id, answer, place)) => {
                            later.push(wait(id, answer, place));
                            continue;
                        }
                        None => return Ok(()),
                    },
                }
            }
        };
        let frame = frame::encode_answer(id, &response).or_else(|error| {
            frame::encode_answer(id, &Response::Refused(Refusal::Failed(error.to_string())))
        });
        let frame = frame.map_err(io::Error::other)?;
        within(token, writer.write_all(&frame)).await?;
        unflushed = true;
    }
}

/// The answer, or a refusal in its place; the request's place is free afterwards.
async fn wait(
    id: u64,
    answer: oneshot::Receiver<Response>,
    _place: OwnedSemaphorePermit,
) -> (u64, Response) {
    let dropped = || Response::Refused(Refusal::Failed("the request was not served".to_owned()));
    let response = match timeout(ANSWER_TIMEOUT, answer).await {
        Ok(answer) => answer.unwrap_or_else(|_| dropped()),
        Err(_) => {
            let reason = format!("there was no answer within {ANSWER_TIMEOUT:?}");
            Response::Refused(Refusal::Failed(reason))
        }
    };
    (id, response)
}

async fn within(
    token: &CancellationToken,
    write: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    tokio::select! {
        biased;
        () = token.cancelled() => Err(io::Error::other("the stream was given up")),
        done = timeout(WRITE_TIMEOUT, write) => done.unwrap_or_else(|_| {
            Err(io::Error::other(format!("the peer did not read for {WRITE_TIMEOUT:?}")))
        }),
    }
}
