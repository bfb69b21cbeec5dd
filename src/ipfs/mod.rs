//! The daemon beside a peer, as the rest of the crate sees it.
//!
//! [`Ipfs`] is a port: [`kubo`] speaks to a real Kubo over HTTP; worlds and benches bring stand-ins.
//! Nothing outside this module knows Kubo's RPC.

#[cfg(any(test, feature = "simulation"))]
pub mod fake;
pub mod kubo;

use std::{path::PathBuf, sync::Arc};

use futures::{future::BoxFuture, stream::BoxStream};
use tokio::sync::watch;

use crate::types::{Cid, DaemonInfo, GcReport, Progress};

/// What can go wrong with the daemon, by what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpfsError {
    /// It does not answer, or broke off; nothing is known about the request's effect.
    #[error("the daemon does not answer: {0}")]
    Down(String),
    /// It did not answer this request in time, which says nothing of others; nor is anything known
    /// about the request's effect.
    #[error("the daemon is slow: {0}")]
    Slow(String),
    /// It answered an error that may pass (block not found, disk full, interrupted).
    #[error("the daemon says: {0}")]
    Failed(String),
    /// It answered an error that a repetition will not change.
    #[error("the daemon refuses: {0}")]
    Refused(String),
    /// The CID itself is such that it cannot pin it; a daemon of another version may be able to.
    #[error("the daemon cannot pin it: {0}")]
    Unpinnable(String),
}

/// How a daemon has content pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Not at all, or only as a part of something else.
    No,
    /// The block alone. A recursive pin takes the place of such a pin.
    Direct,
    /// With everything below.
    Recursive,
}

/// Space taken and allowed, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryStat {
    /// Bytes the repository takes.
    pub size: u64,
    /// What the daemon may take: Kubo's `Datastore.StorageMax`.
    pub storage_max: u64,
    /// Nobody has set that limit: it is the one that Kubo writes into every new configuration.
    pub is_default: bool,
    /// Where the repository is, as the daemon sees it.
    pub folder: PathBuf,
}

/// An IPFS daemon. Pins are recursive ones unless it says otherwise.
///
/// Each call has a deadline inside; dropping a future cancels the request (Kubo stops a pin when
/// its connection closes).
pub trait Ipfs: Send + Sync + 'static {
    /// Who it is.
    fn id(&self) -> BoxFuture<'_, Result<DaemonInfo, IpfsError>>;

    /// How it has `cids` (at most [`ASK_LEN_MAX`]) pinned, in the same order.
    fn pinned(&self, cids: Vec<Cid>) -> BoxFuture<'_, Result<Vec<Held>, IpfsError>>;

    /// Pins; ends when the daemon says that it has the whole DAG pinned, or failed. Progress goes to
    /// `progress`. There is no deadline inside: the caller stops a pin that makes no progress by
    /// dropping the future.
    fn pin(
        &self,
        cid: Cid,
        progress: watch::Sender<Progress>,
    ) -> BoxFuture<'_, Result<(), IpfsError>>;

    /// Unpins; also fine when it was not pinned.
    fn unpin(&self, cid: Cid) -> BoxFuture<'_, Result<(), IpfsError>>;

    /// All recursive pins; a list that ends with `Err` is incomplete.
    fn pins(&self) -> BoxStream<'_, Result<Cid, IpfsError>>;

    /// Space taken and allowed.
    fn repository(&self) -> BoxFuture<'_, Result<RepositoryStat, IpfsError>>;

    /// Removes every block that no pin needs. It begins only when nobody else holds the daemon's pin
    /// lock, since everything else there would wait for it to end. There is no deadline inside: the
    /// caller ends it by dropping the future; what was removed until then stays removed.
    fn run_gc(&self) -> BoxFuture<'_, Result<GcReport, IpfsError>>;

    /// Keeps a connection to another daemon, given its multiaddrs with `/p2p/…`.
    fn connect(&self, addresses: Vec<String>) -> BoxFuture<'_, Result<(), IpfsError>>;
}

/// CIDs in one question to the daemon: keeps the URL under Kubo's 1 MiB header limit with room.
pub const ASK_LEN_MAX: usize = 256;

/// A shared daemon.
pub type SharedIpfs = Arc<dyn Ipfs>;
