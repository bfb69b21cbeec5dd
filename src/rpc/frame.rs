//! Frames on a stream between peers.
//!
//! ```text
//! u32 length of what follows │ u64 request id │ u8 kind │ payload (CBOR)
//! ```
//! Integers are big-endian. Kind 0 is a request (an [`Envelope`]), 1 the answer (a [`Response`]) with
//! the request's id. Invariant: a length above the sender's limit is refused before anything is
//! allocated for it.

use std::io;

use futures::{AsyncRead, AsyncReadExt as _};

use minicbor::Encode;

use crate::types::{
    Envelope, Response,
    encoding::{self, EncodingError, Readable},
};

/// Most bytes after the length field: far above a snapshot's piece or a full batch of log entries, yet
/// small enough for several at once.
pub const FRAME_LEN_MAX: usize = 4 * 1024 * 1024;

/// The limit for non-members: far more than a greeting needs.
pub const FRAME_LEN_STRANGER_MAX: usize = 64 * 1024;

/// Bytes of id and kind.
const FIXED_LEN: usize = 9;

/// Bytes reserved before the payload has arrived; the buffer grows with it.
const RESERVE_LEN: usize = 64 * 1024;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An [`Envelope`].
    Request,
    /// A [`Response`].
    Answer,
}

/// A frame whose payload is still to be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The request's id, chosen by the caller.
    pub id: u64,
    /// What the payload is.
    pub kind: Kind,
    /// Encoded with [`encoding`].
    pub payload: Vec<u8>,
}

/// Why reading a stream cannot continue. None of these can be answered.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream broke, or ended inside a frame.
    #[error("the stream broke: {0}")]
    Io(#[from] io::Error),
    /// A length outside the sender's limits.
    #[error("a frame of {len} bytes ({FIXED_LEN} to {most} are allowed)")]
    Length {
        /// The length.
        len: usize,
        /// The limit.
        most: usize,
    },
    /// A kind that does not exist.
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
}

/// Why a message cannot be framed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// It exceeds the largest frame.
    #[error("a message of {0} bytes is too long (at most {FRAME_LEN_MAX})")]
    TooLong(usize),
}

/// Why a payload is not the expected message: damaged, or of a newer version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message that this version does not know ({0})")]
pub struct PayloadError(#[from] EncodingError);

/// Encodes a request as a whole frame.
///
/// # Errors
/// When it is too long.
pub fn encode_request(id: u64, envelope: &Envelope) -> Result<Vec<u8>, EncodeError> {
    encode(id, 0, envelope)
}

/// Encodes an answer as a whole frame.
///
/// # Errors
/// When it is too long.
pub fn encode_answer(id: u64, response: &Response) -> Result<Vec<u8>, EncodeError> {
    encode(id, 1, response)
}

fn encode<T: Encode<()>>(id: u64, kind: u8, message: &T) -> Result<Vec<u8>, EncodeError> {
    let mut frame = vec![0; 4 + FIXED_LEN];
    frame[4..12].copy_from_slice(&id.to_be_bytes());
    frame[12] = kind;
    encoding::append(message, &mut frame);
    let len = frame.len() - 4;
    match u32::try_from(len) {
        Ok(prefix) if len <= FRAME_LEN_MAX => {
            frame[..4].copy_from_slice(&prefix.to_be_bytes());
            Ok(frame)
        }
        _ => Err(EncodeError::TooLong(len)),
    }
}

/// Reads the next frame; none if the stream ended between frames.
///
/// # Errors
/// When the stream broke or does not hold a frame.
pub async fn read<R: AsyncRead + Unpin>(stream: &mut R) -> Result<Option<Frame>, FrameError> {
    read_within(stream, || FRAME_LEN_MAX).await
}

/// [`read`] for a sender with a limit; `most` is called when the next frame begins.
///
/// # Errors
/// As of [`read`].
pub async fn read_within<R: AsyncRead + Unpin>(
    stream: &mut R,
    most: impl FnOnce() -> usize,
) -> Result<Option<Frame>, FrameError> {
    let mut prefix = [0; 4];
    let first = stream.read(&mut prefix).await?;
    if first == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut prefix[first..]).await?;
    let len = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
    let most = most();
    if !(FIXED_LEN..=most).contains(&len) {
        return Err(FrameError::Length { len, most });
    }
    let mut fixed = [0; FIXED_LEN];
    stream.read_exact(&mut fixed).await?;
    let [id @ .., kind] = fixed;
    let kind = match kind {
        0 => Kind::Request,
        1 => Kind::Answer,
        other => return Err(FrameError::Kind(other)),
    };
    let expected = len - FIXED_LEN;
    let mut payload = Vec::with_capacity(expected.min(RESERVE_LEN));
    let read = (&mut *stream).take(expected as u64).read_to_end(&mut payload).await?;
    if read < expected {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(Some(Frame { id: u64::from_be_bytes(id), kind, payload }))
}

/// Decodes a payload.
///
/// # Errors
/// When it is another message, or has trailing bytes.
pub fn decode<T: Readable>(payload: &[u8]) -> Result<T, PayloadError> {
    Ok(encoding::from_slice(payload)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures::executor::block_on;
    use proptest::prelude::*;

    use super::*;
    use crate::types::{
        ClusterId, Lane, LogPosition, PeerId, RaftMessage, Refusal, Request, SnapshotChunk, Vote,
    };

    fn envelope(data: Vec<u8>, term: u64) -> Envelope {
        let vote = Vote { term, candidate: PeerId([3; 32]), committed: true };
        let request = if data.is_empty() {
            let last = Some(LogPosition { term, index: term });
            Request::Raft(RaftMessage::Vote { vote, last, transfer: false })
        } else {
            Request::Snapshot(SnapshotChunk { vote, transfer: 1, offset: 2, data, last: false })
        };
        Envelope { cluster: Some((ClusterId([5; 16]), term)), request }
    }

    fn read_all(mut bytes: &[u8]) -> (Vec<Frame>, Result<(), FrameError>) {
        let mut frames = Vec::new();
        loop {
            match block_on(read(&mut bytes)) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => return (frames, Ok(())),
                Err(error) => return (frames, Err(error)),
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            id: u64, term: u64, data in proptest::collection::vec(any::<u8>(), 0..2000), text: String
        ) {
            let request = envelope(data, term);
            let answer = Response::Refused(Refusal::Invalid(text));
            let mut bytes = encode_request(id, &request).unwrap();
            bytes.extend(encode_answer(id, &answer).unwrap());
            let (frames, end) = read_all(&bytes);
            end.unwrap();
            prop_assert_eq!(frames.len(), 2);
            prop_assert_eq!((frames[0].id, frames[0].kind), (id, Kind::Request));
            prop_assert_eq!((frames[1].id, frames[1].kind), (id, Kind::Answer));
            prop_assert_eq!(decode::<Envelope>(&frames[0].payload).unwrap(), request);
            prop_assert_eq!(decode::<Response>(&frames[1].payload).unwrap(), answer);
        }

        #[test]
        fn any_bytes_are_an_end_or_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..300), len in 0_u8..60
        ) {
            let _ = read_all(&bytes);
            let _ = decode::<Envelope>(&bytes);
            let _ = decode::<Response>(&bytes);
            let mut framed = vec![0, 0, 0, len];
            framed.extend(bytes);
            for frame in read_all(&framed).0 {
                let _ = decode::<Envelope>(&frame.payload);
            }
        }

        #[test]
        fn a_cut_frame_is_an_error(data in proptest::collection::vec(any::<u8>(), 0..200), cut: u16) {
            let bytes = encode_request(1, &envelope(data, 7)).unwrap();
            let cut = usize::from(cut) % bytes.len();
            let (frames, end) = read_all(&bytes[..cut]);
            prop_assert!(frames.is_empty());
            prop_assert_eq!(end.is_err(), cut > 0);
        }

        #[test]
        fn lengths_out_of_range_are_refused(len: u32) {
            let len = len as usize;
            prop_assume!(!(FIXED_LEN..=FRAME_LEN_MAX).contains(&len));
            let bytes = u32::try_from(len).unwrap().to_be_bytes();
            let end = read_all(&bytes).1.unwrap_err();
            let refused = matches!(end, FrameError::Length { len: found, .. } if found == len);
            prop_assert!(refused, "a length that is refused");
        }
    }

    #[test]
    fn a_message_too_long_is_not_sent() {
        let error = encode_request(1, &envelope(vec![0; FRAME_LEN_MAX], 1)).unwrap_err();
        assert!(matches!(error, EncodeError::TooLong(len) if len > FRAME_LEN_MAX));
        assert_eq!(envelope(vec![1], 1).request.lane(), Lane::Bulk);
    }

    #[test]
    fn a_variant_of_a_newer_version_and_leftovers_are_payload_errors() {
        let mut payload = encoding::to_vec(&(0_u8, 200_u8));
        assert!(decode::<Envelope>(&payload).is_err());
        payload = encoding::to_vec(&envelope(Vec::new(), 1));
        payload.push(0);
        assert!(decode::<Envelope>(&payload).unwrap_err().to_string().contains("left over"));
    }
}
