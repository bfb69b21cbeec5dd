//! Requests between peers.
//!
//! [`Transport`] is a port: [`swarm`] implements it with libp2p; worlds bring a simulated network. The
//! messages are in [`crate::types`]; `cluster` decides the answers.

pub mod frame;
mod metrics;
pub mod swarm;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::sync::oneshot;

pub use self::metrics::RpcMetrics;
use crate::types::{ClusterId, Envelope, PeerId, Question, Refusal, Response};

/// The protocol between peers with its version; the streams of each lane have a name under it.
pub const PROTOCOL: &str = "/pinkeeper/0.1/rpc";

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// There is no connection to the peer, or it broke.
    #[error("peer {peer} is unreachable: {reason}")]
    Unreachable {
        /// The peer called.
        peer: PeerId,
        /// The reason, as far as known.
        reason: String,
        /// Whether the request may have had an effect nevertheless.
        sent: bool,
    },
    /// No answer within the deadline. Whether the request had an effect is unknown.
    #[error("peer {peer} did not answer within {deadline:?}")]
    Timeout {
        /// The peer called.
        peer: PeerId,
        /// The deadline.
        deadline: Duration,
    },
}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The peer refused the request.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The response does not belong to the question.
    #[error("unexpected answer: {0}")]
    Unexpected(String),
}

/// Reads the answer to a question of kind `Q`.
///
/// # Errors
/// See [`AskError`].
pub fn answer_to<Q: Question>(response: Response) -> Result<Q::Answer, AskError> {
    match response {
        Response::Refused(refusal) => Err(refusal.into()),
        other => Q::read(other).map_err(AskError::Unexpected),
    }
}

/// Asks `to` a question as a member of `cluster`, and waits at most `deadline`.
///
/// # Errors
/// See [`AskError`].
pub async fn ask<Q: Question>(
    transport: &dyn Transport,
    to: PeerId,
    cluster: Option<(ClusterId, u64)>,
    question: Q,
    deadline: Duration,
) -> Result<Q::Answer, AskError> {
    let envelope = Envelope { cluster, request: question.into_request() };
    answer_to::<Q>(transport.call(to, envelope, deadline).await?)
}

/// A request from another peer; dropping `reply` reports to the caller that it was not served.
#[derive(Debug)]
pub struct Inbound {
    /// The caller, proven by its key.
    pub from: PeerId,
    /// The request.
    pub envelope: Envelope,
    /// Receives the answer.
    pub reply: oneshot::Sender<Response>,
}

/// Sends requests to peers. Requests from peers arrive on the channel given to the constructor.
pub trait Transport: Send + Sync + 'static {
    /// Asks `to`, and waits at most `deadline`. Requests of one lane to one peer arrive in order of
    /// the calls; their answers may come in any order.
    fn call(
        &self,
        to: PeerId,
        envelope: Envelope,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Response, CallError>>;

    /// Sets the addresses of peers: multiaddrs without `/p2p/…`. Replaces those of the named peers;
    /// connections are kept, and broken ones are made again. A peer without addresses is no longer
    /// dialled.
    fn set_addresses(&self, addresses: BTreeMap<PeerId, Vec<String>>);

    /// Sets the members of this peer's cluster, and their names. Only members may send long messages.
    fn set_members(&self, members: BTreeMap<PeerId, String>);

    /// The peers currently connected.
    fn connected(&self) -> Vec<PeerId>;
}

/// A shared transport.
pub type SharedTransport = Arc<dyn Transport>;
