//! From requests until all three daemons hold the pins, as the leader says.
//!
//! The floor of all these rows is [`direct::pin`]: the same daemons, driven with as many pins at once
//! as a peer has in work ([`direct::AT_ONCE`]). That is their concurrency whatever the number of
//! clients is, since these are answered before anything is pinned.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::ensure;
use futures::future::try_join_all;
use pinkeeper::types::Cid;
use pinkeeper_e2e::daemon::{Daemon, identity_cid};
use tokio::time::sleep;

use crate::{
    cluster::{Cluster, Place, stand_ins, urls},
    direct,
    load::{Clients, Numbers, Until, cid, new_cids, post_all, post_each},
    report::{Figure, Row},
};

/// Time in which all must be pinned.
const DEADLINE: Duration = Duration::from_secs(120);
/// Between two looks at whether all is pinned.
const LOOK: Duration = Duration::from_millis(20);

/// Daemons, and what is asked of peers beside them.
#[derive(Debug)]
struct Kind {
    name: &'static str,
    what: &'static str,
    /// Pins asked for by one bulk request too, so that pins are measured and no requests: so many that
    /// beginning and end count little.
    together: Option<u32>,
    /// The row that has the goal, and the goal.
    goal: (fn(Asked) -> bool, &'static str),
    cid: fn(u32) -> Cid,
    /// Pins asked for one by one, some seconds' worth for each of [`Clients::COUNTS`].
    pins: [u32; 3],
    /// Pins of each floor.
    floor_pins: u32,
}

const STAND_INS: Kind = Kind {
    name: "stand-ins",
    what: "3 stand-in daemons that pin at once",
    together: None,
    goal: (|asked| matches!(asked, Asked::Each(clients) if clients.is_goal()), "≥ 3,000"),
    cid,
    pins: [20_000, 10_000, 4_000],
    floor_pins: 10_000,
};

const KUBOS: Kind = Kind {
    name: "kubo",
    what: "3 Kubos, content without a fetch",
    together: Some(12_000),
    goal: (|asked| matches!(asked, Asked::Together), "≥ 85 % of the floor"),
    cid: identity_cid,
    // All of them stay in the same daemons and make them slower.
    pins: [2_500; 3],
    floor_pins: 2_500,
};

/// How pins are asked for.
#[derive(Clone, Copy, Debug)]
enum Asked {
    /// By one bulk request at the leader.
    Together,
    /// By a request each.
    Each(Clients),
}

impl Asked {
    /// Has them pinned: pins per second.
    async fn pin(self, cluster: &Cluster, cids: Vec<Cid>) -> anyhow::Result<f64> {
        let cids: Arc<[Cid]> = cids.into();
        let begin = Instant::now();
        match self {
            Self::Together => {
                post_all(cluster.rest_at(Place::Leader)?, &cids).await?;
            }
            Self::Each(clients) => {
                let (asked, next) = (cids.clone(), Numbers::default());
                let next_cid = move || asked[next.next() as usize];
                let until = Until::Count(u32::try_from(cids.len())?);
                post_each(cluster.rest_at(clients.at)?, clients.count, until, next_cid).await?;
            }
        }
        until_pinned(cluster, &cids, begin).await
    }
}

impl Kind {
    /// Everything that is asked, in the order of the table.
    fn asked(&self) -> impl Iterator<Item = Asked> {
        let together = self.together.map(|_| Asked::Together);
        together.into_iter().chain(Clients::all().map(Asked::Each))
    }

    fn key(&self, asked: Asked) -> String {
        match asked {
            Asked::Together => format!("{}, together", self.name),
            Asked::Each(clients) => format!("{}, {clients}", self.name),
        }
    }

    fn rows(&self) -> Vec<Row> {
        let how = |asked| match asked {
            Asked::Together => "asked for by one `POST /pins`".to_owned(),
            Asked::Each(clients) => clients.to_string(),
        };
        let row = |asked| Row {
            key: self.key(asked),
            what: format!("to pinned on {}, {}", self.what, how(asked)),
            unit: "pins/s",
            goal: if self.goal.0(asked) { self.goal.1 } else { "" },
            floor: "pin/ls and pin/add of each, driven directly",
        };
        self.asked().map(row).collect()
    }

    /// What is measured between two floors: with as many clients, at one cluster.
    fn parts(&self) -> impl Iterator<Item = (u32, Vec<Asked>)> {
        let with = |count| {
            let each = Clients::all().filter(move |clients| clients.count == count);
            each.map(Asked::Each).collect()
        };
        let together = self.together.map(|count| (count, vec![Asked::Together]));
        let each = self.pins.into_iter().zip(Clients::COUNTS.map(with));
        together.into_iter().chain(each)
    }

    /// Daemons grow slower with their pins. So what is measured lies between two floors in the same
    /// daemons, each time with a cluster of its own that is not there while a floor is measured.
    async fn measure(&self, daemons: &[String], numbers: &Numbers) -> anyhow::Result<Vec<Figure>> {
        let floor = async || {
            let cids = new_cids(numbers, self.floor_pins, self.cid);
            anyhow::Ok(direct::pin(daemons, cids).await?.rate())
        };
        let mut before = floor().await?;
        let mut figures = Vec::new();
        for (count, part) in self.parts() {
            let cluster = Cluster::start(daemons).await?;
            let mut values = Vec::new();
            for asked in part {
                let cids = new_cids(numbers, count, self.cid);
                values.push((self.key(asked), asked.pin(&cluster, cids).await?));
            }
            drop(cluster);
            let after = floor().await?;
            let floor = Some(f64::midpoint(before, after));
            figures.extend(values.into_iter().map(|(key, value)| Figure { key, value, floor }));
            before = after;
        }
        Ok(figures)
    }
}

pub(crate) fn stand_in_rows() -> Vec<Row> {
    STAND_INS.rows()
}

pub(crate) async fn measure_stand_ins(numbers: Numbers) -> anyhow::Result<Vec<Figure>> {
    let daemons = stand_ins(Duration::ZERO).await?;
    STAND_INS.measure(&urls(&daemons), &numbers).await
}

pub(crate) fn kubo_rows() -> Vec<Row> {
    KUBOS.rows()
}

pub(crate) async fn measure_kubos(numbers: Numbers) -> anyhow::Result<Vec<Figure>> {
    let daemons = try_join_all((0..3).map(|_| Daemon::start())).await?;
    let urls: Vec<String> = daemons.iter().map(Daemon::url).collect();
    KUBOS.measure(&urls, &numbers).await
}

/// Waits until the leader says that all these are pinned on all peers: pins per second since `begin`.
/// It is asked only when the peers say so of themselves, because its answer is a list of all pins.
async fn until_pinned(cluster: &Cluster, cids: &[Cid], begin: Instant) -> anyhow::Result<f64> {
    let count = cids.len();
    while !cluster.have_pinned(count).await? {
        ensure!(begin.elapsed() < DEADLINE, "not all are pinned");
        sleep(LOOK).await;
    }
    while cluster.has_unfinished().await? {
        ensure!(begin.elapsed() < DEADLINE, "pins straggle");
        sleep(LOOK).await;
    }
    let time = begin.elapsed();
    // Each by itself, which takes the leader and this program longer than a floor can have.
    ensure!(cluster.all_pinned().await?, "a pin is not with all three peers");
    Ok(f64::from(u32::try_from(count)?) / time.as_secs_f64())
}
