//! Gathers this peer's own metrics: the daemon's identity, its space and the tracker's counts.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    ipfs::{IpfsError, SharedIpfs},
    tracker::TrackerHandle,
    types::Metrics,
};

/// Between two looks at the daemon; a dead daemon is known within this and one call's deadline.
const PERIOD: Duration = Duration::from_secs(2);
/// How long metrics are good; pushed at half of it, so that one lost push does no harm.
pub const TTL: Duration = Duration::from_secs(6);

/// What metrics are gathered from.
pub struct Sources {
    /// The daemon.
    pub ipfs: SharedIpfs,
    /// The tracker.
    pub tracker: TrackerHandle,
    /// A folder on the daemon's volume; absent: only the daemon's own limit counts.
    pub volume: Option<PathBuf>,
    /// Labels for placement.
    pub tags: BTreeMap<String, String>,
    /// Where this peer can be reached.
    pub addresses: Vec<String>,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").field("volume", &self.volume).finish_non_exhaustive()
    }
}

impl Sources {
    /// Metrics before the daemon was asked.
    #[must_use]
    pub fn unknown(&self) -> Metrics {
        let counters = self.tracker.counters();
        Metrics {
            daemon: None,
            free_space: None,
            repository_size: None,
            pins: counters.pinned as u64,
            pin_queue: counters.queued as u64,
            tags: self.tags.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            addresses: self.addresses.clone(),
            ttl_ms: u64::try_from(TTL.as_millis()).unwrap_or(u64::MAX),
        }
    }

    async fn gather(&self) -> Result<Metrics, IpfsError> {
        let daemon = self.ipfs.id().await?;
        let repository = self.ipfs.repository().await?;
        let allowed = repository.storage_max.saturating_sub(repository.size);
        let volume = self.volume.as_deref().and_then(free_on);
        Ok(Metrics {
            daemon: Some(daemon),
            free_space: Some(volume.map_or(allowed, |volume| volume.min(allowed))),
            repository_size: Some(repository.size),
            ..self.unknown()
        })
    }

    /// Keeps `metrics` current until the token is cancelled.
    pub async fn run(self, metrics: watch::Sender<Metrics>, token: CancellationToken) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = token.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let fresh = tokio::select! {
                biased;
                () = token.cancelled() => return,
                fresh = self.gather() => fresh,
            };
            let fresh = fresh.unwrap_or_else(|error| {
                if metrics.borrow().daemon.is_some() {
                    tracing::warn!(%error, "the daemon is down");
                }
                self.unknown()
            });
            metrics.send_if_modified(|known| {
                let changed = *known != fresh;
                *known = fresh;
                changed
            });
        }
    }
}

/// Bytes an unprivileged process can still write on the volume of a folder.
#[must_use]
pub fn free_on(folder: &std::path::Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}
