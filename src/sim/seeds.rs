//! Which worlds a test runs, and that it stops at the first that fails.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

/// Worlds at a time, each on its own thread.
const THREADS: usize = 2;

/// Runs the worlds of `kept` and of the first `count` seeds, or only those that the environment names
/// (`PINKEEPER_SIM_FROM`, `PINKEEPER_SIM_SEEDS`), until `report` says of one why it failed.
///
/// # Errors
/// That report; and that of the world that ran beside it, if it failed too.
///
/// # Panics
/// When `report` does.
pub fn run_worlds(
    kept: &[u64],
    count: u64,
    report: impl Fn(u64) -> Option<String> + Sync,
) -> Result<(), String> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let from: Option<u64> = number("PINKEEPER_SIM_FROM");
    let count = number("PINKEEPER_SIM_SEEDS").unwrap_or(count);
    let mut seeds = if from.is_none() { kept.to_vec() } else { Vec::new() };
    seeds.extend((0..count).map(|n| from.unwrap_or(0) + n));
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let turn = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).ok()?;
            let told = report(*seeds.get(turn)?);
            if told.is_some() {
                failed.store(true, Ordering::Relaxed);
                return told;
            }
        }
        None
    };
    let reports: Vec<String> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        #[expect(clippy::expect_used, reason = "a world that panics fails the test")]
        threads.into_iter().filter_map(|thread| thread.join().expect("a world")).collect()
    });
    if reports.is_empty() { Ok(()) } else { Err(reports.join("\n\n")) }
}
