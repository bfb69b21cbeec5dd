//! Which worlds a test runs, and that it stops at the first that fails, or does not end.

use std::{
    collections::BTreeMap,
    io::Write as _,
    process,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use super::trace::Trace;

/// Worlds at a time, each on its own thread.
const THREADS: usize = 2;
/// Real time that no world needs, also on a machine that has much else to do.
const WORLD_MAX: Duration = Duration::from_secs(180);

/// How often worlds came to what, all together.
#[derive(Debug, Default)]
pub struct Met(Mutex<BTreeMap<&'static str, u64>>);

impl Met {
    /// Adds what one world came to.
    pub fn add(&self, trace: &Trace) {
        let mut met = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (what, count) in trace.met() {
            *met.entry(what).or_default() += count;
        }
    }

    /// Demands that worlds came to each of these so often, unless the environment has named other worlds.
    ///
    /// # Errors
    /// Names those that they came to less often.
    pub fn demand(&self, all: &[(&'static str, u64)]) -> Result<(), String> {
        let met = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |what: &str| met.get(what).copied().unwrap_or_default();
        let mut seldom = all.iter().filter(|(what, least)| count(what) < *least).peekable();
        if seldom.peek().is_none() || number(FROM).is_some() || number(SEEDS).is_some() {
            return Ok(());
        }
        let seldom: Vec<&str> = seldom.map(|(what, _)| *what).collect();
        Err(format!("worlds hardly come to {seldom:?}, of {met:#?}"))
    }
}

const FROM: &str = "PINKEEPER_SIM_FROM";
const SEEDS: &str = "PINKEEPER_SIM_SEEDS";

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

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
    let from = number(FROM);
    let count = number(SEEDS).unwrap_or(count);
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
