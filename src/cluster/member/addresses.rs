//! Where peers were reachable last: kept on disk, because all peers may come back under new
//! addresses at once and must find each other from what any of them still knows.
//!
//! Invariants: what a peer says of itself takes the place of what was known; what others say of it is
//! added, since theirs may be old. A member always finds a place, at the cost of one that is none.

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use crate::{consensus::block, files, types::PeerId};

/// Multiaddrs without `/p2p/…`, by peer.
pub(in crate::cluster) type Addresses = BTreeMap<PeerId, Vec<String>>;

/// Who said where a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cluster) enum Said {
    /// The peer itself, now.
    Itself,
    /// Another one, which may know less.
    Another,
}

/// The last known addresses (multiaddrs without `/p2p/…`).
#[derive(Debug, Default)]
pub struct AddressBook {
    path: Option<PathBuf>,
    known: Mutex<Addresses>,
}

/// Peers remembered that are no members; of members all are.
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
    pub(in crate::cluster) fn all(&self) -> Addresses {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes in addresses of others than `me`; returns all of them if that changed anything.
    pub(in crate::cluster) fn learn(
        &self,
        me: PeerId,
        said: Said,
        addresses: Addresses,
        is_member: impl Fn(&PeerId) -> bool,
    ) -> Option<Addresses> {
        let learnt = self.take(me, said, addresses, is_member)?;
        self.save(&learnt);
        Some(learnt)
    }

    fn take(
        &self,
        me: PeerId,
        said: Said,
        addresses: Addresses,
        is_member: impl Fn(&PeerId) -> bool,
    ) -> Option<Addresses> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = false;
        for (peer, addresses) in addresses {
            let (old, is_member) = (known.get(&peer), is_member(&peer));
            let addresses = merged(said, old.map_or(&[], Vec::as_slice), addresses);
            if peer == me || addresses.is_empty() || old == Some(&addresses) {
                continue;
            }
            if known.len() >= PEERS_MAX && old.is_none() && !is_member {
                continue;
            }
            known.insert(peer, addresses);
            changed = true;
        }
        let surplus = known.len().saturating_sub(PEERS_MAX);
        let strangers = known.keys().filter(|peer| !is_member(peer)).take(surplus);
        for peer in strangers.copied().collect::<Vec<_>>() {
            known.remove(&peer);
        }
        changed.then(|| known.clone())
    }

    /// Forgets all that are not to be kept; returns them.
    pub(in crate::cluster) fn forget(&self, keep: impl Fn(&PeerId) -> bool) -> Vec<PeerId> {
        let (gone, left) = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let gone: Vec<PeerId> = known.keys().filter(|peer| !keep(peer)).copied().collect();
            gone.iter().for_each(|peer| drop(known.remove(peer)));
            (gone, known.clone())
        };
        if !gone.is_empty() {
            self.save(&left);
        }
        gone
    }

    fn save(&self, known: &Addresses) {
        if let Some(path) = &self.path
            && let Err(error) = block(|| write(path, known))
        {
            tracing::warn!(path = %path.display(), %error, "addresses were not saved");
        }
    }
}

/// A peer's addresses after news of it.
fn merged(said: Said, old: &[String], new: Vec<String>) -> Vec<String> {
    let mut addresses: Vec<String> = Vec::new();
    let old = match said {
        Said::Itself => &[],
        // What is known is no news, in whatever order it comes.
        Said::Another if new.iter().all(|address| old.contains(address)) => return old.to_vec(),
        Said::Another => old,
    };
    for address in new.into_iter().chain(old.iter().cloned()) {
        if addresses.len() < ADDRESSES_MAX && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

fn write(path: &Path, known: &Addresses) -> std::io::Result<()> {
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
            book.learn(me, Said::Itself, [(peer(n), addresses)].into(), |_| false).is_some()
        };
        assert!(learn(1, &["/a"]) && !learn(1, &["/a"]), "it is known");
        assert!(learn(1, &["/b"]) && book.all()[&peer(1)] == ["/b"], "it has moved");
        assert!(!learn(1, &[]) && book.all()[&peer(1)] == ["/b"], "nothing is no news");
        let many: Vec<String> = (0..99).map(|n| format!("/{n}")).collect();
        assert!(learn(2, &many.iter().map(String::as_str).collect::<Vec<_>>()));
        assert_eq!(book.all()[&peer(2)].len(), ADDRESSES_MAX);
        let own = [(me, vec!["/me".to_owned()])].into();
        assert_eq!(book.learn(me, Said::Itself, own, |_| false), None);
        assert!((3..=PEERS_MAX).all(|n| learn(n, &["/a"])));
        assert!(!learn(PEERS_MAX + 1, &["/a"]), "there are too many");
        assert!(learn(1, &["/c"]), "who is known may move all the same");
        assert_eq!(book.all().len(), PEERS_MAX);
        // A member takes the place of one that is none, and may be one too many.
        let is_member = |id: &PeerId| *id != peer(1) && *id != me;
        let late = |n| BTreeMap::from([(peer(n), vec!["/late".to_owned()])]);
        assert!(book.learn(me, Said::Itself, late(PEERS_MAX + 1), is_member).is_some());
        assert!(!book.all().contains_key(&peer(1)) && book.all().len() == PEERS_MAX);
        assert!(book.learn(me, Said::Itself, late(PEERS_MAX + 2), is_member).is_some());
        assert_eq!(book.all().len(), PEERS_MAX + 1, "no member is forgotten");
        // Who is gone for good is dialled no more.
        let gone = book.forget(|id| *id == peer(2));
        assert_eq!((gone.len(), book.all().len()), (PEERS_MAX, 1));
        assert!(book.forget(|id| *id == peer(2)).is_empty());
    }

    #[test]
    fn what_a_peer_says_of_itself_replaces_and_what_others_say_is_added() {
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        // What was known, who says what, and what is known then.
        type Row<'a> = (&'a [&'a str], Said, &'a [&'a str], &'a [&'a str]);
        let table: [Row<'_>; 6] = [
            (&[], Said::Itself, &["/a"], &["/a"]),
            (&["/a", "/b"], Said::Itself, &["/b", "/c"], &["/b", "/c"]),
            (&[], Said::Another, &["/a"], &["/a"]),
            (&["/a"], Said::Another, &["/b"], &["/b", "/a"]),
            (&["/a", "/b"], Said::Another, &["/b"], &["/a", "/b"]),
            (&["/a"], Said::Another, &["/b", "/a"], &["/b", "/a"]),
        ];
        for (old, said, new, then) in table {
            assert_eq!(merged(said, &texts(old), texts(new)), then, "{old:?}, {said:?} {new:?}");
        }
    }

    #[test]
    fn what_is_learnt_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("addresses");
        let (me, other) = (PeerId([1; 32]), PeerId([2; 32]));
        let book = AddressBook::open(&path);
        let news = BTreeMap::from([(me, vec!["/a".to_owned()]), (other, vec!["/b".to_owned()])]);
        let learn = |news| book.learn(me, Said::Itself, news, |_| false);
        assert_eq!(learn(news.clone()).unwrap().len(), 1);
        assert_eq!(learn(news), None);
        assert_eq!(AddressBook::open(&path).all()[&other], ["/b"]);
        let whole = std::fs::read(&path).unwrap();
        // It holds hints: what is not understood is left out, and nothing else happens.
        crate::sim::damage::each(&whole, usize::MAX, 1, |_, bytes| {
            std::fs::write(&path, bytes).unwrap();
            assert!(AddressBook::open(&path).all().len() <= 1);
        });
    }
}
