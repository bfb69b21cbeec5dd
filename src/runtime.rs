//! What tokio's runtime lacks: a way to wait for the disk, and random numbers that a simulated world can
//! seed.

use std::cell::RefCell;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::block_in_place,
};

thread_local! {
    static RANDOM: RefCell<StdRng> = RefCell::new(StdRng::from_rng(&mut rand::rng()));
}

/// Seeds the random numbers of this thread. A simulated world runs on one thread.
pub fn seed_randomness(seed: u64) {
    with_random(|random| *random = StdRng::seed_from_u64(seed));
}

/// A random number from this thread's source.
#[must_use]
pub fn random_u64() -> u64 {
    with_random(|random| random.next_u64())
}

/// Uses this thread's source of random numbers.
pub fn with_random<T>(act: impl FnOnce(&mut StdRng) -> T) -> T {
    RANDOM.with_borrow_mut(act)
}

/// Runs work that waits for the disk or takes long, without blocking the runtime's other tasks. On a
/// runtime of one thread, as in simulated worlds, everything waits for it.
pub(crate) fn block<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => block_in_place(work),
        _ => work(),
    }
}
