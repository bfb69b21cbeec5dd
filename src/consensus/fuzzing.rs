//! Bytes that consensus reads from the disk and from other peers, for [`crate::fuzzing`].

#![allow(clippy::unwrap_used, reason = "a failure is what is looked for")]

use std::fmt::Debug;

use openraft::entry::RaftEntry as _;

use super::{
    disk_log::{BODY_VERSION, VOTE_VERSION, read_and_write},
    image,
    raft_types::{decode, encode, entry_in, entry_out, membership_in, stored_membership_in},
    state_store::{HEAD_VERSION, Head, PIN_VERSION, record_of},
};
use crate::types::{Entry, EntryBody, LogPosition, Pin, Vote, encoding::Readable};

/// Decodes a stored record; the value must survive encoding and decoding.
fn same_again<T: minicbor::Encode<()> + Readable + PartialEq + Debug>(
    version: u8,
    bytes: &[u8],
) -> Option<T> {
    let value: T = decode("a record", version, bytes).ok()?;
    let again: T = decode("a record", version, &encode(version, &value)).unwrap();
    assert_eq!(again, value);
    Some(value)
}

/// Records of the log: with their checksums as on disk, and their contents alone.
pub(crate) fn log(bytes: &[u8]) -> usize {
    read_and_write(bytes).unwrap();
    let vote = same_again::<Vote>(VOTE_VERSION, bytes);
    let body = same_again::<EntryBody>(BODY_VERSION, bytes);
    let taken = usize::from(vote.is_some()) + usize::from(body.is_some());
    if let Some(body) = body {
        entry(Entry { id: LogPosition { term: 1, index: 1 }, body });
    }
    taken
}

/// An entry, which may also come from a leader.
pub(crate) fn entry(entry: Entry) {
    if let Ok(read) = entry_in(entry) {
        let again = entry_in(entry_out(&read)).unwrap();
        assert_eq!(again.log_id(), read.log_id());
        assert_eq!(again, read);
    }
}

/// Records of the state: a pin under its key, and the head.
pub(crate) fn state(bytes: &[u8]) -> usize {
    let mut taken = 0;
    let (key, value) = bytes.split_at(bytes.len().min(36));
    if let Ok((cid, pin)) = record_of(key, value) {
        assert_eq!(record_of(&cid.to_bytes(), &encode(PIN_VERSION, &pin)), Ok((cid, pin)));
        taken += 1;
    }
    taken += usize::from(same_again::<Pin>(PIN_VERSION, bytes).is_some());
    if let Ok(head) = decode::<Head>("a head", HEAD_VERSION, bytes) {
        let again: Head = decode("a head", HEAD_VERSION, &encode(HEAD_VERSION, &head)).unwrap();
        assert_eq!(format!("{again:?}"), format!("{head:?}"));
        let _ = stored_membership_in(head.membership.clone());
        let _ = membership_in(head.membership.1);
        taken += 1;
    }
    taken
}

/// A snapshot: as received, and with correct checksums around the bytes. The first byte gives the end
/// of its head.
pub(crate) fn snapshot(bytes: &[u8]) -> usize {
    assert!(image::read(bytes).is_err() || bytes.len() > 40);
    let Some((&at, rest)) = bytes.split_first() else { return 0 };
    let mut taken = 0;
    let (head, pins) = rest.split_at(usize::from(at).min(rest.len()));
    for count in 0..2 {
        let image = image::of_payloads([head, pins].into_iter(), count);
        if let Ok(image) = image::read(&image) {
            assert_eq!(image.pins.len() as u64, count);
            let _ = image.head.raft_membership();
            taken += 1;
        }
    }
    taken
}

/// Valid bytes of each kind as a starting point.
#[cfg(test)]
pub(crate) fn samples() -> Vec<Vec<u8>> {
    use std::collections::BTreeMap;

    use crate::{
        state::Op,
        types::{Allocation, Cid, Claims, ClusterId, Member, PeerId, Timestamp},
    };
    let hash = cid::multihash::Multihash::wrap(0x12, &[5; 32]).unwrap();
    let cid = Cid::from(cid::Cid::new_v1(0x55, hash));
    let pin = Pin {
        claims: Claims::default(),
        allocations: vec![Allocation { peer: PeerId([3; 32]), leaving: true, at_entry: 7 }],
        created: Timestamp(9),
    };
    let members = BTreeMap::from([(
        PeerId([3; 32]),
        Member { name: "a".to_owned(), addresses: vec!["/ip4/10.0.0.1/tcp/9".to_owned()] },
    )]);
    let body = EntryBody::Membership { voters: vec![vec![PeerId([3; 32])]], members };
    let ops = vec![Op::Leave { cid, peers: vec![PeerId([3; 32])] }];
    let ops = EntryBody::Ops(encode(1, &ops));
    let position = Some(LogPosition { term: 1, index: 2 });
    let head =
        Head { applied: position, membership: (position, body.clone()), installed: position };
    let vote = Vote { term: 7, candidate: PeerId([3; 32]), committed: true };
    let stored = [cid.to_bytes(), encode(PIN_VERSION, &pin)].concat();
    let of_image = encode(1, &((ClusterId([1; 16]), 7_u64), &head));
    let mut snapshot = vec![u8::try_from(of_image.len()).unwrap()];
    snapshot.extend(of_image);
    snapshot.extend(encode(1, &vec![(cid, pin.clone())]));
    vec![
        encode(BODY_VERSION, &body),
        encode(BODY_VERSION, &ops),
        encode(VOTE_VERSION, &vote),
        encode(PIN_VERSION, &pin),
        encode(HEAD_VERSION, &head),
        stored,
        snapshot,
    ]
}
