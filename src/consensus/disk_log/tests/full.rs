//! Worlds of a log whose disk is full at times: a file that must not grow takes a part of a write, and then
//! none. That is a matter of the process, so they run in one of their own, one after the other.

use std::{env, process::Command, thread};

use super::world::tried;

const WORLDS: u64 = 50;
/// Set in the process of its own.
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
    // A file that would grow too long is an error then, and no signal.
    let script = ["-c", "trap '' XFSZ; exec \"$@\"", "sh"];
    let mut test = Command::new("sh");
    test.args(script).arg(env::current_exe().unwrap()).args(["--exact", name, "--nocapture"]);
    let ended = test.env(FULL, "1").output().unwrap();
    let told = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && told.contains("1 passed"), "{told}");
}
