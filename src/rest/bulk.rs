//! `POST /pins` with NDJSON: many pins in one request, one per line.
//!
//! Each line is answered by one line, in order, while the request is still being read; lines that
//! arrive together are pinned together. Invariants:
//! - An invalid line gets its own error and does not affect others.
//! - At most [`GROUPS_MAX`] groups wait for their answers; beyond that nothing is read, which slows
//!   down a client that does not read its answers.
//! - If a client goes away, the request ends once an answer cannot be written.

use std::{fmt, io, pin::pin};

use axum::{
    body::{Body, BodyDataStream, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures::{Stream, StreamExt as _, stream};
use serde::{Deserialize, Serialize, de};

use super::{Api, error::ApiError, pins::Given, query::Parameters, view::write_line};
use crate::types::{Cid, PinRequest, Replication, Write};

/// The content type of request and answer.
const NDJSON: &str = "application/x-ndjson";
/// Most groups of lines that wait for their answers: one is gathered while others are written.
pub(super) const GROUPS_MAX: usize = 4;
/// Approximate length of an answer in bytes.
const ANSWER_LEN: usize = 100;
/// Longest line in bytes: room for the longest name, escaped.
pub(super) const LINE_LEN_MAX: usize = 16 * 1024;

pub(super) async fn pin_all(
    State(api): State<Api>,
    headers: HeaderMap,
    Given(given): Given,
    body: Body,
) -> Result<Response, ApiError> {
    given.none()?;
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case(NDJSON) {
        let message = format!("the content type is {kind:?}; it must be {NDJSON}");
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let answers = Lines::new(body)
        .stream()
        .ready_chunks(Write::BATCH_LEN_MAX)
        .map(move |lines| pin_group(api.clone(), lines))
        .buffered(GROUPS_MAX);
    Ok(([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(answers)).into_response())
}

/// The result of one line.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    pub(super) line: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cid: Option<Cid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<ApiError>,
}

/// An acknowledged pin is answered with its CID, another with an error. An incomplete request breaks
/// the answer off.
async fn pin_group(api: Api, lines: Vec<io::Result<(u64, Line)>>) -> io::Result<Bytes> {
    let mut requests = Vec::with_capacity(lines.len());
    let mut answers = Vec::with_capacity(lines.len());
    for line in lines {
        let (line, content) = line?;
        let answer = match parse(content, api.replication) {
            Ok(request) => {
                requests.push(request.clone());
                Answer { line, cid: Some(request.cid), error: None }
            }
            Err(error) => Answer { line, cid: None, error: Some(error) },
        };
        answers.push(answer);
    }
    let pinned = api.source.pin_all(requests).await;
    let asked = answers.iter_mut().filter(|answer| answer.cid.is_some());
    for (answer, pinned) in asked.zip(pinned) {
        if let Err(error) = pinned {
            (answer.cid, answer.error) = (None, Some(error.into()));
        }
    }
    let mut text = Vec::with_capacity(answers.len() * ANSWER_LEN);
    for answer in answers {
        write_line(&mut text, &answer)?;
    }
    Ok(text.into())
}

/// The request of a line; `default` applies to missing values.
pub(super) fn parse(line: Line, default: Replication) -> Result<PinRequest, ApiError> {
    let Line::Whole(text) = line else {
        return Err(ApiError::bad_request(format!("the line is longer than {LINE_LEN_MAX} bytes")));
    };
    let Fields(fields) = serde_json::from_slice(&text).map_err(|error| {
        ApiError::bad_request(format!("the line is not a JSON object: {error}"))
    })?;
    let mut given = Parameters::new(fields)?;
    let cid = given.take_cid()?;
    Ok(PinRequest { cid, options: given.pin(default)? })
}

/// A line's fields, named like the query parameters of a single pin.
struct Fields(Vec<(String, String)>);

/// A field's value: a text or a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Value {
    Text(String),
    Number(i64),
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts and numbers")
            }

            // Keeps repeated fields too: they are refused later, as in a query.
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some((name, value)) = map.next_entry()? {
                    let value = match value {
                        Value::Text(text) => text,
                        Value::Number(number) => number.to_string(),
                    };
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Visitor)
    }
}

/// A line of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Whole(Vec<u8>),
    /// More than [`LINE_LEN_MAX`]; its content was dropped.
    TooLong,
}

/// The lines of a body, numbered from 1, without blank ones.
pub(super) struct Lines {
    body: BodyDataStream,
    /// Received bytes that were not yet examined.
    piece: Bytes,
    /// The start of an unfinished line; none when it is too long.
    begun: Option<Vec<u8>>,
    number: u64,
    over: bool,
}

impl Lines {
    pub(super) fn new(body: Body) -> Self {
        let body = body.into_data_stream();
        Self { body, piece: Bytes::new(), begun: Some(Vec::new()), number: 0, over: false }
    }

    pub(super) fn stream(self) -> impl Stream<Item = io::Result<(u64, Line)>> {
        stream::unfold(self, |mut lines| async move {
            let next = lines.next().await.transpose()?;
            lines.over |= next.is_err();
            Some((next, lines))
        })
    }

    async fn next(&mut self) -> io::Result<Option<(u64, Line)>> {
        loop {
            while let Some(end) = self.piece.iter().position(|byte| *byte == b'\n') {
                let rest = self.piece.split_to(end + 1);
                self.append(&rest[..end]);
                if let Some(line) = self.finish() {
                    return Ok(Some(line));
                }
            }
            if self.over {
                return Ok(None);
            }
            let rest = std::mem::take(&mut self.piece);
            self.append(&rest);
            match pin!(&mut self.body).next().await {
                Some(piece) => self.piece = piece.map_err(io::Error::other)?,
                None => {
                    self.over = true;
                    if let Some(line) = self.finish() {
                        return Ok(Some(line));
                    }
                }
            }
        }
    }

    fn append(&mut self, bytes: &[u8]) {
        self.begun = self.begun.take().filter(|line| line.len() + bytes.len() <= LINE_LEN_MAX);
        if let Some(line) = &mut self.begun {
            line.extend_from_slice(bytes);
        }
    }

    fn finish(&mut self) -> Option<(u64, Line)> {
        self.number += 1;
        let line = match self.begun.replace(Vec::new()) {
            Some(line) if line.iter().all(u8::is_ascii_whitespace) => return None,
            Some(line) => Line::Whole(line),
            None => Line::TooLong,
        };
        Some((self.number, line))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    async fn lines(pieces: &[&[u8]]) -> Vec<(u64, Line)> {
        let pieces: Vec<io::Result<Bytes>> =
            pieces.iter().map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let lines = Lines::new(Body::from_stream(stream::iter(pieces))).stream();
        lines.map(Result::unwrap).collect().await
    }

    fn whole(number: u64, text: &str) -> (u64, Line) {
        (number, Line::Whole(text.as_bytes().to_vec()))
    }

    #[tokio::test]
    async fn lines_are_whole_however_they_arrive() {
        let expected = [whole(1, "one"), whole(3, "three"), whole(4, "four")];
        let text = b"one\n\nthree\nfour";
        assert_eq!(lines(&[text]).await, expected);
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(lines(&bytes).await, expected);
        assert!(lines(&[]).await.is_empty() && lines(&[b"\n \n"]).await.is_empty());
    }

    #[tokio::test]
    async fn a_line_too_long_is_left_out_and_the_next_is_whole() {
        let longest = "x".repeat(LINE_LEN_MAX);
        let text = format!("{longest}\n{longest}x\nb\n{longest}xx");
        for len in [1000, text.len()] {
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(len).collect();
            let expected =
                [whole(1, &longest), (2, Line::TooLong), whole(3, "b"), (4, Line::TooLong)];
            assert_eq!(lines(&pieces).await, expected);
        }
    }
}
