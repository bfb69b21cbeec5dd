//! Shared by the tests of this crate: the repository's files, its tools, and a private API server.

// Each test program uses a part of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// A tool that `make tools` has built.
pub fn tool(name: &str) -> PathBuf {
    let folder = std::env::var_os("PINKEEPER_BIN_DIR").map_or_else(
        || {
            let cache = std::env::var_os("PINKEEPER_CACHE").map_or_else(
                || Path::new(&std::env::var_os("HOME").unwrap()).join(".cache/pinkeeper"),
                PathBuf::from,
            );
            cache.join("bin/current")
        },
        PathBuf::from,
    );
    let path = folder.join(name);
    assert!(path.exists(), "there is no {}; run: make tools", path.display());
    path
}

/// Runs a program and returns its output, whether it succeeds or not.
pub fn output<S: AsRef<OsStr>>(program: &Path, args: impl IntoIterator<Item = S>) -> Output {
    Command::new(program).args(args).env_remove("KUBECONFIG").output().unwrap()
}

/// Runs a program that must succeed and returns its standard output.
pub fn run<S: AsRef<OsStr>>(program: &Path, args: impl IntoIterator<Item = S>) -> String {
    let output = output(program, args);
    assert!(
        output.status.success(),
        "{} failed:\n{}{}",
        program.display(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The documents of a YAML text, without empty ones.
pub fn documents(text: &str) -> Vec<serde_json::Value> {
    let all: Vec<serde_json::Value> = serde_saphyr::from_multiple(text).unwrap();
    all.into_iter().filter(|document| !document.is_null()).collect()
}

/// Fails if a generated file is outdated; with PINKEEPER_GENERATE set, writes it.
pub fn generated(path: &str, expected: &str) {
    let file = repository().join(path);
    if std::env::var_os("PINKEEPER_GENERATE").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, expected).unwrap();
        return;
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    if found != expected {
        let line = found.lines().zip(expected.lines()).position(|(a, b)| a != b);
        panic!(
            "{path} differs from what is generated (line {:?}); run: make generate",
            line.map(|l| l + 1)
        );
    }
}

/// A private etcd and kube-apiserver, stopped on drop.
pub struct ControlPlane {
    folder: tempfile::TempDir,
    /// The administrator's credentials.
    pub kubeconfig: PathBuf,
}

impl ControlPlane {
    /// Starts them; takes about 3 seconds.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = run(&script(), ["control-plane", "up", text(folder.path())]);
        Self { folder, kubeconfig: kubeconfig.trim().into() }
    }

    /// An administrator's client.
    pub async fn client(&self) -> Client {
        Client::try_from(self.config().await).unwrap()
    }

    /// A client with the rights of a service account.
    pub async fn client_as(&self, namespace: &str, account: &str) -> Client {
        let mut config = self.config().await;
        config.auth_info.impersonate = Some(format!("system:serviceaccount:{namespace}:{account}"));
        Client::try_from(config).unwrap()
    }

    async fn config(&self) -> Config {
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig).unwrap();
        let options = KubeConfigOptions::default();
        Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap()
    }

    /// Runs kubectl as the administrator.
    pub fn kubectl<'a>(&'a self, args: &[&'a str]) -> Output {
        let mut all = vec!["--kubeconfig", text(&self.kubeconfig)];
        all.extend(args);
        output(&tool("kubectl"), all)
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        output(&script(), ["control-plane", "down", text(self.folder.path())]);
    }
}

fn script() -> PathBuf {
    repository().join("e2e/local/cluster.sh")
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
