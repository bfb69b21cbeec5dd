//! Three peers, each with a daemon of its own.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures::future::{join_all, try_join_all};
use pinkeeper::types::Cid;
use tokio::sync::{Mutex, MutexGuard};

use crate::{
    daemon::Daemon,
    peer::{PeerProcess, Setup, Status, leader_of, until},
};

/// Time a cluster has to form, also after all its peers were away.
pub const FORM_DEADLINE: Duration = Duration::from_secs(30);
/// Time a small pin has.
pub const PIN_DEADLINE: Duration = Duration::from_secs(60);

/// A cluster secret.
pub const SECRET: &str = "8f1c57e2a0b94d3f6e7d8c9b0a1f2e3d4c5b6a798897a6b5c4d3e2f101234567";

/// Six processes at a time are enough for the machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// Waits for a turn; it lasts until the guard is dropped.
pub async fn turn() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().await
}

/// Three peers and their daemons; peer 0 is the founder.
#[derive(Debug)]
pub struct Trio {
    /// The peers, called `a`, `b` and `c`.
    pub peers: Vec<PeerProcess>,
    /// The daemon of each.
    pub daemons: Vec<Daemon>,
    /// Until the cluster had formed.
    pub formed_in: Duration,
    _turn: MutexGuard<'static, ()>,
}

impl Trio {
    /// Starts daemons and peers and waits until they are one cluster.
    ///
    /// # Errors
    /// When a process does not start.
    ///
    /// # Panics
    /// When no cluster forms.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(|_| Ok(())).await
    }

    /// As [`Self::start`]; `prepare` is called with the peers before any of them runs.
    ///
    /// # Errors
    /// When a process does not start, or `prepare` fails.
    ///
    /// # Panics
    /// When no cluster forms.
    pub async fn start_with(
        prepare: impl FnOnce(&mut [PeerProcess]) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let turn = turn().await;
        let daemons = try_join_all((0..3).map(|_| Daemon::start())).await?;
        let mut peers: Vec<PeerProcess> = Vec::new();
        for (name, daemon) in ["a", "b", "c"].into_iter().zip(&daemons) {
            peers.push(PeerProcess::new(next_of(&peers, name, daemon.url()))?);
        }
        prepare(&mut peers)?;
        let begin = Instant::now();
        peers.iter_mut().try_for_each(PeerProcess::start)?;
        let mut trio = Self { peers, daemons, formed_in: Duration::ZERO, _turn: turn };
        trio.whole().await;
        trio.formed_in = begin.elapsed();
        Ok(trio)
    }

    /// Waits until each peer is ready and knows three voters: from then on one can be lost.
    ///
    /// # Panics
    /// When that does not come.
    pub async fn whole(&self) -> Duration {
        whole(&self.peers, FORM_DEADLINE).await
    }

    /// The peer that leads.
    ///
    /// # Errors
    /// When none does.
    pub fn leader(&self) -> anyhow::Result<usize> {
        leader_of(&self.peers)
    }

    /// Waits until a peer shows these statuses for a CID.
    ///
    /// # Panics
    /// When that does not come.
    pub async fn until_statuses(
        &self,
        peer: usize,
        cid: &Cid,
        what: &str,
        right: impl Fn(&BTreeMap<String, Status>) -> bool,
    ) -> Duration {
        until(&format!("{cid} is {what} as peer {peer} shows it"), PIN_DEADLINE, || async {
            self.peers[peer].statuses(cid).await.is_ok_and(|statuses| right(&statuses))
        })
        .await
    }

    /// Waits until every peer shows a CID as pinned on so many peers.
    ///
    /// # Panics
    /// When that does not come.
    pub async fn until_pinned(&self, cid: &Cid, count: usize) -> Duration {
        let begin = Instant::now();
        for peer in 0..self.peers.len() {
            self.until_statuses(peer, cid, "pinned", |all| number(all, "pinned") == count).await;
        }
        begin.elapsed()
    }
}

/// What the next peer of a cluster is told; the first founds it, the others join by the first.
#[must_use]
pub fn next_of(peers: &[PeerProcess], name: &str, ipfs_api: String) -> Setup {
    Setup {
        name: name.to_owned(),
        secret: SECRET.to_owned(),
        found: peers.is_empty(),
        bootstrap: peers.first().map(PeerProcess::address).into_iter().collect(),
        ipfs_api,
    }
}

/// Waits until each of these peers is ready and knows that all of them are members and vote.
///
/// # Panics
/// When that does not come.
pub async fn whole(peers: &[PeerProcess], deadline: Duration) -> Duration {
    let count = peers.len();
    let voters = format!("pinkeeper_voters {count}");
    let is_part = async |peer: &PeerProcess| {
        peer.is_ready().await
            && peer.members().await.is_ok_and(|(_, members)| members.len() == count)
            && peer.health("metrics").await.is_ok_and(|(_, text)| text.contains(&voters))
    };
    until(&format!("{count} peers are one cluster"), deadline, || async {
        join_all(peers.iter().map(is_part)).await.into_iter().all(|whole| whole)
    })
    .await
}

/// How many peers have a status.
#[must_use]
pub fn number(statuses: &BTreeMap<String, Status>, status: &str) -> usize {
    statuses.values().filter(|of| of.status == status).count()
}
