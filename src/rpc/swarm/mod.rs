//! The transport between peers: libp2p over TCP, with the cluster secret (pnet), the peers' keys
//! (noise) and many streams on one connection (yamux).
//!
//! Per peer and lane there is one long-lived stream which we opened, for our requests and their
//! answers, and one which the peer opened, for its own; both end with their connection. Whoever knows the cluster secret can
//! connect; what it may ask is decided by whoever serves [`Inbound`]. Every known peer is dialled
//! until there is a connection, so that one exists before it is needed; a call to a peer without a
//! connection fails at once.

mod closing;
mod dialer;
mod inbound;
mod links;
mod network;
mod outbound;
mod shared;
mod streams;
mod suspicion;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use libp2p::{Multiaddr, multiaddr::Protocol, swarm::SwarmEvent};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use self::{
    network::Network,
    outbound::{LaneState, NoAnswer},
    shared::{Queued, Shared},
    streams::{Behaviour, Streams},
};
use super::{CallError, Inbound, Transport, frame, metrics::RpcMetrics};
use crate::{
    identity::{ClusterSecret, Identity},
    types::{Envelope, Lane, PeerId, Refusal, Response},
};

/// Requests of one stream that may wait for their answers, on either side.
pub const IN_FLIGHT_MAX: usize = 1024;
/// Buffer before a stream: many small frames become one write.
const STREAM_BUFFER_LEN: usize = 64 * 1024;
/// A peer that takes nothing for so long is given up on that stream.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// The system names the addresses it listens on within milliseconds.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);

const LANES: [Lane; 3] = [Lane::Raft, Lane::Control, Lane::Bulk];

/// What a transport needs.
#[derive(Debug)]
pub struct SwarmOptions {
    /// Who we are.
    pub identity: Identity,
    /// What every peer of the cluster knows.
    pub secret: ClusterSecret,
    /// Where to listen, as in `/ip4/0.0.0.0/tcp/9096`; port 0 takes any.
    pub listen: Vec<Multiaddr>,
    /// Seeds the waits between dials.
    pub jitter_seed: u64,
    /// Where calls are counted.
    pub metrics: RpcMetrics,
}

/// Why the transport did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// Why, as the system says it.
        reason: String,
    },
    /// The key pair does not serve for the handshake.
    #[error("cannot prepare the handshake: {0}")]
    Handshake(String),
}

/// A running transport.
#[derive(Debug)]
pub struct Started {
    /// To call peers.
    pub transport: Arc<SwarmTransport>,
    /// Where it listens, one entry for each address of the machine.
    pub listening: Vec<Multiaddr>,
    /// Ends once the token is cancelled and every task of the transport has ended.
    pub task: JoinHandle<()>,
}

/// [`Transport`] over libp2p.
pub struct SwarmTransport {
    shared: Arc<Shared>,
}

impl fmt::Debug for SwarmTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SwarmTransport").field("own", &self.shared.own).finish_non_exhaustive()
    }
}

impl SwarmTransport {
    /// Listens and begins to serve: requests from peers go to `inbound`, and are refused with `Busy`
    /// while it is full.
    ///
    /// # Errors
    /// When an address cannot be listened on.
    pub async fn start(
        options: SwarmOptions,
        inbound: mpsc::Sender<Inbound>,
        token: CancellationToken,
    ) -> Result<Started, StartError> {
        let SwarmOptions { identity, secret, listen, jitter_seed, metrics } = options;
        let streams = Arc::new(Streams::new(token.clone()));
        let shared = Arc::new(Shared::new(identity.id(), Arc::clone(&streams), metrics, token));
        let accept = inbound::acceptor(Arc::clone(&shared), inbound);
        let streams = Behaviour::new(streams, accept);
        let mut swarm = network::swarm(identity.keypair(), &secret, streams)
            .map_err(|error| StartError::Handshake(error.to_string()))?;
        let (listening, early) = match listen_on(&mut swarm, &listen).await {
            Ok(listening) => listening,
            Err(error) => {
                shared.token.cancel();
                return Err(error);
            }
        };
        tracing::info!(
            id = %identity.id(), ?listening, secret = secret.fingerprint(), "listening for peers"
        );
        let mut network = Network::new(swarm, Arc::clone(&shared), jitter_seed);
        early.into_iter().for_each(|event| network.on_event(event));
        let task = tokio::spawn(network.run());
        Ok(Started { transport: Arc::new(Self { shared }), listening, task })
    }

    /// Replaces the addresses of peers whose IDs are not known: each is dialled until a peer
    /// answers, and again when that peer is lost. A `/p2p/…` in an address is insisted on.
    pub fn set_seeds(&self, seeds: Vec<Multiaddr>) {
        self.shared.wanted.change(|news| news.seeds = Some(seeds));
    }
}

impl Transport for SwarmTransport {
    fn call(
        &self,
        to: PeerId,
        envelope: Envelope,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Response, CallError>> {
        let lane = envelope.request.lane();
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let started = Instant::now();
        // Queued here and not when the future is first polled: the order of calls is kept.
        let queued = match frame::encode_request(id, &envelope) {
            Ok(frame) => self.shared.enqueue(to, lane, id, frame).map_err(|_| Refusal::Busy),
            Err(error) => Err(Refusal::Invalid(error.to_string())),
        };
        async move {
            let result = match queued {
                Ok(queued) => answer(to, id, queued, started, deadline).await,
                Err(refusal) => Ok(Response::Refused(refusal)),
            };
            self.shared.metrics.observe(lane, &result, started.elapsed());
            result
        }
        .boxed()
    }

    fn set_addresses(&self, addresses: BTreeMap<PeerId, Vec<String>>) {
        let parse = |text: &String| match text.parse::<Multiaddr>() {
            Ok(address) => Some(address),
            Err(error) => {
                tracing::warn!(address = text, %error, "an address of a peer is no multiaddr");
                None
            }
        };
        let parsed = addresses
            .into_iter()
            .filter(|(peer, _)| *peer != self.shared.own)
            .map(|(peer, texts)| (peer, texts.iter().filter_map(parse).collect::<Vec<_>>()));
        self.shared.wanted.change(|news| news.peers.extend(parsed));
    }

    fn set_members(&self, members: BTreeMap<PeerId, String>) {
        self.shared.set_members(members);
    }

    fn connected(&self) -> Vec<PeerId> {
        self.shared.links().up()
    }
}

/// Gives up a call's place when its caller waits no more.
struct Place {
    id: u64,
    state: Arc<LaneState>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.state.forget(self.id);
    }
}

async fn answer(
    to: PeerId,
    id: u64,
    queued: Queued,
    started: Instant,
    deadline: Duration,
) -> Result<Response, CallError> {
    let place = Place { id, state: queued.state };
    match timeout_at(started + deadline, queued.answer).await {
        Ok(Ok(Ok(response))) => Ok(response),
        Ok(Ok(Err(NoAnswer { reason, sent }))) => {
            Err(CallError::Unreachable { peer: to, reason, sent })
        }
        Ok(Err(_)) => {
            let reason = "the transport is stopping".to_owned();
            Err(CallError::Unreachable { peer: to, reason, sent: true })
        }
        Err(_) => {
            place.state.timed_out();
            Err(CallError::Timeout { peer: to, deadline })
        }
    }
}

/// The protocol of a lane's streams.
fn lane_name(lane: Lane) -> &'static str {
    // Under `rpc::PROTOCOL`.
    match lane {
        Lane::Raft => "/pinkeeper/0.1/rpc/raft",
        Lane::Control => "/pinkeeper/0.1/rpc/control",
        Lane::Bulk => "/pinkeeper/0.1/rpc/bulk",
    }
}

fn peer_of(id: &libp2p::PeerId) -> Option<PeerId> {
    PeerId::from_bytes(&id.to_bytes()).ok()
}

fn peer_id_of(peer: PeerId) -> libp2p::PeerId {
    #[expect(clippy::expect_used, reason = "ours is the multihash of a key by construction")]
    libp2p::PeerId::from_bytes(&peer.to_bytes()).expect("the multihash of a key")
}

/// Listens on every address and waits until the system has said what that means. Also answers what
/// happened meanwhile: peers that waited for this one connect at once.
async fn listen_on(
    swarm: &mut libp2p::Swarm<network::Behaviour>,
    addresses: &[Multiaddr],
) -> Result<(Vec<Multiaddr>, Vec<SwarmEvent<network::BehaviourEvent>>), StartError> {
    let failed = |address: &Multiaddr, reason: String| StartError::Listen {
        address: address.clone(),
        reason,
    };
    let mut waiting = BTreeMap::new();
    // All before the first is taken: an ordinary bind of every IPv6 address is one of every IPv4 address too.
    for address in addresses {
        probe(address).map_err(|error| failed(address, error.to_string()))?;
    }
    for address in addresses {
        let listener =
            swarm.listen_on(address.clone()).map_err(|error| failed(address, error.to_string()))?;
        waiting.insert(format!("{listener:?}"), address.clone());
    }
    let (mut listening, mut early) = (Vec::new(), Vec::new());
    let until = Instant::now() + LISTEN_TIMEOUT;
    while let Some(unanswered) = waiting.values().next().cloned() {
        match timeout_at(until, swarm.select_next_some()).await {
            Ok(SwarmEvent::NewListenAddr { listener_id, address }) => {
                waiting.remove(&format!("{listener_id:?}"));
                listening.push(address);
            }
            Ok(SwarmEvent::ListenerClosed { reason: Err(error), .. }) => {
                return Err(failed(&unanswered, error.to_string()));
            }
            Ok(event) => early.push(event),
            Err(_) => return Err(failed(&unanswered, "no address came of it".to_owned())),
        }
    }
    // The other addresses of a wildcard follow the first at once.
    let until = Instant::now() + Duration::from_millis(50);
    while let Ok(event) = timeout_at(until, swarm.select_next_some()).await {
        match event {
            SwarmEvent::NewListenAddr { address, .. } => listening.push(address),
            event => early.push(event),
        }
    }
    Ok((listening, early))
}

/// libp2p listens with `SO_REUSEPORT`, so that two processes of one user could share a port without
/// a word; an ordinary bind is refused then.
fn probe(address: &Multiaddr) -> io::Result<()> {
    let mut ip: Option<IpAddr> = None;
    let mut port = None;
    for part in address {
        match part {
            Protocol::Ip4(v4) => ip = Some(v4.into()),
            Protocol::Ip6(v6) => ip = Some(v6.into()),
            Protocol::Tcp(number) => port = Some(number),
            _ => {}
        }
    }
    match (ip, port) {
        (Some(ip), Some(port)) if port != 0 => {
            TcpListener::bind(SocketAddr::new(ip, port)).map(drop)
        }
        _ => Ok(()),
    }
}
