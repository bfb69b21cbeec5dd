//! Disks that are slow: they hang for a moment, over and over.

use std::time::{Duration, Instant};

use crate::Small;

/// A disk hangs that long at a time.
const HANG: Duration = Duration::from_millis(300);
/// It works that long in between.
const BETWEEN: Duration = Duration::from_millis(60);
/// For so long a disk is slow.
const SLOW: Duration = Duration::from_millis(6_480);
/// Times that it hangs meanwhile.
const HANGS: usize = 18;
/// Longest time without an acknowledged pin; another leader may have to be found.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// A busy machine may cause some; each hiccup must not.
const ELECTIONS_MAX: u64 = 3;
/// Pins whose time is measured.
const MEASURED: usize = 40;

/// What users had of a cluster with a slow disk.
#[derive(Debug, Default)]
struct Served {
    acknowledged: usize,
    refused: usize,
    /// Of these, how many took so long that they will have waited for the disk.
    waited: usize,
    /// Longest time without an acknowledged pin.
    silence: Duration,
}

/// Makes pins at all peers in turn while the disk of one is slow.
async fn pins_while_slow(small: &mut Small, slow: usize) -> Served {
    let _slow = small.volumes[slow].slow(HANG, BETWEEN).unwrap();
    let (begin, mut last) = (Instant::now(), Instant::now());
    let (mut served, mut times) = (Served::default(), Vec::new());
    while begin.elapsed() < SLOW {
        let asked = Instant::now();
        match small.pin(small.made as usize % 3).await {
            Ok(()) => {
                times.push(asked.elapsed());
                served.silence = served.silence.max(last.elapsed());
                last = Instant::now();
            }
            Err(error) => {
                served.refused += 1;
                assert!(error.contains("503"), "{error}");
            }
        }
    }
    served.silence = served.silence.max(last.elapsed());
    served.acknowledged = times.len();
    served.waited = times.into_iter().filter(|time| *time > HANG / 2).count();
    served
}

/// What half of some pins take at most.
async fn usual_time(small: &mut Small) -> Duration {
    let mut times = Vec::new();
    for _ in 0..MEASURED {
        let begin = Instant::now();
        small.pin(small.made as usize % 3).await.unwrap();
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    times[MEASURED / 2]
}

#[tokio::test]
async fn a_slow_disk_makes_nobody_wait_for_long_and_all_is_fast_after_it() {
    let mut small = Small::on_images().await;
    let usual = usual_time(&mut small).await;
    let leader = small.trio.leader().unwrap();
    for (whose, slow) in [("a follower", (leader + 1) % 3), ("the leader", leader)] {
        let term = small.trio.peers[0].leadership().unwrap().1;
        let served = pins_while_slow(&mut small, slow).await;
        let elections = small.trio.peers[0].leadership().unwrap().1 - term;
        println!("the disk of {whose} was slow: {served:?}, {elections} elections");
        if slow != leader {
            // The two others have the majority.
            assert!(served.waited < HANGS / 3, "{served:?}");
        }
        assert!(served.silence < SILENCE_MAX, "{served:?}");
        assert!(served.refused * 20 <= served.acknowledged, "{served:?}");
        assert!(elections <= ELECTIONS_MAX, "there were {elections} elections");
        let after = usual_time(&mut small).await;
        println!("half of the pins take up to {usual:?} before, {after:?} after");
        assert!(after < usual * 4 + HANG / 10, "{usual:?} became {after:?}");
        small.recovers().await;
    }
    assert!(small.trio.peers.iter_mut().all(|peer| peer.is_running().unwrap()));
}
