//! One lane to one peer: calls go out on a stream that we opened, and their answers return on it.
//!
//! Invariants: calls are written in the order of the queue; at most [`IN_FLIGHT_MAX`] wait for an
//! answer; the reader never waits for the writer; when the stream breaks or its connection is gone,
//! every written call fails, and the next call opens another stream.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
    io::{BufReader, BufWriter},
};
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{IN_FLIGHT_MAX, STREAM_BUFFER_LEN, WRITE_TIMEOUT, shared::Shared, streams::Opened};
use crate::{
    rpc::frame::{self, Kind},
    types::{Lane, PeerId, Refusal, Response},
};

/// Calls of one lane that may be queued.
pub(super) const QUEUE_MAX: usize = 4096;
/// Bytes of one lane that may be queued: several of the largest frames.
pub(super) const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Consecutive calls that may time out without any answer in between before the stream is given up: it
/// may be half dead.
const TIMEOUTS_MAX: u32 = 5;
/// Deadline for negotiating a stream on a live connection.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// Attempts to open a stream: one may hit a connection that is being closed.
const OPEN_ATTEMPTS: usize = 3;
/// A lane without calls for so long, and without a stream, is removed.
const IDLE: Duration = Duration::from_secs(600);

/// The result of a call.
pub(super) type Answer = Result<Response, NoAnswer>;

/// Why a call has no answer.
#[derive(Debug)]
pub(super) struct NoAnswer {
    pub(super) reason: String,
    /// Whether any part of it was written.
    pub(super) sent: bool,
}

impl NoAnswer {
    fn unsent(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), sent: false }
    }

    fn sent(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), sent: true }
    }
}

/// A framed request to be written.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) id: u64,
    pub(super) frame: Vec<u8>,
    pub(super) answer: oneshot::Sender<Answer>,
    /// Its share of [`QUEUE_BYTES_MAX`].
    pub(super) bytes: OwnedSemaphorePermit,
}

/// State shared by callers and the lane's tasks.
#[derive(Debug)]
pub(super) struct LaneState {
    waiting: Mutex<BTreeMap<u64, PendingCall>>,
    in_flight: Arc<Semaphore>,
    timeouts: AtomicU32,
    /// Cancels the current stream.
    stream: Mutex<CancellationToken>,
}

#[derive(Debug)]
struct PendingCall {
    answer: oneshot::Sender<Answer>,
    _permit: OwnedSemaphorePermit,
}

impl LaneState {
    pub(super) fn new() -> Self {
        Self {
            waiting: Mutex::default(),
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
            timeouts: AtomicU32::new(0),
            stream: Mutex::default(),
        }
    }

    fn insert(&self, id: u64, waiting: PendingCall) {
        self.waiting.lock().insert(id, waiting);
    }

    fn take(&self, id: u64) -> Option<PendingCall> {
        self.waiting.lock().remove(&id)
    }

    fn take_all(&self) -> BTreeMap<u64, PendingCall> {
        std::mem::take(&mut *self.waiting.lock())
    }

    /// The caller no longer waits.
    pub(super) fn forget(&self, id: u64) {
        self.take(id);
    }

    /// A call timed out; too many in a row end the stream.
    pub(super) fn timed_out(&self) {
        if self.timeouts.fetch_add(1, Ordering::Relaxed) + 1 >= TIMEOUTS_MAX {
            self.timeouts.store(0, Ordering::Relaxed);
            self.stream.lock().cancel();
        }
    }

    fn answered(&self, id: u64, answer: Answer) {
        self.timeouts.store(0, Ordering::Relaxed);
        if let Some(waiting) = self.take(id) {
            // The caller may be gone.
            let _ = waiting.answer.send(answer);
        }
    }

    fn new_stream(&self, parent: &CancellationToken) -> CancellationToken {
        let token = parent.child_token();
        self.timeouts.store(0, Ordering::Relaxed);
        *self.stream.lock() = token.clone();
        token
    }
}

/// The lane's task.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) peer: PeerId,
    pub(super) lane: Lane,
    pub(super) state: Arc<LaneState>,
    pub(super) queue: mpsc::Receiver<Call>,
}

impl Worker {
    /// Runs until the transport stops, or until no call arrives for [`IDLE`].
    pub(super) async fn run(mut self) {
        let token = self.shared.token.clone();
        loop {
            let call = tokio::select! {
                biased;
                () = token.cancelled() => return,
                call = timeout(IDLE, self.queue.recv()) => match call {
                    Ok(Some(call)) => call,
                    Ok(None) => return,
                    Err(_) if self.shared.retire_lane(self.peer, self.lane, &self.queue) => return,
                    Err(_) => continue,
                },
            };
            if call.answer.is_closed() {
                continue;
            }
            let opened = tokio::select! {
                biased;
                () = token.cancelled() => return,
                opened = self.open() => opened,
            };
            match opened {
                Ok(opened) => self.use_stream(opened, call).await,
                Err(reason) => self.fail(call, &reason),
            }
        }
    }

    async fn open(&self) -> Result<Opened, String> {
        let mut reason = String::new();
        for _ in 0..OPEN_ATTEMPTS {
            let connection = self.shared.links().in_use(self.peer)?;
            match timeout(OPEN_TIMEOUT, self.shared.streams.open(connection, self.lane)).await {
                Ok(Ok(opened)) => return Ok(opened),
                Ok(Err(why)) => reason = why,
                Err(_) => return Err(format!("no stream was opened within {OPEN_TIMEOUT:?}")),
            }
        }
        Err(reason)
    }

    /// Fails this call and all queued ones.
    fn fail(&mut self, call: Call, reason: &str) {
        let mut next = Some(call);
        while let Some(call) = next {
            let _ = call.answer.send(Err(NoAnswer::unsent(reason)));
            next = self.queue.try_recv().ok();
        }
    }

    /// Uses a stream until it breaks or its connection is gone.
    async fn use_stream(&mut self, Opened { stream, closed }: Opened, first: Call) {
        let token = self.state.new_stream(&closed);
        let (reader, writer) = stream.split();
        let reader = {
            let (state, token) = (Arc::clone(&self.state), token.clone());
            self.shared.tasks.spawn(async move {
                let reason = read_answers(reader, &state, &token).await;
                token.cancel();
                reason
            })
        };
        let mut writer = BufWriter::with_capacity(STREAM_BUFFER_LEN, writer);
        let written = self.write_calls(&mut writer, first, &token).await;
        token.cancel();
        // Announces the end to the other side, if it still listens.
        let _ = timeout(Duration::from_secs(1), writer.close()).await;
        let read = reader.await.unwrap_or_else(|error| error.to_string());
        let reason = match closed.is_cancelled() {
            true => "the connection broke".to_owned(),
            false => written.err().unwrap_or(read),
        };
        tracing::debug!(peer = %self.peer, lane = ?self.lane, reason, "a stream to a peer ended");
        for (_, waiting) in self.state.take_all() {
            let _ = waiting.answer.send(Err(NoAnswer::sent(&reason)));
        }
    }

    /// Writes calls as they arrive; `Ok` if the token was cancelled, `Err` if writing failed.
    async fn write_calls<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
        first: Call,
        token: &CancellationToken,
    ) -> Result<(), String> {
        let mut next = Some(first);
        loop {
            let call = match next.take() {
                Some(call) => call,
                None => match self.queue.try_recv() {
                    Ok(call) => call,
                    Err(_) => {
                        within(token, writer.flush()).await?;
                        tokio::select! {
                            biased;
                            () = token.cancelled() => return Ok(()),
                            call = self.queue.recv() => match call {
                                Some(call) => call,
                                None => return Ok(()),
                            },
                        }
                    }
                },
            };
            if call.answer.is_closed() {
                continue;
            }
            let permit = match Arc::clone(&self.state.in_flight).try_acquire_owned() {
                Ok(permit) => permit,
                Err(_) => {
                    // Flushes before waiting: places may become free only once buffered calls are
                    // answered.
                    within(token, writer.flush()).await?;
                    let acquired = tokio::select! {
                        biased;
                        () = token.cancelled() => None,
                        permit = Arc::clone(&self.state.in_flight).acquire_owned() => permit.ok(),
                    };
                    match acquired {
                        Some(permit) => permit,
                        None => {
                            let _ = call.answer.send(Err(NoAnswer::unsent("the stream broke")));
                            return Ok(());
                        }
                    }
                }
            };
            let Call { id, frame, answer, bytes } = call;
            self.state.insert(id, PendingCall { answer, _permit: permit });
            within(token, writer.write_all(&frame)).await?;
            drop(bytes);
        }
    }
}

/// Awaits a write until the token is cancelled, for at most [`WRITE_TIMEOUT`].
async fn within(
    token: &CancellationToken,
    write: impl Future<Output = std::io::Result<()>>,
) -> Result<(), String> {
    tokio::select! {
        biased;
        () = token.cancelled() => Err("the stream was given up".to_owned()),
        done = timeout(WRITE_TIMEOUT, write) => match done {
            Ok(done) => done.map_err(|error| error.to_string()),
            Err(_) => Err(format!("the peer did not read for {WRITE_TIMEOUT:?}")),
        },
    }
}

/// Hands answers to their callers until the stream ends; returns the reason.
async fn read_answers<R: AsyncRead + Unpin>(
    reader: R,
    state: &LaneState,
    token: &CancellationToken,
) -> String {
    let mut reader = BufReader::with_capacity(STREAM_BUFFER_LEN, reader);
    loop {
        let frame = tokio::select! {
            biased;
            () = token.cancelled() => return "the stream was given up".to_owned(),
            frame = frame::read(&mut reader) => frame,
        };
        match frame {
            Ok(Some(frame)) if frame.kind == Kind::Answer => {
                let response = frame::decode(&frame.payload).unwrap_or_else(|error| {
                    Response::Refused(Refusal::Invalid(format!("the peer answered {error}")))
                });
                state.answered(frame.id, Ok(response));
            }
            Ok(Some(_)) => return "the peer sent a request instead of an answer".to_owned(),
            Ok(None) => return "the peer closed the stream".to_owned(),
            Err(error) => return error.to_string(),
        }
    }
}
