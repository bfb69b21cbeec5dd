//! A real `pinkeeper peer` process on loopback, with a folder and a log of its own.
//!
//! It is killed by its own process ID when dropped; when that happens in a failing test, its log is
//! printed.

use std::{
    collections::BTreeMap,
    fs::File,
    net::{IpAddr, Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use pinkeeper::types::Cid;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::{Instant, timeout},
};

use crate::signal;

/// Time a peer has to end, by itself or after a signal: what may pass it waits for first.
const END_DEADLINE: Duration = Duration::from_secs(45);
/// Time one HTTP request has: a write waits 10 s for a leader.
const HTTP_DEADLINE: Duration = Duration::from_secs(20);
/// Bytes of a log that are printed.
const LOG_SHOWN: usize = 30_000;
/// Below the ports the system gives to outgoing connections, so that a peer which is down for a
/// moment finds its ports free.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// As in the chart.
const ENVIRONMENT: [(&str, &str); 1] = [("MIMALLOC_PURGE_DELAY", "1000")];

/// The program under test: `PINKEEPER_BINARY`, else beside the tests' own programs.
///
/// # Errors
/// When there is none.
pub fn program() -> anyhow::Result<PathBuf> {
    let built = || -> anyhow::Result<PathBuf> {
        let own = std::env::current_exe()?;
        let folder = own.parent().and_then(Path::parent).context("no target folder")?;
        Ok(folder.join("pinkeeper"))
    };
    let path = std::env::var_os("PINKEEPER_BINARY").map_or_else(built, |path| Ok(path.into()))?;
    ensure!(
        path.exists(),
        "{} is missing: cargo build -p pinkeeper-operator --bin pinkeeper",
        path.display()
    );
    Ok(path)
}

/// A port that nothing listens on.
///
/// # Errors
/// When there is none.
pub fn free_port() -> anyhow::Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = PORTS.end - PORTS.start;
    // Several test programs may run at once.
    let begin = u16::try_from(std::process::id() % u32::from(count))?;
    for _ in 0..count {
        let place = (begin + NEXT.fetch_add(1, Ordering::Relaxed) % count) % count;
        let port = PORTS.start + place;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port is free")
}

/// What a peer is told.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its name.
    pub name: String,
    /// The cluster secret's 64 hex characters.
    pub secret: String,
    /// Whether it founds the cluster.
    pub found: bool,
    /// Whom it joins by.
    pub bootstrap: Vec<String>,
    /// Its daemon's RPC.
    pub ipfs_api: String,
}

/// A peer's status of a pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// As in `pinned`.
    pub status: String,
    /// Why not, if it says so.
    pub error: String,
}

/// A running or stopped peer.
#[derive(Debug)]
pub struct PeerProcess {
    setup: Setup,
    folder: TempDir,
    ledger: Option<PathBuf>,
    ports: [u16; 3],
    place: Place,
    changed: BTreeMap<String, Value>,
    program: Option<PathBuf>,
    child: Option<Child>,
    http: reqwest::Client,
}

/// Where a peer runs.
#[derive(Clone, Debug)]
pub struct Place {
    /// The address it listens on.
    pub ip: IpAddr,
    /// The network namespace it runs in; absent: that of the test.
    pub namespace: Option<String>,
}

impl PeerProcess {
    /// Prepares a peer; [`Self::start`] starts it.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(setup: Setup) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().no_proxy().timeout(HTTP_DEADLINE).build()?;
        let ports = [free_port()?, free_port()?, free_port()?];
        Ok(Self {
            setup,
            folder: TempDir::new()?,
            ledger: None,
            ports,
            place: Place { ip: Ipv4Addr::LOCALHOST.into(), namespace: None },
            changed: BTreeMap::new(),
            program: None,
            child: None,
            http,
        })
    }

    /// Runs it elsewhere than on loopback.
    #[must_use]
    pub fn at(mut self, place: Place) -> Self {
        self.place = place;
        self
    }

    /// Another program from the next start on; absent: the one under test.
    pub fn set_program(&mut self, program: Option<PathBuf>) {
        self.program = program;
    }

    /// Another value of one of its [`Self::settings`] from the next start on.
    pub fn set(&mut self, key: &str, value: Value) {
        self.changed.insert(key.to_owned(), value);
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.setup.name
    }

    /// Its process ID while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Its folder of identity, log and state.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Gives the ledger a folder of its own from the next start on.
    pub fn separate_ledger(&mut self) -> &Path {
        let folder = self.folder.path();
        self.ledger.get_or_insert_with(|| folder.join("ledger"))
    }

    /// Its configuration file; written by [`Self::start`].
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("peer.yaml")
    }

    /// Where other peers reach it.
    #[must_use]
    pub fn address(&self) -> String {
        format!("/ip4/{}/tcp/{}", self.place.ip, self.ports[0])
    }

    /// What it is told; the next start heeds changes.
    pub fn setup(&mut self) -> &mut Setup {
        &mut self.setup
    }

    /// Other ports from the next start on.
    ///
    /// # Errors
    /// When none are free.
    pub fn change_ports(&mut self) -> anyhow::Result<()> {
        self.ports = [free_port()?, free_port()?, free_port()?];
        Ok(())
    }

    /// Everything in its configuration file.
    #[must_use]
    pub fn settings(&self) -> Value {
        let [_, rest, health] = self.ports;
        let (setup, ip) = (&self.setup, self.place.ip);
        let mut settings = json!({
            "name": setup.name,
            "data_dir": self.data(),
            "ledger_dir": self.ledger,
            "secret_file": self.folder.path().join("secret"),
            "listen": [self.address()],
            "bootstrap": setup.bootstrap,
            "found": setup.found,
            "ipfs_api": setup.ipfs_api,
            "rest_listen": format!("{ip}:{rest}"),
            "health_listen": format!("{ip}:{health}"),
            // For a busy machine; the tests look for what is lost, not for speed.
            "heartbeat_ms": 200,
            "election_min_ms": 1000,
            "election_max_ms": 2000,
            "pin_stall_timeout": "3s",
            "log_level": "info,pinkeeper=debug,openraft=error",
        });
        for (key, value) in &self.changed {
            settings[key] = value.clone();
        }
        settings
    }

    /// Starts the process (again) and does not wait for anything.
    ///
    /// # Errors
    /// When the program is missing or a file cannot be written.
    pub fn start(&mut self) -> anyhow::Result<()> {
        std::fs::write(self.folder.path().join("secret"), &self.setup.secret)?;
        // JSON is YAML.
        std::fs::write(self.config(), serde_json::to_vec_pretty(&self.settings())?)?;
        let log = File::options().create(true).append(true).open(self.log())?;
        let program = self.program.clone().map_or_else(program, Ok)?;
        let mut command = match &self.place.namespace {
            // It becomes the program, so that signals reach that.
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace.as_str()]).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.arg("peer").arg("--config").arg(self.config()).env_clear().envs(ENVIRONMENT);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        self.child = Some(command.spawn()?);
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("peer.log")
    }

    /// What it has written to standard error.
    #[must_use]
    pub fn logged(&self) -> String {
        let bytes = std::fs::read(self.log()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        signal::send(self.child.as_ref(), signal)
    }

    /// Sends SIGTERM without waiting.
    ///
    /// # Errors
    /// When it is not running.
    pub fn terminate(&self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)
    }

    /// Stops it in the middle of whatever it does, until [`Self::resume`].
    ///
    /// # Errors
    /// When it is not running.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it is not running.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Sends SIGKILL and waits.
    ///
    /// # Errors
    /// When it is not running.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::KILL)?;
        self.ended().await.map(drop)
    }

    /// Waits for its end; says how it ended.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let child = self.child.as_mut().context("the peer is not running")?;
        let status = timeout(END_DEADLINE, child.wait()).await.context("it does not end")??;
        self.child = None;
        Ok(status)
    }

    /// The most memory that the process had at a time since its start, in bytes.
    ///
    /// # Errors
    /// When it is not running.
    pub fn peak_memory(&self) -> anyhow::Result<u64> {
        let id = self.id().context("the peer is not running")?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes: u64 = line
            .and_then(|line| line.trim().strip_suffix(" kB"))
            .context("no VmHWM")?
            .trim()
            .parse()?;
        Ok(kibibytes * 1024)
    }

    /// Whether the process is there.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait()?.is_none()),
            None => Ok(false),
        }
    }

    /// A page for probes and Prometheus: its HTTP status and text.
    ///
    /// # Errors
    /// When nothing answers.
    pub async fn health(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let url = format!("http://{}:{}/{path}", self.place.ip, self.ports[2]);
        let response = self.http.get(url).send().await?;
        Ok((response.status().as_u16(), response.text().await?))
    }

    /// Whether it says that it is ready.
    pub async fn is_ready(&self) -> bool {
        self.health("readyz").await.is_ok_and(|(status, _)| status == 200)
    }

    /// The URL of a path of its REST API.
    #[must_use]
    pub fn rest_url(&self, path: &str) -> String {
        format!("http://{}:{}/{path}", self.place.ip, self.ports[1])
    }

    async fn json(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
        let response = request.send().await?;
        let status = response.status();
        let text = response.text().await?;
        ensure!(status.is_success(), "{}: {status}: {text}", self.setup.name);
        Ok(serde_json::from_str(&text)?)
    }

    /// `GET` of the REST API.
    ///
    /// # Errors
    /// When it does not answer 200.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.json(self.http.get(self.rest_url(path))).await
    }

    /// `POST /pins/{cid}`; `query` as in `replication=2`.
    ///
    /// # Errors
    /// When it does not answer 200.
    pub async fn pin(&self, cid: &Cid, query: &str) -> anyhow::Result<Value> {
        self.json(self.http.post(self.rest_url(&format!("pins/{cid}?{query}")))).await
    }

    /// `DELETE /pins/{cid}`.
    ///
    /// # Errors
    /// When it does not answer 200.
    pub async fn unpin(&self, cid: &Cid) -> anyhow::Result<Value> {
        self.json(self.http.delete(self.rest_url(&format!("pins/{cid}")))).await
    }

    /// `DELETE /peers/{id}`.
    ///
    /// # Errors
    /// When it does not answer 204.
    pub async fn depart(&self, id: &str) -> anyhow::Result<()> {
        let request = self.http.delete(self.rest_url(&format!("peers/{id}")));
        let response = request.send().await?;
        let status = response.status();
        anyhow::ensure!(status == 204, "{status}: {}", response.text().await?);
        Ok(())
    }

    /// `GET /pins/{cid}`: the statuses by the peers' names.
    ///
    /// # Errors
    /// When it does not answer 200.
    pub async fn statuses(&self, cid: &Cid) -> anyhow::Result<BTreeMap<String, Status>> {
        Ok(statuses(&self.get(&format!("pins/{cid}")).await?))
    }

    /// `GET /pins`: each line; none without pins.
    ///
    /// # Errors
    /// When it does not answer, or the list is cut short.
    pub async fn pins(&self) -> anyhow::Result<Vec<Value>> {
        self.pins_with("").await
    }

    /// `GET /pins?filter=`: those that have one of these statuses at a peer; all when `filter` is empty.
    ///
    /// # Errors
    /// As of [`Self::pins`].
    pub async fn pins_with(&self, filter: &str) -> anyhow::Result<Vec<Value>> {
        let response =
            self.http.get(self.rest_url(&format!("pins?filter={filter}"))).send().await?;
        let text = response.error_for_status()?.text().await?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Its own ID and those of the members, as `GET /id` says.
    ///
    /// # Errors
    /// When it does not answer 200.
    pub async fn members(&self) -> anyhow::Result<(String, Vec<String>)> {
        let id = self.get("id").await?;
        let own = id["id"].as_str().context("no id")?.to_owned();
        let members = id["cluster_peers"].as_array().context("no cluster_peers")?;
        Ok((own, members.iter().filter_map(|peer| Some(peer.as_str()?.to_owned())).collect()))
    }

    /// The peer it last said leads, by its own log: whether that is itself, and the term.
    #[must_use]
    pub fn leadership(&self) -> Option<(bool, u64)> {
        let log = self.logged();
        let line = log.lines().rev().find(|line| line.contains(" leadership "))?;
        let term = line.split("term=").nth(1)?.split_whitespace().next()?.parse().ok()?;
        Some((line.contains("local=true"), term))
    }
}

/// The peer that leads, by its place: of those that last said so the one of the latest term.
///
/// # Errors
/// When none does.
pub fn leader_of(peers: &[PeerProcess]) -> anyhow::Result<usize> {
    let leads = |peer: &PeerProcess| peer.leadership().filter(|(local, _)| *local);
    let led = peers.iter().enumerate().filter_map(|(n, peer)| Some((leads(peer)?.1, n)));
    led.max().map(|(_, n)| n).context("no peer says that it leads")
}

/// The statuses in a line of `GET /pins`, by the peers' names.
#[must_use]
pub fn statuses(pin: &Value) -> BTreeMap<String, Status> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let peers = pin["peer_map"].as_object().into_iter().flat_map(|map| map.values());
    peers
        .map(|peer| {
            let status = Status { status: text(&peer["status"]), error: text(&peer["error"]) };
            (text(&peer["peername"]), status)
        })
        .collect()
}

impl Drop for PeerProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            print_log(&self.setup.name, &self.logged());
        }
    }
}

/// Prints the end of a process's log.
pub(crate) fn print_log(name: &str, log: &str) {
    let start = log.len().saturating_sub(LOG_SHOWN);
    let start = (start..=log.len()).find(|at| log.is_char_boundary(*at)).unwrap_or(0);
    eprintln!("--- {name}: the end of its log ---\n{}", &log[start..]);
}

/// Waits until a condition holds.
///
/// # Panics
/// When it does not hold in time; names `what`.
pub async fn until<F: Future<Output = bool>>(
    what: &str,
    deadline: Duration,
    condition: impl Fn() -> F,
) -> Duration {
    let begin = Instant::now();
    while !condition().await {
        assert!(begin.elapsed() < deadline, "not within {deadline:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    begin.elapsed()
}
