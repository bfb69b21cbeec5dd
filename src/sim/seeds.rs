//! Runs the worlds of a test, and stops at the first that fails or does not end.

use std::{
    collections::BTreeMap,
    io::Write as _,
    process,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;

use super::trace::Trace;

/// Number of worlds that run at the same time, each on its own thread.
const THREADS: usize = 2;
/// More real time than any world needs, even on a busy machine.
const WORLD_MAX: Duration = Duration::from_secs(180);

/// Counts of the situations that the worlds reached, in total.
#[derive(Debug, Default)]
pub struct Met(Mutex<BTreeMap<&'static str, u64>>);

impl Met {
    /// Adds the counts of one world.
    pub fn add(&self, trace: &Trace) {
        let mut met = self.0.lock();
        for (what, count) in trace.met() {
            *met.entry(what).or_default() += count;
        }
    }

    /// Requires a minimum count for each of these, unless the environment names other worlds.
    ///
    /// # Errors
    /// Names those below their minimum.
    pub fn demand(&self, all: &[(&'static str, u64)]) -> Result<(), String> {
        let met = self.0.lock();
        let count = |what: &str| met.get(what).copied().unwrap_or_default();
        let mut rare = all.iter().filter(|(what, least)| count(what) < *least).peekable();
        if rare.peek().is_none() || number(FROM).is_some() || number(SEEDS).is_some() {
            return Ok(());
        }
        let rare: Vec<&str> = rare.map(|(what, _)| *what).collect();
        Err(format!("the worlds rarely reach {rare:?}; reached: {met:#?}"))
    }
}

const FROM: &str = "PINKEEPER_SIM_FROM";
const SEEDS: &str = "PINKEEPER_SIM_SEEDS";

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Runs the worlds of `kept` and of the first `count` seeds, or only those that the environment names
/// (`PINKEEPER_SIM_FROM`, `PINKEEPER_SIM_SEEDS`), until `report` returns why one failed.
///
/// # Errors
/// That report, and that of the world that ran beside it if it failed too.
///
/// # Panics
/// When `report` does.
pub fn run_worlds(
    kept: &[u64],
    count: u64,
    report: impl Fn(u64) -> Option<String> + Sync,
) -> Result<(), String> {
    let from = number(FROM);
    let count = number(SEEDS).unwrap_or(count);
    let mut seeds = if from.is_none() { kept.to_vec() } else { Vec::new() };
    seeds.extend((0..count).map(|n| from.unwrap_or(0) + n));
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let turn = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).ok()?;
            let seed = *seeds.get(turn)?;
            let failure = or_exit(seed, || report(seed));
            if failure.is_some() {
                failed.store(true, Ordering::Relaxed);
                return failure;
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

/// Runs the world of that seed. A world that does not end has a task that is always ready, so virtual
/// time stands still: only the end of the process can stop it, after a message.
fn or_exit<R>(seed: u64, world: impl FnOnce() -> R) -> R {
    let (ended, end) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if end.recv_timeout(WORLD_MAX) == Err(RecvTimeoutError::Timeout) {
                // Not with a macro, whose output the test harness would hold back.
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
