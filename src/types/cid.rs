//! Content identifiers.
//!
//! Spellings of one CID in different bases (base32, base58…) are equal. CIDv0 and CIDv1 of one hash are
//! not equal, because Kubo keeps a pin for each.

use std::{fmt, str::FromStr};

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A content identifier (<https://github.com/multiformats/cid>), ordered by its binary form.
///
/// It is kept in that form, because maps of a million CIDs compare all the time. [`super::CidMap`] packs
/// it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cid {
    /// Zero after `len`, so that equal CIDs are equal bytes.
    pub(super) bytes: [u8; BYTES_LEN_MAX],
    pub(super) len: u8,
}

/// Why a text or bytes are not the CID of content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidError {
    /// Not a CID.
    #[error("{text:?} is not a CID: {reason}")]
    Invalid {
        /// The beginning of the text, or of the bytes in hexadecimal.
        text: String,
        /// The reason.
        reason: String,
    },
    /// The CID of an IPNS key. The key points to changing content, so it cannot be pinned.
    #[error(
        "{0:?} is an IPNS key and names no content: resolve it first (ipfs name resolve /ipns/<key>), \
         and pin the CID that it points to"
    )]
    IpnsKey(String),
}

/// The codec of a public key, which IPNS names have (<https://github.com/multiformats/multicodec>).
const LIBP2P_KEY: u64 = 0x72;

/// Most bytes of a text. The longest CID takes 173 in base16. Base2 would take more, but is never used for
/// a CID.
const TEXT_LEN_MAX: usize = 256;

/// Longest binary form: version, codec, hash and length of the digest as varints of 1, 10, 10 and 1 bytes,
/// and a digest of 64 bytes.
pub(super) const BYTES_LEN_MAX: usize = 86;

impl Cid {
    /// The binary form, which is the key in all maps and files.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The number of the block's codec (<https://github.com/multiformats/multicodec>).
    #[must_use]
    pub fn codec(&self) -> u64 {
        // Cannot fail: the bytes were written by the same library.
        cid::Cid::try_from(self.as_bytes()).map(|cid| cid.codec()).unwrap_or_default()
    }

    /// The first eight bytes as a number; missing ones are zero. If two heads differ, their order is that
    /// of the CIDs.
    pub(super) fn head(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.bytes;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// A copy of [`Self::as_bytes`].
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }

    /// Reads the binary form.
    ///
    /// # Errors
    /// When the bytes are not exactly one CID.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CidError> {
        let cid = cid::Cid::try_from(bytes).map_err(|e| CidError::new(&hex::encode(bytes), &e))?;
        let cid = Self::from(cid);
        // The reader of `cid` ignores bytes after the CID, but a key must have only one form.
        if cid.as_bytes() == bytes {
            Ok(cid)
        } else {
            Err(CidError::new(&hex::encode(bytes), &"there are bytes left over"))
        }
    }
}

impl CidError {
    fn new(text: &str, reason: &dyn fmt::Display) -> Self {
        Self::Invalid { text: beginning(text), reason: reason.to_string() }
    }
}

fn beginning(text: &str) -> String {
    text.chars().take(80).collect()
}

impl FromStr for Cid {
    type Err = CidError;

    fn from_str(text: &str) -> Result<Self, CidError> {
        if text.len() > TEXT_LEN_MAX {
            return Err(CidError::new(text, &format!("longer than {TEXT_LEN_MAX} characters")));
        }
        // `cid` also accepts "/ipfs/<cid>", which is a path.
        if text.contains('/') {
            return Err(CidError::new(text, &"it is a path; give the CID alone"));
        }
        let cid = cid::Cid::try_from(text).map_err(|e| CidError::new(text, &e))?;
        if cid.codec() == LIBP2P_KEY {
            return Err(CidError::IpnsKey(beginning(text)));
        }
        Ok(cid.into())
    }
}

impl From<cid::Cid> for Cid {
    fn from(cid: cid::Cid) -> Self {
        let mut bytes = [0; BYTES_LEN_MAX];
        // Cannot fail: there is room for the longest form.
        let len = cid.write_bytes(&mut bytes[..]).unwrap_or_default();
        Self { bytes, len: u8::try_from(len).unwrap_or_default() }
    }
}

impl Ord for Cid {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // The heads decide nearly every comparison, and comparing them is quicker.
        let order = self.head().cmp(&other.head());
        order.then_with(|| self.as_bytes().cmp(other.as_bytes()))
    }
}

impl PartialOrd for Cid {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Cannot fail: the bytes were written by the same library.
        cid::Cid::try_from(self.as_bytes()).map_err(|_| fmt::Error)?.fmt(f)
    }
}

impl fmt::Debug for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// In JSON, as text.
impl Serialize for Cid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The binary form as a byte string.
impl<C> Encode<C> for Cid {
    fn encode<W: encode::Write>(
        &self,
        encoder: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        encoder.bytes(self.as_bytes())?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Cid {
    fn decode(decoder: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        Self::from_bytes(decoder.bytes()?).map_err(decode::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V0: &str = "QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR";

    #[test]
    fn spellings_of_one_cid_are_equal_and_versions_are_not() {
        let base32: Cid =
            "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy".parse().unwrap();
        let base58 = multibase_of(&base32);
        assert_eq!(base58.parse::<Cid>().unwrap(), base32);
        let v0: Cid = V0.parse().unwrap();
        let v1 = Cid::from(cid::Cid::new_v1(0x70, *library(&v0).hash()));
        assert_ne!(v0, v1);
        assert_eq!(v0.to_string(), V0);
    }

    fn library(cid: &Cid) -> cid::Cid {
        cid::Cid::try_from(cid.as_bytes()).unwrap()
    }

    fn multibase_of(cid: &Cid) -> String {
        library(cid).to_string_of_base(cid::multibase::Base::Base58Btc).unwrap()
    }

    #[test]
    fn the_order_is_that_of_the_binary_form() {
        let texts =
            [V0, "bafkqablimvwgy3y", "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"];
        let cids = texts.map(|text| text.parse::<Cid>().unwrap());
        for a in &cids {
            for b in &cids {
                assert_eq!(a.cmp(b), a.to_bytes().cmp(&b.to_bytes()), "{a} {b}");
            }
        }
    }

    #[test]
    fn a_text_that_is_no_cid_is_refused() {
        for text in ["", "hello", "Qm", "/ipfs/QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR"] {
            let error = text.parse::<Cid>().unwrap_err().to_string();
            assert!(error.contains("is not a CID"), "{error}");
        }
        assert!("b".repeat(10_000).parse::<Cid>().unwrap_err().to_string().len() < 300);
    }

    #[test]
    fn an_ipns_key_is_refused_as_text_and_read_as_bytes() {
        let hash = *library(&V0.parse().unwrap()).hash();
        let key = cid::Cid::new_v1(LIBP2P_KEY, hash);
        let text = key.to_string_of_base(cid::multibase::Base::Base36Lower).unwrap();
        for text in [text, key.to_string()] {
            let error = text.parse::<Cid>().unwrap_err();
            assert_eq!(error, CidError::IpnsKey(text));
            assert!(error.to_string().contains("ipfs name resolve"), "{error}");
        }
        // A log or a list may already contain it.
        assert!(Cid::from_bytes(&key.to_bytes()).is_ok());
    }

    #[test]
    fn the_longest_form_has_room() {
        let hash = cid::multihash::Multihash::wrap(u64::MAX, &[7; 64]).unwrap();
        let longest = cid::Cid::new_v1(u64::MAX, hash);
        assert_eq!(longest.to_bytes().len(), BYTES_LEN_MAX);
        assert_eq!(Cid::from(longest).as_bytes(), longest.to_bytes());
    }

    #[test]
    fn binary_form_round_trips_and_refuses_leftovers() {
        let cid: Cid = V0.parse().unwrap();
        let mut bytes = cid.to_bytes();
        assert_eq!(Cid::from_bytes(&bytes), Ok(cid));
        bytes.push(0);
        assert!(Cid::from_bytes(&bytes).is_err());
    }
}
