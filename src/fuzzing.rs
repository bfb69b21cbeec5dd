//! Everything that strangers, disks, daemons and people can hand a peer, as functions of arbitrary
//! bytes: each reads them as one kind of input. What is no such input must be refused; what is one
//! must come back the same when it is written and read again. Anything else is a panic here.
//!
//! `make test` calls them with some bytes, `make fuzz` searches for worse ones (`fuzz/`).

#![allow(clippy::unwrap_used, reason = "a failure is what is looked for")]

use std::path::Path;

use futures::executor::block_on;

use crate::{
    config::{KEYS, PeerOptions},
    consensus, identity,
    ipfs::kubo,
    rest,
    rpc::frame,
    tracker::Entry,
    types::{Cid, Envelope, PeerId, RaftMessage, Request, Response},
};

/// Reads bytes as one kind of input.
pub type Input = fn(&[u8]);

/// All of them, by the names of the fuzz targets.
pub const INPUTS: [(&str, Input); 10] = [
    ("frames", frames),
    ("log", consensus::fuzzing::log),
    ("state", consensus::fuzzing::state),
    ("snapshot", consensus::fuzzing::snapshot),
    ("ledger", ledger),
    ("ids", ids),
    ("url", url),
    ("bulk", rest::fuzzing::bulk),
    ("kubo", kubo::fuzzing::answers),
    ("settings", settings),
];

/// Calls the input of that name.
///
/// # Panics
/// When there is none, or the bytes show a defect.
pub fn call(name: &str, bytes: &[u8]) {
    let input = INPUTS.iter().find(|(known, _)| *known == name).map(|(_, input)| *input);
    input.unwrap()(bytes);
}

/// A stream from another peer, and one message alone.
fn frames(bytes: &[u8]) {
    let mut stream = bytes;
    while let Ok(Some(frame)) = block_on(frame::read(&mut stream)) {
        assert!(frame.payload.len() <= frame::FRAME_LEN_MAX);
        message(&frame.payload);
    }
    message(bytes);
}

fn message(payload: &[u8]) {
    if let Ok(envelope) = frame::decode::<Envelope>(payload) {
        let written = frame::encode_request(7, &envelope).unwrap();
        let read = block_on(frame::read(&mut &written[..])).unwrap().unwrap();
        assert_eq!(frame::decode::<Envelope>(&read.payload).unwrap(), envelope);
        if let Request::Raft(RaftMessage::Append(append)) = envelope.request {
            append.entries.into_iter().for_each(consensus::fuzzing::entry);
        }
    }
    if let Ok(response) = frame::decode::<Response>(payload) {
        let written = frame::encode_answer(7, &response).unwrap();
        let read = block_on(frame::read(&mut &written[..])).unwrap().unwrap();
        assert_eq!(frame::decode::<Response>(&read.payload).unwrap(), response);
    }
}

/// An entry of the ledger.
fn ledger(bytes: &[u8]) {
    if let Some(entry) = Entry::decode(bytes) {
        assert_eq!(entry.encode(), bytes);
    }
}

/// CIDs and peer IDs, in bytes and in text.
fn ids(bytes: &[u8]) {
    if let Ok(cid) = Cid::from_bytes(bytes) {
        assert_eq!(cid.to_bytes(), bytes);
        assert_eq!(cid.to_string().parse(), Ok(cid));
    }
    if let Ok(peer) = PeerId::from_bytes(bytes) {
        assert_eq!(peer.to_bytes(), bytes);
    }
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Ok(cid) = text.parse::<Cid>() {
        assert_eq!(Cid::from_bytes(&cid.to_bytes()), Ok(cid));
        assert_eq!(cid.cmp(&cid), std::cmp::Ordering::Equal);
    }
    if let Ok(peer) = text.parse::<PeerId>() {
        assert_eq!(peer.to_string().parse(), Ok(peer));
    }
}

/// A request of an HTTP client.
fn url(bytes: &[u8]) {
    if let Ok(text) = str::from_utf8(bytes) {
        rest::fuzzing::url(text);
    }
}

/// The configuration file, each of its keys as a flag or variable, and the identity file. The errors
/// are one line.
fn settings(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let _ = identity::parse(text);
    let file = PeerOptions::from_yaml(Path::new("peer.yaml"), text);
    let variables = KEYS.iter().map(|key| PeerOptions::from_text(key, text, "PINKEEPER_KEY"));
    for error in [file].into_iter().chain(variables).filter_map(Result::err) {
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;

    /// Sound inputs of every kind: each function is also given those of the others.
    fn samples() -> Vec<Vec<u8>> {
        let mut samples = consensus::fuzzing::samples();
        samples.extend(rest::fuzzing::samples());
        samples.extend(kubo::fuzzing::samples());
        let envelope = Envelope { cluster: None, request: Request::ReadIndex };
        samples.push(frame::encode_request(1, &envelope).unwrap());
        samples.push(frame::encode_answer(1, &Response::Position(Some(5))).unwrap());
        samples.push(vec![1, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        let texts = [
            "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi?replication-min=1&name=a",
            "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKPbdG",
            "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp",
            "name: a\nlisten: [/ip4/127.0.0.1/tcp/0]\ntags: {zone: a}\npin_stall_timeout: 90s\n",
            "?local=true&filter=pinned,error&cids=",
            "/ip4/127.0.0.1/tcp/9096,/dns4/a.example/tcp/1",
            "zone=a,disk=ssd",
            // Found: a log filter at which its parser panics.
            " 0\u{d46}=",
        ];
        samples.extend(texts.map(|text| text.as_bytes().to_vec()));
        samples
    }

    #[derive(Clone, Debug)]
    enum Change {
        Flip(Index, u8),
        Cut(Index),
        Insert(Index, Vec<u8>),
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            (any::<Index>(), 1_u8..).prop_map(|(at, bits)| Change::Flip(at, bits)),
            any::<Index>().prop_map(Change::Cut),
            (any::<Index>(), vec(any::<u8>(), 1..8))
                .prop_map(|(at, more)| Change::Insert(at, more)),
        ]
    }

    fn changed(mut bytes: Vec<u8>, changes: Vec<Change>) -> Vec<u8> {
        for change in changes {
            match change {
                Change::Flip(at, bits) if !bytes.is_empty() => {
                    let at = at.index(bytes.len());
                    bytes[at] ^= bits;
                }
                Change::Flip(..) => {}
                Change::Cut(at) => bytes.truncate(at.index(bytes.len() + 1)),
                Change::Insert(at, more) => {
                    let at = at.index(bytes.len() + 1);
                    bytes.splice(at..at, more);
                }
            }
        }
        bytes
    }

    #[test]
    fn sound_inputs_are_taken() {
        for sample in samples() {
            INPUTS.iter().for_each(|(_, input)| input(&sample));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_input_or_refused(bytes in vec(any::<u8>(), 0..300)) {
            INPUTS.iter().for_each(|(_, input)| input(&bytes));
        }

        #[test]
        fn any_text_is_an_input_or_refused(text: String) {
            INPUTS.iter().for_each(|(_, input)| input(text.as_bytes()));
        }

        #[test]
        fn an_input_changed_anywhere_is_one_or_refused(
            at: Index, changes in vec(change(), 1..4)
        ) {
            let samples = samples();
            let bytes = changed(samples[at.index(samples.len())].clone(), changes);
            INPUTS.iter().for_each(|(_, input)| input(&bytes));
        }
    }
}
