//! Kubo's garbage collection.
//!
//! `repo/gc` waits for the lock held by each pin in flight and cannot be cancelled while it waits; from
//! then on every other pin, unpin and upload waits for it: one pin with missing content freezes the
//! daemon. So it is sent only while no running command holds the lock.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{QUICK_DEADLINE, Rpc, SLOW_DEADLINE, verdict, wire};
use crate::{ipfs::IpfsError, types::GcReport};

/// How long other commands may still run before the collection is given up; a cancelled pin ends within
/// milliseconds.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// Time between two checks.
const LOOK_PERIOD: Duration = Duration::from_millis(100);
/// Kubo is silent while it determines what to keep, and while it finds nothing to remove. The caller
/// has a shorter deadline.
const SILENCE_MAX: Duration = Duration::from_secs(24 * 3600);

pub(super) async fn run(rpc: &Rpc) -> Result<GcReport, IpfsError> {
    wait_for_lock(rpc).await?;
    let query = [("stream-errors", "true")];
    let lines = rpc.open("repo/gc", &query, SILENCE_MAX).await?;
    let mut lines = lines.with_silence(SILENCE_MAX);
    let mut collecting = verdict::Collecting::default();
    let end = loop {
        match lines.next_json::<wire::GcItem>().await {
            Ok(Some(item)) => collecting.hear(&item),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    collecting.end(end)
}

async fn wait_for_lock(rpc: &Rpc) -> Result<(), IpfsError> {
    // Kubo also lists commands that ended within the last hour; clearing these keeps the answer short.
    let mut cleared = rpc.open("diag/cmds/clear", &[], QUICK_DEADLINE).await?;
    while cleared.next_json::<serde_json::Value>().await?.is_some() {}
    let begin = Instant::now();
    loop {
        let running: Vec<wire::RunningCommand> = rpc.ask("diag/cmds", &[], SLOW_DEADLINE).await?;
        let Some(holder) = verdict::lock_holder(&running) else { return Ok(()) };
        if begin.elapsed() >= LOCK_WAIT {
            return Err(IpfsError::Failed(format!(
                "{holder} is under way there, and a collection would hold everything up until it ends"
            )));
        }
        sleep(LOOK_PERIOD).await;
    }
}
