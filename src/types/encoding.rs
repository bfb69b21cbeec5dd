//! The form of messages and stored records: CBOR (RFC 8949) with numbered fields.
//!
//! Rules for a type that is sent or stored:
//! - A field and a variant keep their number for ever; a new one takes the next number.
//! - A reader skips fields that it does not know. A new field is an `Option`, or has
//!   `#[cbor(default)]`, so that a record without it can be read.
//! - A reader refuses a variant that it does not know.
//! - An `Option` field must not hold, at any depth, an enum that may get new variants: minicbor's derive
//!   reads an unknown variant there as `None`, and continues at the wrong byte.

use std::convert::Infallible;

use minicbor::{Decoder, Encode, decode, encode};

/// A type that can be read without borrowing from the bytes.
pub trait Readable: for<'b> decode::Decode<'b, ()> {}

impl<T: for<'b> decode::Decode<'b, ()>> Readable for T {}

/// The bytes are not a value of the type: they are damaged, or of a newer version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EncodingError(String);

/// Appends the value's form to `to`.
pub fn append<T: Encode<()>>(value: &T, to: &mut Vec<u8>) {
    write(value, to);
}

fn write<T: Encode<()>>(value: &T, to: impl encode::Write<Error = Infallible>) {
    // Neither the writer nor our encoders fail.
    let _ = encode::Encoder::new(to).encode(value).map(drop);
}

/// The value's form.
#[must_use]
pub fn to_vec<T: Encode<()>>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    append(value, &mut bytes);
    bytes
}

/// Length of the value's form in bytes, without an allocation.
#[must_use]
pub fn len<T: Encode<()>>(value: &T) -> usize {
    let mut counter = Counter(0);
    write(value, &mut counter);
    counter.0
}

/// Reads a value.
///
/// # Errors
/// When the bytes are not exactly one such value.
pub fn from_slice<T: Readable>(bytes: &[u8]) -> Result<T, EncodingError> {
    let mut decoder = Decoder::new(bytes);
    let value = decoder.decode().map_err(|error| EncodingError(error.to_string()))?;
    match bytes.len() - decoder.position() {
        0 => Ok(value),
        left => Err(EncodingError(format!("{left} bytes are left over"))),
    }
}

struct Counter(usize);

impl encode::Write for &mut Counter {
    type Error = Infallible;

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Infallible> {
        self.0 += bytes.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use minicbor::Decode;

    use super::*;

    #[derive(Debug, PartialEq, Encode, Decode)]
    struct Old {
        #[n(0)]
        a: u64,
        #[n(1)]
        b: Option<String>,
    }

    #[derive(Debug, PartialEq, Encode, Decode)]
    struct New {
        #[n(0)]
        a: u64,
        #[n(1)]
        b: Option<String>,
        #[n(2)]
        #[cbor(default)]
        c: Vec<Kind>,
        #[n(3)]
        d: Option<u64>,
    }

    #[derive(Debug, PartialEq, Encode, Decode)]
    enum Kind {
        #[n(0)]
        One(#[n(0)] u8),
        #[n(1)]
        Two {
            #[n(0)]
            x: u8,
        },
    }

    #[derive(Debug, PartialEq, Encode, Decode)]
    enum OldKind {
        #[n(0)]
        One(#[n(0)] u8),
    }

    #[test]
    fn a_reader_skips_new_fields_and_has_a_default_for_missing_ones() {
        let new = New { a: 1, b: None, c: vec![Kind::One(7), Kind::Two { x: 1 }], d: Some(9) };
        assert_eq!(from_slice::<Old>(&to_vec(&new)), Ok(Old { a: 1, b: None }));
        let old = Old { a: 1, b: Some("b".to_owned()) };
        let read = New { a: 1, b: Some("b".to_owned()), c: Vec::new(), d: None };
        assert_eq!(from_slice::<New>(&to_vec(&old)), Ok(read));
    }

    #[test]
    fn an_unknown_variant_a_missing_field_and_leftovers_are_errors() {
        assert_eq!(from_slice(&to_vec(&Kind::One(3))), Ok(OldKind::One(3)));
        assert!(from_slice::<OldKind>(&to_vec(&Kind::Two { x: 3 })).is_err());
        assert!(from_slice::<Old>(&[0x80]).is_err());
        let mut bytes = to_vec(&Kind::One(3));
        bytes.push(0);
        let error = from_slice::<Kind>(&bytes).unwrap_err().to_string();
        assert!(error.contains("1 bytes are left over"), "{error}");
    }

    #[test]
    fn len_is_the_length_of_the_form() {
        let value = New { a: u64::MAX, b: Some("ü".repeat(99)), c: vec![Kind::One(7)], d: None };
        assert_eq!(len(&value), to_vec(&value).len());
    }
}
