//! Kubo's garbage collection.
//!
//! `repo/gc` waits for the lock that each pin in flight holds, cannot be called off while it waits,
//! and from then on every other pin, unpin and upload waits for it: one pin whose content is missing
//! freezes the daemon. So it is sent only while nothing runs there that holds the lock.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{QUICK_DEADLINE, Rpc, SLOW_DEADLINE, wire};
use crate::{ipfs::IpfsError, types::Collected};

/// Commands that hold the pin lock while they run (Kubo 0.42, core/coreapi).
const LOCKING: [&str; 8] =
    ["add", "block/put", "dag/import", "dag/put", "pin/add", "pin/rm", "pin/update", "repo/gc"];
/// How long other commands may still run before the collection is given up; a pin that was just
/// broken off ends within milliseconds.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK_PERIOD: Duration = Duration::from_millis(100);
/// Kubo says nothing while it looks for what is needed, nor while it finds nothing to remove. Whoever
/// asks has a shorter deadline.
const SILENCE_MAX: Duration = Duration::from_secs(24 * 3600);

pub(super) async fn collect(rpc: &Rpc) -> Result<Collected, IpfsError> {
    wait_for_lock(rpc).await?;
    let query = [("stream-errors", "true")];
    let lines = rpc.open("repo/gc", &query, SILENCE_MAX).await?;
    let mut lines = lines.with_silence(SILENCE_MAX);
    let mut done = Collected::default();
    loop {
        match lines.next_json::<wire::GcItem>().await {
            Ok(Some(item)) if item.error.is_empty() => done.removed += 1,
            Ok(Some(item)) if done.errors.len() < Collected::ERRORS_MAX => {
                done.errors.push(wire::shortened(&item.error));
            }
            Ok(Some(_)) => {}
            Ok(None) => return Ok(done),
            // It ends with an error when single blocks had one; that is no news then.
            Err(IpfsError::Failed(_)) if !done.errors.is_empty() => return Ok(done),
            Err(error) => return Err(error),
        }
    }
}

async fn wait_for_lock(rpc: &Rpc) -> Result<(), IpfsError> {
    // Kubo also tells of commands that ended within the last hour; without them the answer is short.
    let mut cleared = rpc.open("diag/cmds/clear", &[], QUICK_DEADLINE).await?;
    while cleared.next_json::<serde_json::Value>().await?.is_some() {}
    let begin = Instant::now();
    loop {
        let running: Vec<wire::RunningCommand> = rpc.ask("diag/cmds", &[], SLOW_DEADLINE).await?;
        let holder = running.iter().find(|c| c.active && LOCKING.contains(&c.command.as_str()));
        let Some(holder) = holder else { return Ok(()) };
        if begin.elapsed() >= LOCK_WAIT {
            let command = &holder.command;
            return Err(IpfsError::Failed(format!(
                "{command} is under way there, and a collection would hold everything up until it ends"
            )));
        }
        sleep(LOOK_PERIOD).await;
    }
}
