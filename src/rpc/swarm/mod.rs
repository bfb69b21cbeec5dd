//! The transport between peers: libp2p over TCP, with the cluster secret (pnet), the peers' keys
//! (noise) and many streams on one connection (yamux).
//!
//! Per peer and lane there is one long-lived stream that we opened, for our requests and their answers,
//! and one that the peer opened, for its own; both end with their connection. Any holder of the cluster
//! secret can connect; the receiver of [`Inbound`] decides what it may ask. Every known peer is dialled
//! until it is connected, so that a connection exists before it is needed; a call to a peer without a
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
/// Write buffer of a stream: many small frames become one write.
const STREAM_BUFFER_LEN: usize = 64 * 1024;
/// A stream whose peer reads nothing for so long is given up.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the system to name the addresses it listens on; it takes milliseconds.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);

const LANES: [Lane; 3] = [Lane::Raft, Lane::Control, Lane::Bulk];

/// Options of a transport.
#[derive(Debug)]
pub struct SwarmOptions {
    /// This peer's identity.
    pub identity: Identity,
    /// The secret shared by every peer of the cluster.
    pub secret: ClusterSecret,
    /// Addresses to listen on, as in `/ip4/0.0.0.0/tcp/9096`; port 0 takes any.
    pub listen: Vec<Multiaddr>,
    /// Seed of the random waits between dials.
    pub jitter_seed: u64,
    /// Metrics of calls.
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
        /// The system's error.
        reason: String,
    },
    /// The key pair cannot be used for the handshake.
    #[error("cannot prepare the handshake: {0}")]
    Handshake(String),
}

/// A running transport.
#[derive(Debug)]
pub struct Started {
    /// Calls peers.
    pub transport: Arc<SwarmTransport>,
    /// The addresses it listens on, one for each address of the machine.
    pub listening: Vec<Multiaddr>,
    /// Ends once the token is cancelled and all tasks of the transport have ended.
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
    /// Listens and serves: requests from peers go to `inbound`, and are refused with `Busy` while it is
    /// full.
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

    /// Replaces the addresses of peers whose IDs are unknown: each is dialled until a peer answers, and
    /// again when that peer is lost. A `/p2p/…` in an address must match.
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
        // Queued here, not when the future is first polled, to keep the order of calls.
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
                tracing::warn!(address = text, %error, "ignored a peer's address that is not a multiaddr");
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

/// Releases a call's place when its caller no longer waits.
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
    // Names under `rpc::PROTOCOL`.
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

/// Listens on every address and waits until the system names the actual addresses. Returns other events
/// of that time too: peers that waited for this one connect at once.
async fn listen_on(
    swarm: &mut libp2p::Swarm<network::Behaviour>,
    addresses: &[Multiaddr],
) -> Result<(Vec<Multiaddr>, Vec<SwarmEvent<network::BehaviourEvent>>), StartError> {
    let failed = |address: &Multiaddr, reason: String| StartError::Listen {
        address: address.clone(),
        reason,
    };
    let mut waiting = BTreeMap::new();
    // Probe all before listening on the first: an ordinary bind of all IPv6 addresses covers all IPv4
    // addresses too.
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
            Err(_) => return Err(failed(&unanswered, "the system reported no address".to_owned())),
        }
    }
    // The other addresses of a wildcard follow immediately.
    let until = Instant::now() + Duration::from_millis(50);
    while let Ok(event) = timeout_at(until, swarm.select_next_some()).await {
        match event {
            SwarmEvent::NewListenAddr { address, .. } => listening.push(address),
            event => early.push(event),
        }
    }
    Ok((listening, early))
}

/// Tries an ordinary bind, which fails if the port is taken: libp2p listens with `SO_REUSEPORT`, so two
/// processes of one user could silently share a port.
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
