//! Signals to the processes that tests own, and to no others.

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;

/// Sends a signal to a child that has not been waited for yet, so that its ID is still its own.
pub(crate) fn send(child: Option<&Child>, signal: Signal) -> anyhow::Result<()> {
    let id = child.and_then(Child::id).context("the process is not running")?;
    to_process(id.try_into()?, signal)
}

/// Sends a signal to a process.
pub(crate) fn to_process(id: i32, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_raw(id).context("no process ID")?;
    Ok(kill_process(pid, signal)?)
}
