//! The stand-in's garbage collection, and the lock that it and pins wait for.
//!
//! Like Kubo's: a collection waits for the pins in flight, later requests wait for the collection, and
//! a waiting collection cannot be cancelled.

use std::collections::BTreeSet;

use futures::stream::{self, Stream, StreamExt as _};
use http::Response;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    End, Request, StandInDaemon,
    rpc::{Piece, broken, line, trailer, whole},
};
use crate::{ipfs::kubo::Body, types::Cid};

/// Held by a pin in flight.
pub(super) struct PinLock(StandInDaemon);

impl PinLock {
    pub(super) fn new(daemon: &StandInDaemon) -> Self {
        daemon.world().locks += 1;
        Self(daemon.clone())
    }
}

impl Drop for PinLock {
    fn drop(&mut self) {
        self.0.change(|world| {
            world.locks -= 1;
            if world.locks == 0 && std::mem::take(&mut world.orphaned) {
                world.collecting = false;
            }
        });
    }
}

/// Held by a collection.
struct Collecting(StandInDaemon);

impl Drop for Collecting {
    fn drop(&mut self) {
        self.0.change(|world| {
            world.orphaned = world.locks > 0;
            world.collecting = world.orphaned;
        });
    }
}

impl StandInDaemon {
    /// The running command that holds the lock.
    pub(super) fn running(&self) -> Response<Body> {
        let world = self.world();
        let command = |command: &str| json!({"Command": command, "Active": true});
        let mut commands: Vec<Value> = (0..world.locks).map(|_| command("pin/add")).collect();
        commands.extend(world.collecting.then(|| command("repo/gc")));
        whole(&Value::Array(commands))
    }

    pub(super) fn collect(&self, life: u64) -> impl Stream<Item = Piece> + use<> {
        let daemon = self.clone();
        daemon.world().log(Request::Collect);
        let pieces = async move {
            let ended = daemon.remove_unpinned(life).await;
            // A clean end without an error reports success too.
            if matches!(ended, Ok(_) | Err(End::Clean(None))) {
                daemon.world().collected_at = Some(Instant::now());
            }
            match ended {
                Ok(removed) => {
                    let item = |cid: Cid| Ok(line(&json!({"Key": {"/": cid.to_string()}})));
                    removed.into_iter().map(item).collect::<Vec<Piece>>()
                }
                Err(End::Broken) => vec![Err(broken(End::Broken).into())],
                Err(End::Clean(None)) => vec![],
                Err(End::Clean(Some(text))) => vec![trailer(&text)],
            }
        };
        stream::once(pieces).flat_map(stream::iter)
    }

    async fn remove_unpinned(&self, life: u64) -> Result<Vec<Cid>, End> {
        self.until(life, |world| !world.collecting).await?;
        self.world().collecting = true;
        let _collecting = Collecting(self.clone());
        self.until(life, |world| world.locks == 0).await?;
        let time = self.world().pin_time;
        tokio::select! { biased;
            end = self.ended(life) => return Err(end),
            () = sleep(time) => {}
        }
        let mut world = self.world();
        let blocks = std::mem::take(&mut world.blocks).into_iter();
        let needed = |cid: &Cid| world.pins.contains(cid) || world.direct.contains(cid);
        let (kept, removed) = blocks.partition::<BTreeSet<Cid>, _>(needed);
        world.blocks = kept;
        Ok(removed.into_iter().collect())
    }
}
