//! Settings of this peer in Kubernetes, from the command line.

use pinkeeper::state::Limits;

/// Settings that stay the same while the process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The namespace of the pod, the ClusterPeers and the record.
    pub namespace: String,
    /// The name of the pod and of its ClusterPeer.
    pub pod: String,
    /// The Helm release: the record is called `<release>-cluster`.
    pub release: String,
    /// Peers that the cluster is founded with; a majority of them must have registered.
    pub initial_peers: u16,
    /// Copies of a Pin without `replicas`.
    pub default_replicas: u16,
    /// Limits of the deletion guard.
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
