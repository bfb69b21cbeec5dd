//! A proxy in front of a daemon's RPC that keeps chosen commands waiting.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// Longest head of a request in bytes.
const HEAD_LEN_MAX: usize = 1024 * 1024;

/// A running proxy; ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    held: watch::Sender<BTreeSet<String>>,
    waiting: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// Passes requests on to `upstream`, as in `http://127.0.0.1:5001`.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(upstream: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let held = watch::Sender::new(BTreeSet::new());
        let waiting = Arc::new(AtomicUsize::new(0));
        let upstream = upstream.trim_start_matches("http://").to_owned();
        let mut tasks = JoinSet::new();
        let (known, count) = (held.subscribe(), Arc::clone(&waiting));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let exchange = pass_on(client, upstream.clone(), known.clone(), count.clone());
                connections.spawn(async move {
                    // Either side may break off at any time.
                    let _ = exchange.await;
                });
            }
        });
        Ok(Self { port, held, waiting, _tasks: tasks })
    }

    /// Where it listens, as in `http://127.0.0.1:5001`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Requests of this command, as in `pin/ls`, wait from now on.
    pub fn hold(&self, command: &str) {
        self.held.send_modify(|held| {
            held.insert(command.to_owned());
        });
    }

    /// They go on, those that waited too.
    pub fn release(&self, command: &str) {
        self.held.send_modify(|held| {
            held.remove(command);
        });
    }

    /// Requests that have been kept waiting so far.
    #[must_use]
    pub fn waited(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }
}

/// One request and its answer; each connection serves one.
async fn pass_on(
    mut client: TcpStream,
    upstream: String,
    mut held: watch::Receiver<BTreeSet<String>>,
    waited: Arc<AtomicUsize>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_LEN_MAX {
        head.push(client.read_u8().await?);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let command = text.split(['?', ' ']).find_map(|part| part.strip_prefix("/api/v0/"));
    let command = command.unwrap_or_default().to_owned();
    if held.borrow().contains(&command) {
        waited.fetch_add(1, Ordering::SeqCst);
        let mut byte = [0];
        tokio::select! {
            released = held.wait_for(|held| !held.contains(&command)) => {
                if released.is_err() {
                    return Ok(());
                }
            }
            // The client gives up.
            _ = client.read(&mut byte) => return Ok(()),
        }
    }
    let mut daemon = TcpStream::connect(upstream).await?;
    let head = text.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    daemon.write_all(head.as_bytes()).await?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_daemon, mut to_daemon) = daemon.split();
    tokio::select! {
        copied = copy(&mut from_daemon, &mut to_client) => copied.map(drop),
        // Ends when the client does: then the daemon breaks the command off.
        copied = copy(&mut from_client, &mut to_daemon) => copied.map(drop),
    }
}
