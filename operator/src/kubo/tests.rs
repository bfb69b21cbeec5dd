//! The supervisor with a stand-in for the daemon's program: a shell script.
#![allow(clippy::unwrap_used)]

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use tokio::time::timeout;

use super::*;

/// Makes a repository like `ipfs init`; as a daemon it counts its starts and behaves as told.
const SCRIPT: &str = r#"#!/bin/sh
case "$1" in
init)
  [ ! -e "$IPFS_PATH/config" ] || exit 1
  [ ! -e "$IPFS_PATH/fail-init" ] || { mkdir "$IPFS_PATH/blocks"; exit 1; }
  mkdir "$IPFS_PATH/blocks"
  echo '{"Identity":{"PeerID":"x"}}' > "$IPFS_PATH/config"
  ;;
daemon)
  echo start >> "$IPFS_PATH/starts"
  [ -e "$IPFS_PATH/stay" ] || exit 3
  trap 'echo stopped >> "$IPFS_PATH/starts"; exit 0' TERM
  while :; do sleep 0.05; done
  ;;
esac
"#;

fn args(folder: &Path) -> Args {
    let ipfs = folder.join("ipfs");
    fs::write(&ipfs, SCRIPT).unwrap();
    fs::set_permissions(&ipfs, fs::Permissions::from_mode(0o755)).unwrap();
    Args {
        repository: folder.join("repo"),
        ipfs,
        api: "/ip4/127.0.0.1/tcp/5001".to_owned(),
        gateway: "/ip4/127.0.0.1/tcp/8080".to_owned(),
        swarm: vec!["/ip4/0.0.0.0/tcp/4001".to_owned()],
        storage_max: None,
        private: true,
        swarm_key_file: None,
        stop_deadline: 5,
    }
}

async fn until(condition: impl Fn() -> bool) {
    timeout(Duration::from_secs(20), async {
        while !condition() {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
}

fn starts(args: &Args) -> String {
    fs::read_to_string(args.repository.join("starts")).unwrap_or_default()
}

#[tokio::test]
async fn the_daemon_is_made_started_again_and_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let args = args(folder.path());
    let token = CancellationToken::new();
    let (supervised, stop) = (args.clone(), token.clone());
    let task = tokio::spawn(async move { supervise(&supervised, &stop).await });
    // It ends at once: it is started again.
    until(|| starts(&args).lines().count() >= 2).await;
    fs::write(args.repository.join("stay"), "").unwrap();
    until(|| starts(&args).lines().count() >= 3).await;
    let config = fs::read_to_string(args.repository.join("config")).unwrap();
    assert!(config.contains("\"PeerID\": \"x\"") && config.contains("\"none\""), "{config}");
    // The trap must be set before the signal comes.
    sleep(Duration::from_millis(200)).await;
    token.cancel();
    timeout(Duration::from_secs(10), task).await.unwrap().unwrap();
    assert!(starts(&args).ends_with("stopped\n"), "{}", starts(&args));
}

#[tokio::test]
async fn a_half_made_repository_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let args = args(folder.path());
    let token = CancellationToken::new();
    fs::create_dir_all(&args.repository).unwrap();
    fs::write(args.repository.join("fail-init"), "").unwrap();
    let error = repository::prepare(&args, &token).await.unwrap_err();
    assert!(error.to_string().contains("ipfs init ended"), "{error:#}");
    assert!(args.repository.join("blocks").exists());
    fs::remove_file(args.repository.join("fail-init")).unwrap();
    repository::prepare(&args, &token).await.unwrap();
    let config = fs::read(args.repository.join("config")).unwrap();
    // And then it stays as it is.
    repository::prepare(&args, &token).await.unwrap();
    assert_eq!(fs::read(args.repository.join("config")).unwrap(), config);
}

#[tokio::test]
async fn content_without_a_config_is_never_touched() {
    let folder = tempfile::tempdir().unwrap();
    let args = args(folder.path());
    fs::create_dir_all(args.repository.join("blocks")).unwrap();
    let error = repository::prepare(&args, &CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("holds blocks but no config"), "{error:#}");
    assert!(args.repository.join("blocks").exists());
}

#[tokio::test]
async fn a_lock_that_nobody_holds_goes() {
    let folder = tempfile::tempdir().unwrap();
    let args = args(folder.path());
    fs::create_dir_all(&args.repository).unwrap();
    let lock = args.repository.join("repo.lock");
    fs::write(&lock, "left behind").unwrap();
    repository::prepare(&args, &CancellationToken::new()).await.unwrap();
    assert!(!lock.exists());
}
