//! The RPC of the daemon in a pod, by port-forward, as people reach it.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, ensure};
use pinkeeper::types::Cid;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdout},
    time::timeout,
};

use super::Kubernetes;

/// Longest that one call may take.
const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// A running port-forward to a pod's daemon; it ends when dropped. When the daemon is away it ends
/// by itself: open another one.
#[derive(Debug)]
pub struct DaemonForward {
    _child: Child,
    // kubectl dies of a closed output.
    _output: BufReader<ChildStdout>,
    port: u16,
    http: reqwest::Client,
}

impl DaemonForward {
    pub(super) async fn open(
        cluster: &Kubernetes,
        namespace: &str,
        pod: &str,
    ) -> anyhow::Result<Self> {
        let mut command = cluster.tool("kubectl");
        command.args(["-n", namespace, "port-forward", pod, ":5001", "--address", "127.0.0.1"]);
        let mut child = command.spawn()?;
        let mut output = BufReader::new(child.stdout.take().context("no output")?);
        let mut line = String::new();
        timeout(CALL_DEADLINE, output.read_line(&mut line))
            .await
            .context("port-forward hangs")??;
        // "Forwarding from 127.0.0.1:41234 -> 5001"
        let address = line.split_whitespace().nth(2).unwrap_or_default();
        let port = address.rsplit(':').next().and_then(|port| port.parse().ok());
        let port = port.with_context(|| format!("port-forward to {pod} says {line:?}"))?;
        let http = reqwest::Client::builder().no_proxy().timeout(CALL_DEADLINE).build()?;
        Ok(Self { _child: child, _output: output, port, http })
    }

    /// As `ipfs --api` wants it.
    #[must_use]
    pub fn multiaddr(&self) -> String {
        format!("/ip4/127.0.0.1/tcp/{}", self.port)
    }

    fn url(&self, command: &str) -> String {
        format!("http://127.0.0.1:{}/api/v0/{command}", self.port)
    }

    /// A call; answers the body.
    ///
    /// # Errors
    /// When the daemon does not answer 200.
    pub async fn rpc(&self, command: &str, query: &[(&str, &str)]) -> anyhow::Result<Vec<u8>> {
        let response = self.http.post(self.url(command)).query(query).send().await?;
        let status = response.status();
        let body = response.bytes().await?;
        ensure!(status.is_success(), "{command}: {status}: {}", String::from_utf8_lossy(&body));
        Ok(body.to_vec())
    }

    async fn upload(&self, command: &str, bytes: Vec<u8>) -> anyhow::Result<Value> {
        let part = reqwest::multipart::Part::bytes(bytes).file_name("file");
        let form = reqwest::multipart::Form::new().part("file", part);
        let response = self.http.post(self.url(command)).multipart(form).send().await?;
        Ok(serde_json::from_str(response.error_for_status()?.text().await?.trim())?)
    }

    /// Adds a file with more options, as in `pin=true&cid-version=0`.
    ///
    /// # Errors
    /// When the daemon fails.
    pub async fn add(&self, bytes: Vec<u8>, options: &str) -> anyhow::Result<Cid> {
        let answer = self.upload(&format!("add?quieter=true&{options}"), bytes).await?;
        Ok(answer["Hash"].as_str().context("no Hash")?.parse()?)
    }

    /// Adds a file in blocks of 1 kB, without pinning it, and takes one of its blocks out again:
    /// answers the root and the block's bytes.
    ///
    /// # Errors
    /// When the daemon fails.
    pub async fn add_with_a_block_missing(&self, bytes: Vec<u8>) -> anyhow::Result<(Cid, Vec<u8>)> {
        let root = self.add(bytes, "pin=false&cid-version=1&chunker=size-1024").await?;
        let query = [("arg", &*root.to_string()), ("unique", "true")];
        let refs = String::from_utf8(self.rpc("refs", &query).await?)?;
        let middle = refs.lines().nth(refs.lines().count() / 2).context("too small a file")?;
        let line: Value = serde_json::from_str(middle)?;
        let query = [("arg", line["Ref"].as_str().context("no Ref")?)];
        let block = self.rpc("block/get", &query).await?;
        self.rpc("block/rm", &query).await?;
        Ok((root, block))
    }

    /// Puts a raw block into the repository.
    ///
    /// # Errors
    /// When the daemon fails.
    pub async fn put_block(&self, bytes: Vec<u8>) -> anyhow::Result<()> {
        self.upload("block/put?cid-codec=raw", bytes).await.map(drop)
    }

    /// Everything that it holds a recursive pin of.
    ///
    /// # Errors
    /// When the daemon fails.
    pub async fn pinned(&self) -> anyhow::Result<BTreeSet<Cid>> {
        let answer = self.rpc("pin/ls", &[("type", "recursive")]).await?;
        let answer: Value = serde_json::from_slice(&answer)?;
        let Some(keys) = answer["Keys"].as_object() else { return Ok(BTreeSet::new()) };
        keys.keys().map(|cid| Ok(cid.parse()?)).collect()
    }
}
