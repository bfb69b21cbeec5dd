//! Requests to Kubo's RPC and the lines of its answers.
//!
//! Invariant: an answer that ends without an error ended cleanly and without the trailer
//! `X-Stream-Error`.

use std::{collections::VecDeque, error::Error, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use http_body_util::{BodyExt as _, combinators::UnsyncBoxBody};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{
    KuboUrlError, SILENCE_MAX,
    metrics::{DaemonMetrics, Measured},
    wire,
};
use crate::{causes::with_causes, ipfs::IpfsError};

/// Deadline for connecting; the daemon is in the same pod.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
/// Idle connections kept: more than the tracker has requests in flight.
const IDLE_CONNECTIONS_MAX: usize = 64;
/// Idle connections are closed after this time.
const IDLE_CONNECTION_TIME: Duration = Duration::from_secs(30);
/// Longest line of an answer in bytes; the longest known one is `id` with hundreds of addresses.
const LINE_LEN_MAX: usize = 1024 * 1024;
/// Longest body of an error in bytes.
const ERROR_LEN_MAX: usize = 64 * 1024;
/// Kubo's trailer for an error after the status line.
pub(super) const STREAM_ERROR: &str = "x-stream-error";

/// The body of an answer, with its trailers.
pub type Body = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// Carries commands to one daemon. All interpretation of answers is above it, so that a simulated
/// daemon is treated like a real one.
pub trait Carrier: Send + Sync + 'static {
    /// Sends a command and returns the head of its answer, or the reason why there is none.
    fn post<'a>(
        &'a self,
        command: &'a str,
        query: &'a [(&'a str, &'a str)],
    ) -> BoxFuture<'a, Result<http::Response<Body>, String>>;
}

/// Over HTTP.
struct Http {
    client: reqwest::Client,
    base: reqwest::Url,
}

impl Carrier for Http {
    fn post<'a>(
        &'a self,
        command: &'a str,
        query: &'a [(&'a str, &'a str)],
    ) -> BoxFuture<'a, Result<http::Response<Body>, String>> {
        async move {
            let mut url = self.base.clone();
            url.set_path(&format!("/api/v0/{command}"));
            url.query_pairs_mut().extend_pairs(query);
            // Kubo answers POST only.
            let response = self.client.post(url).send().await;
            let response = response.map_err(|error| reason(&error.without_url()))?;
            let response = http::Response::<reqwest::Body>::from(response);
            Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
        }
        .boxed()
    }
}

/// Sends requests to one RPC.
#[derive(Clone)]
pub(super) struct Rpc {
    carrier: Arc<dyn Carrier>,
}

impl fmt::Debug for Rpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rpc").finish_non_exhaustive()
    }
}

impl Rpc {
    pub(super) fn new(url: &str) -> Result<Self, KuboUrlError> {
        let error = || KuboUrlError::Url(url.chars().take(200).collect());
        let base = reqwest::Url::parse(url).map_err(|_| error())?;
        let plain = base.scheme() == "http" && base.host().is_some() && base.path() == "/";
        if !plain || base.query().is_some() {
            return Err(error());
        }
        let client = reqwest::Client::builder()
            .no_proxy()
            .http1_only()
            .tcp_nodelay(true)
            .redirect(reqwest::redirect::Policy::none())
            // Retries are the tracker's decision, and a request sent only once need not be copied
            // first.
            .retry(reqwest::retry::never().max_retries_per_request(0))
            .connect_timeout(CONNECT_DEADLINE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .pool_idle_timeout(IDLE_CONNECTION_TIME)
            .build()?;
        Ok(Self::over(Arc::new(Http { client, base })))
    }

    pub(super) fn over(carrier: Arc<dyn Carrier>) -> Self {
        Self { carrier }
    }

    pub(super) fn measured(self, metrics: DaemonMetrics) -> Self {
        Self::over(Arc::new(Measured { carrier: self.carrier, metrics }))
    }

    /// Sends a command and waits at most `deadline` for the head of its answer. The rest may then pause
    /// for up to [`SILENCE_MAX`] at a time.
    pub(super) async fn open(
        &self,
        command: &str,
        query: &[(&str, &str)],
        deadline: Duration,
    ) -> Result<Lines, IpfsError> {
        let response = timeout(deadline, self.carrier.post(command, query))
            .await
            .map_err(|_| late(command, deadline))?
            .map_err(IpfsError::Down)?;
        let status = response.status();
        let mut lines = Lines {
            body: response.into_body(),
            silence: SILENCE_MAX,
            whole: VecDeque::new(),
            partial: Vec::new(),
            over: false,
        };
        if status == http::StatusCode::OK {
            return Ok(lines);
        }
        let body = lines.rest(ERROR_LEN_MAX).await?;
        Err(wire::error_of_response(status, &body))
    }

    /// Sends a command answered by one object, and waits at most `deadline` for all of it.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        command: &str,
        query: &[(&str, &str)],
        deadline: Duration,
    ) -> Result<T, IpfsError> {
        let asked = async {
            let mut lines = self.open(command, query, deadline).await?;
            let answer = lines.next_json().await?;
            // Reads to the end: for a late error, and so that the connection can be reused.
            while lines.next().await?.is_some() {}
            answer.ok_or_else(|| IpfsError::Failed(format!("{command} answered nothing")))
        };
        timeout(deadline, asked).await.map_err(|_| late(command, deadline))?
    }
}

/// The lines of an answer.
#[derive(Debug)]
pub(super) struct Lines {
    body: Body,
    silence: Duration,
    whole: VecDeque<Bytes>,
    partial: Vec<u8>,
    over: bool,
}

impl Lines {
    /// Sets the longest wait for each next piece.
    pub(super) fn with_silence(self, silence: Duration) -> Self {
        Self { silence, ..self }
    }

    /// The next line as JSON; `None` at a clean end.
    pub(super) async fn next_json<T: DeserializeOwned>(&mut self) -> Result<Option<T>, IpfsError> {
        let Some(line) = self.next().await? else { return Ok(None) };
        serde_json::from_slice(&line).map(Some).map_err(|error| {
            // The text may repeat a value of any length.
            let error = wire::shortened(&error.to_string());
            let line: String = String::from_utf8_lossy(&line).chars().take(100).collect();
            IpfsError::Failed(format!("an answer is not understood ({error}): {line}"))
        })
    }

    /// The next line that is not empty; `None` at a clean end.
    async fn next(&mut self) -> Result<Option<Bytes>, IpfsError> {
        loop {
            if let Some(line) = self.whole.pop_front() {
                return Ok(Some(line));
            }
            if self.over {
                return Ok(None);
            }
            match self.frame().await? {
                Some(data) => self.split(&data)?,
                None => {
                    self.over = true;
                    let last = std::mem::take(&mut self.partial);
                    self.push(Bytes::from(last));
                }
            }
        }
    }

    fn split(&mut self, mut data: &[u8]) -> Result<(), IpfsError> {
        while let Some(end) = data.iter().position(|byte| *byte == b'\n') {
            self.append(&data[..end])?;
            let line = Bytes::from(std::mem::take(&mut self.partial));
            self.push(line);
            data = &data[end + 1..];
        }
        self.append(data)
    }

    fn append(&mut self, data: &[u8]) -> Result<(), IpfsError> {
        if self.partial.len() + data.len() > LINE_LEN_MAX {
            return Err(IpfsError::Failed(format!("a line is longer than {LINE_LEN_MAX} bytes")));
        }
        self.partial.extend_from_slice(data);
        Ok(())
    }

    fn push(&mut self, line: Bytes) {
        if !line.iter().all(u8::is_ascii_whitespace) {
            self.whole.push_back(line);
        }
    }

    /// The rest of the body, refused beyond `max` bytes.
    async fn rest(&mut self, max: usize) -> Result<Vec<u8>, IpfsError> {
        let mut rest = Vec::new();
        while let Some(data) = self.frame().await? {
            if rest.len() + data.len() > max {
                return Err(IpfsError::Failed(format!("an error is longer than {max} bytes")));
            }
            rest.extend_from_slice(&data);
        }
        Ok(rest)
    }

    /// The next piece of the body; `None` at a clean end.
    async fn frame(&mut self) -> Result<Option<Bytes>, IpfsError> {
        loop {
            let frame = timeout(self.silence, self.body.frame())
                .await
                .map_err(|_| IpfsError::Slow(format!("silent for {} s", self.silence.as_secs())))?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| IpfsError::Down(reason(&*error)))?;
            match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => return Ok(Some(data)),
                Err(frame) => check_trailers(frame.trailers_ref())?,
            }
        }
    }
}

fn late(command: &str, deadline: Duration) -> IpfsError {
    IpfsError::Slow(format!("no answer to {command} within {} s", deadline.as_secs()))
}

fn check_trailers(trailers: Option<&http::HeaderMap>) -> Result<(), IpfsError> {
    let Some(error) = trailers.and_then(|trailers| trailers.get(STREAM_ERROR)) else {
        return Ok(());
    };
    let text = String::from_utf8_lossy(error.as_bytes());
    if text.trim().is_empty() { Ok(()) } else { Err(wire::error_of(&text)) }
}

/// An error with its causes, of bounded length.
fn reason(error: &dyn Error) -> String {
    with_causes(error).chars().take(300).collect()
}
