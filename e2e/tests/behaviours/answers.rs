//! What it answers, and how that is read.

use std::{collections::BTreeSet, time::Duration};

use futures::{StreamExt as _, stream};
use pinkeeper::{
    ipfs::{Held, Ipfs as _, IpfsError},
    types::{Cid, Progress},
};
use pinkeeper_e2e::daemon::{Daemon, identity_cid};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{broken_file, pin, start_pin};

#[tokio::test]
async fn pins_are_added_asked_about_listed_and_removed() {
    let daemon = Daemon::start().await.unwrap();
    let client = daemon.client().unwrap();
    let info = client.id().await.unwrap();
    assert!(info.id.starts_with("12D3KooW") && info.agent.starts_with("kubo/"), "{info:?}");
    let stat = client.repository().await.unwrap();
    assert!(stat.size > 0 && stat.storage_max == 10_000_000_000, "{stat:?}");

    let count = 3000;
    let results: Vec<_> = stream::iter(0..count)
        .map(|n| {
            let client = client.clone();
            async move { client.pin(identity_cid(n), watch::channel(Progress::default()).0).await }
        })
        .buffer_unordered(8)
        .collect()
        .await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let listed: BTreeSet<Cid> = client.pins().map(Result::unwrap).collect().await;
    assert!((0..count).all(|n| listed.contains(&identity_cid(n))), "{}", listed.len());

    // Every second one is not pinned, and then a long run is.
    let asked: Vec<u32> =
        (0..60).map(|n| if n % 2 == 0 { n } else { count + n }).chain(0..100).collect();
    let answers = client.pinned(asked.iter().map(|n| identity_cid(*n)).collect()).await.unwrap();
    let held = |n: &u32| if *n < count { Held::Recursive } else { Held::No };
    let expected: Vec<Held> = asked.iter().map(held).collect();
    assert_eq!(answers, expected);
    // Also where somebody has pinned the block alone, listed or asked about.
    let direct = identity_cid(count + 1);
    let query = [("arg", &*direct.to_string()), ("recursive", "false")];
    daemon.rpc("pin/add", &query).await.unwrap();
    assert_eq!(client.pinned(vec![direct]).await, Ok(vec![Held::Direct]));
    let four: Vec<Cid> = (0..4).map(|n| identity_cid(count + n)).collect();
    let answers = client.pinned(four).await.unwrap();
    assert_eq!(answers, [Held::No, Held::Direct, Held::No, Held::No]);

    client.unpin(identity_cid(7)).await.unwrap();
    client.unpin(identity_cid(7)).await.unwrap();
    assert_eq!(client.pinned(vec![identity_cid(7)]).await, Ok(vec![Held::No]));
    assert!(daemon.holds(&identity_cid(8)).await);
}

#[tokio::test]
async fn what_can_never_be_pinned_is_told_from_what_fails() {
    let daemon = Daemon::start().await.unwrap();
    let client = daemon.client().unwrap();
    // Hashed with MD5; bytes that are no hash beyond what Kubo allows; a codec that it cannot read.
    for text in [
        "bagyaceraftze3os7wcrq4jxihmvmlopctynrmhs4d6tuexttaqzwfe4ltasa",
        "bafk5kaiqmfqwcylbmfqwcylbmfqwcylbme",
        "bafk2dbqbebqwcylbmfqwcylbmfqwcylbmfqwcylbmfqwcylbmfqwcylbmfqwc",
    ] {
        let cid: Cid = text.parse().unwrap();
        assert_eq!(client.pinned(vec![cid]).await, Ok(vec![Held::No]));
        let result = pin(&client, cid).await;
        assert!(matches!(result, Err(IpfsError::Unpinnable(_))), "{text}: {result:?}");
    }
}

#[tokio::test]
async fn a_missing_block_never_counts_as_pinned() {
    let mut daemon = Daemon::start().await.unwrap();
    let client = daemon.client().unwrap();
    let (root, missing) = broken_file(&daemon).await;
    let (task, mut progress) = start_pin(&client, root);
    timeout(Duration::from_secs(10), progress.wait_for(|p| p.blocks > 0)).await.unwrap().unwrap();
    sleep(Duration::from_secs(2)).await;
    assert!(!task.is_finished());
    // Stopped in the middle: Kubo ends the stream cleanly.
    daemon.terminate().unwrap();
    let result = timeout(Duration::from_secs(30), task).await.unwrap().unwrap();
    assert!(matches!(result, Err(IpfsError::Failed(_) | IpfsError::Down(_))), "{result:?}");
    daemon.ended().await.unwrap();
    daemon.run().await.unwrap();
    assert_eq!(client.pinned(vec![root]).await, Ok(vec![Held::No]));
    // Broken off by us: the daemon stops too, and others are not held up.
    let (task, _progress) = start_pin(&client, root);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(pin(&client, identity_cid(1)).await, Ok(()));
    task.abort();
    daemon.put_block(missing).await.unwrap();
    assert_eq!(pin(&client, root).await, Ok(()));
    assert_eq!(client.pinned(vec![root]).await, Ok(vec![Held::Recursive]));
}

#[tokio::test]
async fn daemons_connected_to_each_other_fetch_from_each_other() {
    let (one, two) = (Daemon::start().await.unwrap(), Daemon::start().await.unwrap());
    let root = one.add(vec![7; 50_000]).await.unwrap();
    let client = two.client().unwrap();
    let addresses = one.client().unwrap().id().await.unwrap().addresses;
    client.connect(addresses).await.unwrap();
    assert_eq!(pin(&client, root).await, Ok(()));
    let error = client.connect(vec!["/ip4/127.0.0.1/tcp/1".to_owned()]).await;
    assert!(error.is_err(), "{error:?}");
}
