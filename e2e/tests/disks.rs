//! Three `pinkeeper peer` processes on volumes that fill up, hang, are slow or lose power: what users
//! are told, that nothing acknowledged is lost, and that nobody has to do anything once the disk is
//! well again.
#![allow(clippy::unwrap_used, missing_docs)]

mod volumes;

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use futures::future::try_join_all;
use pinkeeper::{consensus::StateStore, types::Cid};
use pinkeeper_e2e::{
    daemon::{identity_cid, long_cid},
    peer::{PeerProcess, statuses, until},
    trio::{FORM_DEADLINE, Trio, next_of, number},
    volume::Volume,
};

/// Bytes of each volume.
const SIZE: u64 = 12 << 20;
/// Bytes left when one is filled: some hundred pins.
const LEFT: u64 = 48 << 10;
/// Time within which a full disk is noticed and another peer leads.
const DEADLINE: Duration = Duration::from_secs(90);
/// A supervisor's wait before it starts a peer again.
const PAUSE: Duration = Duration::from_millis(500);

/// Time a disk hangs: many elections long.
const HANG: Duration = Duration::from_secs(10);

/// Three peers, each on a volume of its own.
struct Small {
    /// First, so that they are unmounted before the folders are removed.
    volumes: Vec<Volume>,
    trio: Trio,
    made: u32,
    acknowledged: BTreeSet<Cid>,
}

impl Small {
    async fn start(
        mount: impl Fn(&Path) -> anyhow::Result<Volume>,
        folder: impl Fn(&mut PeerProcess) -> Box<Path>,
    ) -> Self {
        let mut volumes = Vec::new();
        let prepare = |peers: &mut [PeerProcess]| {
            for peer in peers {
                volumes.push(mount(&folder(peer))?);
            }
            Ok(())
        };
        let trio = Trio::start_with(prepare).await.unwrap();
        Self { volumes, trio, made: 0, acknowledged: BTreeSet::new() }
    }

    /// Log and state are on a volume that can be filled.
    async fn on_memory() -> Self {
        Self::start(|at| Volume::in_memory(at, SIZE), |peer| peer.data().into_boxed_path()).await
    }

    /// Log and state are on a volume that can hang.
    async fn on_images() -> Self {
        Self::start(|at| Volume::in_file(at, SIZE), |peer| peer.data().into_boxed_path()).await
    }

    /// The state alone is on a volume that can hang.
    async fn with_state_on_images() -> Self {
        Self::start(
            |data| {
                let at = data.with_extension("state");
                let mut volume = Volume::in_file(&at, SIZE)?;
                std::fs::create_dir_all(data)?;
                drop(StateStore::open(&at.join("state.redb"))?);
                volume.lend("state.redb", &data.join("state.redb"))?;
                Ok(volume)
            },
            |peer| peer.data().into_boxed_path(),
        )
        .await
    }

    /// Asks a peer for one more pin; says whether that was acknowledged.
    async fn pin(&mut self, peer: usize) -> Result<(), String> {
        let cid = identity_cid(5_000 + self.made);
        self.made += 1;
        match self.trio.peers[peer].pin(&cid, "replication=1").await {
            Ok(_) => {
                self.acknowledged.insert(cid);
                Ok(())
            }
            Err(error) => Err(format!("{error:#}")),
        }
    }

    /// Makes pins at `peer` until the process of `full` has ended, as it must with its disk full.
    async fn pin_until_ended(&mut self, peer: usize, full: usize) {
        let begin = Instant::now();
        while self.trio.peers[full].is_running().unwrap() {
            assert!(begin.elapsed() < DEADLINE, "{} pins, and it still runs", self.made);
            // While leadership changes, a write is refused.
            let _ = self.pin(peer).await;
        }
        let log = self.trio.peers[full].logged();
        let line = log.lines().next_back().unwrap();
        println!("after {} pins: {line}", self.made);
        assert!(line.starts_with("error: ") && line.contains("No space left"), "{line}");
    }

    /// Makes pins until one is acknowledged.
    async fn pin_again(&mut self, peer: usize) -> Duration {
        let begin = Instant::now();
        while let Err(error) = self.pin(peer).await {
            assert!(begin.elapsed() < DEADLINE, "{error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        begin.elapsed()
    }

    fn running(&mut self) -> usize {
        self.trio.peers.iter_mut().map(|peer| usize::from(peer.is_running().unwrap())).sum()
    }

    /// Starts peers that have ended, as a supervisor does.
    fn restart(&mut self) {
        for peer in &mut self.trio.peers {
            if !peer.is_running().unwrap() {
                peer.start().unwrap();
            }
        }
    }

    /// Supervises the peers until all are one cluster again and list and hold what was acknowledged.
    async fn recovers(&mut self) {
        let begin = Instant::now();
        while !self.is_whole().await {
            assert!(begin.elapsed() < DEADLINE, "it does not recover");
            self.restart();
            tokio::time::sleep(PAUSE).await;
        }
        println!("{} pins, all there after {:?}", self.acknowledged.len(), begin.elapsed());
    }

    async fn is_whole(&self) -> bool {
        for peer in &self.trio.peers {
            let Ok(pins) = peer.pins().await else { return false };
            let there: BTreeSet<Cid> = pins
                .iter()
                .filter(|pin| number(&statuses(pin), "pinned") == 1)
                .map(|pin| pin["cid"].as_str().unwrap().parse().unwrap())
                .collect();
            if !peer.is_ready().await || !self.acknowledged.is_subset(&there) {
                return false;
            }
        }
        true
    }

    /// A supervisor's first tries, while the disk is still full: each says why it does not run.
    async fn stays_down(&mut self, full: usize) {
        let peer = &mut self.trio.peers[full];
        for _ in 0..2 {
            peer.start().unwrap();
            assert_eq!(peer.ended().await.unwrap().code(), Some(1));
            let log = peer.logged();
            let line = log.lines().next_back().unwrap();
            assert!(line.starts_with("error: ") && line.contains("free"), "{line}");
        }
    }
}

impl Small {
    /// It does, unless it has no ledger yet and finds no space for one.
    async fn starts_on_a_full_ledger(&mut self, full: usize) {
        let peer = &mut self.trio.peers[full];
        let folder = peer.separate_ledger().to_owned();
        let (ledger, aside) = (folder.join("ledger"), folder.join("aside"));
        let move_all = |from: &Path, to: &Path| {
            for extension in ["redb", "synced"] {
                fs::rename(from.with_extension(extension), to.with_extension(extension)).unwrap();
            }
        };
        peer.kill().await.unwrap();
        move_all(&ledger, &aside);
        self.stays_down(full).await;
        assert!(!ledger.with_extension("redb").exists(), "a ledger is whole or not there");
        move_all(&aside, &ledger);
        self.trio.peers[full].start().unwrap();
        let peer = &self.trio.peers[full];
        until("it is ready again", DEADLINE, || peer.is_ready()).await;
    }
}

#[tokio::test]
async fn a_follower_with_a_full_disk_stops_nobody_and_comes_back_with_space() {
    let mut small = Small::on_memory().await;
    let leader = small.trio.leader().unwrap();
    let full = (leader + 1) % 3;
    small.volumes[full].fill(LEFT).unwrap();
    small.pin_until_ended(leader, full).await;
    for _ in 0..20 {
        small.pin(leader).await.unwrap();
    }
    small.stays_down(full).await;
    small.pin(leader).await.unwrap();
    small.volumes[full].relieve().unwrap();
    small.recovers().await;
}

#[tokio::test]
async fn a_leader_with_a_full_disk_makes_room_for_another() {
    let mut small = Small::on_memory().await;
    let full = small.trio.leader().unwrap();
    let other = (full + 1) % 3;
    small.volumes[full].fill(LEFT).unwrap();
    small.pin_until_ended(other, full).await;
    println!("written again after {:?}", small.pin_again(other).await);
    assert_ne!(small.trio.leader().unwrap(), full);
    small.volumes[full].relieve().unwrap();
    small.recovers().await;
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_every_disk_is_full() {
    let mut small = Small::on_memory().await;
    small.volumes.iter().for_each(|volume| volume.fill(LEFT).unwrap());
    let begin = Instant::now();
    // The last of them cannot decide anything alone, and may still run.
    while small.running() > 1 {
        assert!(begin.elapsed() < DEADLINE, "{} pins are made", small.made);
        let peer = small.made as usize % 3;
        let _ = small.pin(peer).await;
    }
    println!("{} of {} pins were acknowledged", small.acknowledged.len(), small.made);
    for peer in 0..3 {
        small.pin(peer).await.unwrap_err();
    }
    for peer in 0..3 {
        if !small.trio.peers[peer].is_running().unwrap() {
            small.stays_down(peer).await;
        }
    }
    for peer in 0..3 {
        println!("refused: {}", small.pin(peer).await.unwrap_err());
    }
    small.volumes.iter().for_each(|volume| volume.relieve().unwrap());
    small.recovers().await;
    small.pin_again(0).await;
}

#[tokio::test]
async fn a_full_ledger_holds_up_its_own_pins_only_until_there_is_space() {
    let mut small =
        Small::start(|at| Volume::in_memory(at, SIZE), |peer| peer.separate_ledger().into()).await;
    let leader = small.trio.leader().unwrap();
    let full = (leader + 1) % 3;
    small.volumes[full].fill(0).unwrap();
    let name = small.trio.peers[full].name().to_owned();
    let begin = Instant::now();
    while !small.trio.peers[full].logged().contains("pins wait for the ledger") {
        assert!(begin.elapsed() < DEADLINE, "{} pins are made", small.made);
        let cids: Vec<Cid> = (small.made..small.made + 50).map(long_cid).collect();
        small.made += 50;
        let pins = cids.iter().map(|cid| small.trio.peers[leader].pin(cid, ""));
        try_join_all(pins).await.unwrap();
    }
    let log = small.trio.peers[full].logged();
    let line = log.lines().find(|line| line.contains("pins wait for the ledger")).unwrap();
    println!("after {} pins: {line}", small.made);
    assert!(line.contains("No space left"), "{line}");
    let cid = long_cid(small.made);
    small.trio.peers[leader].pin(&cid, "").await.unwrap();
    small
        .trio
        .until_statuses(leader, &cid, "pinned elsewhere", |all| {
            number(all, "pinned") == 2 && all[&name].status == "pin_queued"
        })
        .await;
    assert!(small.trio.peers[full].is_running().unwrap(), "it votes on");
    small.starts_on_a_full_ledger(full).await;

    small.volumes[full].relieve().unwrap();
    println!("pinned {:?} after there was space", small.trio.until_pinned(&cid, 3).await);
}

/// Makes pins while the disk of one peer hangs; says how long the longest took.
async fn pins_while_hanging(small: &mut Small, peer: usize, hung: usize) -> Duration {
    let _frozen = small.volumes[hung].freeze().unwrap();
    let (begin, mut longest) = (Instant::now(), Duration::ZERO);
    while begin.elapsed() < HANG {
        longest = longest.max(small.pin_again(peer).await);
    }
    longest
}

#[tokio::test]
async fn a_disk_that_hangs_stops_nobody_and_its_peer_catches_up() {
    let mut small = Small::on_images().await;
    let leader = small.trio.leader().unwrap();
    let hung = (leader + 1) % 3;
    let longest = pins_while_hanging(&mut small, leader, hung).await;
    println!("a follower's disk hung: {} pins, at most {longest:?} for one", small.made);
    small.recovers().await;

    let hung = small.trio.leader().unwrap();
    let longest = pins_while_hanging(&mut small, (hung + 1) % 3, hung).await;
    println!("the leader's disk hung: {} pins, at most {longest:?} for one", small.made);
    small.recovers().await;
    assert!(small.trio.peers.iter_mut().all(|peer| peer.is_running().unwrap()));
}

/// The log goes on, so that nothing but the leader itself can know that it applies nothing any more.
#[tokio::test]
async fn a_leader_whose_state_hangs_makes_room_for_another() {
    let mut small = Small::with_state_on_images().await;
    let hung = small.trio.leader().unwrap();
    let other = (hung + 1) % 3;
    let longest = pins_while_hanging(&mut small, other, hung).await;
    println!("the leader's state hung: {} pins, at most {longest:?} for one", small.made);
    let log = small.trio.peers[hung].logged();
    assert!(log.contains("handing over leadership"), "{log}");
    assert!(longest < HANG, "it was waited for");
    small.recovers().await;
}

/// What it writes from then on would be lost with its end.
#[tokio::test]
async fn a_peer_whose_data_folder_is_deleted_ends_and_says_so() {
    // No daemon is needed to lead alone.
    let url = "http://127.0.0.1:1".to_owned();
    let mut peer = PeerProcess::new(next_of(&[], "a", url)).unwrap();
    peer.start().unwrap();
    until("it is ready", FORM_DEADLINE, || peer.is_ready()).await;
    fs::remove_dir_all(peer.data()).unwrap();
    assert_eq!(peer.ended().await.unwrap().code(), Some(2));
    let log = peer.logged();
    let line = log.lines().next_back().unwrap();
    assert!(line.starts_with("error: ") && line.contains("was deleted or replaced"), "{line}");
}
