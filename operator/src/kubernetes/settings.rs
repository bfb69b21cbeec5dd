//! Where this peer is in Kubernetes, and what its command line says of its work there.

use pinkeeper::state::Limits;

/// What does not change as long as the process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The namespace of the pod: of ClusterPeers and of the record.
    pub namespace: String,
    /// The pod's name: of its ClusterPeer.
    pub pod: String,
    /// The Helm release: the record is called `<release>-cluster`.
    pub release: String,
    /// Peers that the cluster is founded with; a majority of them must have registered.
    pub initial_peers: u16,
    /// Copies of a Pin that names no number.
    pub default_replicas: u16,
    /// What may be unpinned within an hour without a person.
    pub limits: Limits,
}

impl Settings {
    /// The name of the record's ConfigMap.
    #[must_use]
    pub fn record(&self) -> String {
        format!("{}-cluster", self.release)
    }

    /// The pod's ordinal in its StatefulSet.
    #[must_use]
    pub fn ordinal(&self) -> Option<u32> {
        self.pod.rsplit_once('-')?.1.parse().ok()
    }
}
