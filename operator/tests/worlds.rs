//! Simulated worlds of whole pods: three `pinkeeper run`, each on a simulated machine, with a
//! stand-in for the Kubernetes API. A seed determines its world. A failing seed is printed with its
//! trace, and then kept in `KEPT`.
#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "worlds/api/mod.rs"]
mod api;
#[path = "worlds/beginnings.rs"]
mod beginnings;
#[path = "worlds/founding.rs"]
mod founding;
#[path = "worlds/leftovers.rs"]
mod leftovers;
#[path = "worlds/mass_deletion.rs"]
mod mass_deletion;
#[path = "worlds/oracle.rs"]
mod oracle;
#[path = "worlds/pods.rs"]
mod pods;
#[path = "worlds/set_back.rs"]
mod set_back;
#[path = "worlds/settle.rs"]
mod settle;
#[path = "worlds/storms.rs"]
mod storms;
#[path = "worlds/users.rs"]
mod users;
#[path = "worlds/world.rs"]
mod world;

use std::time::Duration;

use pinkeeper::sim::{
    run_seeded,
    seeds::{Met, run_worlds},
    trace::Trace,
};

use self::world::World;

// As in the program: musl's allocator is slow with two threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Seeds of each run, unless the environment sets others (`make sim SEEDS=1000 FROM=5000`).
const SEEDS: u64 = 40;
/// Seeds that once failed, and why.
const KEPT: &[(u64, &str)] = &[
    (27, "time stood still, with a watch that was cut off"),
    (
        21_224,
        "a list of an earlier time showed peers without their cluster, and another was founded",
    ),
];

/// Situations that all worlds together must reach, and how often at least.
const MET: &[(&str, u64)] = &[
    ("daemons are rude", 5),
    ("many Pins go at once", 1),
    ("many Pins go unseen", 1),
    ("many Pins go with their namespace", 1),
    ("unpins wait for a person", 10),
    ("a person allows what waits", 1),
    ("a copy leaves for long", 1),
    ("a copy is shown as leaving", 10),
    ("the way to Pins is lost", 2),
    ("a question for a Pin goes astray", 1),
];

/// Runs one world; returns its trace and the failure.
fn run(seed: u64) -> (Trace, Result<(), String>) {
    run_seeded(seed, async {
        let mut world = World::new(seed).await;
        let mut result = world.live().await;
        if result.is_ok() {
            world.heal().await;
            result = world.settle().await;
        }
        (world.trace.clone(), result)
    })
}

/// A report of a world that failed.
fn tried(seed: u64, met: &Met) -> Option<String> {
    let (trace, result) = run(seed);
    met.add(&trace);
    let trace = trace.text();
    result.err().map(|reason| format!("{trace}\nseed {seed}: {reason}"))
}

#[test]
fn in_every_world_of_pods_pins_are_kept_and_nothing_false_is_written() {
    let met = Met::default();
    let kept: Vec<u64> = KEPT.iter().map(|(seed, _)| *seed).collect();
    let ended = run_worlds(&kept, SEEDS, |seed| tried(seed, &met));
    ended.and_then(|()| met.demand(MET)).unwrap_or_else(|failed| panic!("{failed}"));
}

#[test]
fn a_founder_whose_disk_fills_up_founds_once_there_is_space() {
    let mut ends = 0;
    for seed in 0..10 {
        let after = Duration::from_millis(seed);
        let (trace, result) = run_seeded(seed, async {
            let mut world = World::new(seed).await;
            let result = world.fill_the_founders_disk(after).await;
            world.heal().await;
            let settled = world.settle().await;
            (world.trace.text(), result.and_then(|ends| settled.map(|()| ends)))
        });
        ends += result.unwrap_or_else(|reason| panic!("{trace}\nfull after {after:?}: {reason}"));
    }
    assert!(ends > 0, "the disk was full too late each time");
}

#[test]
fn what_is_deleted_at_once_waits_for_a_person_whoever_leads() {
    for seed in 0..6 {
        let (trace, result) = run_seeded(seed, async {
            let mut world = World::new(seed).await;
            let mut result = world.delete_most(seed % 3 == 0).await;
            if result.is_ok() {
                result = world.settle().await;
            }
            (world.trace.text(), result)
        });
        result.unwrap_or_else(|reason| panic!("{trace}\nseed {seed}: {reason}"));
    }
}

#[test]
fn data_that_was_set_back_is_read_anew() {
    for seed in 0..5 {
        let (trace, result) = run_seeded(seed, async {
            let mut world = World::new(seed).await;
            let result = world.set_the_data_back().await;
            (world.trace.text(), result)
        });
        result.unwrap_or_else(|reason| panic!("{trace}\nseed {seed}: {reason}"));
    }
}

#[test]
fn a_seed_is_one_world() {
    for seed in 0..2 {
        let (first, second) = (run(seed).0.text(), run(seed).0.text());
        let differs = first.lines().zip(second.lines()).find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed} run twice");
        assert_eq!(first.len(), second.len(), "seed {seed} run twice");
    }
}

#[test]
fn a_cluster_peer_without_a_volume_claim_does_not_stop_a_founding() {
    for seed in 0..3 {
        let (trace, result) = run_seeded(seed, async {
            let mut world = World::with(seed, leftovers::leave).await;
            let result = world.found_beside_a_leftover().await;
            (world.trace.text(), result)
        });
        result.unwrap_or_else(|reason| panic!("{trace}\nseed {seed}: {reason}"));
    }
}
