//! Three peers with default timing, each beside a daemon.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use pinkeeper_e2e::{
    peer::{PeerProcess, leader_of},
    stand_in_kubo::StandInKubo,
    trio::{FORM_DEADLINE, next_of, whole},
};
use serde_json::{Value, json};

/// All statuses but `pinned`.
const NOT_PINNED: &str =
    "error,queued,pinning,unpinning,unpinned,remote,unexpectedly_unpinned,undefined";

/// Which peer clients speak to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Leader,
    Follower,
}

/// A running cluster.
pub(crate) struct Cluster {
    pub(crate) peers: Vec<PeerProcess>,
}

impl Cluster {
    /// Starts a peer beside each daemon and waits until they are one cluster.
    pub(crate) async fn start(daemons: &[String]) -> anyhow::Result<Self> {
        let mut peers: Vec<PeerProcess> = Vec::new();
        for (name, daemon) in ["a", "b", "c"].into_iter().zip(daemons) {
            let mut peer = PeerProcess::new(next_of(&peers, name, daemon.clone()))?;
            // The shipped defaults; the tests' own settings are for tests.
            for (key, value) in [
                ("heartbeat_ms", json!(100)),
                ("election_min_ms", json!(300)),
                ("election_max_ms", json!(500)),
                ("pin_stall_timeout", json!("2m")),
                ("log_level", json!("info")),
            ] {
                peer.set(key, value);
            }
            peers.push(peer);
        }
        peers.iter_mut().try_for_each(PeerProcess::start)?;
        whole(&peers, FORM_DEADLINE).await;
        Ok(Self { peers })
    }

    pub(crate) fn leader(&self) -> anyhow::Result<usize> {
        leader_of(&self.peers)
    }

    /// Where the REST API of such a peer listens.
    pub(crate) fn rest_at(&self, place: Place) -> anyhow::Result<SocketAddr> {
        let leader = self.leader()?;
        self.rest(match place {
            Place::Leader => leader,
            Place::Follower => (leader + 1) % self.peers.len(),
        })
    }

    /// Where a peer's REST API listens.
    pub(crate) fn rest(&self, peer: usize) -> anyhow::Result<SocketAddr> {
        let url = self.peers[peer].rest_url("");
        let address = url.strip_prefix("http://").context("no http URL")?;
        Ok(address.trim_end_matches('/').parse()?)
    }

    /// Whether some peer has a pin that it has not pinned yet, as the leader says. That costs it much
    /// less than [`Self::all_pinned`] when hardly any is left, since it writes only these.
    pub(crate) async fn has_unfinished(&self) -> anyhow::Result<bool> {
        Ok(!self.peers[self.leader()?].pins_with(NOT_PINNED).await?.is_empty())
    }

    /// Whether each peer tracks so many pins or more and has pinned all of them, by its own metrics. A list
    /// would cost the leader much more.
    pub(crate) async fn have_pinned(&self, least: usize) -> anyhow::Result<bool> {
        for peer in &self.peers {
            let (_, metrics) = peer.health("metrics").await?;
            let counts = metrics.lines().filter_map(|line| {
                let (status, count) =
                    line.strip_prefix("pinkeeper_pins{status=\"")?.split_once("\"} ")?;
                Some((status, count.parse::<usize>().ok()?))
            });
            let (pinned, others): (Vec<_>, Vec<_>) =
                counts.partition(|(status, _)| *status == "pinned");
            let sum = |of: &[(&str, usize)]| of.iter().map(|(_, count)| count).sum::<usize>();
            if sum(&pinned) < least || sum(&others) > 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether every pin is pinned by all three peers, as the leader says of each.
    pub(crate) async fn all_pinned(&self) -> anyhow::Result<bool> {
        let pins = self.peers[self.leader()?].pins().await?;
        let done = |pin: &Value| {
            let statuses = pinkeeper_e2e::peer::statuses(pin);
            statuses.len() == 3 && statuses.values().all(|of| of.status == "pinned")
        };
        Ok(pins.iter().all(done))
    }
}

/// Three stand-in daemons that take so long for a pin.
pub(crate) async fn stand_ins(pin_time: Duration) -> anyhow::Result<Vec<StandInKubo>> {
    let mut daemons = Vec::new();
    for _ in 0..3 {
        let daemon = StandInKubo::start([127, 0, 0, 1].into()).await?;
        daemon.set_pin_time(pin_time);
        daemons.push(daemon);
    }
    Ok(daemons)
}

pub(crate) fn urls(daemons: &[StandInKubo]) -> Vec<String> {
    daemons.iter().map(StandInKubo::url).collect()
}
