//! Prometheus metrics of the controllers.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// Counters since the start of the process, and a gauge; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Claims and releases proposed to the cluster.
    pub claims: Counter,
    /// Statuses written.
    pub status_writes: Counter,
    /// Statuses not written because the object had changed.
    pub status_conflicts: Counter,
    /// Statuses that the API server did not accept.
    pub status_failures: Counter,
    /// Events written.
    pub events: Counter,
    /// Events left out by the rate limit.
    pub events_left_out: Counter,
    /// On the leader: CIDs whose unpinning waits for approval.
    pub unpins_waiting: Gauge,
}

impl Counters {
    /// Registers them with the prefix `pinkeeper_controller_`, in the registry of `pinkeeper_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("controller");
        let mut add = |name: &str, help: &str, counter: &Counter| {
            registry.register(name, help, counter.clone());
        };
        add("claims", "Claims and releases proposed to the cluster", &self.claims);
        add("status_writes", "Statuses of Pins written", &self.status_writes);
        add(
            "status_conflicts",
            "Statuses not written: the Pin had changed",
            &self.status_conflicts,
        );
        add("status_failures", "Statuses the API server did not take", &self.status_failures);
        add("events", "Events written", &self.events);
        add("events_left_out", "Events left out by the rate limit", &self.events_left_out);
        let help = "CIDs that stay pinned until a person allows their unpinning; 0 on followers";
        registry.register("unpins_waiting", help, self.unpins_waiting.clone());
    }
}

#[cfg(test)]
mod tests {
    use pinkeeper::telemetry;

    use super::*;

    #[test]
    fn names_begin_once_with_that_of_the_program() {
        let mut registry = telemetry::registry();
        Counters::default().register(&mut registry);
        let text = telemetry::encode(&[&registry]).unwrap();
        assert!(text.contains("\npinkeeper_controller_unpins_waiting 0"), "{text}");
        assert!(text.contains("\npinkeeper_controller_claims_total 0"), "{text}");
    }
}
