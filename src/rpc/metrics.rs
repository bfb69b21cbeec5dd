//! Prometheus metrics of calls to peers.

use std::time::Duration;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::CallError;
use crate::types::{Lane, Response};

/// Connected peers, calls by lane and outcome, and the time to the answers. Clones share the counts.
#[derive(Clone, Debug)]
pub struct RpcMetrics {
    calls: Family<CallLabels, Counter>,
    seconds: Family<LaneLabels, Histogram>,
    connected: Gauge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    lane: Word,
    outcome: Word,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LaneLabels {
    lane: Word,
}

/// The value of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Word(&'static str);

impl EncodeLabelValue for Word {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        EncodeLabelValue::encode(&self.0, encoder)
    }
}

/// In seconds; from loopback to a slow disk at the other end.
const BUCKETS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0, 10.0];

impl Default for RpcMetrics {
    fn default() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(BUCKETS);
        Self {
            calls: Family::default(),
            seconds: Family::new_with_constructor(histogram),
            connected: Gauge::default(),
        }
    }
}

impl RpcMetrics {
    /// Registers the metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("rpc_calls", "Calls to peers by lane and outcome", self.calls.clone());
        registry.register(
            "rpc_call_seconds",
            "Time until a peer's answer, by lane",
            self.seconds.clone(),
        );
        let help = "Connected peers";
        registry.register("rpc_connected_peers", help, self.connected.clone());
    }

    pub(super) fn connected(&self, peers: usize) {
        self.connected.set(i64::try_from(peers).unwrap_or(i64::MAX));
    }

    pub(super) fn observe(&self, lane: Lane, result: &Result<Response, CallError>, took: Duration) {
        let lane = match lane {
            Lane::Raft => Word("raft"),
            Lane::Control => Word("control"),
            Lane::Bulk => Word("bulk"),
        };
        let outcome = match result {
            Ok(Response::Refused(_)) => Word("refused"),
            Ok(_) => Word("answered"),
            Err(CallError::Unreachable { .. }) => Word("unreachable"),
            Err(CallError::Timeout { .. }) => Word("timeout"),
        };
        self.calls.get_or_create(&CallLabels { lane, outcome }).inc();
        if result.is_ok() {
            self.seconds.get_or_create(&LaneLabels { lane }).observe(took.as_secs_f64());
        }
    }
}
