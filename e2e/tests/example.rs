//! The commands of docs/without-kubernetes.md, "Three peers on one machine", as written there.
//!
//! They run in a network namespace that has nothing but loopback, so their ports are free and nothing
//! dials out.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use pinkeeper_e2e::peer::program;
use tokio::{process::Command, time::timeout};

/// Three peers and three daemons start, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(180);

/// What is to be copied into a shell: every block of `sh`.
fn commands() -> String {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/without-kubernetes.md");
    let text = fs::read_to_string(document).unwrap();
    let blocks = text.split("\n```sh\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap()).collect()
}

/// A folder with the programs that the commands call, and nothing else.
fn programs(folder: &Path) -> PathBuf {
    let path = folder.join("bin");
    fs::create_dir(&path).unwrap();
    let built = PathBuf::from(env::var_os("PINKEEPER_BIN_DIR").unwrap());
    for (name, of) in [("pinkeeper", program().unwrap()), ("ipfs", built.join("ipfs"))] {
        std::os::unix::fs::symlink(fs::canonicalize(of).unwrap(), path.join(name)).unwrap();
    }
    path
}

#[tokio::test]
async fn three_peers_on_one_machine_run_as_the_document_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = env::join_paths(
        [programs(folder.path())]
            .into_iter()
            .chain(env::split_paths(&env::var_os("PATH").unwrap())),
    )
    .unwrap();
    let script = folder.path().join("script");
    fs::write(&script, format!("ip link set lo up\n{}", commands())).unwrap();
    // A namespace of processes, too: whatever is left ends with it.
    let shell = Command::new("unshare")
        .args([
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "bash",
            "-euo",
            "pipefail",
        ])
        .arg(&script)
        .current_dir(folder.path())
        .env("PATH", path)
        .env("HOME", folder.path())
        .env_remove("IPFS_PATH")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let ended = timeout(DEADLINE, shell).await;
    let told = |name: &str| {
        let log = fs::read_to_string(folder.path().join("three").join(name)).unwrap_or_default();
        format!("{name}:\n{log}")
    };
    let logs = || ["peer1.log", "peer2.log", "peer3.log", "kubo1.log"].map(told).join("\n");
    let output = ended.unwrap_or_else(|_| panic!("not within {DEADLINE:?}\n{}", logs())).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}\n{errors}\n{}", output.status, logs());
    assert_eq!(said.matches(r#""status":"pinned""#).count(), 3, "{said}\n{errors}");
    assert!(said.contains(r#""name":"first""#), "{said}");
}
