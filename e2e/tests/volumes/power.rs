//! Disks that lose power: what was not synced is gone, which SIGKILL alone never shows.
//!
//! The daemons are stand-ins and lose nothing. So what a ledger forgets is never unpinned, and shows.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use futures::{
    StreamExt as _, TryStreamExt as _,
    future::{join, join_all, try_join_all},
    stream,
};
use pinkeeper::types::Cid;
use pinkeeper_e2e::{
    chance::Chance,
    daemon::identity_cid,
    peer::{PeerProcess, leader_of, statuses, until},
    power::Supply,
    stand_in_kubo::StandInKubo,
    trio::{FORM_DEADLINE, PIN_DEADLINE, next_of, number, turn, whole},
    volume::Volume,
};
use reqwest::{Client, RequestBuilder, header::CONTENT_TYPE};
use serde_json::json;
use tokio::{sync::MutexGuard as Turn, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// Bytes of each disk: room for a log of two files.
const SIZE: u64 = 64 << 20;
/// Bytes of all, and of one more while it is replaced.
const SUPPLY: u64 = 5 * SIZE;
/// Of the peers.
const NAMES: [&str; 3] = ["a", "b", "c"];
/// Clients at work.
const CLIENTS: usize = 16;
/// One of so many pins is unpinned again.
const UNPINNED: usize = 8;
/// Acknowledged pins before each cut, at least.
const PINS: usize = 100;
/// Bytes of a file of the log; then another one is begun.
const FILE_LEN: u64 = 16 << 20;
/// Lines of one request that makes the log longer, of about 5 kB each.
const LINES: usize = 128;
/// Time until clients were told what a round waits for.
const DEADLINE: Duration = Duration::from_secs(60);
/// Time one request has.
const REQUEST_DEADLINE: Duration = Duration::from_secs(20);

/// The last that a client was told of a CID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Pinned,
    Unpinned,
    /// The last request about it was not answered.
    Nothing,
}

/// What clients were told; clones share it.
#[derive(Clone, Debug, Default)]
struct Notes(Arc<Mutex<BTreeMap<Cid, Told>>>);

impl Notes {
    fn all(&self) -> MutexGuard<'_, BTreeMap<Cid, Told>> {
        self.0.lock().unwrap()
    }

    fn count(&self, told: Told) -> usize {
        self.all().values().filter(|one| **one == told).count()
    }

    /// A CID that nobody asked about yet.
    fn next(&self) -> Cid {
        let mut all = self.all();
        let cid = identity_cid(u32::try_from(all.len()).unwrap());
        all.insert(cid, Told::Nothing);
        cid
    }

    /// Notes what a request brings; says whether that was success.
    async fn ask(&self, cid: Cid, request: RequestBuilder, success: Told) -> bool {
        self.all().insert(cid, Told::Nothing);
        let done = request.send().await.is_ok_and(|answer| answer.status().is_success());
        if done {
            self.all().insert(cid, success);
        }
        done
    }

    /// Pins and unpins, at whichever of these peers does it, until it is told to end.
    async fn work(self, urls: Vec<String>, mut at: usize, end: CancellationToken) {
        let http = Client::builder().no_proxy().timeout(REQUEST_DEADLINE).build().unwrap();
        for n in 1.. {
            let cid = self.next();
            let url = format!("{}{cid}", urls[at % urls.len()]);
            let mut done = self.ask(cid, http.post(&url), Told::Pinned).await;
            if done && n % UNPINNED == 0 {
                done = self.ask(cid, http.delete(url), Told::Unpinned).await;
            }
            if end.is_cancelled() {
                return;
            }
            if !done {
                at += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Clients at work.
struct Clients {
    tasks: JoinSet<()>,
    end: CancellationToken,
}

impl Clients {
    /// Lets each finish what it asked last.
    async fn stop(self) {
        self.end.cancel();
        self.tasks.join_all().await;
    }
}

/// Three peers, each with all that it keeps on a volume of its own.
struct Powered {
    /// First, so that they are unmounted before the folders are removed.
    volumes: Vec<Volume>,
    supply: Supply,
    peers: Vec<PeerProcess>,
    daemons: Vec<StandInKubo>,
    notes: Notes,
    _turn: Turn<'static, ()>,
}

impl Powered {
    /// The peers run, and that is all.
    async fn begin(names: &[&str]) -> anyhow::Result<Self> {
        let turn = turn().await;
        let daemons = names.iter().map(|_| StandInKubo::start([127, 0, 0, 1].into()));
        let daemons = try_join_all(daemons).await?;
        let (mut peers, mut volumes) = (Vec::<PeerProcess>::new(), Vec::new());
        for (name, daemon) in names.iter().zip(&daemons) {
            let mut peer = PeerProcess::new(next_of(&peers, name, daemon.url()))?;
            // As shipped: there are many elections to wait for.
            for (key, value) in
                [("heartbeat_ms", 100), ("election_min_ms", 300), ("election_max_ms", 500)]
            {
                peer.set(key, json!(value));
            }
            peers.push(peer);
        }
        let supply = Supply::new(&peers[0].data().with_file_name("supply"), SUPPLY)?;
        for peer in &mut peers {
            volumes.push(supply.disk(&peer.data(), peer.name(), SIZE)?);
            peer.start()?;
        }
        Ok(Self { volumes, supply, peers, daemons, notes: Notes::default(), _turn: turn })
    }

    /// The peers are one cluster.
    async fn start() -> Self {
        let powered = Self::begin(&NAMES).await.unwrap();
        whole(&powered.peers, FORM_DEADLINE).await;
        powered
    }

    fn clients(&self) -> Clients {
        let urls: Vec<String> = self.peers.iter().map(|peer| peer.rest_url("pins/")).collect();
        let (mut tasks, end) = (JoinSet::new(), CancellationToken::new());
        for client in 0..CLIENTS {
            tasks.spawn(self.notes.clone().work(urls.clone(), client, end.clone()));
        }
        Clients { tasks, end }
    }

    /// Waits until so many more pins were acknowledged.
    async fn acknowledged(&self, more: usize) {
        let before = self.notes.count(Told::Pinned);
        until(&format!("{more} more pins are acknowledged"), DEADLINE, || async {
            self.notes.count(Told::Pinned) >= before + more
        })
        .await;
    }

    /// Takes the power from these peers and their disks, at one instant.
    async fn cut(&mut self, which: Range<usize>) {
        let disks = &self.volumes[which.clone()];
        let hangs = self.supply.cut(disks).unwrap();
        // All are sent the signal before the disks go on, and end only then.
        let kills = join_all(self.peers[which].iter_mut().map(PeerProcess::kill));
        let (killed, ()) = join(kills, async { drop(hangs) }).await;
        killed.into_iter().collect::<anyhow::Result<()>>().unwrap();
        self.supply.restore(disks).unwrap();
    }

    /// Claims one CID again and again, under the longest name, until the log's last file has so many
    /// bytes, or another is begun.
    async fn fill_a_file(&self, len: u64) {
        let log = self.peers[0].data().join("log");
        let lens = || -> Vec<u64> {
            let files = std::fs::read_dir(&log).unwrap();
            files.map(|file| file.unwrap().metadata().unwrap().len()).collect()
        };
        let cid = identity_cid(u32::MAX);
        let line = json!({ "cid": cid.to_string(), "name": "\u{1f980}".repeat(1024) });
        let leader = leader_of(&self.peers).unwrap();
        let request = Client::new()
            .post(self.peers[leader].rest_url("pins"))
            .header(CONTENT_TYPE, "application/x-ndjson")
            .body(format!("{line}\n").repeat(LINES));
        let before = lens().len();
        while lens().len() == before && lens().into_iter().max() < Some(len) {
            let answer = request.try_clone().unwrap().send().await.unwrap();
            let answer = answer.error_for_status().unwrap().text().await.unwrap();
            assert!(!answer.contains("error"), "{answer}");
            self.notes.all().insert(cid, Told::Pinned);
        }
    }

    /// All lose power while clients work, and one does not come back before the others were looked
    /// at: a majority of the disks is enough.
    async fn all_lose_power(&mut self, absent: usize, begins_a_file: bool) {
        let clients = self.clients();
        self.acknowledged(PINS / 2).await;
        self.volumes[(absent + 1) % 3].write_out().unwrap();
        self.acknowledged(PINS / 2).await;
        if begins_a_file {
            self.fill_a_file(u64::MAX).await;
        }
        self.cut(0..3).await;
        clients.stop().await;
        let begin = Instant::now();
        for peer in (0..3).filter(|peer| *peer != absent) {
            self.peers[peer].start().unwrap();
        }
        for peer in (0..3).filter(|peer| *peer != absent) {
            self.remembers(peer).await;
        }
        let count = |told| self.notes.count(told);
        let (pinned, unpinned) = (count(Told::Pinned), count(Told::Unpinned));
        println!(
            "{pinned} pins and {unpinned} unpins are known without peer {absent} after {:?}",
            begin.elapsed()
        );
        self.peers[absent].start().unwrap();
        self.all_remember().await;
    }

    /// One loses power while clients work, and they work on.
    async fn one_loses_power(&mut self, which: usize) {
        let clients = self.clients();
        self.acknowledged(PINS).await;
        self.cut(which..which + 1).await;
        self.acknowledged(PINS).await;
        self.peers[which].start().unwrap();
        self.acknowledged(PINS).await;
        clients.stop().await;
        self.all_remember().await;
    }

    async fn all_remember(&mut self) {
        println!("all are there after {:?}", whole(&self.peers, FORM_DEADLINE).await);
        for peer in 0..self.peers.len() {
            self.remembers(peer).await;
        }
    }

    /// What a peer lists is what was acknowledged.
    async fn remembers(&mut self, peer: usize) {
        let listed = listed(&mut self.peers[peer]).await;
        let all = self.notes.all();
        let told = |told| all.iter().filter(move |(_, one)| **one == told).map(|(cid, _)| *cid);
        let lost: Vec<Cid> = told(Told::Pinned).filter(|cid| !listed.contains(cid)).collect();
        let back: Vec<Cid> = told(Told::Unpinned).filter(|cid| listed.contains(cid)).collect();
        let count = all.len();
        assert!(
            lost.is_empty() && back.is_empty(),
            "peer {peer}: of {count} CIDs {} acknowledged pins are lost ({:?}), {} are back that \
             were acknowledged as unpinned ({:?})",
            lost.len(),
            lost.first(),
            back.len(),
            back.first()
        );
    }

    /// In the end the daemons hold what is listed; and nothing, when all of that is unpinned.
    async fn ends_well(&mut self) {
        let (listed, begin) = (listed(&mut self.peers[0]).await, Instant::now());
        until("all is pinned", PIN_DEADLINE, || async {
            let held = self.daemons.iter().all(|daemon| daemon.pins() == listed);
            held && self.peers[0].pins().await.is_ok_and(|pins| {
                pins.iter().all(|pin| number(&statuses(pin), "pinned") == self.peers.len())
            })
        })
        .await;
        let peer = self.peers.last().unwrap();
        let unpins = listed.iter().map(async |cid| peer.unpin(cid).await.map(drop));
        stream::iter(unpins).buffer_unordered(CLIENTS).try_collect::<()>().await.unwrap();
        until("all is unpinned", PIN_DEADLINE, || async {
            self.daemons.iter().all(|daemon| daemon.pin_count() == 0)
        })
        .await;
        println!("{} pins pinned and unpinned in {:?}", listed.len(), begin.elapsed());
    }
}

fn last_line(peer: &PeerProcess) -> String {
    peer.logged().lines().next_back().unwrap_or_default().to_owned()
}

/// What a peer lists once it answers.
async fn listed(peer: &mut PeerProcess) -> BTreeSet<Cid> {
    let begin = Instant::now();
    let pins = loop {
        assert!(peer.is_running().unwrap(), "{} does not run: {}", peer.name(), last_line(peer));
        match peer.pins().await {
            Ok(pins) => break pins,
            Err(error) => assert!(begin.elapsed() < DEADLINE, "{error:#}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    pins.iter().map(|pin| pin["cid"].as_str().unwrap().parse().unwrap()).collect()
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_power_cut() {
    let mut powered = Powered::start().await;
    let leader = |powered: &Powered| leader_of(&powered.peers).unwrap();
    let absent = leader(&powered);
    powered.all_lose_power(absent, false).await;
    let absent = (leader(&powered) + 1) % 3;
    let begin = Instant::now();
    powered.fill_a_file(FILE_LEN - (1 << 20)).await;
    println!("filled after {:?}", begin.elapsed());
    powered.all_lose_power(absent, true).await;
    let which = leader(&powered);
    powered.one_loses_power(which).await;
    let which = (leader(&powered) + 2) % 3;
    powered.one_loses_power(which).await;
    let absent = leader(&powered);
    powered.all_lose_power(absent, false).await;
    powered.ends_well().await;
}

/// Waits until a file is there, and no longer.
async fn appears(path: &Path) {
    let begin = Instant::now();
    while !path.exists() {
        assert!(begin.elapsed() < DEADLINE, "{} is not made", path.display());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Each file is there whole or not at all: none that was being made keeps a peer from starting.
#[tokio::test]
async fn a_first_start_that_loses_power_is_begun_again() {
    for file in ["log.synced", "state.redb", "identity", "ledger.redb", "ledger.synced"] {
        for further in [0, 5] {
            let mut powered = Powered::begin(&NAMES[..1]).await.unwrap();
            appears(&powered.peers[0].data().join(file)).await;
            tokio::time::sleep(Duration::from_millis(further)).await;
            powered.cut(0..1).await;
            powered.peers[0].start().unwrap();
            println!("power was lost {further} ms after {file} was there");
            powered.remembers(0).await;
        }
    }
}

/// A disk writes pages in any order: the first of what was being written may be missing, and later
/// ones be there.
#[tokio::test]
async fn an_end_of_the_log_that_was_torn_in_any_way_is_cut_off() {
    /// Bytes of a page.
    const PAGE: usize = 4096;
    let mut powered = Powered::begin(&NAMES[..1]).await.unwrap();
    for tear in ["nothing", "a page of zeros", "a page of zeros and then others"] {
        let clients = powered.clients();
        powered.acknowledged(PINS).await;
        powered.peers[0].kill().await.unwrap();
        clients.stop().await;
        let log = std::fs::read_dir(powered.peers[0].data().join("log")).unwrap();
        let files = log.map(|file| file.unwrap().path());
        let last =
            files.filter(|file| file.extension().is_some_and(|end| end == "wal")).max().unwrap();
        let mut contents = std::fs::read(&last).unwrap();
        let torn = match tear {
            "nothing" => Vec::new(),
            "a page of zeros" => vec![0; PAGE],
            _ => [&[0; PAGE][..], &contents[..PAGE]].concat(),
        };
        contents.extend(torn);
        std::fs::write(&last, contents).unwrap();
        powered.peers[0].start().unwrap();
        println!("the log ends with {tear}");
        powered.remembers(0).await;
    }
    powered.ends_well().await;
}

#[tokio::test]
async fn power_cuts_while_it_forms_keep_no_cluster_from_forming() {
    /// Longest time until a cut, in milliseconds; about as long as forming takes.
    const UNTIL_CUT_MAX: usize = 1_500;
    let mut powered = Powered::begin(&NAMES).await.unwrap();
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut chance = Chance(seed);
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(chance.below(UNTIL_CUT_MAX) as u64)).await;
        powered.cut(0..3).await;
        powered.peers.iter_mut().for_each(|peer| peer.start().unwrap());
    }
    powered.all_remember().await;
    let clients = powered.clients();
    powered.acknowledged(PINS).await;
    clients.stop().await;
    powered.ends_well().await;
}
