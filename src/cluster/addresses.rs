//! Where peers were reachable last: kept on disk, because all peers may come back under new
//! addresses at once and must find each other from what any of them still knows.

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use crate::{consensus::block, files, types::PeerId};

/// The last known addresses (multiaddrs without `/p2p/…`).
#[derive(Debug, Default)]
pub struct AddressBook {
    path: Option<PathBuf>,
    known: Mutex<BTreeMap<PeerId, Vec<String>>>,
}

/// Peers remembered; more than a cluster ever has.
const PEERS_MAX: usize = 256;
/// Addresses remembered of one peer.
const ADDRESSES_MAX: usize = 16;

impl AddressBook {
    /// Reads the file if it is there. The book is a hint: a damaged one is started anew.
    #[must_use]
    pub fn open(path: &Path) -> Self {
        let known = files::read(path).ok().and_then(|bytes| {
            serde_json::from_slice(&bytes)
                .inspect_err(|error| {
                    tracing::warn!(path = %path.display(), %error, "the address book is damaged; starting anew");
                })
                .ok()
        });
        Self { path: Some(path.to_owned()), known: Mutex::new(known.unwrap_or_default()) }
    }

    /// All that is known.
    #[must_use]
    pub fn all(&self) -> BTreeMap<PeerId, Vec<String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes in addresses of others than `me`; returns all of them if that changed anything.
    pub(super) fn learn(
        &self,
        me: PeerId,
        addresses: BTreeMap<PeerId, Vec<String>>,
    ) -> Option<BTreeMap<PeerId, Vec<String>>> {
        let learnt = self.take(me, addresses)?;
        if let Some(path) = &self.path
            && let Err(error) = block(|| write(path, &learnt))
        {
            tracing::warn!(path = %path.display(), %error, "addresses were not saved");
        }
        Some(learnt)
    }

    fn take(
        &self,
        me: PeerId,
        addresses: BTreeMap<PeerId, Vec<String>>,
    ) -> Option<BTreeMap<PeerId, Vec<String>>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = false;
        for (peer, mut addresses) in addresses {
            addresses.truncate(ADDRESSES_MAX);
            if peer == me || addresses.is_empty() || known.get(&peer) == Some(&addresses) {
                continue;
            }
            if known.len() >= PEERS_MAX && !known.contains_key(&peer) {
                continue;
            }
            known.insert(peer, addresses);
            changed = true;
        }
        changed.then(|| known.clone())
    }
}

fn write(path: &Path, known: &BTreeMap<PeerId, Vec<String>>) -> std::io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = files::create_anew(&draft)?;
    file.write_all(&serde_json::to_vec(known)?)?;
    file.sync_all()?;
    std::fs::rename(draft, path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_of_others_are_learnt_within_bounds() {
        let (me, book) = (PeerId([0; 32]), AddressBook::default());
        let peer = |n: usize| {
            PeerId(
                [u8::try_from(n % 256).unwrap(), u8::from(n > 255)].repeat(16).try_into().unwrap(),
            )
        };
        let learn = |n, addresses: &[&str]| {
            let addresses = addresses.iter().map(|&address| address.to_owned()).collect();
            book.learn(me, [(peer(n), addresses)].into()).is_some()
        };
        assert!(learn(1, &["/a"]) && !learn(1, &["/a"]), "it is known");
        assert!(learn(1, &["/b"]) && book.all()[&peer(1)] == ["/b"], "it has moved");
        assert!(!learn(1, &[]) && book.all()[&peer(1)] == ["/b"], "nothing is no news");
        assert!(learn(2, &["/x"; 99]));
        assert_eq!(book.all()[&peer(2)].len(), ADDRESSES_MAX);
        assert_eq!(book.learn(me, [(me, vec!["/me".to_owned()])].into()), None);
        assert!((3..=PEERS_MAX).all(|n| learn(n, &["/a"])));
        assert!(!learn(PEERS_MAX + 1, &["/a"]), "there are too many");
        assert!(learn(1, &["/c"]), "who is known may move all the same");
        assert_eq!(book.all().len(), PEERS_MAX);
    }

    #[test]
    fn what_is_learnt_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("addresses");
        let (me, other) = (PeerId([1; 32]), PeerId([2; 32]));
        let book = AddressBook::open(&path);
        let news = BTreeMap::from([(me, vec!["/a".to_owned()]), (other, vec!["/b".to_owned()])]);
        assert_eq!(book.learn(me, news.clone()).unwrap().len(), 1);
        assert_eq!(book.learn(me, news), None);
        assert_eq!(AddressBook::open(&path).all()[&other], ["/b"]);
        let whole = std::fs::read(&path).unwrap();
        // It holds hints: what is not understood is left out, and nothing else happens.
        crate::sim::damage::each(&whole, usize::MAX, 1, |_, bytes| {
            std::fs::write(&path, bytes).unwrap();
            assert!(AddressBook::open(&path).all().len() <= 1);
        });
    }
}
