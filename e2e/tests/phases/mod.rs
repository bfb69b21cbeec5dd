//! The phases, and what they share.
#![allow(unreachable_pub)]

pub mod content;
pub mod crashes;
pub mod deletion;
pub mod doors;
pub mod objects;
pub mod scale;
pub mod setup;

use std::{
    collections::BTreeSet,
    io::Write as _,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use pinkeeper::types::Cid;
use pinkeeper_e2e::{
    daemon::identity_cid,
    kubernetes::{ContentPin, Kubernetes, Release, condition, is_ready, reason, until},
};
use pinkeeper_operator::crd::Pin;
use tokio::time::Instant;

/// For what a healthy cluster does at once.
pub const SOON: Duration = Duration::from_secs(30);
/// For what has to wait for retries or for processes to start.
pub const LATER: Duration = Duration::from_secs(120);

/// Namespace of the release.
pub const SYSTEM: &str = "pinkeeper-e2e";
/// Namespaces of Pins.
pub const WEB: &str = "pinkeeper-e2e-web";
pub const BLOG: &str = "pinkeeper-e2e-blog";

/// Past the capture of the test's output: whoever waits wants to see it at once.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "chart: {line}");
}

/// Says how long something took.
pub fn took(what: &str, since: Instant) {
    say(&format!("   {what}: {:.1} s", since.elapsed().as_secs_f64()));
}

/// The installation and what is known of it.
pub struct Trial {
    pub cluster: Kubernetes,
    pub release: Release,
    /// The definitions were there before.
    pub definitions_before: bool,
    next: AtomicU32,
}

impl Trial {
    /// A CID that no phase has used; every daemon has its content.
    pub fn fresh_cid(&self) -> Cid {
        identity_cid(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Bytes that nobody has had before.
    pub fn fresh_bytes(&self, length: usize) -> Vec<u8> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seed = u64::from(first) ^ now.map_or(0, |now| now.as_secs() << 20);
        // Bytes of a linear congruential generator: no block of 1 kB is like another.
        let mut state = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut byte = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        };
        (0..length).map(|_| byte()).collect()
    }

    pub async fn create(
        &self,
        namespace: &str,
        name: &str,
        cid: &Cid,
        replicas: i32,
    ) -> anyhow::Result<()> {
        let cid = cid.to_string();
        let wanted = ContentPin { namespace, name, cid, replicas, min_replicas: None };
        self.cluster.create_pin(&wanted).await.map(drop)
    }

    /// Waits for a Pin; the error says what its status was.
    pub async fn pin_that(
        &self,
        (namespace, name): (&str, &str),
        limit: Duration,
        what: &str,
        good: impl Fn(&Pin) -> bool,
    ) -> anyhow::Result<Pin> {
        let what = format!("pin {namespace}/{name} {what}");
        until(&what, limit, async || {
            let pin = self.cluster.pins(namespace).get(name).await?;
            if good(&pin) {
                return Ok(Some(pin));
            }
            let message = condition(&pin, "Ready").map_or("", |ready| &ready.message);
            anyhow::bail!("{}: {message}", reason(&pin))
        })
        .await
    }

    pub async fn ready(&self, namespace: &str, name: &str, limit: Duration) -> anyhow::Result<Pin> {
        self.pin_that((namespace, name), limit, "is Ready", is_ready).await
    }

    /// Waits until exactly these daemons hold it.
    pub async fn held_exactly_by(&self, cid: &Cid, by: &BTreeSet<String>) -> anyhow::Result<()> {
        until(&format!("{cid} is held by {by:?} alone"), SOON, async || {
            let held = self.release.held_by(cid).await?;
            anyhow::ensure!(held == *by, "it is held by {held:?}");
            Ok(Some(()))
        })
        .await
    }

    pub async fn delete(&self, namespace: &str, name: &str) -> anyhow::Result<()> {
        self.cluster.pins(namespace).delete(name, &kube::api::DeleteParams::default()).await?;
        Ok(())
    }

    pub async fn diagnosis(&self) -> String {
        let pins =
            ["get", "pins", "-A", "-o", "wide", "--field-selector", "metadata.namespace!=default"];
        let pins = self.cluster.kubectl(pins).await.unwrap_or_else(|error| format!("{error:#}"));
        // Hundreds are well; the others are of interest.
        let pins: Vec<&str> = pins.lines().filter(|line| !line.contains(" Pinned ")).collect();
        format!("{}\n{}", pins.join("\n"), self.release.diagnosis().await)
    }
}
