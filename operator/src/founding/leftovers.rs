//! Ignores ClusterPeers that a removed installation left behind.
//!
//! A ClusterPeer that names a cluster stops others from founding one, because its peer may come back
//! with that cluster's data. The data is on the volume of the claim `raft-<name>`. If the API
//! server says that this claim does not exist, the peer cannot come back, and its ClusterPeer is
//! ignored.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{Api, Client};
use pinkeeper::types::PeerId;
use tokio::time::timeout;

use crate::kubernetes::{
    Directory, Listed,
    api::{DEADLINE, if_there},
};

/// Removes from `directory` the ClusterPeers that name a cluster and whose volume claim does not
/// exist. A claim that cannot be read counts as existing. `own` is this pod's name and identity.
pub(super) async fn remove(
    client: &Client,
    namespace: &str,
    (pod, own): (&str, PeerId),
    mut directory: Directory,
) -> Directory {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let suspects = suspects(&directory, own);
    // If this pod has no claim of such a name, the volumes of the others have other names, too.
    if suspects.is_empty() || claim_of(&claims, pod).await != Claim::Exists {
        return directory;
    }
    for name in suspects {
        if claim_of(&claims, &name).await == Claim::Gone {
            directory.peers.remove(&name);
        }
    }
    directory
}

/// Whether the volume claim of a peer exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    Exists,
    /// The API server says that it does not exist.
    Gone,
    Unknown,
}

async fn claim_of(claims: &Api<PersistentVolumeClaim>, pod: &str) -> Claim {
    let claim = format!("raft-{pod}");
    match timeout(DEADLINE, claims.get_metadata(&claim)).await.map(if_there) {
        Ok(Ok(Some(_))) => Claim::Exists,
        Ok(Ok(None)) => Claim::Gone,
        Ok(Err(error)) => {
            tracing::debug!(claim, %error, "cannot read a volume claim");
            Claim::Unknown
        }
        Err(_) => {
            tracing::debug!(claim, "cannot read a volume claim in time");
            Claim::Unknown
        }
    }
}

/// The other ClusterPeers that name a cluster.
fn suspects(directory: &Directory, own: PeerId) -> Vec<String> {
    let names_a_cluster = |listed: &Listed| listed.cluster.is_some() && listed.id != Some(own);
    let suspects = directory.peers.iter().filter(|(_, listed)| names_a_cluster(listed));
    suspects.map(|(name, _)| name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use pinkeeper::types::ClusterId;

    use super::*;
    use crate::kubernetes::answers::{Answers, absent, error, there};

    fn listed(id: u8, cluster: Option<u8>) -> Listed {
        let cluster = cluster.map(|byte| ClusterId([byte; 16]));
        Listed { id: Some(PeerId([id; 32])), cluster, ..Listed::default() }
    }

    #[tokio::test]
    async fn a_cluster_peer_counts_unless_the_api_server_says_that_its_volume_claim_is_gone() {
        let peers = [
            ("p-0", listed(0, Some(1))),
            ("p-1", listed(1, Some(1))),
            ("p-2", listed(2, None)),
            ("old-0", listed(3, Some(1))),
            ("old-1", Listed { id: None, ..listed(4, Some(1)) }),
            ("old-2", listed(5, Some(1))),
            ("old-3", listed(6, Some(1))),
        ];
        let peers = peers.map(|(name, listed)| (name.to_owned(), listed));
        let directory = Directory { complete: true, peers: peers.into() };
        let api = Answers::default();
        // There are no claims of old-0 and old-1. Proxies and missing permissions prove nothing.
        for (claim, answer) in [
            ("raft-p-1", there("uid")),
            ("raft-old-0", absent("raft-old-0")),
            ("raft-old-1", absent("raft-old-1")),
            ("raft-old-2", error(404)),
            ("raft-old-3", error(403)),
        ] {
            api.set(claim, [answer]);
        }
        let own = PeerId([0; 32]);
        let left = remove(&api.client(), "web", ("p-0", own), directory.clone()).await;
        assert_eq!(left, directory, "the volumes have other names here");
        api.set("raft-p-0", [there("uid")]);
        let left = remove(&api.client(), "web", ("p-0", own), directory).await;
        let names: Vec<&str> = left.peers.keys().map(String::as_str).collect();
        assert_eq!(names, ["old-2", "old-3", "p-0", "p-1", "p-2"]);
        assert!(left.complete);
    }
}
