//! The supervisor with a shell script in place of the daemon's program.
#![allow(clippy::unwrap_used)]

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use tokio::time::timeout;

use super::*;

/// Creates a repository like `ipfs init`. As a daemon it counts its starts and behaves as
/// configured.
const SCRIPT: &str = r#"#!/bin/sh
case "$1" in
init)
  [ ! -e "$IPFS_PATH/config" ] || exit 1
  [ ! -e "$IPFS_PATH/fail-init" ] || { mkdir "$IPFS_PATH/blocks"; exit 1; }
  mkdir "$IPFS_PATH/blocks"
  echo '{"Identity":{"PeerID":"x"}}' > "$IPFS_PATH/config"
  ;;
daemon)
  env > "$IPFS_PATH/environment"
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
        swarm: Vec::new(),
        swarm_port: None,
        announce: Vec::new(),
        node_ips: Vec::new(),
        pod: None,
        given: Given::default(),
        memory_limit: None,
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
    // It ends at once, and is started again.
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
async fn what_is_overwritten_in_the_config_is_told_and_the_rest_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (mut args, token) = (args(folder.path()), CancellationToken::new());
    args.given = r#"{"Provide": {"Strategy": "roots"}}"#.parse().unwrap();
    repository::prepare(&args, &token).await.unwrap();
    let file = args.repository.join("config");
    let read =
        || -> serde_json::Value { serde_json::from_slice(&fs::read(&file).unwrap()).unwrap() };
    let mut config = read();
    assert_eq!(config["Provide"]["Strategy"], "roots");
    config["Provide"]["Strategy"] = "all".into();
    config["Addresses"]["API"] = "/ip4/0.0.0.0/tcp/5001".into();
    config["Swarm"]["ConnMgr"]["HighWater"] = 300.into();
    fs::write(&file, config.to_string()).unwrap();
    assert_eq!(repository::configure(&args).unwrap(), ["Addresses.API", "Provide.Strategy"]);
    assert_eq!(read()["Swarm"]["ConnMgr"]["HighWater"], 300);
    assert_eq!(read()["Addresses"]["API"], args.api);
    assert!(repository::configure(&args).unwrap().is_empty());
}

#[tokio::test]
async fn a_daemon_announces_where_it_is_reached_from_outside() {
    let folder = tempfile::tempdir().unwrap();
    let (mut args, token) = (args(folder.path()), CancellationToken::new());
    args.announce = vec!["/{node}/tcp/{30400+ordinal}".to_owned()];
    args.node_ips = vec!["192.0.2.1".parse().unwrap()];
    args.pod = Some("pinkeeper-2".to_owned());
    repository::prepare(&args, &token).await.unwrap();
    // The pod has moved to another node.
    args.node_ips = vec!["192.0.2.2".parse().unwrap(), "2001:db8::2".parse().unwrap()];
    assert_eq!(repository::configure(&args).unwrap(), ["Addresses.AppendAnnounce"]);
    let config = fs::read_to_string(args.repository.join("config")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let expected = serde_json::json!(["/ip4/192.0.2.2/tcp/30402", "/ip6/2001:db8::2/tcp/30402"]);
    assert_eq!(config["Addresses"]["AppendAnnounce"], expected);
    args.announce = vec!["/{nothing".to_owned()];
    let error = format!("{:#}", repository::configure(&args).unwrap_err());
    assert!(error.contains("--announce: /{nothing"), "{error}");
}

#[tokio::test]
async fn a_swarm_key_is_put_in_place_and_forced() {
    let folder = tempfile::tempdir().unwrap();
    let (mut args, token) = (args(folder.path()), CancellationToken::new());
    let file = folder.path().join("key");
    args.private = false;
    args.swarm_key_file = Some(file.clone());
    fs::write(&file, "s3cret").unwrap();
    let error = format!("{:#}", repository::prepare(&args, &token).await.unwrap_err());
    assert!(error.contains("not a swarm key") && !error.contains("s3cret"), "{error}");
    fs::write(&file, "/key/swarm/psk/1.0.0/\n/base16/\n5a\n").unwrap();
    repository::prepare(&args, &token).await.unwrap();
    let key = args.repository.join("swarm.key");
    assert_eq!(fs::read(&key).unwrap(), fs::read(&file).unwrap());
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let config = fs::read_to_string(args.repository.join("config")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    assert_eq!(
        (&config["AutoConf"]["Enabled"], &config["Bootstrap"]),
        (&false.into(), &serde_json::json!([]))
    );
    let _ = run_once(&args, &token).await;
    let environment = fs::read_to_string(args.repository.join("environment")).unwrap();
    assert!(environment.contains("LIBP2P_FORCE_PNET=1\n"), "{environment}");
}

#[test]
fn the_daemons_environment_is_what_it_needs_and_nobody_set() {
    let folder = tempfile::tempdir().unwrap();
    let mut args = args(folder.path());
    let given = |args: &Args, set: &[&str]| child::environment(args, |name| set.contains(&name));
    let off = ("IPFS_TELEMETRY", "off".to_owned());
    assert_eq!(given(&args, &[]), std::slice::from_ref(&off));
    args.memory_limit = Some(1 << 30);
    assert_eq!(given(&args, &[]), [off.clone(), ("GOMEMLIMIT", "966367620".to_owned())]);
    assert_eq!(given(&args, &["GOMEMLIMIT"]), [off]);
    assert_eq!(given(&args, &["GOMEMLIMIT", "IPFS_TELEMETRY"]), []);
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
    // A second start keeps it.
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
