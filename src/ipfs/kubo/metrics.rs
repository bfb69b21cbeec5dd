//! Prometheus metrics of the daemon's RPC.

use std::sync::Arc;

use futures::{FutureExt as _, future::BoxFuture};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, histogram::Histogram},
    registry::Registry,
};
use tokio::time::Instant;

use super::http::{Body, Carrier};

/// In seconds; from an idle daemon to one whose pin lock is held.
const BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0, 10.0, 60.0];

/// Time until the daemon's answer began, by command. Clones share the counts.
#[derive(Clone, Debug)]
pub struct DaemonMetrics {
    seconds: Family<Command, Histogram>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Command {
    command: String,
}

impl Default for DaemonMetrics {
    fn default() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(BUCKETS);
        Self { seconds: Family::new_with_constructor(histogram) }
    }
}

impl DaemonMetrics {
    /// Registers the metrics.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Time until the daemon began to answer, by command";
        registry.register("daemon_request_seconds", help, self.seconds.clone());
    }
}

/// Measures another carrier.
pub(super) struct Measured {
    pub(super) carrier: Arc<dyn Carrier>,
    pub(super) metrics: DaemonMetrics,
}

impl Carrier for Measured {
    fn post<'a>(
        &'a self,
        command: &'a str,
        query: &'a [(&'a str, &'a str)],
    ) -> BoxFuture<'a, Result<http::Response<Body>, String>> {
        async move {
            let began = Instant::now();
            let answer = self.carrier.post(command, query).await;
            // Commands are constants of this program, so labels are few.
            let command = Command { command: command.to_owned() };
            self.metrics.seconds.get_or_create(&command).observe(began.elapsed().as_secs_f64());
            answer
        }
        .boxed()
    }
}
