//! An HTTP stand-in for Kubo's RPC, for tests and benches in which the daemon is not the subject.
//!
//! It answers what `pinkeeper::ipfs::kubo` asks, with Kubo's status codes, JSON and trailer; pins are
//! recursive and held in memory. A pin takes as long as it is told ([`StandInKubo::set_pin_time`])
//! and, as in Kubo, is given up when its connection closes. It has every content and never fetches.
//! The HTTP is written here because hyper sends no trailer to a client that does not ask for one,
//! and Kubo does.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use pinkeeper::types::Cid;
use reqwest::Url;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream, tcp::OwnedWriteHalf},
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until},
};

/// Bytes of a request's head; Kubo takes as many.
const HEAD_LEN_MAX: u64 = 1024 * 1024;
/// Between two lines about a pin that takes its time, as in Kubo.
const PROGRESS_PERIOD: Duration = Duration::from_millis(500);
/// Bytes of an answer that are gathered before they are written.
const CHUNK_LEN: usize = 32 * 1024;
/// Bytes that each pin is said to take.
const PIN_SIZE: u64 = 1024;
/// Bytes that the repository is said to be allowed.
const STORAGE_MAX: u64 = 1 << 40;

/// A running stand-in; it ends when dropped.
#[derive(Debug)]
pub struct StandInKubo {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    id: String,
    pins: Mutex<BTreeSet<Cid>>,
    pin_micros: AtomicU64,
    /// Lists of all pins that went out whole.
    lists: AtomicUsize,
}

impl StandInKubo {
    /// Listens on a free port of an address of this machine. A pin takes no time at first.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(ip: IpAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((ip, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            id: format!("stand-in-{}-{}", std::process::id(), address.port()),
            pins: Mutex::default(),
            pin_micros: AtomicU64::new(0),
            lists: AtomicUsize::new(0),
        });
        let server = tokio::spawn(accept(listener, shared.clone())).abort_handle();
        Ok(Self { address, shared, server })
    }

    /// Its RPC, as in `http://127.0.0.1:5001`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Pins that begin from now on take so long.
    pub fn set_pin_time(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.shared.pin_micros.store(micros, Ordering::Relaxed);
    }

    /// All pins.
    #[must_use]
    pub fn pins(&self) -> BTreeSet<Cid> {
        self.shared.pins().clone()
    }

    /// How many pins there are.
    #[must_use]
    pub fn pin_count(&self) -> usize {
        self.shared.pins().len()
    }

    /// How many lists of all pins have been answered.
    #[must_use]
    pub fn list_count(&self) -> usize {
        self.shared.lists.load(Ordering::Relaxed)
    }

    /// Pins something as a stranger would: behind the peer's back.
    pub fn pin_foreign(&self, cid: Cid) {
        self.shared.pins().insert(cid);
    }
}

impl Drop for StandInKubo {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Shared {
    fn pins(&self) -> MutexGuard<'_, BTreeSet<Cid>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Owns every connection: they end with it.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        // An error here is one connection's, gone before it was taken.
        if let Ok((socket, _)) = listener.accept().await {
            connections.spawn(serve(socket, shared.clone()));
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(socket: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let (read, write) = socket.into_split();
    let (mut read, mut write) = (BufReader::new(read), write);
    while let Some(target) = next_request(&mut read).await? {
        let (command, query) = match target.as_deref().and_then(parse) {
            Some(parsed) => parsed,
            None => (String::new(), Query(Vec::new())),
        };
        let mut answer = Answer::new(&mut write);
        match command.as_str() {
            "id" => answer.object(&shared.identity()).await?,
            "repo/stat" => answer.object(&shared.repository()).await?,
            // It has every content, so it needs no connections.
            "swarm/connect" | "swarm/peering/add" => answer.object(&json!({})).await?,
            "pin/ls" => shared.list(&query, answer).await?,
            "pin/add" => shared.add(&query, answer, &mut read).await?,
            "pin/rm" => shared.remove(&query, answer).await?,
            _ => answer.not_found().await?,
        }
    }
    Ok(())
}

/// The path and query of the next request, absent when it is no POST; `None` when there are no more.
async fn next_request(
    read: &mut (impl AsyncBufRead + Unpin),
) -> io::Result<Option<Option<String>>> {
    let mut head = read.take(HEAD_LEN_MAX);
    let mut first = String::new();
    if head.read_line(&mut first).await? == 0 {
        return Ok(None);
    }
    let mut body = 0;
    loop {
        let mut line = String::new();
        if head.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            body = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    // No command here takes a body.
    tokio::io::copy(&mut read.take(body), &mut tokio::io::sink()).await?;
    let target = first.strip_prefix("POST ").and_then(|rest| rest.split(' ').next());
    Ok(Some(target.map(ToOwned::to_owned)))
}

/// The parameters of a request.
struct Query(Vec<(String, String)>);

impl Query {
    fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    fn is(&self, key: &str, value: &str) -> bool {
        self.all(key).any(|found| found == value)
    }

    fn cids(&self) -> Result<Vec<Cid>, String> {
        let parse =
            |text: &str| text.parse().map_err(|error| format!("invalid path {text:?}: {error}"));
        self.all("arg").map(parse).collect()
    }
}

fn parse(target: &str) -> Option<(String, Query)> {
    let url = Url::parse(&format!("http://daemon{target}")).ok()?;
    let command = url.path().strip_prefix("/api/v0/")?.to_owned();
    Some((command, Query(url.query_pairs().into_owned().collect())))
}

impl Shared {
    fn identity(&self) -> Value {
        json!({ "ID": self.id, "AgentVersion": "stand-in/0", "Addresses": [] })
    }

    fn repository(&self) -> Value {
        let count = self.pins().len() as u64;
        json!({ "RepoSize": count * PIN_SIZE, "StorageMax": STORAGE_MAX, "NumObjects": count })
    }

    /// Kubo writes what is pinned up to the first argument that is not.
    async fn list(&self, query: &Query, mut answer: Answer<'_>) -> io::Result<()> {
        let recursive = query.is("type", "recursive");
        let asked = match query.cids() {
            Ok(_) if !recursive && !query.is("type", "direct") => {
                return answer.error("a stand-in lists recursive and direct pins only").await;
            }
            Ok(_) if !query.is("stream", "true") => {
                return answer.error("a stand-in lists pins as a stream only").await;
            }
            Ok(asked) => asked,
            Err(error) => return answer.error(&error).await,
        };
        let (pins, missing) = {
            let all = self.pins();
            let held = |cid: &Cid| recursive && all.contains(cid);
            match asked.iter().position(|cid| !held(cid)) {
                _ if asked.is_empty() && recursive => (all.iter().copied().collect(), None),
                missing => {
                    let count = missing.unwrap_or(asked.len());
                    (asked[..count].to_vec(), missing.map(|at| asked[at]))
                }
            }
        };
        for cid in pins {
            answer.line(&json!({ "Cid": cid.to_string(), "Type": "recursive" })).await?;
        }
        match missing {
            Some(cid) => answer.error(&format!("path '{cid}' is not pinned")).await,
            None => {
                answer.end("").await?;
                self.lists.fetch_add(usize::from(asked.is_empty()), Ordering::Relaxed);
                Ok(())
            }
        }
    }

    async fn add(
        &self,
        query: &Query,
        mut answer: Answer<'_>,
        read: &mut (impl AsyncBufRead + Unpin),
    ) -> io::Result<()> {
        let cid = match query.cids().as_deref() {
            Ok([cid]) if !query.is("recursive", "false") => *cid,
            Ok(_) => return answer.error("a stand-in pins one CID at a time, recursively").await,
            Err(error) => return answer.error(error).await,
        };
        let time = Duration::from_micros(self.pin_micros.load(Ordering::Relaxed));
        let end = Instant::now() + if self.pins().contains(&cid) { Duration::ZERO } else { time };
        while Instant::now() < end {
            answer.line(&json!({ "Progress": 1, "Bytes": PIN_SIZE })).await?;
            answer.flush().await?;
            tokio::select! {
                biased;
                () = closed(read) => return Err(io::ErrorKind::ConnectionAborted.into()),
                () = sleep_until(end.min(Instant::now() + PROGRESS_PERIOD)) => {}
            }
        }
        self.pins().insert(cid);
        answer.object(&json!({ "Pins": [cid.to_string()] })).await
    }

    async fn remove(&self, query: &Query, mut answer: Answer<'_>) -> io::Result<()> {
        let cid = match query.cids().as_deref() {
            Ok([cid]) => *cid,
            Ok(_) => return answer.error("a stand-in unpins one CID at a time").await,
            Err(error) => return answer.error(error).await,
        };
        if self.pins().remove(&cid) {
            answer.object(&json!({ "Pins": [cid.to_string()] })).await
        } else {
            answer.error("not pinned or pinned indirectly").await
        }
    }
}

/// Returns when the client has closed the connection.
async fn closed(read: &mut (impl AsyncBufRead + Unpin)) {
    match read.fill_buf().await {
        Ok(bytes) if !bytes.is_empty() => std::future::pending().await,
        Ok(_) | Err(_) => {}
    }
}

/// An answer of lines in chunks; an error before the first line is a status, later a trailer.
struct Answer<'a> {
    write: &'a mut OwnedWriteHalf,
    lines: Vec<u8>,
    begun: bool,
}

impl<'a> Answer<'a> {
    fn new(write: &'a mut OwnedWriteHalf) -> Self {
        Self { write, lines: Vec::new(), begun: false }
    }

    async fn line(&mut self, value: &Value) -> io::Result<()> {
        serde_json::to_writer(&mut self.lines, value)?;
        self.lines.push(b'\n');
        if self.lines.len() >= CHUNK_LEN { self.flush().await } else { Ok(()) }
    }

    /// A last line, and the end.
    async fn object(&mut self, value: &Value) -> io::Result<()> {
        self.line(value).await?;
        self.end("").await
    }

    async fn error(&mut self, message: &str) -> io::Result<()> {
        if self.begun || !self.lines.is_empty() {
            return self.end(&format!("X-Stream-Error: {message}\r\n")).await;
        }
        let body = json!({ "Message": message, "Code": 0, "Type": "error" });
        self.whole("500 Internal Server Error", "application/json", &body.to_string()).await
    }

    async fn not_found(&mut self) -> io::Result<()> {
        self.whole("404 Not Found", "text/plain", "404 page not found").await
    }

    async fn whole(&mut self, status: &str, kind: &str, body: &str) -> io::Result<()> {
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        self.write.write_all(answer.as_bytes()).await
    }

    /// Writes what was gathered, and before the first of it the head.
    async fn flush(&mut self) -> io::Result<()> {
        let bytes = self.gathered();
        self.write.write_all(&bytes).await
    }

    async fn end(&mut self, trailers: &str) -> io::Result<()> {
        let mut bytes = self.gathered();
        bytes.extend_from_slice(format!("0\r\n{trailers}\r\n").as_bytes());
        self.write.write_all(&bytes).await
    }

    fn gathered(&mut self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.lines.len() + 200);
        if !self.begun {
            self.begun = true;
            bytes.extend_from_slice(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
                  Trailer: X-Stream-Error\r\nTransfer-Encoding: chunked\r\n\r\n",
            );
        }
        // A chunk without bytes would be the end.
        if !self.lines.is_empty() {
            bytes.extend_from_slice(format!("{:x}\r\n", self.lines.len()).as_bytes());
            bytes.append(&mut self.lines);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes
    }
}

#[cfg(test)]
mod tests;
