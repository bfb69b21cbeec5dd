//! How long writes are not accepted when the leader is killed.
//!
//! **Definition.** A new `POST /pins/{cid}` is begun every [`PERIOD`], in turn at each peer but the
//! leader, whether or not earlier ones were answered, as many independent clients would do it. The
//! outage lasts from just before SIGKILL is sent until the first answer 200 to a write that was begun
//! after the leader's process had ended; so it is never one that the old leader still accepted.
//! Answers to writes that were begun before do not count.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use anyhow::Context as _;
use tokio::{
    task::JoinSet,
    time::{Instant, Interval, MissedTickBehavior, interval, timeout},
};

use crate::{
    daemon::identity_cid,
    peer::{PeerProcess, leader_of},
};

/// Between two writes, and so how exact the figure is.
pub const PERIOD: Duration = Duration::from_millis(5);
/// Writes that must be accepted before the leader is killed.
const WARM_UP: usize = 50;
/// Writes that wait for an answer at once, at most.
const IN_FLIGHT_MAX: usize = 2_000;
/// Time one write has.
const WRITE_DEADLINE: Duration = Duration::from_secs(15);
/// Time until a write must be accepted, before the kill and after it.
const DEADLINE: Duration = Duration::from_secs(60);

/// What a kill of the leader did to writes.
#[derive(Clone, Debug)]
pub struct Outage {
    /// The peer killed, by its place; it is not started again.
    pub killed: usize,
    /// How long no write was accepted, as defined above.
    pub time: Duration,
    /// The same for clients of one peer alone, for each that is left, by its place.
    pub by_peer: BTreeMap<usize, Duration>,
    /// Writes begun after the kill that were answered by an error until then.
    pub refused: usize,
}

/// Kills the leader while writes go on, and waits until each of the others accepts one again.
/// `numbers` are those of the CIDs that it makes; they must be new to the cluster for the writes to be
/// ones.
///
/// # Errors
/// When no peer leads or no write is accepted within a minute.
pub async fn of_killed_leader(
    peers: &mut [PeerProcess],
    numbers: Range<u32>,
) -> anyhow::Result<Outage> {
    let leader = leader_of(peers)?;
    let survivors = peers.iter().enumerate().filter(|(n, _)| *n != leader);
    let mut writes = Writes {
        http: reqwest::Client::builder().no_proxy().timeout(WRITE_DEADLINE).build()?,
        peers: survivors.map(|(n, peer)| (n, peer.rest_url("pins/"))).collect(),
        numbers,
        ticks: interval(PERIOD),
        in_flight: JoinSet::new(),
    };
    writes.ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut accepted = 0;
    let warm_up = async {
        while accepted < WARM_UP {
            accepted += usize::from(writes.next_answer().await?.accepted);
        }
        anyhow::Ok(())
    };
    timeout(DEADLINE, warm_up).await.context("no writes are accepted before the kill")??;

    let killed = Instant::now();
    peers[leader].kill().await?;
    let ended = Instant::now();
    let mut refused = 0;
    let mut by_peer = BTreeMap::new();
    let again = async {
        while by_peer.len() < writes.peers.len() {
            let write = writes.next_answer().await?;
            if write.begun >= ended && write.accepted {
                by_peer.entry(write.peer).or_insert(write.answered - killed);
            } else if by_peer.is_empty() {
                refused += usize::from(write.begun >= ended);
            }
        }
        anyhow::Ok(())
    };
    timeout(DEADLINE, again).await.context("no write is accepted after the kill")??;
    let time = by_peer.values().min().copied().unwrap_or_default();
    Ok(Outage { killed: leader, time, by_peer, refused })
}

struct Write {
    /// The peer asked, by its place.
    peer: usize,
    begun: Instant,
    answered: Instant,
    accepted: bool,
}

struct Writes {
    http: reqwest::Client,
    /// Those asked in turn: their places and where.
    peers: Vec<(usize, String)>,
    numbers: Range<u32>,
    ticks: Interval,
    in_flight: JoinSet<Write>,
}

impl Writes {
    /// Begins writes in time until one is answered.
    async fn next_answer(&mut self) -> anyhow::Result<Write> {
        loop {
            tokio::select! {
                Some(write) = self.in_flight.join_next() => return Ok(write?),
                _ = self.ticks.tick(), if self.in_flight.len() < IN_FLIGHT_MAX => {
                    let number = self.numbers.next().context("no numbers are left")?;
                    let (peer, url) = &self.peers[number as usize % self.peers.len()];
                    let url = format!("{url}{}", identity_cid(number));
                    self.in_flight.spawn(write(*peer, self.http.post(url)));
                }
            }
        }
    }
}

async fn write(peer: usize, request: reqwest::RequestBuilder) -> Write {
    let begun = Instant::now();
    let answer = request.send().await;
    let accepted = answer.is_ok_and(|answer| answer.status().is_success());
    Write { peer, begun, answered: Instant::now(), accepted }
}
