//! A proxy in front of a daemon's RPC that keeps chosen commands waiting, or their answers.

use std::{
    collections::BTreeMap,
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

/// What happens to a request until it is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// It waits, and is forgotten when the client gives up.
    Request,
    /// It waits, and is carried out in the end even if the client has given up.
    Late,
    /// The daemon carries it out at once, even if the client gives up; the answer waits.
    Answer,
}

type Held = BTreeMap<String, Hold>;

/// A running proxy; ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    held: watch::Sender<Held>,
    counts: Arc<Counts>,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Counts {
    waiting: AtomicUsize,
    carried_out: AtomicUsize,
}

impl Proxy {
    /// Passes requests on to `upstream`, as in `http://127.0.0.1:5001`.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(upstream: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let held = watch::Sender::new(Held::new());
        let counts = Arc::new(Counts::default());
        let passage = Passage {
            upstream: upstream.trim_start_matches("http://").to_owned(),
            held: held.subscribe(),
            counts: Arc::clone(&counts),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let exchange = passage.clone().pass_on(client);
                connections.spawn(async move {
                    // Either side may break off at any time.
                    let _ = exchange.await;
                });
            }
        });
        Ok(Self { port, held, counts, _tasks: tasks })
    }

    /// Where it listens, as in `http://127.0.0.1:5001`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Requests that begin so, as in `pin/ls` or `pin/ls?arg=bafk…`, wait from now on.
    pub fn hold(&self, requests: &str, how: Hold) {
        self.held.send_modify(|held| {
            held.insert(requests.to_owned(), how);
        });
    }

    /// They go on, those that waited too.
    pub fn release(&self, requests: &str) {
        self.held.send_modify(|held| {
            held.remove(requests);
        });
    }

    /// Requests that have been kept waiting so far, or whose answer has.
    #[must_use]
    pub fn waited(&self) -> usize {
        self.counts.waiting.load(Ordering::SeqCst)
    }

    /// How many of them the daemon has answered whether or not the client had given up.
    #[must_use]
    pub fn carried_out(&self) -> usize {
        self.counts.carried_out.load(Ordering::SeqCst)
    }
}

/// What each connection knows.
#[derive(Clone)]
struct Passage {
    upstream: String,
    held: watch::Receiver<Held>,
    counts: Arc<Counts>,
}

impl Passage {
    /// One request and its answer; each connection serves one.
    async fn pass_on(mut self, mut client: TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_LEN_MAX {
            head.push(client.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let request = head.split(' ').find_map(|part| part.strip_prefix("/api/v0/"));
        let request = request.unwrap_or_default().to_owned();
        let Some(how) = hold_of(&self.held.borrow(), &request) else {
            return self.exchange(client, &head).await;
        };
        self.counts.waiting.fetch_add(1, Ordering::SeqCst);
        match how {
            Hold::Request => {
                let mut byte = [0];
                tokio::select! {
                    () = self.released(&request) => self.exchange(client, &head).await,
                    // The client gives up.
                    _ = client.read(&mut byte) => Ok(()),
                }
            }
            Hold::Late => {
                self.released(&request).await;
                let answer = self.carry_out(&head).await?;
                client.write_all(&answer).await
            }
            Hold::Answer => {
                let answer = self.carry_out(&head).await?;
                self.released(&request).await;
                client.write_all(&answer).await
            }
        }
    }

    async fn released(&mut self, request: &str) {
        let released = self.held.wait_for(|held| hold_of(held, request).is_none()).await.is_ok();
        if !released {
            // The proxy ends, and everything that waits with it.
            std::future::pending::<()>().await;
        }
    }

    async fn exchange(&self, mut client: TcpStream, head: &str) -> std::io::Result<()> {
        let mut daemon = self.ask(head).await?;
        let (mut from_client, mut to_client) = client.split();
        let (mut from_daemon, mut to_daemon) = daemon.split();
        tokio::select! {
            copied = copy(&mut from_daemon, &mut to_client) => copied.map(drop),
            // Ends when the client does: then the daemon breaks the command off.
            copied = copy(&mut from_client, &mut to_daemon) => copied.map(drop),
        }
    }

    /// The whole answer, for a request without a body.
    async fn carry_out(&self, head: &str) -> std::io::Result<Vec<u8>> {
        let mut answer = Vec::new();
        self.ask(head).await?.read_to_end(&mut answer).await?;
        self.counts.carried_out.fetch_add(1, Ordering::SeqCst);
        Ok(answer)
    }

    async fn ask(&self, head: &str) -> std::io::Result<TcpStream> {
        let mut daemon = TcpStream::connect(&self.upstream).await?;
        let head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        daemon.write_all(head.as_bytes()).await?;
        Ok(daemon)
    }
}

fn hold_of(held: &Held, request: &str) -> Option<Hold> {
    held.iter().find(|(start, _)| request.starts_with(start.as_str())).map(|(_, how)| *how)
}
