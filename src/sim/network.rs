//! A network in memory: messages are delayed, overtake each other, and arrive twice or not at all.
//!
//! A message in transit arrives even if its sender has given it up or crashed, but never at a later
//! life of the receiver.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use parking_lot::{Mutex, MutexGuard};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::sync::{mpsc, oneshot};

use super::trace::Trace;
use crate::{
    rpc::{CallError, Inbound, Transport},
    types::{Envelope, PeerId, Request, Response, millis},
};

/// Longest delay of a message on a good link.
const DELAY_MAX_MS: u64 = 8;

/// The network; clones share it.
#[derive(Clone, Debug)]
pub struct SimNetwork(Arc<Mutex<Links>>);

#[derive(Debug)]
struct Links {
    random: StdRng,
    /// Separate randomness for greetings, so that they do not change what happens to other messages.
    greeting_random: StdRng,
    peers: BTreeMap<PeerId, (u64, mpsc::Sender<Inbound>)>,
    /// Number of lives of peers so far.
    lives: u64,
    cut: BTreeSet<PeerId>,
    /// Cut ways from one peer to another; the way back is separate.
    cut_ways: BTreeSet<(PeerId, PeerId)>,
    /// Slow ways, with their longest delay in milliseconds.
    slow_ways: BTreeMap<(PeerId, PeerId), u64>,
    /// Messages lost per thousand.
    loss: u32,
    /// Requests delivered twice per thousand.
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
    /// A network without faults, with delays from `seed`.
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

    /// Records messages in a trace from now on.
    pub fn set_trace(&self, trace: Trace) {
        self.lock().trace = Some(trace);
    }

    /// Connects a peer, replacing its earlier life.
    #[must_use]
    pub fn connect(&self, own: PeerId, inbound: mpsc::Sender<Inbound>) -> SimTransport {
        let mut links = self.lock();
        links.lives += 1;
        let life = links.lives;
        links.peers.insert(own, (life, inbound));
        SimTransport { network: self.clone(), own, life }
    }

    /// Removes a peer from the network until it connects again.
    pub fn disconnect(&self, peer: PeerId) {
        self.lock().peers.remove(&peer);
    }

    /// Cuts a peer off from all others, or reconnects it.
    pub fn set_cut(&self, peer: PeerId, cut: bool) {
        let mut links = self.lock();
        if cut {
            links.cut.insert(peer)
        } else {
            links.cut.remove(&peer)
        };
    }

    /// Cuts the way from one peer to another, or reopens it; the way back is separate.
    pub fn set_way_cut(&self, from: PeerId, to: PeerId, cut: bool) {
        let mut links = self.lock();
        if cut {
            links.cut_ways.insert((from, to))
        } else {
            links.cut_ways.remove(&(from, to))
        };
    }

    /// Delays messages on this way by up to `delay`.
    pub fn set_way_delay(&self, from: PeerId, to: PeerId, delay: Duration) {
        self.lock().slow_ways.insert((from, to), millis(delay));
    }

    /// Loses so many messages per thousand.
    pub fn set_loss(&self, loss: u32) {
        self.lock().loss = loss;
    }

    /// Delivers so many requests per thousand twice.
    pub fn set_doubled(&self, doubled: u32) {
        self.lock().doubled = doubled;
    }

    /// Ends all faults.
    pub fn heal(&self) {
        let mut links = self.lock();
        links.cut.clear();
        links.cut_ways.clear();
        links.slow_ways.clear();
        (links.loss, links.doubled) = (0, 0);
    }

    fn lock(&self) -> MutexGuard<'_, Links> {
        self.0.lock()
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

    /// The delay of a message; none if it is lost.
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
    /// Sends a request; the answer arrives or is dropped.
    fn send(&self, to: PeerId, envelope: Envelope) -> oneshot::Receiver<Response> {
        let (reply, answer) = oneshot::channel();
        let mut links = self.network.lock();
        let Some((life, inbound)) = links.peers.get(&to).cloned() else { return answer };
        // Messages from an earlier life of the sender are dropped.
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

/// The destination of a request.
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
    /// Delivers a request after `delay`, and returns its answer if the caller still waits.
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
            // Answers of an ended life are dropped.
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
