//! A real, private Kubo on loopback, in a folder of its own.
//!
//! Nothing dials out: the settings are those of `pinkeeper kubo --private`. The program is the one
//! that `e2e/local/tools.sh` builds.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use pinkeeper::{ipfs::kubo::KuboClient, types::Cid};
use pinkeeper_operator::kubo::Settings;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use crate::signal;

/// Time a daemon has to start on a busy machine.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// Time it has to stop after SIGTERM.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// Where the tools are: `PINKEEPER_BIN_DIR`, else the cache's folder.
#[must_use]
pub fn bin_dir() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    std::env::var_os("PINKEEPER_BIN_DIR")
        .map_or_else(|| home().join(".cache/pinkeeper/bin/current"), PathBuf::from)
}

/// Kubo's program.
#[must_use]
pub fn ipfs_program() -> PathBuf {
    bin_dir().join("ipfs")
}

/// A running or stopped daemon; killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    folder: TempDir,
    /// Where its small volume is mounted, as it alone sees.
    volume: Option<TempDir>,
    child: Option<Child>,
    port: u16,
    http: reqwest::Client,
}

impl Daemon {
    /// Makes a repository and starts a daemon on free ports.
    ///
    /// # Errors
    /// When the program is missing or the daemon does not start.
    pub async fn start() -> anyhow::Result<Self> {
        let program = ipfs_program();
        ensure!(program.exists(), "{} is missing: run e2e/local/tools.sh", program.display());
        let folder = TempDir::new()?;
        let http = reqwest::Client::builder().no_proxy().build()?;
        let mut daemon = Self { folder, volume: None, child: None, port: 0, http };
        daemon.initialise(&["--empty-repo"]).await?;
        daemon.configure("/ip4/127.0.0.1/tcp/0")?;
        daemon.run().await?;
        // From here on the port stays, so that clients outlive a restart.
        let api = format!("/ip4/127.0.0.1/tcp/{}", daemon.port);
        daemon.configure(&api)?;
        Ok(daemon)
    }

    /// Its folder.
    #[must_use]
    pub fn repository(&self) -> &Path {
        self.folder.path()
    }

    async fn initialise(&self, args: &[&str]) -> anyhow::Result<()> {
        let made = self.command(&[&["init"], args].concat()).output().await?;
        ensure!(made.status.success(), "ipfs init: {}", String::from_utf8_lossy(&made.stderr));
        Ok(())
    }

    /// Empties the repository of a daemon that does not run; it keeps its address, and its identity
    /// unless it is to get another.
    ///
    /// # Errors
    /// When files cannot be removed or made.
    pub async fn wipe(&self, keep_identity: bool) -> anyhow::Result<()> {
        let kept = TempDir::new()?;
        let config = kept.path().join("config");
        std::fs::copy(self.repository().join("config"), &config)?;
        for entry in std::fs::read_dir(self.repository())? {
            let path = entry?.path();
            if path.is_dir() {
                std::fs::remove_dir_all(path)?;
            } else {
                std::fs::remove_file(path)?;
            }
        }
        if keep_identity {
            let config = config.to_str().context("not UTF-8")?;
            return self.initialise(&["--empty-repo", config]).await;
        }
        self.initialise(&["--empty-repo"]).await?;
        self.configure(&format!("/ip4/127.0.0.1/tcp/{}", self.port))
    }

    /// Starts the daemon on a copy of its repository, on a volume of so many bytes. Needs the right
    /// to mount.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub async fn run_on_a_small_volume(&mut self, bytes: u64) -> anyhow::Result<()> {
        let volume = TempDir::new()?;
        let script = format!(
            "mount -t tmpfs -o size={bytes} tmpfs $VOLUME && cp -a $IPFS_PATH/. $VOLUME && \
             IPFS_PATH=$VOLUME exec {} daemon",
            ipfs_program().display()
        );
        // The mount is seen by the daemon alone, and ends with it.
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", &script])
            .env("IPFS_PATH", self.repository())
            .env("VOLUME", volume.path())
            .env("IPFS_TELEMETRY", "off")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(self.log())?)
            .kill_on_drop(true);
        self.volume = Some(volume);
        self.child = Some(command.spawn()?);
        self.answers().await
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(ipfs_program());
        command
            .args(args)
            .env("IPFS_PATH", self.repository())
            .env("IPFS_TELEMETRY", "off")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        command
    }

    fn configure(&self, api: &str) -> anyhow::Result<()> {
        let path = self.repository().join("config");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        let settings = Settings {
            api: api.to_owned(),
            gateway: "/ip4/127.0.0.1/tcp/0".to_owned(),
            swarm: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
            private: true,
            ..Settings::default()
        };
        settings.merge(&mut config).map_err(anyhow::Error::msg)?;
        std::fs::write(&path, serde_json::to_vec_pretty(&config)?)?;
        Ok(())
    }

    /// Starts the daemon (again) and waits until it answers.
    ///
    /// # Errors
    /// When it does not answer in time; with the end of its log.
    pub async fn run(&mut self) -> anyhow::Result<()> {
        let api_file = self.repository().join("api");
        let _ = std::fs::remove_file(&api_file);
        let mut command = self.command(&["daemon", "--migrate"]);
        command.stderr(std::fs::File::create(self.log())?);
        self.child = Some(command.spawn()?);
        self.answers().await
    }

    fn log(&self) -> PathBuf {
        self.repository().join("daemon.log")
    }

    async fn answers(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            if let Ok(address) = std::fs::read_to_string(self.repository().join("api")) {
                let port = address.trim().rsplit('/').next().and_then(|port| port.parse().ok());
                self.port = port.unwrap_or(self.port);
            }
            if self.port != 0 && self.rpc("version", &[]).await.is_ok() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the daemon does not start: {}", std::fs::read_to_string(self.log())?);
            }
            sleep(Duration::from_millis(20)).await;
        }
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

    /// Stops it where it stands, or lets it go on: it holds its connections and answers nothing.
    ///
    /// # Errors
    /// When it is not running.
    pub fn freeze(&self, frozen: bool) -> anyhow::Result<()> {
        self.signal(if frozen { Signal::STOP } else { Signal::CONT })
    }

    /// Sends SIGKILL and waits.
    ///
    /// # Errors
    /// When it is not running.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::KILL)?;
        self.ended().await
    }

    /// Waits for its end after a signal.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn ended(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("the daemon is not running")?;
        timeout(STOP_DEADLINE, child.wait()).await.context("the daemon does not stop")??;
        Ok(())
    }

    /// Its RPC, as in `http://127.0.0.1:5001`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The client under test.
    ///
    /// # Errors
    /// Never in practice.
    pub fn client(&self) -> anyhow::Result<KuboClient> {
        Ok(KuboClient::new(&self.url())?)
    }

    /// A call of the RPC beside the client under test; answers the body.
    ///
    /// # Errors
    /// When the daemon does not answer 200.
    pub async fn rpc(&self, command: &str, query: &[(&str, &str)]) -> anyhow::Result<String> {
        let url = format!("{}/api/v0/{command}", self.url());
        let response = self.http.post(url).query(query).send().await?;
        let status = response.status();
        let body = response.text().await?;
        ensure!(status.is_success(), "{command}: {status}: {body}");
        Ok(body)
    }

    async fn upload(&self, command: &str, bytes: Vec<u8>) -> anyhow::Result<String> {
        let part = reqwest::multipart::Part::bytes(bytes).file_name("file");
        let form = reqwest::multipart::Form::new().part("file", part);
        let url = format!("{}/api/v0/{command}", self.url());
        let response = self.http.post(url).multipart(form).send().await?;
        Ok(response.error_for_status()?.text().await?)
    }

    /// Adds a file in blocks of 1 kB, without pinning it.
    ///
    /// # Errors
    /// When the daemon fails.
    pub async fn add(&self, bytes: Vec<u8>) -> anyhow::Result<Cid> {
        self.add_in_blocks(bytes, 1024).await
    }

    /// Adds a file in blocks of so many bytes, without pinning it.
    ///
    /// # Errors
    /// When the daemon fails.
    pub async fn add_in_blocks(&self, bytes: Vec<u8>, len: usize) -> anyhow::Result<Cid> {
        let query =
            format!("pin=false&cid-version=1&raw-leaves=true&chunker=size-{len}&quieter=true");
        let answer = self.upload(&format!("add?{query}"), bytes).await?;
        let answer: Value = serde_json::from_str(answer.trim())?;
        Ok(answer["Hash"].as_str().context("no Hash")?.parse()?)
    }

    /// Adds a folder without pinning it, from its files' paths and contents; all are in one folder.
    ///
    /// # Errors
    /// When the daemon fails.
    pub async fn add_folder(&self, files: Vec<(String, Vec<u8>)>) -> anyhow::Result<Cid> {
        let mut form = reqwest::multipart::Form::new();
        for (path, bytes) in files {
            // Slashes of a path are escaped, as Kubo's own client does.
            let name = path.replace('/', "%2F");
            form = form.part("file", reqwest::multipart::Part::bytes(bytes).file_name(name));
        }
        let url = format!("{}/api/v0/add?pin=false&cid-version=1&quieter=true", self.url());
        let response = self.http.post(url).multipart(form).send().await?;
        let text = response.error_for_status()?.text().await?;
        let last: Value = serde_json::from_str(text.lines().last().context("no answer")?)?;
        Ok(last["Hash"].as_str().context("no Hash")?.parse()?)
    }

    /// Direct children of a block, each once.
    ///
    /// # Errors
    /// When the daemon fails.
    pub async fn children(&self, cid: &Cid) -> anyhow::Result<Vec<Cid>> {
        let text = cid.to_string();
        let answer = self.rpc("refs", &[("arg", &text), ("unique", "true")]).await?;
        let child = |line| -> anyhow::Result<Cid> {
            let line: Value = serde_json::from_str(line)?;
            Ok(line["Ref"].as_str().context("no Ref")?.parse()?)
        };
        answer.lines().map(child).collect()
    }

    /// Takes a block out of the repository; answers its bytes.
    ///
    /// # Errors
    /// When the daemon fails.
    pub async fn take_block(&self, cid: &Cid) -> anyhow::Result<Vec<u8>> {
        let text = cid.to_string();
        let url = format!("{}/api/v0/block/get?arg={text}", self.url());
        let bytes = self.http.post(url).send().await?.error_for_status()?.bytes().await?;
        self.rpc("block/rm", &[("arg", &text)]).await?;
        Ok(bytes.to_vec())
    }

    /// Takes a block's file out of the repository of a daemon that does not run, as a damaged disk does.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn remove_block_file(&self, cid: &Cid) -> anyhow::Result<()> {
        // Kubo names a block's file by its multihash, below a folder of the name's last but one letters.
        let hash = cid::Cid::try_from(cid.to_string().as_str())?.hash().to_bytes();
        let name = multibase::Base::Base32Upper.encode(hash);
        let folder = &name[name.len() - 3..name.len() - 1];
        let path = self.repository().join("blocks").join(folder).join(format!("{name}.data"));
        std::fs::remove_file(&path).with_context(|| path.display().to_string())
    }

    /// Puts a raw block into the repository.
    ///
    /// # Errors
    /// When the daemon fails.
    pub async fn put_block(&self, bytes: Vec<u8>) -> anyhow::Result<()> {
        self.upload("block/put?cid-codec=raw", bytes).await.map(drop)
    }

    /// Whether it has a block on its disk.
    pub async fn stores(&self, cid: &Cid) -> bool {
        let text = cid.to_string();
        self.rpc("block/stat", &[("arg", &text), ("offline", "true")]).await.is_ok()
    }

    /// Whether it has a recursive pin, asked beside the client under test.
    pub async fn holds(&self, cid: &Cid) -> bool {
        let text = cid.to_string();
        self.rpc("pin/ls", &[("arg", &text), ("type", "recursive")]).await.is_ok()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read(self.log()).unwrap_or_default();
            crate::peer::print_log("the daemon", &String::from_utf8_lossy(&log));
        }
    }
}

/// A CID that carries its own few bytes: every daemon has its content.
#[must_use]
pub fn identity_cid(n: u32) -> Cid {
    carrying(&n.to_be_bytes())
}

/// The same of other bytes; as long as a CID can be.
#[must_use]
pub fn long_cid(n: u32) -> Cid {
    carrying(&n.to_be_bytes().repeat(16))
}

fn carrying(bytes: &[u8]) -> Cid {
    // The identity multihash takes up to 64 bytes, and more are never given.
    let hash = multihash::Multihash::wrap(0, bytes).unwrap_or_default();
    cid::Cid::new_v1(0x55, hash).into()
}
