//! Snapshots as they travel from a leader to a peer that is far behind.
//!
//! ```text
//! image  = magic "PKIMAGE1", block*      block = length u32, payload, crc32 of the payload u32
//! blocks = head, beside, pins*, tail     payload = tag u8, version u8, CBOR
//! ```
//! Numbers are big-endian. The tail counts the pins and holds the SHA-256 of all blocks before
//! it; an image without a right tail is refused whole.

use sha2::{Digest, Sha256};

use super::{
    raft_types::{CodecError, decode, encode},
    state_store::{Head, StoreError, View},
};
use crate::{
    state::PinSet,
    types::{Cid, ClusterId, Pin},
};

const MAGIC: &[u8; 8] = b"PKIMAGE1";
const VERSION: u8 = 1;
const WHAT: &str = "a snapshot";
/// Payload length at which a block of pins is closed.
const BLOCK_LEN: usize = 64 * 1024;
/// Largest payload accepted: a block plus one record of the largest size.
const BLOCK_LEN_MAX: usize = 4 * 1024 * 1024;

const TAG_HEAD: u8 = 1;
const TAG_PINS: u8 = 2;
const TAG_TAIL: u8 = 3;
const TAG_BESIDE: u8 = 4;

/// Writes the image of a view.
pub(super) fn write(view: &View, cluster: (ClusterId, u64)) -> Result<Vec<u8>, StoreError> {
    let mut image = MAGIC.to_vec();
    put_block(&mut image, TAG_HEAD, &encode(VERSION, &(cluster, &view.head)));
    put_block(&mut image, TAG_BESIDE, &encode(VERSION, &view.beside()?));
    let mut block: Vec<(Cid, Pin)> = Vec::new();
    let mut len = 0;
    let mut count: u64 = 0;
    view.for_each(|cid, pin| {
        len += 128 * (1 + pin.claims.len() + pin.allocations.len());
        block.push((cid, pin));
        count += 1;
        if len >= BLOCK_LEN {
            put_block(&mut image, TAG_PINS, &encode(VERSION, &block));
            block.clear();
            len = 0;
        }
        Ok(())
    })?;
    put_block(&mut image, TAG_PINS, &encode(VERSION, &block));
    let hash: [u8; 32] = Sha256::digest(&image).into();
    put_block(&mut image, TAG_TAIL, &encode(VERSION, &(count, hash)));
    Ok(image)
}

/// The contents of an image.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) cluster: (ClusterId, u64),
    pub(super) head: Head,
    pub(super) pins: PinSet,
}

/// Reads an image; a damaged one is refused as a whole.
pub(super) fn read(bytes: &[u8]) -> Result<Image, CodecError> {
    let mut rest = bytes.strip_prefix(MAGIC).ok_or_else(|| damaged("it is no image"))?;
    let (tag, payload) = take_block(&mut rest)?;
    if tag != TAG_HEAD {
        return Err(damaged("it does not begin with its head"));
    }
    let (cluster, head) = decode(WHAT, VERSION, payload)?;
    let mut pins = PinSet::default();
    let mut count: u64 = 0;
    loop {
        let before = bytes.len() - rest.len();
        let (tag, payload) = take_block(&mut rest)?;
        match tag {
            TAG_BESIDE => pins.restore_beside(decode(WHAT, VERSION, payload)?),
            TAG_PINS => {
                let block: Vec<(Cid, Pin)> = decode(WHAT, VERSION, payload)?;
                count += block.len() as u64;
                block.into_iter().for_each(|(cid, pin)| pins.restore(cid, pin));
            }
            TAG_TAIL => {
                let (expected, hash): (u64, [u8; 32]) = decode(WHAT, VERSION, payload)?;
                let found: [u8; 32] = Sha256::digest(&bytes[..before]).into();
                return if expected == count && hash == found && rest.is_empty() {
                    Ok(Image { cluster, head, pins })
                } else {
                    Err(damaged("its tail does not fit"))
                };
            }
            _ => return Err(damaged("it has an unknown block")),
        }
    }
}

fn put_block(image: &mut Vec<u8>, tag: u8, payload: &[u8]) {
    let len = u32::try_from(payload.len() + 1).unwrap_or(u32::MAX);
    image.extend_from_slice(&len.to_be_bytes());
    let start = image.len();
    image.push(tag);
    image.extend_from_slice(payload);
    let crc = crc32fast::hash(&image[start..]);
    image.extend_from_slice(&crc.to_be_bytes());
}

fn take_block<'a>(rest: &mut &'a [u8]) -> Result<(u8, &'a [u8]), CodecError> {
    let len = take_u32(rest)? as usize;
    if len == 0 || len > BLOCK_LEN_MAX {
        return Err(damaged("a block's length is out of bounds"));
    }
    let (payload, after) =
        rest.split_at_checked(len).ok_or_else(|| damaged("it ends in a block"))?;
    *rest = after;
    if take_u32(rest)? != crc32fast::hash(payload) {
        return Err(damaged("a block's checksum does not fit"));
    }
    Ok((payload[0], &payload[1..]))
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, CodecError> {
    let (number, after) = rest.split_first_chunk().ok_or_else(|| damaged("it ends too early"))?;
    *rest = after;
    Ok(u32::from_be_bytes(*number))
}

fn damaged(reason: &str) -> CodecError {
    CodecError::Damaged { what: WHAT, reason: reason.to_owned() }
}

/// An image with correct checksums, of blocks with any payload.
#[cfg(any(test, feature = "simulation"))]
pub(super) fn of_payloads<'a>(payloads: impl Iterator<Item = &'a [u8]>, count: u64) -> Vec<u8> {
    let mut image = MAGIC.to_vec();
    for (n, payload) in payloads.enumerate() {
        put_block(&mut image, if n == 0 { TAG_HEAD } else { TAG_PINS }, payload);
    }
    let hash: [u8; 32] = Sha256::digest(&image).into();
    put_block(&mut image, TAG_TAIL, &encode(VERSION, &(count, hash)));
    image
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{super::state_store::StateStore, *};
    use crate::{
        state::{Beside, Fence, Found, Op, Outcome, Ruling},
        types::{
            Allocation, ClaimName, ClaimOptions, Claims, Factor, LogPosition, Owner, PeerId,
            Replication, Timestamp, Uid,
        },
    };

    /// The deletion guard has counted one CID.
    fn beside() -> Beside {
        let (uid, at) = (Uid("a".to_owned()), Timestamp(1));
        let fence = Fence { term: 1, generation: 1 };
        let cid: Cid = "bafkqaaa".parse().unwrap();
        let one = Factor::Count(1);
        let replication = Replication { min: one, max: one };
        let options = ClaimOptions { replication, retain: false, name: ClaimName::default() };
        let owner = Owner::Object(uid.clone());
        let mut pins = PinSet::default();
        let fenced = Some(fence);
        let claim = Op::Claim { cid, owner, options, candidates: Vec::new(), at, fence: fenced };
        let gone = Op::Gone { cid, uid, ruling: Ruling::Take(Found::Watched), at, fence };
        for op in [claim, gone] {
            assert_eq!(pins.apply(LogPosition { term: 1, index: 0 }, &op), Outcome::Changed);
        }
        pins.beside().clone()
    }

    fn store_of(count: u64) -> StateStore {
        let store = StateStore::with_backend(redb::backends::InMemoryBackend::new()).unwrap();
        let pins: Vec<(Cid, Option<Pin>)> = (0..count)
            .map(|n| {
                let hash = cid::multihash::Multihash::wrap(0, &n.to_be_bytes()).unwrap();
                let pin = Pin {
                    claims: Claims::default(),
                    allocations: vec![Allocation {
                        peer: PeerId::from(n),
                        leaving: n % 2 == 0,
                        at_entry: n,
                    }],
                    created: Timestamp(n),
                };
                (Cid::from(cid::Cid::new_v1(0x55, hash)), Some(pin))
            })
            .collect();
        let all = pins.iter().map(|(cid, pin)| (*cid, pin.as_ref()));
        store.apply(all, &beside(), &Head::default()).unwrap();
        store
    }

    #[test]
    fn an_image_holds_what_the_view_holds() {
        for count in [0, 1, 2_000] {
            let view = store_of(count).view().unwrap();
            let image = write(&view, (ClusterId([1; 16]), 7)).unwrap();
            let read = read(&image).unwrap();
            assert_eq!(read.cluster, (ClusterId([1; 16]), 7));
            assert_eq!(read.pins, view.pin_set().unwrap());
            assert_eq!(read.pins.len() as u64, count);
            assert_eq!(*read.pins.beside(), beside());
        }
    }

    #[test]
    fn an_image_without_a_record_beside_the_pins_is_read() {
        let mut image = MAGIC.to_vec();
        let head = (ClusterId([1; 16]), 7_u64);
        put_block(&mut image, TAG_HEAD, &encode(VERSION, &(head, Head::default())));
        let hash: [u8; 32] = Sha256::digest(&image).into();
        put_block(&mut image, TAG_TAIL, &encode(VERSION, &(0_u64, hash)));
        assert_eq!(read(&image).unwrap().pins, PinSet::default());
    }

    #[test]
    fn an_image_cut_or_changed_anywhere_is_refused() {
        let image = write(&store_of(3).view().unwrap(), (ClusterId([1; 16]), 7)).unwrap();
        for cut in 0..image.len() {
            assert!(read(&image[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..image.len() {
            let mut changed = image.clone();
            changed[at] ^= 0x10;
            assert!(read(&changed).is_err(), "changed at {at}");
        }
    }

    /// An image of these blocks, with correct checksums.
    fn of_blocks(blocks: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut image = MAGIC.to_vec();
        blocks.iter().for_each(|(tag, payload)| put_block(&mut image, *tag, payload));
        image
    }

    /// Appends a tail with this count, and with the correct hash unless `hash` is given.
    fn ended(mut image: Vec<u8>, count: u64, hash: Option<[u8; 32]>) -> Vec<u8> {
        let right: [u8; 32] = Sha256::digest(&image).into();
        let tail = encode(VERSION, &(count, hash.unwrap_or(right)));
        put_block(&mut image, TAG_TAIL, &tail);
        image
    }

    /// Correct checksums alone are not trusted.
    #[test]
    fn an_image_whose_blocks_do_not_fit_together_is_refused() {
        let head = (TAG_HEAD, encode(VERSION, &((ClusterId([1; 16]), 7_u64), Head::default())));
        let pins = |count| {
            let view = store_of(count).view().unwrap();
            let mut pins: Vec<(Cid, Pin)> = Vec::new();
            view.for_each(|cid, pin| {
                pins.push((cid, pin));
                Ok(())
            })
            .unwrap();
            (TAG_PINS, encode(VERSION, &pins))
        };
        let whole = || of_blocks(&[head.clone(), pins(2), pins(1)]);
        let with_head_of = |version| {
            let other =
                (TAG_HEAD, encode(version, &((ClusterId([1; 16]), 7_u64), Head::default())));
            of_blocks(&[other, pins(2), pins(1)])
        };
        let mut longer = ended(whole(), 3, None);
        longer.push(0);
        let mut twice = ended(whole(), 3, None);
        put_block(&mut twice, TAG_PINS, &pins(1).1);
        let mut empty = whole();
        empty.extend_from_slice(&[0; 8]);
        let unknown = (9, pins(1).1);
        let cases = [
            ("as it should be", ended(whole(), 3, None), true),
            ("its count is less", ended(whole(), 2, None), false),
            ("its count is more", ended(whole(), 4, None), false),
            ("its hash is another", ended(whole(), 3, Some([0; 32])), false),
            ("without a tail", whole(), false),
            ("a byte behind its tail", longer, false),
            ("a block behind its tail", twice, false),
            ("a block without a tag", ended(empty, 3, None), false),
            ("an unknown block", ended(of_blocks(&[head.clone(), unknown]), 1, None), false),
            ("without a head", ended(of_blocks(&[pins(2), pins(1)]), 3, None), false),
            (
                "its head is no head",
                ended(of_blocks(&[(TAG_PINS, head.1.clone()), pins(2), pins(1)]), 3, None),
                false,
            ),
            ("two heads", ended(of_blocks(&[head.clone(), head.clone()]), 0, None), false),
            ("of another version", ended(with_head_of(VERSION + 1), 3, None), false),
            ("of another format", ended(whole(), 3, None).split_off(1), false),
        ];
        for (case, image, is_taken) in cases {
            let taken = read(&image).map(|image| image.pins.len());
            assert_eq!(taken.is_ok(), is_taken, "{case}: {taken:?}");
            assert!(taken.is_err() || taken == Ok(2), "pins of a name are one: {taken:?}");
        }
    }
}
