//! The ledger as the driver calls it: on the caller's thread or beside it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::ledger::{Change, Ledger};

/// How the driver reaches the ledger.
#[derive(Clone, Debug)]
pub enum LedgerPort {
    /// On the caller's thread: for simulated worlds, where the backend is memory.
    Inline(Ledger),
    /// On the caller's thread, taking so many milliseconds: for simulated slow disks.
    Slow(Ledger, Arc<AtomicU64>),
    /// On tokio's threads for blocking work: for disks, whose `fsync` can take long.
    Offloaded(Ledger),
}

impl LedgerPort {
    /// The ledger behind.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        match self {
            Self::Inline(ledger) | Self::Slow(ledger, _) | Self::Offloaded(ledger) => ledger,
        }
    }

    pub(super) async fn bind(&self, daemon: String) -> Result<bool, String> {
        self.call(move |ledger| {
            let known = ledger.daemon().map_err(|e| e.to_string())?;
            let dropped = ledger.bind(&daemon).map_err(|e| e.to_string())?;
            match known {
                Some(known) if known != daemon => {
                    tracing::warn!(%known, %daemon, dropped, "another daemon: the ledger's entries are void");
                    Ok(true)
                }
                _ => Ok(false),
            }
        })
        .await
    }

    pub(super) async fn write(&self, changes: Vec<Change>) -> Result<(), String> {
        self.call(move |ledger| ledger.write(&changes).map_err(|e| e.to_string())).await
    }

    async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Ledger) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        match self {
            Self::Inline(ledger) => call(ledger),
            Self::Slow(ledger, time) => {
                let half = Duration::from_millis(time.load(Ordering::Relaxed)) / 2;
                tokio::time::sleep(half).await;
                let result = call(ledger);
                tokio::time::sleep(half).await;
                result
            }
            Self::Offloaded(ledger) => {
                let ledger = ledger.clone();
                let called = tokio::task::spawn_blocking(move || call(&ledger));
                called.await.unwrap_or_else(|e| Err(format!("the ledger's thread ended: {e}")))
            }
        }
    }
}
