//! Worlds by seed. A failing seed is printed with what happened, and then kept in `KEPT`.

use super::world::World;

/// Random things done in one world.
const STEPS: usize = 60;
/// Seeds of every run.
const SEEDS: u64 = 25;
/// Seeds that once failed.
const KEPT: &[u64] = &[];

fn run(seed: u64) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let mut world = World::new(seed, 3).await;
        let mut result = Ok(());
        for _ in 0..STEPS {
            world.step().await;
            result = world.check();
            if result.is_err() {
                break;
            }
        }
        if result.is_ok() {
            result = world.heal_and_converge().await;
        }
        result.map_err(|reason| format!("seed {seed}: {reason}\n{}", world.trace()))
    })
}

#[test]
fn in_every_world_what_was_acknowledged_becomes_true_and_nothing_false_is_said() {
    for seed in KEPT.iter().copied().chain(0..SEEDS) {
        if let Err(report) = run(seed) {
            panic!("{report}");
        }
    }
}
