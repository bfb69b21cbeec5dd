//! A Kubernetes that is there already, used as people use it: kubectl and helm for what is done,
//! the API for what is looked at.
//!
//! Which one it is says `KUBECONFIG`. Nothing here waits without a deadline.

mod forward;
mod node;
mod pins;
mod release;

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
pub use forward::DaemonForward;
use kube::Client;
pub use node::{signal_container, signal_in_container};
pub use pins::{ContentPin, condition, holders, is_ready, reason};
pub use release::{Pods, Release};
pub use rustix::process::Signal;
use tokio::{
    io::AsyncWriteExt as _,
    process::Command,
    time::{Instant, sleep, timeout},
};

use crate::daemon::bin_dir;

/// Longest that one call of kubectl or helm may take.
const COMMAND_DEADLINE: Duration = Duration::from_secs(180);
/// Pause between two looks at something that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The root of the repository.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or_else(|| Path::new("/"))
}

/// Looks again and again until there is something, and says what was waited for when there is not.
///
/// # Errors
/// When the time is over, with the last look's own error.
pub async fn until<T, F>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> F,
) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<Option<T>>>,
{
    let deadline = Instant::now() + limit;
    let mut last = String::new();
    while Instant::now() < deadline {
        match timeout(limit, look()).await {
            Ok(Ok(Some(found))) => return Ok(found),
            Ok(Ok(None)) => last.clear(),
            Ok(Err(error)) => last = format!(": {error:#}"),
            Err(_) => last = ": no answer".to_owned(),
        }
        sleep(LOOK_EVERY).await;
    }
    bail!("not within {} s: {what}{last}", limit.as_secs())
}

/// The tools and the API of one Kubernetes.
#[derive(Clone)]
pub struct Kubernetes {
    /// For the API.
    pub client: Client,
    tools: PathBuf,
}

impl std::fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubernetes").field("tools", &self.tools).finish_non_exhaustive()
    }
}

impl Kubernetes {
    /// The one that `KUBECONFIG` names.
    ///
    /// # Errors
    /// When there is none, or the tools are missing.
    pub async fn connect() -> anyhow::Result<Self> {
        let hint = "make test starts one; or: make cluster images";
        ensure!(std::env::var_os("KUBECONFIG").is_some(), "KUBECONFIG is not set: {hint}");
        let client = Client::try_default().await.context(hint)?;
        let tools = bin_dir();
        for tool in ["kubectl", "helm", "ipfs"] {
            ensure!(tools.join(tool).exists(), "there is no {tool} in {}", tools.display());
        }
        let cluster = Self { client, tools };
        cluster.kubectl(["get", "--raw", "/readyz"]).await.context(hint)?;
        Ok(cluster)
    }

    /// One of the tools, to be started; it is killed when it is dropped.
    #[must_use]
    pub fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(self.tools.join(name));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        command
    }

    /// Runs kubectl and answers its standard output.
    ///
    /// # Errors
    /// When it fails; with what it says.
    pub async fn kubectl<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
    ) -> anyhow::Result<String> {
        run(self.tool("kubectl").args(args), "").await
    }

    /// `kubectl apply` of a text.
    ///
    /// # Errors
    /// When it is refused; with the reason.
    pub async fn apply(&self, yaml: &str) -> anyhow::Result<String> {
        run(self.tool("kubectl").args(["apply", "-f", "-"]), yaml).await
    }

    /// Runs helm and answers its standard output.
    ///
    /// # Errors
    /// When it fails; with what it says.
    pub async fn helm<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
    ) -> anyhow::Result<String> {
        run(self.tool("helm").args(args), "").await
    }
}

/// Runs a program that must succeed and answers its standard output.
///
/// # Errors
/// When it fails or takes too long; with what it says.
pub async fn run(command: &mut Command, input: &str) -> anyhow::Result<String> {
    let name = format!("{:?}", command.as_std());
    let mut child = command.stdin(Stdio::piped()).spawn().with_context(|| name.clone())?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends without reading says why by itself.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = timeout(COMMAND_DEADLINE, child.wait_with_output())
        .await
        .with_context(|| format!("{name} takes too long"))??;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name}: {}\n{said}{complained}", output.status);
    Ok(said)
}
