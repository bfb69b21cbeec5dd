//! Input of HTTP clients to the REST API, for [`crate::fuzzing`].

#![allow(clippy::unwrap_used, reason = "a failure is what is looked for")]

use std::io;

use axum::{
    body::{Body, Bytes},
    extract::Query,
    http::Uri,
};
use futures::{TryStreamExt as _, executor::block_on, stream};
use serde_json::Value;

use super::{
    bulk::{Answer, LINE_LEN_MAX, Line, Lines, parse},
    query::{Parameters, parse_cid},
    view::write_line,
};
use crate::types::{Factor, PinRequest, Replication};

/// The part of a URL under a client's control: `{cid}?{parameters}`.
pub(crate) fn url(text: &str) -> usize {
    let Ok(uri) = format!("/pins/{text}").parse::<Uri>() else { return 0 };
    if let Some(name) = uri.path().rsplit('/').next() {
        let _ = parse_cid(name);
    }
    let pairs = || Query::<Vec<(String, String)>>::try_from_uri(&uri).map(|Query(pairs)| pairs);
    let Ok(given) = pairs() else { return 0 };
    let parameters = || Parameters::new(given.clone());
    let mut taken = usize::from(parameters().and_then(Parameters::list).is_ok());
    taken += usize::from(parameters().and_then(Parameters::local_only).is_ok());
    taken += usize::from(parameters().and_then(Parameters::none).is_ok());
    let default = Replication { min: Factor::Everywhere, max: Factor::Everywhere };
    if let Ok(options) = parameters().and_then(|parameters| parameters.pin(default)) {
        assert!(options.replication.min <= options.replication.max, "{text}: {options:?}");
        taken += 1;
    }
    taken
}

/// The body of `POST /pins`, cut into pieces. The first byte says how, and how often the rest is
/// repeated, so that lines exceed the limit.
pub(crate) fn bulk(bytes: &[u8]) -> usize {
    let Some((&how, bytes)) = bytes.split_first() else { return 0 };
    let body = bytes.repeat(1 + usize::from(how >> 2));
    let piece_len = [1, 7, 512, body.len().max(1)][usize::from(how & 3)];
    let pieces = body.chunks(piece_len).map(|piece| io::Result::Ok(Bytes::copy_from_slice(piece)));
    let pieces = Body::from_stream(stream::iter(pieces.collect::<Vec<_>>()));
    let lines: Vec<(u64, Line)> = block_on(Lines::new(pieces).stream().try_collect()).unwrap();
    assert_eq!(lines, lines_of(&body));
    lines.into_iter().map(|(number, line)| usize::from(answer(number, line))).sum()
}

/// The lines of a body, wherever it is cut.
fn lines_of(body: &[u8]) -> Vec<(u64, Line)> {
    let line = |(number, text): (u64, &[u8])| match text {
        _ if text.len() > LINE_LEN_MAX => Some((number, Line::TooLong)),
        _ if text.iter().all(u8::is_ascii_whitespace) => None,
        _ => Some((number, Line::Whole(text.to_vec()))),
    };
    (1..).zip(body.split(|byte| *byte == b'\n')).filter_map(line).collect()
}

/// Every line has an answer of one line, of proportionate length and with the CID. Returns whether the
/// line asks for a pin.
fn answer(line: u64, content: Line) -> bool {
    let default = Replication { min: Factor::Everywhere, max: Factor::Everywhere };
    let too_long = content == Line::TooLong;
    let (cid, error) = match parse(content, default) {
        Ok(PinRequest { cid, options }) => {
            assert!(!too_long && options.replication.min <= options.replication.max, "{options:?}");
            (Some(cid), None)
        }
        Err(error) => (None, Some(error)),
    };
    let (mut text, asks) = (Vec::new(), error.is_none());
    write_line(&mut text, &Answer { line, cid, error }).unwrap();
    assert_eq!(text.iter().position(|byte| *byte == b'\n'), Some(text.len() - 1));
    assert!(text.len() < 8 * LINE_LEN_MAX);
    let again: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(again["line"], line);
    assert_eq!(again["cid"].as_str().map(|text| text.parse().unwrap()), cid);
    asks
}

/// A valid body.
#[cfg(test)]
pub(crate) fn samples() -> Vec<Vec<u8>> {
    let cid = "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi";
    let lines = format!(
        "{{\"cid\":\"{cid}\",\"replication-min\":\"1\",\"replication\\u002dmax\":-1}}\r\n\n\
         {{\"name\":\"a\\nb\",\"cid\":\"{cid}\",\"mode\":\"recursive\"}}\n{{\"cid\":\"{cid}\"}}"
    );
    [0_u8, 3, 0xFE].map(|how| [&[how], lines.as_bytes()].concat()).to_vec()
}

#[cfg(test)]
#[test]
fn samples_have_lines_that_ask_for_something() {
    let default = Replication { min: Factor::Everywhere, max: Factor::Everywhere };
    for sample in samples() {
        let lines = lines_of(&sample[1..]);
        assert_eq!(lines.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 3, 4]);
        assert!(lines.into_iter().all(|(_, line)| parse(line, default).is_ok()));
    }
}
