//! Worlds by seed. A failing seed is printed with the end of its trace, and then kept in `KEPT`.

use std::fs;

use super::{
    run_seeded,
    seeds::{Met, run_worlds},
    trace::Trace,
    world::World,
};

/// Seeds of every run, unless the environment names others (`make sim SEEDS=1000 FROM=5000`).
const SEEDS: u64 = 200;
/// Lines printed of a failed world's trace; a file has all of them.
const LINES_SHOWN: usize = 40;
/// Seeds that once failed, with the defect.
const KEPT: &[(u64, &str)] = &[];

/// Situations that the worlds reach in total, with the minimum count of each.
const MET: &[(&str, u64)] = &[
    ("a snapshot", 50),
    ("a lost disk", 1),
    ("a lost disk and volume", 1),
    ("a departed peer", 1),
    ("another lost disk", 1),
    ("a successor takes over", 5),
    ("a collection of garbage", 20),
    ("a rude daemon", 100),
    ("leaves", 100),
    ("a peer is away for long", 5),
    ("a daemon is away for long", 5),
    ("a copy moves", 10),
    ("a leaving copy stays", 5),
    ("leaves while one is missing", 5),
    ("retained", 50),
    ("retained, and taken up again", 10),
    ("retained beside waiting", 50),
    ("a claim beside a retained one changes", 3),
    ("waits for a person", 50),
    ("waited, and is taken up again", 5),
    ("the deletion guard holds", 50),
    ("gone", 100),
    ("allowed", 10),
    ("refused: another term", 5),
    ("refused: an older generation", 5),
    ("refused: no such pin", 20),
    ("refused: another digest", 1),
];

fn run(seed: u64, whole: bool) -> (Result<(), String>, Trace) {
    run_seeded(seed, async {
        let trace = Trace::new(whole);
        let mut world = World::new(seed, trace.clone()).await;
        (world.run().await, trace)
    })
}

/// The report of a failed world.
fn tried(seed: u64, met: &Met) -> Option<String> {
    let (result, trace) = run(seed, false);
    met.add(&trace);
    let reason = result.err()?;
    // Runs it again with the whole trace.
    let text = run(seed, true).1.text();
    let path = std::env::temp_dir().join(format!("pinkeeper-world-{seed}.txt"));
    let place = match fs::write(&path, &text) {
        Ok(()) => path.display().to_string(),
        Err(error) => format!("not written: {error}"),
    };
    let shown: Vec<&str> = text.lines().filter(|line| !line.ends_with("bytes)")).collect();
    let last = shown[shown.len().saturating_sub(LINES_SHOWN)..].join("\n");
    Some(format!("seed {seed}: {reason}\n{last}\n(whole trace: {place})"))
}

#[test]
fn in_every_world_acknowledged_writes_take_effect_and_answers_are_true() {
    let kept: Vec<u64> = KEPT.iter().map(|(seed, _)| *seed).collect();
    let met = Met::default();
    let ended = run_worlds(&kept, SEEDS, |seed| tried(seed, &met));
    ended.and_then(|()| met.demand(MET)).unwrap_or_else(|failed| panic!("{failed}"));
}

#[test]
fn one_seed_is_one_world() {
    for seed in 0..4 {
        let (first, second) = (run(seed, true).1, run(seed, true).1);
        assert!(first.text().lines().count() > 100);
        assert_eq!(first.first_difference(&second), None, "seed {seed}");
    }
}
