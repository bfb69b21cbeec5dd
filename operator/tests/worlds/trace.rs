//! What happened in a world, in order, for a person who looks at a failed seed, and to compare two runs
//! of one seed.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// Clones write into the same.
#[derive(Clone, Debug)]
pub struct Trace {
    origin: Instant,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Trace {
    pub fn new() -> Self {
        Self { origin: Instant::now(), lines: Arc::default() }
    }

    pub fn note(&self, what: impl AsRef<str>) {
        let line = format!("{:9.3} {}", self.origin.elapsed().as_secs_f64(), what.as_ref());
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    pub fn text(&self) -> String {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }
}
