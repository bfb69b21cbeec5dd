//! Worlds by seed. A failing seed is printed with the end of what happened, and then kept in `KEPT`.

use std::fs;

use super::{run_seeded, seeds::run_worlds, trace::Trace, world::World};

/// Seeds of every run, unless the environment names others (`make sim SEEDS=1000 FROM=5000`).
const SEEDS: u64 = 200;
/// Lines of a failed world that are printed; a file has them all.
const LINES_SHOWN: usize = 40;
/// Seeds that once failed, and of what.
const KEPT: &[(u64, &str)] = &[
    (35, "a peer whose full disk could not be bound to the cluster lived on outside of it"),
    (61, "a founder whose disk was full, too"),
    (
        20_651,
        "a barrier asked for before a pin was wanted once more counted when it was not any more",
    ),
];

fn run(seed: u64, whole: bool) -> (Result<(), String>, Trace) {
    run_seeded(seed, async {
        let trace = Trace::new(whole);
        let mut world = World::new(seed, trace.clone()).await;
        (world.run().await, trace)
    })
}

/// A report of a world that failed.
fn tried(seed: u64) -> Option<String> {
    let reason = run(seed, false).0.err()?;
    // The same again, with everything that was said.
    let text = run(seed, true).1.text();
    let path = std::env::temp_dir().join(format!("pinkeeper-world-{seed}.txt"));
    let place = match fs::write(&path, &text) {
        Ok(()) => path.display().to_string(),
        Err(error) => format!("not written: {error}"),
    };
    let told: Vec<&str> = text.lines().filter(|line| !line.ends_with("bytes)")).collect();
    let last = told[told.len().saturating_sub(LINES_SHOWN)..].join("\n");
    Some(format!("seed {seed}: {reason}\n{last}\n(whole: {place})"))
}

#[test]
fn in_every_world_what_was_acknowledged_becomes_true_and_nothing_false_is_said() {
    let kept: Vec<u64> = KEPT.iter().map(|(seed, _)| *seed).collect();
    run_worlds(&kept, SEEDS, tried).unwrap_or_else(|failed| panic!("{failed}"));
}

#[test]
fn worlds_come_to_snapshots_and_to_collections_of_garbage() {
    let told: Vec<String> = (0..40).map(|seed| run(seed, false).1.text()).collect();
    for what in ["has installed a snapshot", "to collect, local false: Ok(Ok("] {
        let worlds = told.iter().filter(|text| text.contains(what)).count();
        assert!(worlds > 1, "{what}: in {worlds} of {} worlds", told.len());
    }
}

#[test]
fn one_seed_is_one_world() {
    for seed in 0..4 {
        let (first, second) = (run(seed, true).1, run(seed, true).1);
        assert!(first.text().lines().count() > 100);
        assert_eq!(first.first_difference(&second), None, "seed {seed}");
    }
}
