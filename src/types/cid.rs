//! Content identifiers.
//!
//! Two spellings of one CID (base32, base58…) are equal; CIDv0 and CIDv1 of the same hash are not,
//! because Kubo keeps a pin for each.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A content identifier (<https://github.com/multiformats/cid>), ordered by its binary form.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cid(cid::Cid);

/// Why a string or bytes are not a CID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a CID: {reason}")]
pub struct CidError {
    text: String,
    reason: String,
}

/// Longest spelling accepted: base2 is never used for a CID, base16 of the longest one is 150.
const TEXT_LEN_MAX: usize = 256;

/// Longest binary form: four varints of at most 10 bytes and a digest of at most 64.
const BYTES_LEN_MAX: usize = 104;

impl Cid {
    fn write_to<'a>(&self, buffer: &'a mut [u8; BYTES_LEN_MAX]) -> &'a [u8] {
        let mut rest = &mut buffer[..];
        // Cannot fail: the buffer is longer than the longest form.
        let written = self.0.write_bytes(&mut rest).unwrap_or_default();
        &buffer[..written]
    }

    /// The binary form, which is the key everywhere.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.to_bytes()
    }

    /// Reads the binary form; refuses bytes left over.
    ///
    /// # Errors
    /// When the bytes are not exactly one CID.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CidError> {
        let cid = cid::Cid::try_from(bytes).map_err(|e| CidError::new(&hex::encode(bytes), &e))?;
        // The reader of `cid` ignores what follows; a key must have one spelling only.
        if cid.to_bytes() == bytes {
            Ok(Self(cid))
        } else {
            Err(CidError::new(&hex::encode(bytes), &"there are bytes left over"))
        }
    }
}

impl CidError {
    fn new(text: &str, reason: &dyn fmt::Display) -> Self {
        let text = text.chars().take(80).collect();
        Self { text, reason: reason.to_string() }
    }
}

impl FromStr for Cid {
    type Err = CidError;

    fn from_str(text: &str) -> Result<Self, CidError> {
        if text.len() > TEXT_LEN_MAX {
            return Err(CidError::new(text, &format!("longer than {TEXT_LEN_MAX} characters")));
        }
        // `cid` also takes "/ipfs/<cid>"; a CID is asked for, so a path is refused.
        if text.contains('/') {
            return Err(CidError::new(text, &"it is a path; give the CID alone"));
        }
        cid::Cid::try_from(text).map(Self).map_err(|e| CidError::new(text, &e))
    }
}

impl From<cid::Cid> for Cid {
    fn from(cid: cid::Cid) -> Self {
        Self(cid)
    }
}

impl Ord for Cid {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // Maps of a million CIDs compare all the time: no allocation here.
        let (mut a, mut b) = ([0; BYTES_LEN_MAX], [0; BYTES_LEN_MAX]);
        self.write_to(&mut a).cmp(other.write_to(&mut b))
    }
}

impl PartialOrd for Cid {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Cid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(&self.to_bytes())
        }
    }
}

impl<'de> Deserialize<'de> for Cid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
        } else {
            let bytes = <&[u8]>::deserialize(deserializer)?;
            Self::from_bytes(bytes).map_err(de::Error::custom)
        }
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
        let v1 = Cid(cid::Cid::new_v1(0x70, *v0.0.hash()));
        assert_ne!(v0, v1);
        assert_eq!(v0.to_string(), V0);
    }

    fn multibase_of(cid: &Cid) -> String {
        cid.0.to_string_of_base(cid::multibase::Base::Base58Btc).unwrap()
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
    fn what_is_not_a_cid_is_refused_with_its_text() {
        for text in ["", "hello", "Qm", "/ipfs/QmbWqxBEKC3P8tqsKc98xmWNzrzDtRLMiMPL8wBuTGsMnR"] {
            let error = text.parse::<Cid>().unwrap_err().to_string();
            assert!(error.contains("is not a CID"), "{error}");
        }
        assert!("b".repeat(10_000).parse::<Cid>().unwrap_err().to_string().len() < 300);
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
