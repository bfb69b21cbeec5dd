//! A network in memory: random delays, lost messages, cut links.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::sync::{mpsc, oneshot};

use crate::{
    rpc::{CallError, Inbound, Transport},
    types::{Envelope, PeerId, Response},
};

/// Longest time a message is under way.
const DELAY_MAX_MS: u64 = 8;

/// The network; clones are the same.
#[derive(Clone, Debug)]
pub struct SimNetwork(Arc<Mutex<Links>>);

#[derive(Debug)]
struct Links {
    random: StdRng,
    peers: BTreeMap<PeerId, (u64, mpsc::Sender<Inbound>)>,
    /// Numbers the lives of peers; what is left of an earlier life reaches nobody.
    lives: u64,
    cut: BTreeSet<PeerId>,
    /// Messages lost of a thousand.
    loss: u32,
}

/// One peer's end of the network.
#[derive(Debug)]
pub struct SimTransport {
    network: SimNetwork,
    own: PeerId,
    life: u64,
}

impl SimNetwork {
    /// A network on which all goes well, with delays from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let links = Links {
            random: StdRng::seed_from_u64(seed),
            peers: BTreeMap::new(),
            lives: 0,
            cut: BTreeSet::new(),
            loss: 0,
        };
        Self(Arc::new(Mutex::new(links)))
    }

    /// Connects a peer, in place of an earlier life of it.
    #[must_use]
    pub fn connect(&self, own: PeerId, inbound: mpsc::Sender<Inbound>) -> SimTransport {
        let mut links = self.lock();
        links.lives += 1;
        let life = links.lives;
        links.peers.insert(own, (life, inbound));
        SimTransport { network: self.clone(), own, life }
    }

    /// Takes a peer off the network for good.
    pub fn disconnect(&self, peer: PeerId) {
        self.lock().peers.remove(&peer);
    }

    /// Cuts a peer off, or connects it again.
    pub fn set_cut(&self, peer: PeerId, cut: bool) {
        let mut links = self.lock();
        if cut {
            links.cut.insert(peer)
        } else {
            links.cut.remove(&peer)
        };
    }

    /// Loses that many messages of a thousand.
    pub fn set_loss(&self, loss: u32) {
        self.lock().loss = loss;
    }

    fn lock(&self) -> MutexGuard<'_, Links> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a message gets through, and how long it takes.
    fn carry(&self, from: PeerId, to: PeerId) -> (bool, Duration) {
        let mut links = self.lock();
        let delay = links.random.random_range(0..=DELAY_MAX_MS);
        let lost = links.random.random_range(0..1000) < links.loss;
        let cut = links.cut.contains(&from) || links.cut.contains(&to);
        (!lost && !cut, Duration::from_millis(delay))
    }
}

impl SimTransport {
    async fn carry_call(&self, to: PeerId, envelope: Envelope) -> Option<Response> {
        let (arrives, delay) = self.network.carry(self.own, to);
        tokio::time::sleep(delay).await;
        let (_, inbound) = {
            let links = self.network.lock();
            let alive = links.peers.get(&self.own).is_some_and(|(life, _)| *life == self.life);
            links.peers.get(&to).cloned().filter(|_| arrives && alive)?
        };
        let (reply, answer) = oneshot::channel();
        inbound.send(Inbound { from: self.own, envelope, reply }).await.ok()?;
        let response = answer.await.ok()?;
        let (arrives, delay) = self.network.carry(to, self.own);
        tokio::time::sleep(delay).await;
        arrives.then_some(response)
    }
}

impl Transport for SimTransport {
    fn call(
        &self,
        to: PeerId,
        envelope: Envelope,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Response, CallError>> {
        Box::pin(async move {
            match tokio::time::timeout(deadline, self.carry_call(to, envelope)).await {
                Ok(Some(response)) => Ok(response),
                Ok(None) => {
                    let reason = "simulated".into();
                    Err(CallError::Unreachable { peer: to, reason, sent: true })
                }
                Err(_) => Err(CallError::Timeout { peer: to, deadline }),
            }
        })
    }

    fn set_addresses(&self, _addresses: BTreeMap<PeerId, Vec<String>>) {}

    fn connected(&self) -> Vec<PeerId> {
        let links = self.network.lock();
        let reachable = |peer: &&PeerId| !links.cut.contains(peer) && **peer != self.own;
        links.peers.keys().filter(reachable).copied().collect()
    }
}
