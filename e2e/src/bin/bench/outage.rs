//! How long writes are not accepted when the leader is killed, by what `pinkeeper_e2e::outage` takes
//! for an outage: writes are begun every 5 ms at the peers that are left, whether or not earlier ones
//! were answered.

use std::time::Duration;

use pinkeeper_e2e::{
    outage,
    trio::{FORM_DEADLINE, whole},
};

use crate::{
    cluster::{Cluster, Place, stand_ins, urls},
    load::{Clients, Numbers, cid, keep_posting},
    report::{Figure, Row},
};

/// Kills of the leader in one run; five runs are twenty.
const KILLS: usize = 4;
/// Kills in one run while so many other clients pin as fast as they can.
const BUSY_KILLS: usize = 2;
/// Numbers of CIDs for one kill.
const NUMBERS: u32 = 1_000_000;

/// The row without other clients.
const QUIET: &str = "outage";

/// The row of writes at such a peer (as it is after the kill), beside so many other clients.
fn busy(Clients { count, at }: Clients) -> String {
    let clients = if count == 1 { "client pins" } else { "clients pin" };
    let place = match at {
        Place::Leader => "the new leader",
        Place::Follower => "the follower that is left",
    };
    format!(
        "no write accepted at {place} after SIGKILL of the leader, while {count} {clients} at all peers"
    )
}

pub(crate) fn rows() -> Vec<Row> {
    let quiet = Row {
        key: QUIET.to_owned(),
        what: "no write accepted after SIGKILL of the leader, each kill a value".to_owned(),
        unit: "s",
        goal: "median ≤ 1.0, worst ≤ 1.5",
        floor: "",
    };
    let with = |clients| Row { key: busy(clients), what: busy(clients), goal: "", ..quiet.clone() };
    let busy: Vec<Row> = Clients::all().map(with).collect();
    [vec![quiet], busy].concat()
}

pub(crate) async fn measure(numbers: Numbers) -> anyhow::Result<Vec<Figure>> {
    let daemons = stand_ins(Duration::ZERO).await?;
    let mut cluster = Cluster::start(&urls(&daemons)).await?;
    let mut figures = Vec::new();
    for _ in 0..KILLS {
        let outage = kill(&mut cluster, &numbers).await?;
        figures.push(figure(QUIET.to_owned(), outage.time));
        again(&mut cluster, outage.killed).await?;
    }
    for count in Clients::COUNTS {
        for _ in 0..BUSY_KILLS {
            let peers =
                (0..3).map(|peer| cluster.rest(peer)).collect::<anyhow::Result<Vec<_>>>()?;
            let others = numbers.clone();
            let clients = keep_posting(&peers, count, move || cid(others.next()));
            let outage = kill(&mut cluster, &numbers).await?;
            drop(clients);
            let leader = cluster.leader()?;
            for (peer, time) in outage.by_peer {
                let at = if peer == leader { Place::Leader } else { Place::Follower };
                figures.push(figure(busy(Clients { count, at }), time));
            }
            again(&mut cluster, outage.killed).await?;
        }
    }
    Ok(figures)
}

fn figure(key: String, time: Duration) -> Figure {
    Figure { key, value: time.as_secs_f64(), floor: None }
}

async fn kill(cluster: &mut Cluster, numbers: &Numbers) -> anyhow::Result<outage::Outage> {
    let first = numbers.skip(NUMBERS);
    outage::of_killed_leader(&mut cluster.peers, first..first + NUMBERS).await
}

/// The killed peer is started and the cluster whole before the next kill.
async fn again(cluster: &mut Cluster, killed: usize) -> anyhow::Result<()> {
    cluster.peers[killed].start()?;
    whole(&cluster.peers, FORM_DEADLINE).await;
    Ok(())
}
