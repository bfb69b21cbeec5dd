//! The runtime of a world: one thread, a paused clock, and all randomness from one seed.

use tokio::runtime::{Builder, RngSeed};

use crate::runtime::seed_randomness;

/// Runs a world to its end on this thread. Timers fire at once when nothing else is to be done, so
/// virtual time costs nothing; all randomness follows from `seed`.
///
/// # Panics
/// When called from within a runtime, or when the system provides no runtime at all.
pub fn run_seeded<F: Future>(seed: u64, world: F) -> F::Output {
    seed_randomness(seed);
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(RngSeed::from_bytes(&seed.to_be_bytes()))
        .build();
    #[expect(clippy::expect_used, reason = "a runtime without I/O asks nothing of the system")]
    runtime.expect("a runtime for a simulated world").block_on(world)
}
