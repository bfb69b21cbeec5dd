//! Clusters of real peers that faults are put on: processes killed and paused, networks cut.
//!
//! Each peer is in a network namespace of its own; the daemons are stand-ins, since they are not the
//! subject. Cuts are between peers only: the test and the daemons stay reachable, except for a peer
//! that is unplugged.

use std::{collections::BTreeSet, fmt, time::Duration};

use futures::future::{join_all, try_join_all};
use pinkeeper::{consensus::StateStore, state::PinSet, types::Cid};
use tokio::sync::{Mutex, MutexGuard};

use crate::{
    clients::Recorder,
    daemon::identity_cid,
    network::{Cuts, Network},
    peer::{PeerProcess, leader_of, until},
    stand_in_kubo::StandInKubo,
    trio::{next_of, whole},
};

/// Time a cluster has to be whole after faults: connections that were cut come back slowly.
pub const WHOLE_DEADLINE: Duration = Duration::from_secs(120);
/// How long a stand-in daemon takes for a pin.
const PIN_TIME: Duration = Duration::from_millis(20);

/// At least the time between two writes of what is applied to the state's disk.
const STORE_PERIOD: Duration = Duration::from_millis(5_200);
/// Numbers of the CIDs that are pinned last.
const MARKERS: [u32; 2] = [2_000, 2_001];

/// One cluster at a time is enough for the machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// A cluster; peer 0 founded it.
#[derive(Debug)]
pub struct Faulty {
    /// The peers. They end before their network does.
    pub peers: Vec<PeerProcess>,
    /// The daemon of each.
    pub daemons: Vec<StandInKubo>,
    /// Their network.
    pub network: Network,
    _turn: MutexGuard<'static, ()>,
}

/// What is done to a cluster, and can be taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL; started again afterwards.
    Kill(Vec<usize>),
    /// SIGSTOP; SIGCONT afterwards.
    Pause(Vec<usize>),
    /// The link is down.
    Unplug(usize),
    /// Ways that are cut.
    Cut(&'static str, Cuts),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(peers) => write!(f, "killed: {peers:?}"),
            Self::Pause(peers) => write!(f, "paused: {peers:?}"),
            Self::Unplug(peer) => write!(f, "unplugged: {peer}"),
            Self::Cut(what, cuts) => write!(f, "{what}: {cuts:?}"),
        }
    }
}

impl Fault {
    /// Some peers and the others hear nothing of each other.
    #[must_use]
    pub fn split(some: &[usize], count: usize) -> Self {
        let apart = |(a, b): &(usize, usize)| some.contains(a) != some.contains(b);
        Self::Cut("split", pairs(count).filter(apart).collect())
    }

    /// A peer hears nobody.
    #[must_use]
    pub fn deaf(peer: usize, count: usize) -> Self {
        Self::Cut("deaf", pairs(count).filter(|(_, to)| *to == peer).collect())
    }

    /// Nobody hears a peer.
    #[must_use]
    pub fn mute(peer: usize, count: usize) -> Self {
        Self::Cut("mute", pairs(count).filter(|(from, _)| *from == peer).collect())
    }

    /// Two peers hear nothing of each other.
    #[must_use]
    pub fn between(a: usize, b: usize) -> Self {
        Self::Cut("between", [(a, b), (b, a)].into())
    }

    /// One does not hear the other.
    #[must_use]
    pub fn one_way(from: usize, to: usize) -> Self {
        Self::Cut("one way", [(from, to)].into())
    }
}

fn pairs(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).flat_map(move |a| (0..count).filter(move |b| *b != a).map(move |b| (a, b)))
}

impl Faulty {
    /// Starts so many peers and waits until they are one cluster.
    ///
    /// # Errors
    /// When a process or the network cannot be made.
    ///
    /// # Panics
    /// When no cluster forms.
    pub async fn start(count: usize) -> anyhow::Result<Self> {
        let turn = ONE_AT_A_TIME.lock().await;
        let network = Network::new(count)?;
        let daemons = try_join_all((0..count).map(|_| StandInKubo::start(network.test()))).await?;
        let mut peers: Vec<PeerProcess> = Vec::new();
        for (n, daemon) in daemons.iter().enumerate() {
            daemon.set_pin_time(PIN_TIME);
            let setup = next_of(&peers, &format!("peer-{n}"), daemon.url());
            peers.push(PeerProcess::new(setup)?.at(network.place(n)));
        }
        peers.iter_mut().try_for_each(PeerProcess::start)?;
        let cluster = Self { peers, daemons, network, _turn: turn };
        cluster.whole().await;
        Ok(cluster)
    }

    /// How many peers there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.peers.len()
    }

    /// The peer that leads.
    ///
    /// # Errors
    /// When none does.
    pub fn leader(&self) -> anyhow::Result<usize> {
        leader_of(&self.peers)
    }

    /// For asking its peers.
    ///
    /// # Errors
    /// Never in practice.
    pub fn recorder(&self) -> anyhow::Result<Recorder> {
        Recorder::new(self.peers.iter().map(|peer| peer.rest_url("")).collect())
    }

    /// Waits until each peer is ready, and all vote.
    ///
    /// # Panics
    /// When that does not come.
    pub async fn whole(&self) -> Duration {
        whole(&self.peers, WHOLE_DEADLINE).await
    }

    /// Does it.
    ///
    /// # Errors
    /// When a process is not running or the system refuses.
    pub async fn begin(&mut self, fault: &Fault) -> anyhow::Result<()> {
        match fault {
            Fault::Kill(peers) => {
                for peer in peers {
                    self.peers[*peer].kill().await?;
                }
                Ok(())
            }
            Fault::Pause(peers) => peers.iter().try_for_each(|peer| self.peers[*peer].pause()),
            Fault::Unplug(peer) => self.network.plug(*peer, false),
            Fault::Cut(_, cuts) => self.network.cut(cuts),
        }
    }

    /// Takes it back.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn end(&mut self, fault: &Fault) -> anyhow::Result<()> {
        match fault {
            Fault::Kill(peers) => peers.iter().try_for_each(|peer| self.peers[*peer].start()),
            Fault::Pause(peers) => peers.iter().try_for_each(|peer| self.peers[*peer].resume()),
            Fault::Unplug(peer) => self.network.plug(*peer, true),
            Fault::Cut(..) => self.network.cut(&Cuts::new()),
        }
    }

    /// Waits until the peers do what the state says: each pin is pinned on as many of them as it asks
    /// for, and each daemon holds what is allocated to its peer and what was `foreign` to it.
    ///
    /// # Panics
    /// When that does not come.
    pub async fn settled(&self, recorder: &Recorder, foreign: &[BTreeSet<Cid>]) -> Duration {
        until("every daemon holds what it should", WHOLE_DEADLINE, || async {
            let held = join_all(self.peers.iter().map(|peer| wanted_of(peer, recorder))).await;
            held.iter().enumerate().all(|(n, wanted)| {
                let Some(wanted) = wanted else { return false };
                let expected: BTreeSet<Cid> = wanted.union(&foreign[n]).copied().collect();
                expected == self.daemons[n].pins()
            })
        })
        .await
    }

    /// Ends all peers as an orderly stop does, and compares the states on their disks.
    ///
    /// # Errors
    /// When a disk cannot be read.
    ///
    /// # Panics
    /// When a peer does not end well, or the states differ.
    pub async fn compare_states(&mut self) -> anyhow::Result<PinSet> {
        // What is applied is stored with something that is applied later; the log has it until then.
        for marker in MARKERS.map(identity_cid) {
            tokio::time::sleep(STORE_PERIOD).await;
            self.peers[0].pin(&marker, "").await?;
            until("every peer has applied a last pin", WHOLE_DEADLINE, || async {
                self.daemons.iter().all(|daemon| daemon.pins().contains(&marker))
            })
            .await;
        }
        for peer in &self.peers {
            peer.terminate()?;
        }
        for status in join_all(self.peers.iter_mut().map(PeerProcess::ended)).await {
            assert_eq!(status?.code(), Some(0));
        }
        let mut states = Vec::new();
        for peer in &self.peers {
            states.push(StateStore::open(&peer.data().join("state.redb"))?.pin_set()?);
        }
        let first = states.swap_remove(0);
        // The last marker itself may not be stored yet.
        let last = identity_cid(MARKERS[1]);
        let before = |state: &PinSet| -> Vec<_> {
            state
                .iter()
                .filter(|(cid, _)| *cid != last)
                .map(|(cid, pin)| (cid, pin.clone()))
                .collect()
        };
        assert!(states.iter().all(|state| before(state) == before(&first)), "the states differ");
        Ok(first)
    }
}

/// What a peer lists as allocated to itself; absent while a pin is not confirmed everywhere it
/// should be, or the peer does not answer.
async fn wanted_of(peer: &PeerProcess, recorder: &Recorder) -> Option<BTreeSet<Cid>> {
    let (own, _) = peer.members().await.ok()?;
    let mut wanted = BTreeSet::new();
    for pin in peer.pins().await.ok()? {
        let value = pin["name"].as_str()?.strip_prefix('v')?.parse().ok()?;
        let statuses = crate::peer::statuses(&pin);
        let pinned = crate::trio::number(&statuses, "pinned");
        let allocations = pin["allocations"].as_array()?;
        if pinned != allocations.len() || pinned < recorder.copies(value) {
            return None;
        }
        if allocations.iter().any(|peer| peer.as_str() == Some(&own)) {
            wanted.insert(pin["cid"].as_str()?.parse().ok()?);
        }
    }
    Some(wanted)
}
