//! The streams of the lanes: a libp2p behaviour that knows which stream is on which connection.
//!
//! Invariants: a stream ends with its connection, whichever side closed it; yamux does not ensure that:
//! readers on a connection closed by this side would wait for ever. Places for streams belong to one
//! connection and end with it, so that a dead connection cannot use up those of the next. Nothing is
//! kept of a closed connection.

use std::{
    array,
    collections::BTreeMap,
    convert::Infallible,
    future::{Ready, ready},
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, Stream,
    core::{
        Endpoint,
        transport::PortUse,
        upgrade::{InboundUpgrade, ReadyUpgrade, UpgradeInfo},
    },
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        handler::{
            ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
        },
    },
};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{LANES, lane_name};
use crate::types::Lane;

/// Streams that a peer may have open on one connection: three lanes, and their successors while old
/// streams end.
const STREAMS_PER_CONNECTION_MAX: usize = 16;
/// Streams waiting to be opened on one connection: each lane opens one at a time.
const OPENING_MAX: usize = LANES.len();

/// A stream opened by this side.
pub(super) struct Opened {
    pub(super) stream: Stream,
    /// Cancelled when the connection is gone.
    pub(super) closed: CancellationToken,
}

/// A stream opened by a peer.
pub(super) struct Incoming {
    pub(super) peer: libp2p::PeerId,
    pub(super) lane: Lane,
    pub(super) stream: Stream,
    /// Cancelled when the connection is gone.
    pub(super) closed: CancellationToken,
    /// Its place on the connection, held while it lives.
    pub(super) place: OwnedSemaphorePermit,
}

/// Handles a stream opened by a peer; must not block.
pub(super) type Accept = Arc<dyn Fn(Incoming) + Send + Sync>;

/// A request to the connection for a stream.
struct Open {
    lane: Lane,
    reply: Reply,
}

type Reply = oneshot::Sender<Result<Stream, String>>;

/// Opens streams on live connections.
pub(super) struct Streams {
    token: CancellationToken,
    living: Mutex<BTreeMap<ConnectionId, Living>>,
}

#[derive(Clone)]
struct Living {
    open: mpsc::Sender<Open>,
    closed: CancellationToken,
}

impl Streams {
    /// `token` ends all streams.
    pub(super) fn new(token: CancellationToken) -> Self {
        Self { token, living: Mutex::default() }
    }

    fn living(&self) -> MutexGuard<'_, BTreeMap<ConnectionId, Living>> {
        self.living.lock()
    }

    /// Opens a stream on exactly this connection.
    pub(super) async fn open(&self, on: ConnectionId, lane: Lane) -> Result<Opened, String> {
        let gone = || "the connection is being closed".to_owned();
        let Living { open, closed } = self.living().get(&on).cloned().ok_or_else(gone)?;
        let (reply, opened) = oneshot::channel();
        open.send(Open { lane, reply }).await.map_err(|_| gone())?;
        let stream = opened.await.map_err(|_| gone())??;
        Ok(Opened { stream, closed })
    }
}

/// Creates a handler for each connection.
pub(super) struct Behaviour {
    streams: Arc<Streams>,
    accept: Accept,
}

impl Behaviour {
    pub(super) fn new(streams: Arc<Streams>, accept: Accept) -> Self {
        Self { streams, accept }
    }

    fn handler(&self, id: ConnectionId, peer: libp2p::PeerId) -> Handler {
        let (open, requests) = mpsc::channel(OPENING_MAX);
        let closed = self.streams.token.child_token();
        self.streams.living().insert(id, Living { open, closed: closed.clone() });
        Handler {
            peer,
            requests,
            places: Arc::new(Semaphore::new(STREAMS_PER_CONNECTION_MAX)),
            is_told: false,
            accept: Arc::clone(&self.accept),
            life: Life { id, streams: Arc::clone(&self.streams), closed },
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: libp2p::PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(id, peer))
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: libp2p::PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(id, peer))
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        _: libp2p::PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

/// The lifetime of one connection. libp2p drops its handler before it closes the connection, and also
/// when the connection breaks or is denied.
struct Life {
    id: ConnectionId,
    streams: Arc<Streams>,
    closed: CancellationToken,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.streams.living().remove(&self.id);
        self.closed.cancel();
    }
}

/// The streams of one connection.
pub(super) struct Handler {
    peer: libp2p::PeerId,
    requests: mpsc::Receiver<Open>,
    places: Arc<Semaphore>,
    /// The excess of streams was logged.
    is_told: bool,
    accept: Accept,
    life: Life,
}

impl Handler {
    fn take(&mut self, stream: Stream, lane: Lane) {
        match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => {
                let closed = self.life.closed.clone();
                (self.accept)(Incoming { peer: self.peer, lane, stream, closed, place });
            }
            Err(_) if !mem::replace(&mut self.is_told, true) => {
                tracing::warn!(
                    peer = %self.peer,
                    most = STREAMS_PER_CONNECTION_MAX,
                    "a peer exceeded its limit of streams on one connection; the others are closed"
                );
            }
            Err(_) => {}
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Infallible;
    type InboundProtocol = AnyLane;
    type OutboundProtocol = ReadyUpgrade<LaneName>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Reply;

    fn listen_protocol(&self) -> SubstreamProtocol<AnyLane> {
        SubstreamProtocol::new(AnyLane, ())
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<ReadyUpgrade<LaneName>, Reply, Infallible>> {
        while let Poll::Ready(Some(Open { lane, reply })) = self.requests.poll_recv(cx) {
            // The requester may have given up.
            if !reply.is_closed() {
                let protocol = SubstreamProtocol::new(ReadyUpgrade::new(LaneName(lane)), reply);
                return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
            }
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, AnyLane, ReadyUpgrade<LaneName>, (), Reply>,
    ) {
        // The requester of a stream may have given up.
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, lane),
                ..
            }) => self.take(stream, lane),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: stream,
                info: reply,
            }) => drop(reply.send(Ok(stream))),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: reply, error }) => {
                drop(reply.send(Err(error.to_string())));
            }
            _ => {}
        }
    }
}

/// The name of a lane's protocol.
#[derive(Clone, Copy, Debug)]
pub(super) struct LaneName(Lane);

impl AsRef<str> for LaneName {
    fn as_ref(&self) -> &str {
        lane_name(self.0)
    }
}

/// Accepts a stream of any lane.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnyLane;

impl UpgradeInfo for AnyLane {
    type Info = LaneName;
    type InfoIter = array::IntoIter<LaneName, { LANES.len() }>;

    fn protocol_info(&self) -> Self::InfoIter {
        LANES.map(LaneName).into_iter()
    }
}

impl InboundUpgrade<Stream> for AnyLane {
    type Output = (Stream, Lane);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, LaneName(lane): LaneName) -> Self::Future {
        ready(Ok((stream, lane)))
    }
}
