//! Worlds of a log whose disk is sometimes full: a file at its size limit takes part of a write, and
//! then nothing. The limit is per process, so these worlds run in their own process, one after the
//! other.

use std::{env, process::Command, thread};

use super::world::tried;

const WORLDS: u64 = 50;
/// Set in that process.
const FULL: &str = "PINKEEPER_FULL_DISK";

#[test]
fn in_every_world_of_a_log_nothing_is_acknowledged_that_a_full_disk_did_not_take() {
    if env::var_os(FULL).is_some() {
        let number = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let from = number("PINKEEPER_SIM_FROM").unwrap_or_default();
        let count = number("PINKEEPER_SIM_SEEDS").unwrap_or(WORLDS);
        let failed = (from..from + count).find_map(|seed| tried(seed, true));
        return assert_eq!(failed, None);
    }
    let thread = thread::current();
    let name = thread.name().unwrap();
    // Exceeding the file size is then an error instead of a signal.
    let script = ["-c", "trap '' XFSZ; exec \"$@\"", "sh"];
    let mut test = Command::new("sh");
    test.args(script).arg(env::current_exe().unwrap()).args(["--exact", name, "--nocapture"]);
    let ended = test.env(FULL, "1").output().unwrap();
    let told = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && told.contains("1 passed"), "{told}");
}
