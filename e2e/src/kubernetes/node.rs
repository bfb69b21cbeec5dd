//! Processes of containers, seen from the node they run on: the tests run on that node.
//!
//! Only processes in the control group of the container asked for are ever signalled.

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// Signals a container's processes of the given program (the last part of its path).
///
/// # Errors
/// When there is no such process.
pub fn signal_in_container(container: &str, program: &str, signal: Signal) -> anyhow::Result<()> {
    let processes = processes(container, program)?;
    ensure!(!processes.is_empty(), "no process {program} in the container {container}");
    for process in processes {
        kill_process(process, signal).with_context(|| format!("{program} of {container}"))?;
    }
    Ok(())
}

/// Signals a container's own program, pinkeeper.
///
/// # Errors
/// When it does not run.
pub fn signal_container(container: &str, signal: Signal) -> anyhow::Result<()> {
    signal_in_container(container, "pinkeeper", signal)
}

fn processes(container: &str, program: &str) -> anyhow::Result<Vec<Pid>> {
    // Anything shorter could be a part of somebody else's.
    ensure!(container.len() == 64, "not a container's ID: {container}");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Processes come and go meanwhile.
        let read = |name| std::fs::read(entry.path().join(name)).unwrap_or_default();
        let groups = String::from_utf8_lossy(&read("cgroup")).into_owned();
        let command = String::from_utf8_lossy(&read("cmdline")).into_owned();
        let first = command.split('\0').next().unwrap_or_default();
        if groups.contains(container) && first.rsplit('/').next() == Some(program) {
            found.extend(Pid::from_raw(id));
        }
    }
    Ok(found)
}
