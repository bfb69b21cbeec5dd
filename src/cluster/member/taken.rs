//! What only one peer may use, while another peer uses it.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{cluster::FatalError, types::PeerId};

/// For some seconds a peer that lost its data folder conflicts with its former identity, which the leader
/// still takes for the user of the daemon and the name. Only a longer conflict needs a person.
const TAKEN_MAX: Duration = Duration::from_secs(20);

/// What only one peer may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Daemon,
    Name,
}

/// Since when the leader refuses this peer because another peer uses its daemon or its name.
#[derive(Debug, Default)]
pub(in crate::cluster) struct TakenSince(Mutex<Option<Instant>>);

impl TakenSince {
    pub(super) fn clear(&self) {
        *self.0.lock() = None;
    }

    /// Notes that another peer uses what this peer has to use alone.
    ///
    /// # Errors
    /// When this has lasted for too long.
    pub(super) fn note(&self, what: Taken, by: PeerId) -> Result<(), FatalError> {
        let mut since = self.0.lock();
        if since.is_none() {
            match what {
                Taken::Daemon => tracing::warn!(
                    peer = %by, "another peer seems to use this daemon; waiting for it to go"
                ),
                Taken::Name => tracing::warn!(
                    peer = %by, "another peer seems to have this name; waiting for it to go"
                ),
            }
        }
        let since = *since.get_or_insert_with(Instant::now);
        match what {
            _ if since.elapsed() <= TAKEN_MAX => Ok(()),
            Taken::Daemon => Err(FatalError::DaemonTaken(by)),
            Taken::Name => Err(FatalError::NameTaken(by)),
        }
    }
}
