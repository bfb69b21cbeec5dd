//! Three `pinkeeper peer` processes with three real daemons on loopback.
#![allow(clippy::unwrap_used, missing_docs)]

use pinkeeper_e2e::{daemon::identity_cid, trio::Trio};

#[tokio::test]
async fn first() {
    let trio = Trio::start().await.unwrap();
    println!("formed in {:?}", trio.formed_in);
    let leader = trio.leader().unwrap();
    let follower = (leader + 1) % 3;
    let cid = identity_cid(1);
    println!("{}", trio.peers[follower].pin(&cid, "").await.unwrap());
    println!("pinned in {:?}", trio.until_pinned(&cid, 3).await);
    panic!("show logs");
}
