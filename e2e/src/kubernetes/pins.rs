//! Pins as a test reads and writes them.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Api, Resource as _, api::PostParams};
use pinkeeper_operator::crd::{AllocationState, Pin, PinSpec};

use super::Kubernetes;

/// What a test asks for.
#[derive(Clone, Debug)]
pub struct ContentPin<'a> {
    /// Where the object is.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// The content.
    pub cid: String,
    /// Copies.
    pub replicas: i32,
    /// Copies needed.
    pub min_replicas: Option<i32>,
}

impl Kubernetes {
    /// The Pins of a namespace.
    #[must_use]
    pub fn pins(&self, namespace: &str) -> Api<Pin> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Creates one.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn create_pin(&self, wanted: &ContentPin<'_>) -> anyhow::Result<Pin> {
        let spec = PinSpec {
            cid: wanted.cid.clone(),
            replicas: Some(wanted.replicas),
            min_replicas: wanted.min_replicas,
            deletion_policy: pinkeeper_operator::crd::DeletionPolicy::default(),
        };
        let pin = Pin::new(wanted.name, spec);
        Ok(self.pins(wanted.namespace).create(&PostParams::default(), &pin).await?)
    }
}

/// One of a Pin's conditions, if it is about the present spec.
#[must_use]
pub fn condition<'a>(pin: &'a Pin, kind: &str) -> Option<&'a Condition> {
    let status = pin.status.as_ref()?;
    (status.observed_generation == pin.meta().generation).then_some(())?;
    status.conditions.iter().find(|condition| condition.type_ == kind)
}

/// Ready's reason.
#[must_use]
pub fn reason(pin: &Pin) -> &str {
    condition(pin, "Ready").map_or("", |ready| &ready.reason)
}

/// Whether Ready is True.
#[must_use]
pub fn is_ready(pin: &Pin) -> bool {
    condition(pin, "Ready").is_some_and(|ready| ready.status == "True")
}

/// The peers that its status calls Pinned.
#[must_use]
pub fn holders(pin: &Pin) -> BTreeSet<String> {
    let copies = pin.status.iter().flat_map(|status| &status.allocations);
    copies
        .filter(|copy| copy.state == AllocationState::Pinned)
        .map(|copy| copy.peer.clone())
        .collect()
}
