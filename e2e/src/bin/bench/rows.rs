//! The measurements: what each does in one run.

use std::{sync::Arc, time::Duration};

use anyhow::ensure;
use futures::{FutureExt as _, future::BoxFuture};
use pinkeeper::types::Cid;
use pinkeeper_e2e::{
    daemon::{Daemon, identity_cid},
    outage,
    trio::{FORM_DEADLINE, whole},
};
use tokio::time::{Instant, sleep};

use crate::{
    cluster::{Cluster, stand_ins, urls},
    direct,
    floor::Floor,
    load::{Numbers, Until, cid, new_cids, post_all, post_each},
    report::{Figure, Row},
};

/// Clients that pin at once.
const CLIENTS: usize = 64;
/// How long each load of single pins lasts.
const ACCEPTED_TIME: Duration = Duration::from_secs(3);
/// What a pin takes where only its acceptance is measured.
const SLOW_PIN: Duration = Duration::from_secs(1);
/// Lines of one bulk request.
const BULK_PINS: u32 = 200_000;
/// Pins brought to pinned on stand-in daemons.
const STAND_IN_PINS: u32 = 30_000;
/// Pins brought to pinned on real daemons: so many that beginning and end count little.
const KUBO_PINS: u32 = 12_000;
/// Time in which all must be pinned.
const PINNED_DEADLINE: Duration = Duration::from_secs(120);
/// Between two looks at whether all is pinned: each costs the leader a list of all pins.
const LOOK: Duration = Duration::from_millis(200);
/// Kills of the leader in one run; five runs are twenty.
const KILLS: usize = 4;

/// A measurement: its name on the command line, its rows, and one run of it.
pub(crate) struct Measurement {
    pub(crate) name: &'static str,
    pub(crate) rows: &'static [Row],
    pub(crate) run: fn(Numbers) -> BoxFuture<'static, anyhow::Result<Vec<Figure>>>,
}

const SYNCED: &str = "the same requests, each synced to a file by one HTTP server";
const DIRECTLY: &str = "pin/ls and pin/add of each, driven directly";

/// All of them, in the order of the table.
pub(crate) const MEASUREMENTS: [Measurement; 5] = [
    Measurement {
        name: "accepted",
        rows: &ACCEPTED,
        run: |numbers| measure_accepted(numbers).boxed(),
    },
    Measurement { name: "bulk", rows: &[BULK], run: |numbers| measure_bulk(numbers).boxed() },
    Measurement { name: "pinned", rows: &[PINNED], run: |numbers| measure_pinned(numbers).boxed() },
    Measurement { name: "kubo", rows: &[KUBO], run: |numbers| measure_kubo(numbers).boxed() },
    Measurement { name: "outage", rows: &[OUTAGE], run: |numbers| measure_outage(numbers).boxed() },
];

const BULK: Row = Row {
    key: "bulk",
    what: "accepted, one `POST /pins` of NDJSON at the leader",
    unit: "pins/s",
    goal: "≥ 50,000",
    floor: "each piece synced to a file by one HTTP server",
};

const PINNED: Row = Row {
    key: "pinned",
    what: "to pinned on 3 stand-in daemons that pin at once",
    unit: "pins/s",
    goal: "≥ 3,000",
    floor: DIRECTLY,
};

const KUBO: Row = Row {
    key: "kubo",
    what: "to pinned on 3 Kubos, content without a fetch, asked for by one `POST /pins`",
    unit: "pins/s",
    goal: "≥ 85 % of the floor",
    floor: DIRECTLY,
};

const OUTAGE: Row = Row {
    key: "outage",
    what: "no write accepted after SIGKILL of the leader, each kill a value",
    unit: "s",
    goal: "median ≤ 1.0, worst ≤ 1.5",
    floor: "",
};

const ACCEPTED: [Row; 6] = [
    accepted("leader 64", "accepted, 64 clients at the leader", "≥ 10,000"),
    accepted("leader 16", "accepted, 16 clients at the leader", ""),
    accepted("leader 1", "accepted, 1 client at the leader", ""),
    accepted("follower 64", "accepted, 64 clients at a follower", ""),
    accepted("follower 16", "accepted, 16 clients at a follower", ""),
    accepted("follower 1", "accepted, 1 client at a follower", ""),
];

const fn accepted(key: &'static str, what: &'static str, goal: &'static str) -> Row {
    Row { key, what, unit: "pins/s", goal, floor: SYNCED }
}

fn new_cid(numbers: &Numbers) -> impl Fn() -> Cid + Clone + Send + 'static {
    let numbers = numbers.clone();
    move || cid(numbers.next())
}

async fn measure_accepted(numbers: Numbers) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let until = Until::Time(ACCEPTED_TIME);
    let floor = Floor::start().await?;
    let mut floors = Vec::new();
    for clients in [64, 16, 1] {
        floors.push(post_each(floor.address, clients, until, new_cid(&numbers)).await?.rate());
    }
    drop(floor);
    let daemons = stand_ins(SLOW_PIN).await?;
    let cluster = Cluster::start(&urls(&daemons)).await?;
    let places = [cluster.leader()?, cluster.follower()?];
    let loads = places.into_iter().flat_map(|peer| [(peer, 64), (peer, 16), (peer, 1)]);
    for (((peer, clients), row), floor) in
        loads.zip(ACCEPTED).zip(floors.iter().chain(&floors).copied())
    {
        let load = post_each(cluster.rest(peer)?, clients, until, new_cid(&numbers)).await?;
        figures.push(Figure { key: row.key, value: load.rate(), floor: Some(floor) });
    }
    Ok(figures)
}

async fn measure_bulk(numbers: Numbers) -> anyhow::Result<Vec<Figure>> {
    let floor = Floor::start().await?;
    let cids = || new_cids(&numbers, BULK_PINS, cid);
    let least = post_all(floor.address, &cids()).await?.rate();
    drop(floor);
    let daemons = stand_ins(SLOW_PIN).await?;
    let cluster = Cluster::start(&urls(&daemons)).await?;
    let load = post_all(cluster.rest(cluster.leader()?)?, &cids()).await?;
    Ok(vec![Figure { key: "bulk", value: load.rate(), floor: Some(least) }])
}

async fn measure_pinned(numbers: Numbers) -> anyhow::Result<Vec<Figure>> {
    let daemons = stand_ins(Duration::ZERO).await?;
    let others = stand_ins(Duration::ZERO).await?;
    let cids = || new_cids(&numbers, STAND_IN_PINS, cid);
    let floor = direct::pin(&urls(&others), cids()).await?.rate();
    drop(others);
    let cluster = Cluster::start(&urls(&daemons)).await?;
    let cids: Arc<[Cid]> = cids().into();
    let (asked, next) = (cids.clone(), Numbers::default());
    let new_cid = move || asked[next.next() as usize];
    let begin = Instant::now();
    let leader = cluster.rest(cluster.leader()?)?;
    post_each(leader, CLIENTS, Until::Count(STAND_IN_PINS), new_cid).await?;
    let value = until_pinned(&cluster, &cids, begin).await?;
    Ok(vec![Figure { key: "pinned", value, floor: Some(floor) }])
}

/// Asked for in one bulk request, so that pins are measured and not requests. The floor is measured
/// before and after in the same daemons, which grow slower with their pins.
async fn measure_kubo(numbers: Numbers) -> anyhow::Result<Vec<Figure>> {
    let daemons = futures::future::try_join_all((0..3).map(|_| Daemon::start())).await?;
    let urls: Vec<String> = daemons.iter().map(Daemon::url).collect();
    let cids = || new_cids(&numbers, KUBO_PINS, identity_cid);
    let before = direct::pin(&urls, cids()).await?.rate();
    let cluster = Cluster::start(&urls).await?;
    let asked = cids();
    let begin = Instant::now();
    post_all(cluster.rest(cluster.leader()?)?, &asked).await?;
    let value = until_pinned(&cluster, &asked, begin).await?;
    drop(cluster);
    let after = direct::pin(&urls, cids()).await?.rate();
    Ok(vec![Figure { key: "kubo", value, floor: Some(f64::midpoint(before, after)) }])
}

/// Waits until the leader says that all these are pinned on all peers: pins per second since `begin`.
/// It is asked about the last one, and rarely until most are done, because a question is work for
/// every peer.
async fn until_pinned(cluster: &Cluster, cids: &[Cid], begin: Instant) -> anyhow::Result<f64> {
    let count = cids.len();
    for (cid, look) in [(&cids[count - count / 20], LOOK), (&cids[count - 1], LOOK / 10)] {
        while !cluster.is_pinned(cid).await? {
            ensure!(begin.elapsed() < PINNED_DEADLINE, "{cid} is not pinned");
            sleep(look).await;
        }
    }
    while cluster.unfinished().await? > 0 {
        ensure!(begin.elapsed() < PINNED_DEADLINE, "pins straggle");
        sleep(LOOK / 10).await;
    }
    Ok(f64::from(u32::try_from(count)?) / begin.elapsed().as_secs_f64())
}

async fn measure_outage(numbers: Numbers) -> anyhow::Result<Vec<Figure>> {
    let daemons = stand_ins(Duration::ZERO).await?;
    let mut cluster = Cluster::start(&urls(&daemons)).await?;
    let mut figures = Vec::new();
    for _ in 0..KILLS {
        let first = numbers.skip(1_000_000);
        let outage = outage::of_killed_leader(&mut cluster.peers, first..).await?;
        figures.push(Figure { key: "outage", value: outage.time.as_secs_f64(), floor: None });
        cluster.peers[outage.killed].start()?;
        whole(&cluster.peers, FORM_DEADLINE).await;
    }
    Ok(figures)
}
