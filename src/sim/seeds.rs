//! Which worlds a test runs, and that it stops at the first that fails, or does not end.

use std::{
    io::Write as _,
    process,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

/// Worlds at a time, each on its own thread.
const THREADS: usize = 2;
/// Real time that no world needs, also on a machine that has much else to do.
const WORLD_MAX: Duration = Duration::from_secs(180);

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
            let seed = *seeds.get(turn)?;
            let told = or_exit(seed, || report(seed));
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

/// Runs the world of that seed. One that does not end has a task that is always ready, so that virtual
/// time stands still: nothing can end it but the end of the process, which says so.
fn or_exit<R>(seed: u64, world: impl FnOnce() -> R) -> R {
    let (ended, end) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if end.recv_timeout(WORLD_MAX) == Err(RecvTimeoutError::Timeout) {
                // Not by a macro, whose output the test harness would keep back.
                let _ = writeln!(
                    std::io::stderr(),
                    "seed {seed}: its virtual time stands still: no end after {WORLD_MAX:?}"
                );
                process::exit(101);
            }
        });
        let result = world();
        drop(ended);
        result
    })
}
