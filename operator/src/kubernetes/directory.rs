//! The directory: all ClusterPeers of the namespace, as this peer sees them.
//!
//! Peers learn each other's addresses from it. (The leader distributes the addresses of the
//! daemons.) This module only reads: each peer writes its own ClusterPeer, and the leader those of
//! silent peers.

use std::{collections::BTreeMap, sync::Arc};

use kube::runtime::watcher;
use pinkeeper::types::{ClusterId, PeerId};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    api::{DEADLINE, if_there},
    context::Context,
    raw::{RawPeer, peers_in},
    watching::Watching,
};
use crate::crd;

/// One ClusterPeer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listed {
    /// The resource version read.
    pub resource_version: String,
    /// The generation of its spec.
    pub generation: i64,
    /// Its status.
    pub status: crd::ClusterPeerStatus,
    /// The status's peer ID, if it has a readable one.
    pub id: Option<PeerId>,
    /// The status's cluster ID, if it has a readable one.
    pub cluster: Option<ClusterId>,
}

impl Listed {
    pub(crate) fn read(raw: RawPeer) -> Option<(String, Self)> {
        let status: crd::ClusterPeerStatus =
            raw.status.and_then(|status| serde_json::from_value(status).ok()).unwrap_or_default();
        let listed = Self {
            resource_version: raw.metadata.resource_version?,
            generation: raw.metadata.generation.unwrap_or_default(),
            id: status.peer_id.as_deref().and_then(|id| id.parse().ok()),
            cluster: status.cluster_id.as_deref().and_then(|id| id.parse().ok()),
            status,
        };
        Some((raw.metadata.name?, listed))
    }
}

/// All ClusterPeers by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Directory {
    /// A complete list has been read.
    pub complete: bool,
    /// The objects.
    pub peers: BTreeMap<String, Listed>,
}

impl Directory {
    fn addresses(&self, own: PeerId) -> BTreeMap<PeerId, Vec<String>> {
        let others =
            self.peers.values().filter_map(|peer| Some((peer.id?, &peer.status.addresses)));
        others
            .filter(|(id, addresses)| *id != own && !addresses.is_empty())
            .map(|(id, addresses)| (id, addresses.clone()))
            .collect()
    }
}

/// Reads the present version of a ClusterPeer: lists and watches may lag behind.
///
/// # Errors
/// When the API server does not say whether it exists.
pub(crate) async fn read_now(context: &Context, name: &str) -> Result<Option<Listed>, PeerError> {
    let api = peers_in(&context.client, &context.settings.namespace);
    there(timeout(DEADLINE, api.get(name)).await?)
}

fn there(answer: Result<RawPeer, kube::Error>) -> Result<Option<Listed>, PeerError> {
    Ok(if_there(answer)?.and_then(Listed::read).map(|(_, listed)| listed))
}

/// Why a ClusterPeer cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    /// The API server's answer.
    #[error("the API server: {0}")]
    Api(#[from] kube::Error),
    /// It did not answer.
    #[error("the API server did not answer in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
}

/// Watches the ClusterPeers, publishes the directory and passes the other peers' addresses to the
/// peer, until `token` is cancelled.
pub async fn run(
    context: Context,
    directory: watch::Sender<Arc<Directory>>,
    token: CancellationToken,
) {
    let api = peers_in(&context.client, &context.settings.namespace);
    let mut watching = Watching::new("ClusterPeers", api, context.reach.clone());
    let mut now = Directory::default();
    let mut listing = BTreeMap::new();
    let own = context.cluster.id();
    let mut addresses = BTreeMap::new();
    while let Some(event) = token.run_until_cancelled(watching.next()).await {
        // None: the data was set back. The next complete list replaces the directory.
        let Some(event) = event else { continue };
        take(&mut now, &mut listing, event);
        if !now.complete {
            continue;
        }
        let next = now.addresses(own);
        if next != addresses {
            addresses = next;
            context.cluster.learn_addresses(addresses.clone());
        }
        directory.send_replace(Arc::new(now.clone()));
    }
}

fn take(
    now: &mut Directory,
    listing: &mut BTreeMap<String, Listed>,
    event: watcher::Event<RawPeer>,
) {
    match event {
        watcher::Event::Init => listing.clear(),
        watcher::Event::InitApply(raw) => listing.extend(Listed::read(raw)),
        watcher::Event::InitDone => {
            now.peers = std::mem::take(listing);
            now.complete = true;
        }
        watcher::Event::Apply(raw) => now.peers.extend(Listed::read(raw)),
        watcher::Event::Delete(raw) => {
            if let Some(name) = raw.metadata.name {
                now.peers.remove(&name);
            }
        }
    }
}

#[cfg(test)]
mod read_any;
#[cfg(test)]
mod tests;
