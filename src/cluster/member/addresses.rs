//! The address book: the last known addresses of peers.
//!
//! It is on disk, because all peers may come back under new addresses at once. They find each other
//! through the addresses that any of them still knows.
//!
//! Invariants: addresses that a peer reports of itself replace the known ones. Addresses that another
//! peer reports are added, since they may be old. A member always gets a place, if need be that of a
//! non-member.

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;

use crate::{files, runtime::block, types::PeerId};

/// Multiaddrs without `/p2p/…`, by peer.
pub(in crate::cluster) type Addresses = BTreeMap<PeerId, Vec<String>>;

/// Who reported the addresses of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cluster) enum Source {
    /// The peer itself.
    Itself,
    /// Another peer, whose knowledge may be old.
    Other,
}

/// The last known addresses (multiaddrs without `/p2p/…`).
#[derive(Debug, Default)]
pub struct AddressBook {
    path: Option<PathBuf>,
    known: Mutex<Addresses>,
}

/// Bound on remembered peers. Members are remembered beyond it.
const PEERS_MAX: usize = 256;
/// Bound on remembered addresses of one peer.
const ADDRESSES_MAX: usize = 16;

impl AddressBook {
    /// Reads the file if it exists. The addresses are hints, so a damaged file is started anew.
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

    /// All known addresses.
    pub(in crate::cluster) fn all(&self) -> Addresses {
        self.known.lock().clone()
    }

    /// Takes in addresses of peers other than `me`; returns all known ones if any changed.
    pub(in crate::cluster) fn learn(
        &self,
        me: PeerId,
        source: Source,
        addresses: Addresses,
        is_member: impl Fn(&PeerId) -> bool,
    ) -> Option<Addresses> {
        let learnt = self.take(me, source, addresses, is_member)?;
        self.save(&learnt);
        Some(learnt)
    }

    fn take(
        &self,
        me: PeerId,
        source: Source,
        addresses: Addresses,
        is_member: impl Fn(&PeerId) -> bool,
    ) -> Option<Addresses> {
        let mut known = self.known.lock();
        let mut changed = false;
        for (peer, addresses) in addresses {
            let (old, is_member) = (known.get(&peer), is_member(&peer));
            let addresses = merged(source, old.map_or(&[], Vec::as_slice), addresses);
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
        let non_members = known.keys().filter(|peer| !is_member(peer)).take(surplus);
        for peer in non_members.copied().collect::<Vec<_>>() {
            known.remove(&peer);
        }
        changed.then(|| known.clone())
    }

    /// Forgets the peers that `keep` rejects, and returns them.
    pub(in crate::cluster) fn forget(&self, keep: impl Fn(&PeerId) -> bool) -> Vec<PeerId> {
        let (gone, left) = {
            let mut known = self.known.lock();
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

/// The known addresses of a peer after `source` reported `new` ones.
fn merged(source: Source, old: &[String], new: Vec<String>) -> Vec<String> {
    let mut addresses: Vec<String> = Vec::new();
    let old = match source {
        Source::Itself => &[],
        // Known addresses in another order are no change.
        Source::Other if new.iter().all(|address| old.contains(address)) => return old.to_vec(),
        Source::Other => old,
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
            book.learn(me, Source::Itself, [(peer(n), addresses)].into(), |_| false).is_some()
        };
        assert!(learn(1, &["/a"]) && !learn(1, &["/a"]), "it is known");
        assert!(learn(1, &["/b"]) && book.all()[&peer(1)] == ["/b"], "it has moved");
        assert!(
            !learn(1, &[]) && book.all()[&peer(1)] == ["/b"],
            "an empty report changes nothing"
        );
        let many: Vec<String> = (0..99).map(|n| format!("/{n}")).collect();
        assert!(learn(2, &many.iter().map(String::as_str).collect::<Vec<_>>()));
        assert_eq!(book.all()[&peer(2)].len(), ADDRESSES_MAX);
        let own = [(me, vec!["/me".to_owned()])].into();
        assert_eq!(book.learn(me, Source::Itself, own, |_| false), None);
        assert!((3..=PEERS_MAX).all(|n| learn(n, &["/a"])));
        assert!(!learn(PEERS_MAX + 1, &["/a"]), "there are too many");
        assert!(learn(1, &["/c"]), "a known peer may still move");
        assert_eq!(book.all().len(), PEERS_MAX);
        // A member takes the place of a non-member, and is added even beyond the bound.
        let is_member = |id: &PeerId| *id != peer(1) && *id != me;
        let late = |n| BTreeMap::from([(peer(n), vec!["/late".to_owned()])]);
        assert!(book.learn(me, Source::Itself, late(PEERS_MAX + 1), is_member).is_some());
        assert!(!book.all().contains_key(&peer(1)) && book.all().len() == PEERS_MAX);
        assert!(book.learn(me, Source::Itself, late(PEERS_MAX + 2), is_member).is_some());
        assert_eq!(book.all().len(), PEERS_MAX + 1, "no member is forgotten");
        let gone = book.forget(|id| *id == peer(2));
        assert_eq!((gone.len(), book.all().len()), (PEERS_MAX, 1));
        assert!(book.forget(|id| *id == peer(2)).is_empty());
    }

    #[test]
    fn a_peer_replaces_its_own_addresses_and_others_only_add_some() {
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        // The known addresses, the source, the reported addresses, and the known ones afterwards.
        type Row<'a> = (&'a [&'a str], Source, &'a [&'a str], &'a [&'a str]);
        let table: [Row<'_>; 6] = [
            (&[], Source::Itself, &["/a"], &["/a"]),
            (&["/a", "/b"], Source::Itself, &["/b", "/c"], &["/b", "/c"]),
            (&[], Source::Other, &["/a"], &["/a"]),
            (&["/a"], Source::Other, &["/b"], &["/b", "/a"]),
            (&["/a", "/b"], Source::Other, &["/b"], &["/a", "/b"]),
            (&["/a"], Source::Other, &["/b", "/a"], &["/b", "/a"]),
        ];
        for (old, source, new, then) in table {
            assert_eq!(
                merged(source, &texts(old), texts(new)),
                then,
                "{old:?}, {source:?} {new:?}"
            );
        }
    }

    #[test]
    fn addresses_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("addresses");
        let (me, other) = (PeerId([1; 32]), PeerId([2; 32]));
        let book = AddressBook::open(&path);
        let reported =
            BTreeMap::from([(me, vec!["/a".to_owned()]), (other, vec!["/b".to_owned()])]);
        let learn = |reported| book.learn(me, Source::Itself, reported, |_| false);
        assert_eq!(learn(reported.clone()).unwrap().len(), 1);
        assert_eq!(learn(reported), None);
        assert_eq!(AddressBook::open(&path).all()[&other], ["/b"]);
        let whole = std::fs::read(&path).unwrap();
        // A damaged file only loses addresses.
        crate::sim::damage::each(&whole, usize::MAX, 1, |_, bytes| {
            std::fs::write(&path, bytes).unwrap();
            assert!(AddressBook::open(&path).all().len() <= 1);
        });
    }
}
