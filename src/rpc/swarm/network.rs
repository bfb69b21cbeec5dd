//! The network task: owns libp2p's swarm, dials, and keeps one live connection per peer.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use libp2p::{
    Multiaddr, Swarm, Transport as _,
    connection_limits::{self, ConnectionLimits},
    core::{muxing::StreamMuxerBox, transport::Boxed, upgrade::Version},
    identity::Keypair,
    noise, ping,
    pnet::{PnetConfig, PreSharedKey},
    swarm::{
        self, ConnectionId, DialError, NetworkBehaviour, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
    tcp, yamux,
};
use tokio::time::{Instant, sleep_until};

use super::{
    closing::ClosesInTime,
    dialer::{Dialer, Target},
    links::Connection,
    peer_id_of, peer_of,
    shared::Shared,
    streams,
    suspicion::{Suspicion, Suspicions},
};
use crate::{causes::with_causes, identity::ClusterSecret};

/// Deadline for connecting and proving identities.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval between pings of a connection.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// Deadline of one ping.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection without an echo for so long is closed. libp2p's ping does not report its first failure
/// and then waits for another stream, which takes 19 s.
const SILENCE_MAX: Duration = Duration::from_secs(7);
/// Time between two checks for silent connections.
const SILENCE_CHECK: Duration = Duration::from_secs(1);
/// Idle connections are kept; ping finds dead ones.
const IDLE_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);
/// Largest number of incoming connections that have not yet proven the secret.
const PENDING_INCOMING_MAX: u32 = 64;
/// Largest number of connections: the largest cluster's peers, twice in case connections cross.
const ESTABLISHED_MAX: u32 = 512;
/// Largest number of connections per peer: crossing ones, and old ones that are being closed.
const ESTABLISHED_PER_PEER_MAX: u32 = 8;
/// Appended to the reason if the handshake with a reached peer fails repeatedly.
const SECRET_HINT: &str = "; it could have another cluster secret";

#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    limits: connection_limits::Behaviour,
    streams: streams::Behaviour,
    ping: ping::Behaviour,
}

/// libp2p's swarm for a peer: TCP, the cluster secret, the peer's key, and streams.
pub(super) fn swarm(
    keypair: &Keypair,
    secret: &ClusterSecret,
    streams: streams::Behaviour,
) -> Result<Swarm<Behaviour>, noise::Error> {
    let limits = ConnectionLimits::default()
        .with_max_pending_incoming(Some(PENDING_INCOMING_MAX))
        .with_max_established(Some(ESTABLISHED_MAX))
        .with_max_established_per_peer(Some(ESTABLISHED_PER_PEER_MAX));
    let ping = ping::Config::new().with_interval(PING_INTERVAL).with_timeout(PING_TIMEOUT);
    let behaviour = Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        streams,
        ping: ping::Behaviour::new(ping),
    };
    let config = swarm::Config::with_tokio_executor().with_idle_connection_timeout(IDLE_TIMEOUT);
    let id = keypair.public().to_peer_id();
    Ok(Swarm::new(transport(keypair, secret)?, behaviour, id, config))
}

fn transport(
    keypair: &Keypair,
    secret: &ClusterSecret,
) -> Result<Boxed<(libp2p::PeerId, StreamMuxerBox)>, noise::Error> {
    let pnet = PnetConfig::new(PreSharedKey::new(*secret.as_bytes()));
    Ok(tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .and_then(move |socket, _| pnet.handshake(socket))
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(keypair)?)
        .multiplex(yamux::Config::default())
        .timeout(HANDSHAKE_TIMEOUT)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(ClosesInTime::new(muxer))))
        .boxed())
}

/// The task's state.
pub(super) struct Network {
    swarm: Swarm<Behaviour>,
    shared: Arc<Shared>,
    dialer: Dialer,
    dialling: BTreeMap<ConnectionId, Target>,
    /// Time of each connection's last echo.
    echoes: BTreeMap<ConnectionId, (libp2p::PeerId, Instant)>,
    /// Targets dialled and addresses of callers whose handshakes fail.
    not_understood: Suspicions<Target>,
    strange: Suspicions<Multiaddr>,
    /// Seeds logged as unreachable, and whether the log named the secret.
    seeds_told: BTreeMap<Multiaddr, bool>,
}

impl Network {
    pub(super) fn new(swarm: Swarm<Behaviour>, shared: Arc<Shared>, jitter_seed: u64) -> Self {
        Self {
            swarm,
            shared,
            dialer: Dialer::new(jitter_seed),
            dialling: BTreeMap::new(),
            echoes: BTreeMap::new(),
            not_understood: Suspicions::default(),
            strange: Suspicions::default(),
            seeds_told: BTreeMap::new(),
        }
    }

    /// Runs until the token is cancelled; then waits for the tasks of all lanes and streams.
    pub(super) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut checked = Instant::now();
        loop {
            let due = self.dialer.next_due();
            let wait = async {
                match due {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = shared.token.cancelled() => break,
                () = shared.wanted.changed.notified() => self.take_news(),
                () = wait => self.dial_due(),
                () = sleep_until(checked + SILENCE_CHECK) => {
                    self.close_silent(checked);
                    checked = Instant::now();
                }
                event = futures::StreamExt::select_next_some(&mut self.swarm) => self.on_event(event),
            }
        }
        drop(self);
        shared.tasks.close();
        shared.tasks.wait().await;
    }

    fn take_news(&mut self) {
        let news = self.shared.wanted.take();
        let now = Instant::now();
        for (peer, addresses) in news.peers {
            let mut links = self.shared.links();
            if addresses.is_empty() {
                links.forget(peer);
            }
            let connected = links.in_use(peer).is_ok();
            self.dialer.set_peer(peer, addresses, connected, now);
        }
        if let Some(seeds) = news.seeds {
            self.seeds_told.retain(|seed, _| seeds.contains(seed));
            self.dialer.set_seeds(seeds, now);
        }
    }

    fn dial_due(&mut self) {
        for (target, addresses) in self.dialer.take_due(Instant::now()) {
            let options = match &target {
                Target::Peer(peer) => DialOpts::peer_id(peer_id_of(*peer))
                    // `links` decides whether there is a connection: libp2p also counts connections
                    // that are being closed.
                    .condition(PeerCondition::Always)
                    .addresses(addresses)
                    .allocate_new_port()
                    .build(),
                Target::Seed(address) => {
                    DialOpts::unknown_peer_id().address(address.clone()).allocate_new_port().build()
                }
            };
            let id = options.connection_id();
            self.dialling.insert(id, target);
            if let Err(error) = self.swarm.dial(options) {
                self.dial_failed(id, &error);
            }
        }
    }

    fn dial_failed(&mut self, id: ConnectionId, error: &DialError) {
        let Some(target) = self.dialling.remove(&id) else { return };
        self.dialer.failed(&target, Instant::now());
        let hinted = match is_not_understood(error) {
            true => self.not_understood.failed(target.clone(), Instant::now()) != Suspicion::Early,
            false => {
                self.not_understood.cleared(&target);
                false
            }
        };
        let reason = format!("{}{}", dial_reason(error), if hinted { SECRET_HINT } else { "" });
        match target {
            Target::Peer(peer) => {
                if self.shared.links().unreachable(peer, reason.clone()) {
                    let name = self.shared.name(&peer);
                    tracing::warn!(%peer, name, reason, "cannot reach a peer");
                }
            }
            Target::Seed(address) => {
                if self.seeds_told.insert(address.clone(), hinted) == Some(hinted) {
                    tracing::debug!(%address, reason, "cannot reach a seed");
                } else {
                    tracing::warn!(%address, reason, "cannot reach a seed");
                }
            }
        }
    }

    pub(super) fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.strange.cleared(&without_port(endpoint.get_remote_address()));
                self.opened(peer_id, connection_id, endpoint.is_dialer());
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                let reason = cause.map_or_else(|| "closed".to_owned(), |cause| cause.to_string());
                self.closed(peer_id, connection_id, reason);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                self.dial_failed(connection_id, &error);
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                self.incoming_failed(&send_back_addr, &error);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event {
                connection,
                result: Ok(_),
                ..
            })) => {
                if let Some((_, at)) = self.echoes.get_mut(&connection) {
                    *at = Instant::now();
                }
            }
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                tracing::error!(?addresses, ?reason, "stopped listening for peers");
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!(%error, "cannot accept a connection");
            }
            _ => {}
        }
    }

    fn opened(&mut self, peer_id: libp2p::PeerId, id: ConnectionId, outbound: bool) {
        let target = self.dialling.remove(&id);
        let Some(peer) = peer_of(&peer_id) else {
            tracing::warn!(%peer_id, "refused a peer without an ed25519 key");
            self.swarm.close_connection(id);
            if let Some(target) = target {
                self.dialer.failed(&target, Instant::now());
            }
            return;
        };
        self.echoes.insert(id, (peer_id, Instant::now()));
        let new = Connection { id, outbound, since: Instant::now() };
        let mut links = self.shared.links();
        let loser = links.opened(self.shared.own, peer, new);
        self.shared.metrics.connected(links.up().len());
        drop(links);
        if let Some(Target::Seed(address)) = &target {
            self.seeds_told.remove(address);
        }
        target.iter().for_each(|target| self.not_understood.cleared(target));
        self.dialer.connected(peer, target.as_ref());
        match loser {
            Some(loser) => {
                tracing::debug!(%peer, "closed one of two connections to a peer");
                self.swarm.close_connection(loser);
            }
            None => {
                let name = self.shared.name(&peer);
                tracing::info!(%peer, name, outbound, "connected to a peer");
            }
        }
    }

    /// Closes connections whose other end has vanished silently.
    fn close_silent(&mut self, checked: Instant) {
        let now = Instant::now();
        if now - checked > 2 * SILENCE_CHECK {
            // This process itself was paused: echoes may be waiting to be read.
            self.echoes.values_mut().for_each(|(_, at)| *at = now);
            return;
        }
        let silent = self.echoes.iter().filter(|(_, (_, at))| now - *at > SILENCE_MAX);
        let silent: Vec<_> = silent.map(|(id, (peer, _))| (*id, *peer)).collect();
        for (id, peer) in silent {
            self.swarm.close_connection(id);
            // Closing a half-open connection takes a while; it is unusable from now on.
            self.closed(peer, id, format!("no echo for {SILENCE_MAX:?}"));
        }
    }

    fn closed(&mut self, peer_id: libp2p::PeerId, id: ConnectionId, reason: String) {
        self.echoes.remove(&id);
        let Some(peer) = peer_of(&peer_id) else { return };
        let mut links = self.shared.links();
        let lost = links.closed(peer, id, format!("the connection broke: {reason}"));
        self.shared.metrics.connected(links.up().len());
        drop(links);
        if lost {
            tracing::info!(%peer, name = self.shared.name(&peer), reason, "lost a peer");
            if !self.dialer.knows(peer) {
                self.shared.links().forget(peer);
            }
            self.dialer.lost(peer, Instant::now());
        }
    }

    /// Logs repeated failures only: anything may connect to an open port, and a restarting peer breaks
    /// handshakes off.
    fn incoming_failed(&mut self, from: &Multiaddr, error: &swarm::ListenError) {
        let reason = with_causes(error);
        match self.strange.failed(without_port(from), Instant::now()) {
            Suspicion::Told | Suspicion::Early => {
                tracing::debug!(%from, reason, "an incoming connection failed");
            }
            Suspicion::Now => tracing::warn!(
                %from, reason,
                "incoming connections fail again and again; if it is a peer, it could have another cluster secret"
            ),
        }
    }
}

/// The host of a connection's other end, whose port changes.
fn without_port(address: &Multiaddr) -> Multiaddr {
    address.iter().take(1).collect()
}

/// Whether a reached peer failed in the handshake. It may have another cluster secret: the handshake
/// cannot distinguish that from damage.
fn is_not_understood(error: &DialError) -> bool {
    let DialError::Transport(failures) = error else { return false };
    failures.iter().any(|(_, error)| {
        let reason = with_causes(error);
        // Only the text names an error of the system: libp2p's wrappers hide its type.
        !reason.contains("(os error ") || reason.contains("Handshake")
    })
}

/// Why a dial failed, for people.
fn dial_reason(error: &DialError) -> String {
    match error {
        DialError::Transport(failures) => {
            let failures = failures.iter().map(|(address, error)| {
                format!("{address}: {}", with_causes(error).trim_start_matches(": "))
            });
            failures.collect::<Vec<_>>().join(", ")
        }
        DialError::WrongPeerId { obtained, address } => {
            format!("{address}: another peer answers there, {obtained}")
        }
        error => with_causes(error),
    }
}
