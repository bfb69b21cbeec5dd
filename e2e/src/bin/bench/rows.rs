//! The measurements: what each does in one run.

use std::{collections::BTreeMap, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use pinkeeper::types::Cid;

use crate::{
    cluster::{Cluster, Place, stand_ins, urls},
    floor::Floor,
    load::{Clients, Numbers, Until, cid, new_cids, post_all, post_each},
    outage, pinned,
    report::{Figure, Row},
};

/// How long each load of single pins lasts.
const ACCEPTED_TIME: Duration = Duration::from_secs(3);
/// What a pin takes where only its acceptance is measured.
const SLOW_PIN: Duration = Duration::from_secs(1);
/// Lines of one bulk request.
const BULK_PINS: u32 = 200_000;

/// A measurement: its name on the command line, its rows, and one run of it.
pub(crate) struct Measurement {
    pub(crate) name: &'static str,
    pub(crate) rows: fn() -> Vec<Row>,
    pub(crate) run: fn(Numbers) -> BoxFuture<'static, anyhow::Result<Vec<Figure>>>,
}

/// All of them, in the order of the table.
pub(crate) const MEASUREMENTS: [Measurement; 5] = [
    Measurement {
        name: "accepted",
        rows: accepted_rows,
        run: |numbers| measure_accepted(numbers).boxed(),
    },
    Measurement { name: "bulk", rows: bulk_rows, run: |numbers| measure_bulk(numbers).boxed() },
    Measurement {
        name: "pinned",
        rows: pinned::stand_in_rows,
        run: |numbers| pinned::measure_stand_ins(numbers).boxed(),
    },
    Measurement {
        name: "kubo",
        rows: pinned::kubo_rows,
        run: |numbers| pinned::measure_kubos(numbers).boxed(),
    },
    Measurement {
        name: "outage",
        rows: outage::rows,
        run: |numbers| outage::measure(numbers).boxed(),
    },
];

fn accepted_rows() -> Vec<Row> {
    let row = |clients: Clients| Row {
        key: accepted(clients),
        what: accepted(clients),
        unit: "pins/s",
        goal: if clients.is_goal() { "≥ 10,000" } else { "" },
        floor: "the same requests, each synced to a file by one HTTP server",
    };
    Clients::all().map(row).collect()
}

fn accepted(clients: Clients) -> String {
    format!("accepted, {clients}")
}

fn bulk_rows() -> Vec<Row> {
    vec![Row {
        key: "bulk".to_owned(),
        what: "accepted, one `POST /pins` of NDJSON at the leader".to_owned(),
        unit: "pins/s",
        goal: "≥ 50,000",
        floor: "each piece synced to a file by one HTTP server",
    }]
}

fn new_cid(numbers: &Numbers) -> impl Fn() -> Cid + Clone + Send + 'static {
    let numbers = numbers.clone();
    move || cid(numbers.next())
}

async fn measure_accepted(numbers: Numbers) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let until = Until::Time(ACCEPTED_TIME);
    let floor = Floor::start().await?;
    let mut floors = BTreeMap::new();
    for count in Clients::COUNTS {
        let load = post_each(floor.address, count, until, new_cid(&numbers)).await?;
        floors.insert(count, load.rate());
    }
    drop(floor);
    let daemons = stand_ins(SLOW_PIN).await?;
    let cluster = Cluster::start(&urls(&daemons)).await?;
    for clients in Clients::all() {
        let address = cluster.rest_at(clients.at)?;
        let value = post_each(address, clients.count, until, new_cid(&numbers)).await?.rate();
        let floor = floors.get(&clients.count).copied();
        figures.push(Figure { key: accepted(clients), value, floor });
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
    let load = post_all(cluster.rest_at(Place::Leader)?, &cids()).await?;
    Ok(vec![Figure { key: "bulk".to_owned(), value: load.rate(), floor: Some(least) }])
}
