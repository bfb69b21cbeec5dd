//! The driver's access to the ledger: on the caller's thread or on another one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::ledger::{Change, Ledger, LedgerError};
use crate::types::PeerId;

/// How the driver reaches the ledger.
#[derive(Clone, Debug)]
pub enum LedgerPort {
    /// On the caller's thread: for simulated worlds, whose backend is memory.
    Inline(Ledger),
    /// On the caller's thread, delayed by so many milliseconds: for simulated slow disks.
    Slow(Ledger, Arc<AtomicU64>),
    /// On tokio's blocking threads: for real disks, where `fsync` can take long.
    Offloaded(Ledger),
}

impl LedgerPort {
    /// The underlying ledger.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        match self {
            Self::Inline(ledger) | Self::Slow(ledger, _) | Self::Offloaded(ledger) => ledger,
        }
    }

    /// Binds the ledger; returns whether its entries belonged to another daemon and are void.
    pub(super) async fn bind(&self, daemon: String, me: PeerId) -> Result<bool, String> {
        self.call(move |ledger| bind(ledger, &daemon, me).map_err(|e| e.to_string())).await
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

fn bind(ledger: &Ledger, daemon: &str, me: PeerId) -> Result<bool, LedgerError> {
    let (known, peer) = (ledger.daemon()?, ledger.peer()?);
    ledger.bind(daemon, me)?;
    let void = known.filter(|known| known != daemon);
    if let Some(known) = &void {
        tracing::warn!(%known, daemon, "another daemon: the ledger's entries are void");
    } else if let Some(former) = peer.filter(|peer| *peer != me) {
        tracing::warn!(
            %former,
            "the ledger is a former peer's: pins of that peer stay until they are wanted here and released \
             again; remove unneeded ones with `ipfs pin rm`"
        );
    }
    Ok(void.is_some())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use redb::backends::InMemoryBackend;

    use super::*;

    #[test]
    fn only_another_daemons_entries_are_void() {
        let (me, other) = (PeerId([1; 32]), PeerId([2; 32]));
        let ledger = Ledger::with_backend(InMemoryBackend::new).unwrap();
        let table = [
            ("one", me, false),
            ("one", me, false),
            ("one", other, false),
            ("two", other, true),
            ("two", other, false),
            ("one", me, true),
        ];
        for (daemon, peer, void) in table {
            assert_eq!(bind(&ledger, daemon, peer).unwrap(), void, "{daemon} {peer}");
            assert_eq!(ledger.daemon().unwrap().as_deref(), Some(daemon));
            assert_eq!(ledger.peer().unwrap(), Some(peer));
        }
    }
}
