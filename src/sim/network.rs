//! A network in memory: messages take their time, overtake each other, come twice or not at all.
//!
//! A message that is under way arrives also when its sender has given it up or crashed, but never at
//! a later life of the receiver.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::sync::{mpsc, oneshot};

use super::trace::Trace;
use crate::{
    rpc::{CallError, Inbound, Transport},
    types::{Envelope, PeerId, Request, Response, millis},
};

/// Longest time a message is under way on a good link.
const DELAY_MAX_MS: u64 = 8;

/// The network; clones are the same.
#[derive(Clone, Debug)]
pub struct SimNetwork(Arc<Mutex<Links>>);

#[derive(Debug)]
struct Links {
    random: StdRng,
    /// For greetings: they come besides, and change nothing of what happens to other messages.
    greeting_random: StdRng,
    peers: BTreeMap<PeerId, (u64, mpsc::Sender<Inbound>)>,
    /// Numbers the lives of peers.
    lives: u64,
    cut: BTreeSet<PeerId>,
    /// From one peer to another, not back.
    cut_ways: BTreeSet<(PeerId, PeerId)>,
    /// Ways that take up to so many milliseconds.
    slow_ways: BTreeMap<(PeerId, PeerId), u64>,
    /// Messages lost of a thousand.
    loss: u32,
    /// Requests that arrive twice, of a thousand.
    doubled: u32,
    trace: Option<Trace>,
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
            greeting_random: StdRng::seed_from_u64(seed ^ 0x4e110),
            peers: BTreeMap::new(),
            lives: 0,
            cut: BTreeSet::new(),
            cut_ways: BTreeSet::new(),
            slow_ways: BTreeMap::new(),
            loss: 0,
            doubled: 0,
            trace: None,
        };
        Self(Arc::new(Mutex::new(links)))
    }

    /// From now on messages go into a trace.
    pub fn set_trace(&self, trace: Trace) {
        self.lock().trace = Some(trace);
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

    /// Takes a peer off the network until it connects again.
    pub fn disconnect(&self, peer: PeerId) {
        self.lock().peers.remove(&peer);
    }

    /// Cuts a peer off from all others, or connects it again.
    pub fn set_cut(&self, peer: PeerId, cut: bool) {
        let mut links = self.lock();
        if cut {
            links.cut.insert(peer)
        } else {
            links.cut.remove(&peer)
        };
    }

    /// Cuts the way from one peer to another, or opens it again; the way back is another one.
    pub fn set_way_cut(&self, from: PeerId, to: PeerId, cut: bool) {
        let mut links = self.lock();
        if cut {
            links.cut_ways.insert((from, to))
        } else {
            links.cut_ways.remove(&(from, to))
        };
    }

    /// Messages on this way take up to `delay`.
    pub fn set_way_delay(&self, from: PeerId, to: PeerId, delay: Duration) {
        self.lock().slow_ways.insert((from, to), millis(delay));
    }

    /// Loses that many messages of a thousand.
    pub fn set_loss(&self, loss: u32) {
        self.lock().loss = loss;
    }

    /// Delivers that many requests of a thousand twice.
    pub fn set_doubled(&self, doubled: u32) {
        self.lock().doubled = doubled;
    }

    /// All goes well again.
    pub fn heal(&self) {
        let mut links = self.lock();
        links.cut.clear();
        links.cut_ways.clear();
        links.slow_ways.clear();
        (links.loss, links.doubled) = (0, 0);
    }

    fn lock(&self) -> MutexGuard<'_, Links> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Links {
    fn is_open(&self, from: PeerId, to: PeerId) -> bool {
        let cut = self.cut.contains(&from) || self.cut.contains(&to);
        !cut && !self.cut_ways.contains(&(from, to))
    }

    fn random(&mut self, greets: bool) -> &mut StdRng {
        if greets { &mut self.greeting_random } else { &mut self.random }
    }

    /// How long a message takes; none when it does not arrive.
    fn carry(&mut self, from: PeerId, to: PeerId, greets: bool) -> Option<Duration> {
        let longest = self.slow_ways.get(&(from, to)).copied().unwrap_or(DELAY_MAX_MS);
        let delay = Duration::from_millis(self.random(greets).random_range(0..=longest));
        let lost = self.random(greets).random_range(0..1000) < self.loss;
        (!lost && self.is_open(from, to)).then_some(delay)
    }

    fn is_alive(&self, peer: PeerId, life: u64) -> bool {
        self.peers.get(&peer).is_some_and(|(now, _)| *now == life)
    }
}

impl SimTransport {
    /// Sends a request; its answer comes, or is dropped.
    fn send(&self, to: PeerId, envelope: Envelope) -> oneshot::Receiver<Response> {
        let (reply, answer) = oneshot::channel();
        let mut links = self.network.lock();
        let Some((life, inbound)) = links.peers.get(&to).cloned() else { return answer };
        // What is left of an earlier life of the sender reaches nobody.
        if !links.is_alive(self.own, self.life) {
            return answer;
        }
        let greets = matches!(&envelope.request, Request::Hello(hello) if !hello.join);
        let mut carry = || links.carry(self.own, to, greets);
        let (first, again) = (carry(), carry());
        let doubled = links.random(greets).random_range(0..1000) < links.doubled;
        if let Some(trace) = &links.trace {
            let (own, doubled) = (self.own, doubled && again.is_some());
            let what = || format!("{own} to {to}: {first:?}, again {doubled}, {envelope:?}");
            trace.event(what, &envelope);
        }
        drop(links);
        let (network, from) = (self.network.clone(), self.own);
        let arrival = Arrival { network, from, to, life, greets, inbound };
        if let Some(delay) = again.filter(|_| doubled) {
            tokio::spawn(arrival.clone().deliver(delay, envelope.clone(), None));
        }
        if let Some(delay) = first {
            tokio::spawn(arrival.deliver(delay, envelope, Some(reply)));
        }
        answer
    }
}

/// Where a request goes.
#[derive(Clone)]
struct Arrival {
    network: SimNetwork,
    from: PeerId,
    to: PeerId,
    life: u64,
    greets: bool,
    inbound: mpsc::Sender<Inbound>,
}

impl Arrival {
    /// Delivers a request after `delay`, and carries its answer back if anybody waits for it.
    async fn deliver(
        self,
        delay: Duration,
        envelope: Envelope,
        back: Option<oneshot::Sender<Response>>,
    ) {
        tokio::time::sleep(delay).await;
        if !self.network.lock().is_alive(self.to, self.life) {
            return;
        }
        let (reply, answer) = oneshot::channel();
        let inbound = Inbound { from: self.from, envelope, reply };
        if self.inbound.send(inbound).await.is_err() {
            return;
        }
        let (Ok(response), Some(back)) = (answer.await, back) else { return };
        let delay = {
            let mut links = self.network.lock();
            // The dead say nothing.
            if !links.is_alive(self.to, self.life) {
                return;
            }
            let delay = links.carry(self.to, self.from, self.greets);
            if let Some(trace) = &links.trace {
                let what = || format!("{} answers {}: {delay:?}, {response:?}", self.to, self.from);
                trace.event(what, &response);
            }
            delay
        };
        let Some(delay) = delay else { return };
        tokio::time::sleep(delay).await;
        // The caller may have given up.
        let _ = back.send(response);
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
            match tokio::time::timeout(deadline, self.send(to, envelope)).await {
                Ok(Ok(response)) => Ok(response),
                Ok(Err(_)) => {
                    let reason = "simulated".into();
                    Err(CallError::Unreachable { peer: to, reason, sent: true })
                }
                Err(_) => Err(CallError::Timeout { peer: to, deadline }),
            }
        })
    }

    fn set_addresses(&self, _addresses: BTreeMap<PeerId, Vec<String>>) {}

    fn set_members(&self, _: BTreeMap<PeerId, String>) {}

    fn connected(&self) -> Vec<PeerId> {
        let links = self.network.lock();
        let own = self.own;
        let reachable = |peer: &&PeerId| {
            **peer != own && links.is_open(own, **peer) && links.is_open(**peer, own)
        };
        links.peers.keys().filter(reachable).copied().collect()
    }
}
