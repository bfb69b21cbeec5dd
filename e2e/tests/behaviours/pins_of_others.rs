//! Pins that somebody else has there, of every kind.

use std::time::Duration;

use futures::StreamExt as _;
use pinkeeper::{
    ipfs::{Held, Ipfs as _},
    types::{Cid, PinState},
};
use pinkeeper_e2e::daemon::{Daemon, identity_cid};
use tokio::time::timeout;

use super::{Config, ME, Tracked, broken_file, claim_named, config, empty, release, until};

#[tokio::test]
async fn foreign_pins_stay_and_ours_go_also_when_deleted_while_away() {
    let daemon = Daemon::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let foreign = identity_cid(100);
    daemon.rpc("pin/add", &[("arg", &foreign.to_string())]).await.unwrap();
    let tracked = Tracked::start(&daemon, folder.path(), empty());
    for n in [100, 101, 102, 103] {
        tracked.want(identity_cid(n));
    }
    for n in [100, 101, 102, 103] {
        tracked.until(identity_cid(n), Some(PinState::Pinned)).await;
    }
    tracked.release(identity_cid(101));
    tracked.until(identity_cid(101), None).await;
    assert!(!daemon.holds(&identity_cid(101)).await);
    // The peer is away while the others' claims go.
    let state = tracked.stop().await;
    release(&state, foreign);
    release(&state, identity_cid(102));
    let tracked = Tracked::start(&daemon, folder.path(), state);
    until("unpinned", || async { !daemon.holds(&identity_cid(102)).await }).await;
    tracked.until(identity_cid(103), Some(PinState::Pinned)).await;
    tracked.until(foreign, None).await;
    assert!(daemon.holds(&foreign).await && daemon.holds(&identity_cid(103)).await);
    tracked.stop().await;
}

/// As `ipfs add --inline --inline-limit=100` makes it of a file of a hundred times the letter x.
#[tokio::test]
async fn a_pin_whose_cid_is_too_long_for_us_hides_no_other() {
    let daemon = Daemon::start().await.unwrap();
    let long = format!("bafkqazdypb4{}hq6a", "hq6dypb4".repeat(19));
    assert!(long.parse::<Cid>().is_err());
    let (before, after) = (identity_cid(1), identity_cid(2));
    for cid in [&before.to_string(), &long, &after.to_string()] {
        daemon.rpc("pin/add", &[("arg", cid)]).await.unwrap();
    }
    let listed = daemon.rpc("pin/ls", &[("type", "recursive")]).await.unwrap();
    assert!(listed.contains(&long), "{listed}");
    let client = daemon.client().unwrap();
    let pins: Vec<_> = client.pins().collect().await;
    assert!(pins.contains(&Ok(before)) && pins.contains(&Ok(after)), "{pins:?}");
    assert!(pins.iter().all(Result::is_ok), "{pins:?}");
}

async fn pin_named(daemon: &Daemon, cid: &Cid, name: &str) -> anyhow::Result<String> {
    daemon.rpc("pin/add", &[("arg", &cid.to_string()), ("name", name)]).await
}

async fn name_of(daemon: &Daemon, cid: &Cid) -> Option<String> {
    let query = [("type", "recursive"), ("names", "true")];
    let list: serde_json::Value =
        serde_json::from_str(&daemon.rpc("pin/ls", &query).await.unwrap()).unwrap();
    Some(list["Keys"].get(cid.to_string())?["Name"].as_str().unwrap_or_default().to_owned())
}

/// Pinning again takes the pin away first, and its name in any case.
#[tokio::test]
async fn what_is_pinned_is_never_pinned_again() {
    let mut daemon = Daemon::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let root = daemon.add(vec![1; 5000]).await.unwrap();
    pin_named(&daemon, &root, "theirs").await.unwrap();
    // A part of it is lost: pinned again, it would be pinned no more.
    let child = daemon.children(&root).await.unwrap()[0];
    daemon.terminate().unwrap();
    daemon.ended().await.unwrap();
    daemon.remove_block_file(&child).unwrap();
    daemon.run().await.unwrap();
    let tracked = Tracked::start(&daemon, folder.path(), empty());
    tracked.want(root);
    tracked.until(root, Some(PinState::Pinned)).await;
    assert_eq!(name_of(&daemon, &root).await.as_deref(), Some("theirs"));
    tracked.release(root);
    tracked.until(root, None).await;
    assert!(daemon.holds(&root).await);
    tracked.stop().await;

    // That Kubo really does so.
    let text = root.to_string();
    let query = [("arg", text.as_str())];
    let again = daemon.rpc("pin/add", &query);
    assert!(timeout(Duration::from_secs(3), again).await.is_err(), "it waits for the block");
    until("the pin is gone", || async { !daemon.holds(&root).await }).await;
}

#[tokio::test]
async fn direct_and_indirect_pins_are_told_apart_from_ours() {
    let daemon = Daemon::start().await.unwrap();
    let client = daemon.client().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let root = daemon.add(vec![2; 5000]).await.unwrap();
    let child = daemon.children(&root).await.unwrap()[0];
    let direct = identity_cid(1);
    let query = [("arg", &*direct.to_string()), ("recursive", "false")];
    daemon.rpc("pin/add", &query).await.unwrap();
    let tracked = Tracked::start(&daemon, folder.path(), empty());
    for cid in [root, identity_cid(2)] {
        tracked.want(cid);
        tracked.until(cid, Some(PinState::Pinned)).await;
    }
    // A part of what we hold is not pinned itself, and Kubo refuses to unpin it: no error of ours.
    assert_eq!(client.pinned(vec![child]).await, Ok(vec![Held::No]));
    assert_eq!(client.unpin(child).await, Ok(()));
    assert!(daemon.holds(&root).await);
    tracked.want(child);
    tracked.until(child, Some(PinState::Pinned)).await;
    assert!(daemon.holds(&child).await);
    tracked.release(child);
    tracked.until(child, None).await;
    assert!(!daemon.holds(&child).await && daemon.holds(&root).await);
    // What is held whole cannot be pinned as a block as well; ours is untouched.
    let query = [("arg", &*root.to_string()), ("recursive", "false")];
    let refused = daemon.rpc("pin/add", &query).await.unwrap_err().to_string();
    assert!(refused.contains("already pinned recursively"), "{refused}");
    assert_eq!(client.pinned(vec![direct, root]).await, Ok(vec![Held::Direct, Held::Recursive]));
    // Theirs is widened when it is wanted, and stays.
    tracked.want(direct);
    tracked.until(direct, Some(PinState::Pinned)).await;
    tracked.release(direct);
    tracked.until(direct, None).await;
    assert!(daemon.holds(&direct).await);
    tracked.stop().await;
}

/// Kubo takes names up to 255 bytes; ours are not told to it.
#[tokio::test]
async fn a_name_is_never_a_reason_not_to_pin() {
    let daemon = Daemon::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (identity_cid(1), identity_cid(2));
    pin_named(&daemon, &one, &"n".repeat(255)).await.unwrap();
    let refused = pin_named(&daemon, &other, &"n".repeat(256)).await.unwrap_err().to_string();
    assert!(refused.contains("500"), "{refused}");
    let tracked = Tracked::start(&daemon, folder.path(), empty());
    claim_named(&tracked.state, other, &"n".repeat(1024));
    tracked.until(other, Some(PinState::Pinned)).await;
    assert_eq!(name_of(&daemon, &other).await.as_deref(), Some(""));
    tracked.stop().await;
}

#[tokio::test]
async fn a_pin_of_ours_that_they_broke_is_told_until_it_is_whole() {
    let daemon = Daemon::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (root, missing) = broken_file(&daemon).await;
    let tracked = Tracked::start(&daemon, folder.path(), empty());
    daemon.put_block(missing).await.unwrap();
    tracked.want(root);
    tracked.until(root, Some(PinState::Pinned)).await;
    // Somebody unpins it and takes a block away.
    let child = daemon.children(&root).await.unwrap()[5];
    daemon.rpc("pin/rm", &[("arg", &root.to_string())]).await.unwrap();
    let missing = daemon.take_block(&child).await;
    tracked.until(root, Some(PinState::NotFound)).await;
    daemon.put_block(missing.unwrap()).await.unwrap();
    tracked.until(root, Some(PinState::Pinned)).await;
    tracked.stop().await;
}

/// Content that nobody had is added on the spot by somebody: theirs, whatever we had intended.
#[tokio::test]
async fn what_others_add_after_our_attempt_failed_is_theirs() {
    let daemon = Daemon::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (root, missing) = broken_file(&daemon).await;
    let wait = Duration::from_secs(60);
    let config = Config { retry_min: wait, retry_max: wait, ..config() };
    let tracked = Tracked::start_at(&daemon.url(), folder.path(), empty(), config);
    tracked.want(root);
    tracked.until(root, Some(PinState::NotFound)).await;
    let entries = || async { tracked.ledger.ledger().entries(ME).unwrap() };
    until("the intent is taken back", || async { entries().await.is_empty() }).await;
    let state = tracked.stop().await;
    daemon.put_block(missing).await.unwrap();
    daemon.rpc("pin/add", &[("arg", &root.to_string())]).await.unwrap();
    let tracked = Tracked::start(&daemon, folder.path(), state);
    tracked.until(root, Some(PinState::Pinned)).await;
    tracked.release(root);
    tracked.until(root, None).await;
    assert!(daemon.holds(&root).await);
    tracked.stop().await;
}
