//! The daemon beside a peer, as seen by the rest of the crate.
//!
//! [`Ipfs`] is a port: [`kubo`] speaks to a real Kubo over HTTP; worlds and benches bring stand-ins. No
//! other module knows Kubo's RPC.

#[cfg(any(test, feature = "simulation"))]
pub mod fake;
pub mod kubo;

use std::{path::PathBuf, sync::Arc};

use futures::{future::BoxFuture, stream::BoxStream};
use tokio::sync::watch;

use crate::types::{Cid, DaemonInfo, GcReport, Progress};

/// Errors of the daemon, by the right reaction to them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpfsError {
    /// It does not answer, or broke off; the request's effect is unknown.
    #[error("the daemon does not answer: {0}")]
    Down(String),
    /// It did not answer this request in time; others may succeed. The request's effect is unknown.
    #[error("the daemon is slow: {0}")]
    Slow(String),
    /// It returned a transient error (block not found, disk full, interrupted).
    #[error("the daemon says: {0}")]
    Failed(String),
    /// It returned an error that a retry will not change.
    #[error("the daemon refuses: {0}")]
    Refused(String),
    /// It cannot pin this CID; a daemon of another version may be able to.
    #[error("the daemon cannot pin it: {0}")]
    Unpinnable(String),
}

/// How a daemon holds a CID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Not pinned, or only as a part of something else.
    No,
    /// The block alone. A recursive pin replaces such a pin.
    Direct,
    /// With everything below.
    Recursive,
}

/// Used and allowed space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryStat {
    /// Bytes used by the repository.
    pub size: u64,
    /// The limit: Kubo's `Datastore.StorageMax`.
    pub storage_max: u64,
    /// Nobody set that limit: it is Kubo's default for a new configuration.
    pub is_default: bool,
    /// The repository's folder, as the daemon sees it.
    pub folder: PathBuf,
}

/// An IPFS daemon. Pins are recursive unless stated otherwise.
///
/// Each call has its own deadline; dropping a future cancels the request (Kubo stops a pin when its
/// connection closes).
pub trait Ipfs: Send + Sync + 'static {
    /// The daemon's ID, agent and addresses.
    fn id(&self) -> BoxFuture<'_, Result<DaemonInfo, IpfsError>>;

    /// How it holds `cids` (at most [`ASK_LEN_MAX`]), in the same order.
    fn pinned(&self, cids: Vec<Cid>) -> BoxFuture<'_, Result<Vec<Held>, IpfsError>>;

    /// Pins; ends when the daemon confirms that the whole DAG is pinned, or failed. Progress goes to
    /// `progress`. There is no deadline: the caller stops a pin without progress by dropping the
    /// future.
    fn pin(
        &self,
        cid: Cid,
        progress: watch::Sender<Progress>,
    ) -> BoxFuture<'_, Result<(), IpfsError>>;

    /// Unpins; succeeds also if it was not pinned.
    fn unpin(&self, cid: Cid) -> BoxFuture<'_, Result<(), IpfsError>>;

    /// All recursive pins; a list that ends with `Err` is incomplete.
    fn pins(&self) -> BoxStream<'_, Result<Cid, IpfsError>>;

    /// Used and allowed space.
    fn repository(&self) -> BoxFuture<'_, Result<RepositoryStat, IpfsError>>;

    /// Removes every block that no pin needs. Begins only when no other command holds the daemon's pin
    /// lock, since every other command would wait for the collection. There is no deadline: the caller
    /// ends it by dropping the future; removed blocks stay removed.
    fn run_gc(&self) -> BoxFuture<'_, Result<GcReport, IpfsError>>;

    /// Keeps a connection to another daemon, given its multiaddrs with `/p2p/…`.
    fn connect(&self, addresses: Vec<String>) -> BoxFuture<'_, Result<(), IpfsError>>;
}

/// CIDs per question to the daemon: keeps the URL well below Kubo's 1 MiB header limit.
pub const ASK_LEN_MAX: usize = 256;

/// A shared daemon.
pub type SharedIpfs = Arc<dyn Ipfs>;
