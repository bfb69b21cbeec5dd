//! The events of a world: lines for people, and a running hash of everything, to compare two runs of
//! one seed.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hasher as _},
    sync::Arc,
};

use minicbor::Encode;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::types::encoding;

/// The trace; clones share it.
#[derive(Clone, Debug)]
pub struct Trace(Arc<Mutex<Record>>);

#[derive(Debug)]
struct Record {
    origin: Instant,
    lines: Vec<String>,
    /// Whether messages and requests are recorded too.
    whole: bool,
    hasher: DefaultHasher,
    /// The hash after each event.
    hashes: Vec<u64>,
    /// Counts of the situations that the world reached.
    met: BTreeMap<&'static str, u64>,
}

impl Trace {
    /// An empty trace that begins now. A whole trace also records every message between peers and every
    /// request to a daemon, which is slower.
    #[must_use]
    pub fn new(whole: bool) -> Self {
        let record = Record {
            origin: Instant::now(),
            lines: Vec::new(),
            whole,
            hasher: DefaultHasher::new(),
            hashes: Vec::new(),
            met: BTreeMap::new(),
        };
        Self(Arc::new(Mutex::new(record)))
    }

    /// Records a fault, a request or a finding.
    pub fn note(&self, what: impl AsRef<str>) {
        self.record().add(what.as_ref());
    }

    /// Records, in a whole trace, an event of the world itself, such as a message between peers.
    pub fn event(&self, what: impl FnOnce() -> String, content: &impl Encode<()>) {
        let mut record = self.record();
        if !record.whole {
            return;
        }
        let bytes = encoding::to_vec(content);
        record.hasher.write(&bytes);
        record.add(&format!("{} ({} bytes)", what(), bytes.len()));
    }

    /// Counts a rare situation that the world reached.
    pub fn meet(&self, what: &'static str) {
        *self.record().met.entry(what).or_default() += 1;
    }

    /// The counts of the situations reached.
    #[must_use]
    pub fn met(&self) -> BTreeMap<&'static str, u64> {
        self.record().met.clone()
    }

    /// Everything recorded, one line each.
    #[must_use]
    pub fn text(&self) -> String {
        self.record().lines.join("\n")
    }

    /// The line of the first event that differs in `other`; none if both are the same.
    #[must_use]
    pub fn first_difference(&self, other: &Self) -> Option<String> {
        let (own, other) = (self.record(), other.record());
        let same = own.hashes.iter().zip(&other.hashes).take_while(|(a, b)| a == b).count();
        if same == own.hashes.len() && same == other.hashes.len() {
            return None;
        }
        let line = |record: &Record| record.lines.get(same).cloned().unwrap_or_default();
        Some(format!("event {same}: {:?} or {:?}", line(&own), line(&other)))
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.0.lock()
    }
}

impl Record {
    fn add(&mut self, what: &str) {
        let line = format!("{:9.3} {what}", self.origin.elapsed().as_secs_f64());
        self.hasher.write(line.as_bytes());
        self.hashes.push(self.hasher.finish());
        self.lines.push(line);
    }
}
