//! The codecs a daemon can walk. The daemon is asked, since a table of ours would be outdated with the
//! next Kubo.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;
use serde::Deserialize;

use super::{QUICK_DEADLINE, http::Rpc};
use crate::{ipfs::IpfsError, types::Cid};

/// Raw and dag-pb: every daemon walks these, so it is not asked about them.
const EVERYWHERE: [u64; 2] = [0x55, 0x70];
/// Most codecs kept of an answer.
const CODECS_MAX: usize = 4096;

/// One element of `cid/codecs`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Codec {
    #[serde(rename = "Code")]
    code: u64,
    #[serde(rename = "Name", default)]
    name: String,
}

/// The daemon's last answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Codecs {
    known: Arc<Mutex<BTreeSet<u64>>>,
}

impl Codecs {
    /// Checks that the daemon can pin content with the CID's codec. A daemon that does not list codecs
    /// passes: `pin/add` will show it.
    ///
    /// # Errors
    /// [`IpfsError::Unpinnable`] if it cannot.
    pub(super) async fn check(&self, rpc: &Rpc, cid: &Cid) -> Result<(), IpfsError> {
        let codec = cid.codec();
        if EVERYWHERE.contains(&codec) || self.known().contains(&codec) {
            return Ok(());
        }
        let Ok(supported) = ask(rpc, &[("supported", "true")]).await else { return Ok(()) };
        let is_supported = supported.iter().any(|one| one.code == codec);
        *self.known() = supported.iter().take(CODECS_MAX).map(|one| one.code).collect();
        if is_supported {
            return Ok(());
        }
        Err(unpinnable(codec, &ask(rpc, &[]).await.unwrap_or_default()))
    }

    fn known(&self) -> parking_lot::MutexGuard<'_, BTreeSet<u64>> {
        self.known.lock()
    }
}

async fn ask(rpc: &Rpc, query: &[(&str, &str)]) -> Result<Vec<Codec>, IpfsError> {
    rpc.ask("cid/codecs", query, QUICK_DEADLINE).await
}

/// The error for a codec, with its name if the daemon has one.
fn unpinnable(codec: u64, names: &[Codec]) -> IpfsError {
    let name = names.iter().find(|one| one.code == codec).map_or("unknown", |one| &one.name);
    let name = super::wire::shortened(name);
    IpfsError::Unpinnable(format!(
        "it cannot read the codec of this CID, {name} ({codec:#x}), and so cannot find the blocks below it"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_codec_that_cannot_be_walked_is_named() {
        let names = [Codec { code: 0xb0, name: "bitcoin-block".to_owned() }];
        for (codec, expected) in [(0xb0, "bitcoin-block (0xb0)"), (0x1234, "unknown (0x1234)")] {
            let error = unpinnable(codec, &names);
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
