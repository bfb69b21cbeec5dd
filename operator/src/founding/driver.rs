//! Executes the steps that [`next`] decides.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc, time::Duration};

use pinkeeper::{
    cluster::Standing,
    types::{ClusterId, PeerId},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{Observed, Registered, Step, leftovers, next};
use crate::kubernetes::{
    Context, Directory, Listed, PeerError, Settings, read_now,
    record::{self, Record, RecordError},
};

/// How often the record is read until the peer is settled.
const SOON: Duration = Duration::from_secs(1);
/// How often it is read after that: it may be deleted, and reading it shows whether the API server
/// answers.
const SETTLED_EVERY: Duration = Duration::from_secs(10);
/// The first epoch of a cluster.
const FIRST_EPOCH: u64 = 1;

/// Why this peer cannot take part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FoundingError {
    /// Its data is of another cluster than the record.
    #[error(
        "{0}; this peer cannot take part. Give it the right volume, or an empty one; or correct \
         the ConfigMap {1}"
    )]
    OtherCluster(String, String),
    /// Founding has failed, most often because the disk is full. After a disk error a store must be
    /// opened again, so only another start can continue.
    #[error("cannot found the cluster: {0}")]
    NotFounded(String),
}

/// Why a step failed; the next attempt may succeed.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("cannot read a ClusterPeer: {0}")]
    Peer(#[from] PeerError),
}

struct Driver<F> {
    context: Context,
    draw: F,
    seen: Seen,
    won: Option<(ClusterId, Instant)>,
    joining: Option<ClusterId>,
}

/// Runs until `token` is cancelled. Publishes on `waiting` what a blank peer waits for; `draw`
/// draws a random ID for a new cluster.
///
/// # Errors
/// When the peer must not take part.
pub async fn run(
    context: Context,
    mut directory: watch::Receiver<Arc<Directory>>,
    waiting: watch::Sender<String>,
    draw: impl FnMut() -> ClusterId + Send,
    token: CancellationToken,
) -> Result<(), FoundingError> {
    let mut driver = Driver { context, draw, seen: Seen::default(), won: None, joining: None };
    loop {
        let now = directory.borrow_and_update().clone();
        let step = tokio::select! {
            biased;
            () = token.cancelled() => return Ok(()),
            step = driver.step(&now) => step,
        };
        let wait = match step {
            Ok(Done::Settled) => SETTLED_EVERY,
            Ok(Done::Waiting(why)) => {
                tell(&waiting, why);
                SOON
            }
            Ok(Done::Moved) => Duration::ZERO,
            Ok(Done::Failed(error)) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "a step of founding failed; trying again");
                SOON
            }
        };
        tokio::select! {
            biased;
            () = token.cancelled() => return Ok(()),
            () = sleep(wait) => {}
            changed = directory.changed(), if wait == SOON => if changed.is_err() {
                return Ok(());
            },
        }
    }
}

fn tell(waiting: &watch::Sender<String>, why: String) {
    waiting.send_if_modified(|told| {
        let other = *told != why;
        if other {
            tracing::info!("{why}");
            *told = why;
        }
        other
    });
}

enum Done {
    Settled,
    Waiting(String),
    Moved,
    Failed(FoundingError),
}

impl<F: FnMut() -> ClusterId> Driver<F> {
    async fn step(&mut self, directory: &Directory) -> Result<Done, StepError> {
        let Context { client, settings, .. } = self.context.clone();
        let read = record::get(&client, &settings).await?;
        self.context.reach.answered();
        let unchanged = self.seen.unchanged(read.as_ref(), Instant::now());
        let formed = read.as_ref().is_some_and(|record| record.formed);
        let may_found = !formed && self.context.cluster.standing() == Standing::Blank;
        let remaining = match may_found {
            true => Cow::Owned(self.without_leftovers(directory.clone()).await),
            false => Cow::Borrowed(directory),
        };
        let mut step = self.decide(&remaining, read.as_ref(), unchanged);
        if step.begins_a_cluster() {
            let anew = self.without_leftovers(self.read_anew(directory).await?).await;
            step = self.decide(&anew, read.as_ref(), unchanged);
        }
        if let Step::Found(id, _) = step
            && self.context.cluster.standing() == Standing::Blank
            && !self.is_announced(id).await?
        {
            // The watch may show an older version.
            step = Step::Announce(id);
        }
        self.carry_out(step, read).await
    }

    async fn without_leftovers(&self, directory: Directory) -> Directory {
        let Context { client, settings, cluster, .. } = &self.context;
        leftovers::remove(client, &settings.namespace, (&settings.pod, cluster.id()), directory)
            .await
    }

    /// Whether the stored ClusterPeer names the cluster now.
    async fn is_announced(&self, id: ClusterId) -> Result<bool, PeerError> {
        let own = read_now(&self.context, &self.context.settings.pod).await?;
        Ok(own.is_some_and(|own| {
            own.id == Some(self.context.cluster.id()) && own.cluster == Some(id)
        }))
    }

    async fn read_anew(&self, directory: &Directory) -> Result<Directory, PeerError> {
        let mut now = Directory { complete: true, ..Directory::default() };
        for name in expected(directory, &self.context.settings) {
            let listed = read_now(&self.context, &name).await?;
            now.peers.extend(listed.map(|listed| (name, listed)));
        }
        Ok(now)
    }

    fn decide(&self, directory: &Directory, record: Option<&Record>, unchanged: Duration) -> Step {
        let Context { settings, cluster, .. } = &self.context;
        let own = Own {
            id: cluster.id(),
            standing: cluster.standing(),
            has_members: !cluster.members().is_empty(),
        };
        let registered = registered(directory, own.id, own.standing);
        let won = self.won.map(|(cluster, at)| (cluster, at.elapsed()));
        let announced = announced(directory, own.id);
        let seen = observed(settings, own, directory, &registered);
        next(Observed { record, unchanged, won, announced, ..seen })
    }

    async fn carry_out(&mut self, step: Step, read: Option<Record>) -> Result<Done, StepError> {
        let Context { client, settings, cluster, announced, .. } = self.context.clone();
        if !matches!(step, Step::Announce(_) | Step::Found(..)) {
            announced.send_if_modified(|announced| announced.take().is_some());
        }
        match (step, read) {
            (Step::Settled, _) => return Ok(Done::Settled),
            (Step::Wait(why), _) => return Ok(Done::Waiting(why)),
            (Step::OtherCluster(what), _) => {
                let error = FoundingError::OtherCluster(what, settings.record());
                return Ok(Done::Failed(error));
            }
            (Step::Join(id, worry), _) => {
                if self.joining.replace(id) != Some(id) {
                    tracing::info!(cluster = %id, "joining the cluster");
                    cluster.expect(id);
                }
                let why = worry.unwrap_or_else(|| format!("joining cluster {id}"));
                return Ok(Done::Waiting(why));
            }
            (Step::Create, _) => {
                let id = (self.draw)();
                let create = record::create(&client, &settings, id, FIRST_EPOCH, false);
                self.won = Some(win(create).await?);
                tracing::info!(cluster = %id, "created the record");
            }
            (Step::TakeOver, Some(read)) => {
                let id = (self.draw)();
                let next = read.taken_over(id, &settings.pod);
                self.won = Some(win(record::replace(&client, &settings, &read, &next)).await?);
                tracing::warn!(cluster = %id, from = read.founder, "took over the unformed record");
            }
            (Step::Announce(id), _) => {
                announced.send_replace(Some(id));
                return Ok(Done::Waiting(format!("naming cluster {id} before it is founded")));
            }
            (Step::Found(id, epoch), _) => {
                if let Err(error) = cluster.found(id, epoch).await {
                    return Ok(Done::Failed(FoundingError::NotFounded(error.to_string())));
                }
                self.won = None;
                tracing::info!(cluster = %id, "founded the cluster");
            }
            (Step::MarkFormed, Some(read)) => {
                record::replace(&client, &settings, &read, &read.formed()).await?;
            }
            (Step::Restore(id, epoch), _) => {
                record::create(&client, &settings, id, epoch, true).await?;
                tracing::warn!(cluster = %id, "the record was missing: created it again");
            }
            // `next` decides these only if there is a record.
            (Step::TakeOver | Step::MarkFormed, None) => {}
        }
        Ok(Done::Moved)
    }
}

/// The cluster of the record that a request returns, and when the request was sent: the answer may
/// be late.
async fn win<E>(
    request: impl Future<Output = Result<Record, E>>,
) -> Result<(ClusterId, Instant), E> {
    let at = Instant::now();
    Ok((request.await?.cluster, at))
}

/// The record's version, and when this peer first saw it.
#[derive(Debug, Default)]
struct Seen(Option<(String, Instant)>);

impl Seen {
    /// How long the record, as read `now`, has not changed.
    fn unchanged(&mut self, record: Option<&Record>, now: Instant) -> Duration {
        let Some(record) = record else {
            self.0 = None;
            return Duration::ZERO;
        };
        match &self.0 {
            Some((version, since)) if *version == record.version => now - *since,
            _ => {
                self.0 = Some((record.version.clone(), now));
                Duration::ZERO
            }
        }
    }
}

/// Names of the known peers and of the initial peers.
fn expected(directory: &Directory, settings: &Settings) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = directory.peers.keys().cloned().collect();
    if let Some((set, _)) = settings.pod.rsplit_once('-') {
        names.extend((0..settings.initial_peers).map(|ordinal| format!("{set}-{ordinal}")));
    }
    names
}

/// What this peer's disk says.
#[derive(Clone, Copy, Debug)]
struct Own {
    id: PeerId,
    standing: Standing,
    has_members: bool,
}

/// What the peer sees, except for the record.
fn observed<'a>(
    settings: &'a Settings,
    own: Own,
    directory: &Directory,
    registered: &'a [Registered],
) -> Observed<'a> {
    Observed {
        name: &settings.pod,
        id: own.id,
        ordinal: settings.ordinal(),
        standing: own.standing,
        has_members: own.has_members,
        record: None,
        listed: directory.complete,
        registered,
        named: names(directory, own.standing),
        initial_peers: settings.initial_peers,
        unchanged: Duration::ZERO,
        won: None,
        announced: None,
    }
}

/// Whether a ClusterPeer names the cluster of this peer's disk.
fn names(directory: &Directory, standing: Standing) -> bool {
    let Standing::Member { cluster, .. } = standing else { return false };
    directory.peers.values().any(|peer| peer.cluster == Some(cluster))
}

/// The cluster that this peer's stored ClusterPeer names.
fn announced(directory: &Directory, own: PeerId) -> Option<ClusterId> {
    directory.peers.values().find(|peer| peer.id == Some(own))?.cluster
}

/// The registered peers. For this peer, its disk counts and not its ClusterPeer.
fn registered(directory: &Directory, own: PeerId, standing: Standing) -> Vec<Registered> {
    let cluster = match standing {
        Standing::Blank => None,
        Standing::Member { cluster, .. } => Some(cluster),
    };
    let read = |(name, listed): (&String, &Listed)| {
        let id = listed.id?;
        let cluster = if id == own { cluster } else { listed.cluster };
        Some(Registered { name: name.clone(), id, cluster })
    };
    directory.peers.iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests;
