//! The informer gathers this peer's own metrics: the daemon's identity and space, and the tracker's
//! counts.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    ipfs::{RepositoryStat, SharedIpfs},
    tracker::TrackerHandle,
    types::{DaemonInfo, Metrics, SpaceLimit, millis},
};

/// How often the daemon's space is asked for. The tracker's probes show whether the daemon answers at all.
const PERIOD: Duration = Duration::from_secs(2);
/// The daemon must report its space within this time.
const SPACE_DEADLINE: Duration = Duration::from_secs(2);
/// The reserve for files other than content is this part of a volume, a fiftieth.
const RESERVE_PART: u64 = 50;
/// Most bytes of the reserve.
const RESERVE_MAX: u64 = 1 << 30;
/// Time to live of metrics. They are sent after half of it, so that one lost request does no harm.
pub const TTL: Duration = Duration::from_secs(6);

/// The sources of metrics.
pub struct Sources {
    /// This peer's daemon.
    pub ipfs: SharedIpfs,
    /// This peer's tracker.
    pub tracker: TrackerHandle,
    /// A folder on the daemon's volume; absent: the repository's folder, as the daemon reports it.
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
    /// Metrics without a daemon: before the first answer, and while the daemon is down.
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
            ttl_ms: millis(TTL),
            full_percent: None,
            gc: self.tracker.gc(),
            space_limit: None,
            level: 0,
        }
    }

    async fn gather(&self, daemon: Option<DaemonInfo>) -> Metrics {
        if daemon.is_none() {
            return self.unknown();
        }
        // The daemon answers. If it does not report its space in time, only the space is unknown.
        let repository = timeout(SPACE_DEADLINE, self.ipfs.repository()).await;
        let repository = repository.ok().and_then(Result::ok);
        let space = repository.as_ref().map(|repository| {
            let folder = self.volume.as_ref().unwrap_or(&repository.folder);
            space_for_content(repository, space_on(folder))
        });
        Metrics {
            daemon,
            free_space: space.map(|space| space.free),
            repository_size: repository.map(|repository| repository.size),
            full_percent: space.map(|space| space.full_percent),
            space_limit: space.map(|space| space.limit),
            ..self.unknown()
        }
    }

    /// Keeps `metrics` current until the token is cancelled.
    pub async fn run(self, metrics: watch::Sender<Metrics>, token: CancellationToken) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut daemon = self.tracker.daemon();
        loop {
            tokio::select! {
                biased;
                () = token.cancelled() => return,
                _ = ticks.tick() => {}
                Ok(()) = daemon.changed() => {}
            }
            let known = daemon.borrow_and_update().clone();
            let fresh = tokio::select! {
                biased;
                () = token.cancelled() => return,
                fresh = self.gather(known) => fresh,
            };
            metrics.send_if_modified(|known| {
                let changed = *known != fresh;
                *known = fresh;
                changed
            });
        }
    }
}

/// Bytes on a volume.
#[derive(Clone, Copy, Debug)]
pub struct Volume {
    /// Free for an unprivileged process.
    pub free: u64,
    /// The size of the volume.
    whole: u64,
}

/// The volume that a folder is on; `None` if it cannot be read.
#[must_use]
pub fn space_on(folder: &std::path::Path) -> Option<Volume> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Some(Volume { free: bytes(stat.f_bavail), whole: bytes(stat.f_blocks) })
}

/// The space for content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Space {
    free: u64,
    full_percent: u8,
    limit: SpaceLimit,
}

/// The smaller of the daemon's limit and the volume. Kubo's default limit is unrelated to the volume, so it
/// counts only if the volume is not known.
fn space_for_content(repository: &RepositoryStat, volume: Option<Volume>) -> Space {
    let allowed = Volume {
        free: repository.storage_max.saturating_sub(repository.size),
        whole: repository.storage_max,
    };
    let space = |of: Volume, limit| Space { free: of.free, full_percent: full_percent(of), limit };
    let allowed = space(allowed, SpaceLimit::StorageMax);
    let Some(volume) = volume.map(less_reserve) else { return allowed };
    let volume = space(volume, SpaceLimit::Volume);
    if repository.is_default {
        return volume;
    }
    let narrower = if volume.free <= allowed.free { volume } else { allowed };
    Space { full_percent: allowed.full_percent.max(volume.full_percent), ..narrower }
}

/// The volume less the reserve for other files: the datastore's journal and index, and the ledger.
fn less_reserve(Volume { free, whole }: Volume) -> Volume {
    let reserve = (whole / RESERVE_PART).min(RESERVE_MAX);
    Volume { free: free.saturating_sub(reserve), whole: whole.saturating_sub(reserve) }
}

fn full_percent(Volume { free, whole }: Volume) -> u8 {
    let used = u128::from(whole.saturating_sub(free)) * 100;
    used.checked_div(u128::from(whole)).and_then(|percent| percent.try_into().ok()).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use redb::backends::InMemoryBackend;
    use tokio::time::sleep;

    use super::*;
    use crate::{
        clock::{Clock, SimulatedClock},
        ipfs::fake::StandInDaemon,
        state::{PinSet, SharedState},
        tracker::{Config, Ledger, LedgerPort, Ports, Tracker},
        types::{PeerId, Timestamp},
    };

    #[tokio::test(start_paused = true)]
    async fn metrics_leave_out_a_daemon_that_does_not_answer() {
        let daemon = StandInDaemon::new("d", Duration::ZERO);
        let ipfs: SharedIpfs = Arc::new(daemon.client());
        let ports = Ports {
            ipfs: Arc::clone(&ipfs),
            ledger: LedgerPort::Inline(Ledger::with_backend(InMemoryBackend::new).unwrap()),
            state: SharedState::new(PinSet::default()),
            me: PeerId([1; 32]),
            barrier: Arc::new(|| Box::pin(async { Ok(()) })),
            clock: Clock::Simulated(SimulatedClock::new(Timestamp(0))),
        };
        let token = CancellationToken::new();
        let (tracker, _) = Tracker::spawn(Config::default(), ports, token.clone()).unwrap();
        let (tags, addresses) = ([("zone".to_owned(), "a".to_owned())].into(), Vec::new());
        let sources = Sources { ipfs, tracker, volume: None, tags, addresses };
        let (sender, metrics) = watch::channel(sources.unknown());
        tokio::spawn(sources.run(sender, token.clone()));
        for down in [true, false, true, false] {
            daemon.set_down(down);
            sleep(Duration::from_secs(10)).await;
            let now = metrics.borrow().clone();
            let reported = [
                now.daemon.is_some(),
                now.free_space.is_some(),
                now.repository_size.is_some(),
                now.full_percent.is_some(),
            ];
            assert_eq!(reported, [!down; 4], "down: {down}");
            assert_eq!((now.tags.len(), now.ttl_ms), (1, millis(TTL)), "the peer still reports");
        }
        token.cancel();
    }

    #[test]
    fn the_smaller_of_volume_and_limit_counts_and_kubos_default_limit_does_not() {
        let volume = |free, whole| Some(Volume { free, whole });
        use SpaceLimit::{StorageMax, Volume as OfVolume};
        // Size and limit, whether the limit is Kubo's default, the volume; the space.
        let table = [
            ((25, 100), false, None, (75, 25, StorageMax)),
            ((25, 100), true, None, (75, 25, StorageMax)),
            ((25, 100), false, volume(60, 1000), (40, 95, OfVolume)),
            ((25, 100), true, volume(60, 1000), (40, 95, OfVolume)),
            ((99, 100), false, volume(900, 1000), (1, 99, StorageMax)),
            ((99, 100), true, volume(900, 1000), (880, 10, OfVolume)),
            ((150, 100), false, volume(900, 1000), (0, 100, StorageMax)),
            ((0, 0), false, volume(5, 10), (0, 100, StorageMax)),
            ((0, 100), false, volume(100, 100), (98, 0, OfVolume)),
            ((0, 100), true, volume(19, 1000), (0, 100, OfVolume)),
        ];
        for ((size, storage_max), is_default, volume, (free, full_percent, limit)) in table {
            let folder = PathBuf::new();
            let repository = RepositoryStat { size, storage_max, is_default, folder };
            let space = space_for_content(&repository, volume);
            let what = format!("{size} of {storage_max} ({is_default}), {volume:?}");
            assert_eq!(space, Space { free, full_percent, limit }, "{what}");
        }
    }

    #[test]
    fn a_large_volume_keeps_a_gibibyte_and_a_small_one_a_fiftieth() {
        for (whole, reserve) in
            [(500 << 30, 1 << 30), (50 << 30, 1 << 30), (5 << 30, (5 << 30) / 50)]
        {
            let left = less_reserve(Volume { free: whole, whole });
            assert_eq!((left.free, left.whole), (whole - reserve, whole - reserve));
        }
    }
}
