//! Every input that a peer receives from other programs, disks, daemons and people, as functions of
//! arbitrary bytes: each reads the bytes as one kind of input. Invalid input must be refused; valid
//! input must be unchanged after encoding and decoding. Any violation panics here.
//!
//! `make test` calls them with some bytes; `make fuzz` searches for inputs that violate this (`fuzz/`).

#![allow(clippy::unwrap_used, reason = "a failure is what is looked for")]

use std::path::Path;

use futures::executor::block_on;

use crate::{
    config::{KEYS, PeerOptions},
    consensus, identity,
    ipfs::kubo,
    rest,
    rpc::frame,
    tracker::LedgerEntry,
    types::{Cid, CidError, Envelope, PeerId, RaftMessage, Request, Response},
};

/// Reads bytes as one kind of input; returns how many valid ones they contain.
pub type Input = fn(&[u8]) -> usize;

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

/// Calls the input with that name.
///
/// # Panics
/// When there is none, or the bytes reveal a defect.
pub fn call(name: &str, bytes: &[u8]) {
    taken(name, bytes);
}

fn taken(name: &str, bytes: &[u8]) -> usize {
    let input = INPUTS.iter().find(|(known, _)| *known == name).map(|(_, input)| *input);
    input.unwrap()(bytes)
}

/// A stream from another peer, and a single message.
fn frames(bytes: &[u8]) -> usize {
    let (mut stream, mut taken) = (bytes, 0);
    while let Ok(Some(frame)) = block_on(frame::read(&mut stream)) {
        assert!(frame.payload.len() <= frame::FRAME_LEN_MAX);
        taken += message(&frame.payload);
    }
    taken + message(bytes)
}

fn message(payload: &[u8]) -> usize {
    let envelope = frame::decode::<Envelope>(payload);
    let response = frame::decode::<Response>(payload);
    let taken = usize::from(envelope.is_ok()) + usize::from(response.is_ok());
    if let Ok(envelope) = envelope {
        let written = frame::encode_request(7, &envelope).unwrap();
        let read = block_on(frame::read(&mut &written[..])).unwrap().unwrap();
        assert_eq!(frame::decode::<Envelope>(&read.payload).unwrap(), envelope);
        if let Request::Raft(RaftMessage::Append(append)) = envelope.request {
            append.entries.into_iter().for_each(consensus::fuzzing::entry);
        }
    }
    if let Ok(response) = response {
        let written = frame::encode_answer(7, &response).unwrap();
        let read = block_on(frame::read(&mut &written[..])).unwrap().unwrap();
        assert_eq!(frame::decode::<Response>(&read.payload).unwrap(), response);
    }
    taken
}

/// An entry of the ledger.
fn ledger(bytes: &[u8]) -> usize {
    let Some(entry) = LedgerEntry::decode(bytes) else { return 0 };
    assert_eq!(entry.encode(), bytes);
    1
}

/// CIDs and peer IDs, as bytes and as text.
fn ids(bytes: &[u8]) -> usize {
    let mut taken = 0;
    if let Ok(cid) = Cid::from_bytes(bytes) {
        assert_eq!(cid.to_bytes(), bytes);
        match cid.to_string().parse::<Cid>() {
            // Only as text: a log or a list may have it.
            Err(CidError::IpnsKey(_)) => {}
            parsed => assert_eq!(parsed, Ok(cid)),
        }
        taken += 1;
    }
    if let Ok(peer) = PeerId::from_bytes(bytes) {
        assert_eq!(peer.to_bytes(), bytes);
        taken += 1;
    }
    let Ok(text) = str::from_utf8(bytes) else { return taken };
    if let Ok(cid) = text.parse::<Cid>() {
        assert_eq!(Cid::from_bytes(&cid.to_bytes()), Ok(cid));
        assert_eq!(cid.cmp(&cid), std::cmp::Ordering::Equal);
        taken += 1;
    }
    if let Ok(peer) = text.parse::<PeerId>() {
        assert_eq!(peer.to_string().parse(), Ok(peer));
        taken += 1;
    }
    taken
}

/// A request of an HTTP client.
fn url(bytes: &[u8]) -> usize {
    str::from_utf8(bytes).map_or(0, rest::fuzzing::url)
}

/// The configuration file, each of its keys as a flag or variable, and the identity file. Errors must
/// be one line.
fn settings(bytes: &[u8]) -> usize {
    let Ok(text) = str::from_utf8(bytes) else { return 0 };
    let identity = identity::parse(text);
    let file = PeerOptions::from_yaml(Path::new("peer.yaml"), text);
    let variables = KEYS.iter().map(|key| PeerOptions::from_text(key, text, "PINKEEPER_KEY"));
    let mut taken = usize::from(identity.is_ok());
    for read in [file].into_iter().chain(variables) {
        match read {
            Ok(_) => taken += 1,
            Err(error) => assert_eq!(error.to_string().lines().count(), 1, "{error}"),
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;
    use crate::{
        tracker::ledger::Origin,
        types::{Question as _, ReadIndex, Timestamp},
    };

    /// Valid inputs of every kind, with the name of the function that takes them. Each function is also
    /// given those of the others.
    fn sound() -> Vec<(&'static str, Vec<u8>)> {
        let stored = ["log", "log", "log", "state", "state", "state", "snapshot"];
        let mut sound: Vec<_> = stored.into_iter().zip(consensus::fuzzing::samples()).collect();
        sound.extend(rest::fuzzing::samples().into_iter().map(|sample| ("bulk", sample)));
        let answers = kubo::fuzzing::samples().into_iter().filter(|(is_sound, _)| *is_sound);
        sound.extend(answers.map(|(_, sample)| ("kubo", sample)));
        let envelope = Envelope { cluster: None, request: ReadIndex.into_request() };
        sound.push(("frames", frame::encode_request(1, &envelope).unwrap()));
        sound.push(("frames", frame::encode_answer(1, &Response::Position(Some(5))).unwrap()));
        for origin in [Origin::Ours, Origin::Foreign, Origin::Former] {
            let entry = LedgerEntry { origin, since: Timestamp(9) };
            sound.push(("ledger", entry.encode().to_vec()));
        }
        let texts = [
            (
                "url",
                "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi?replication-min=1&name=a",
            ),
            ("ids", "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKPbdG"),
            ("ids", "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"),
            (
                "settings",
                "name: a\nlisten: [/ip4/127.0.0.1/tcp/0]\ntags: {zone: a}\npin_stall_timeout: 90s\n",
            ),
            ("url", "?local=true&filter=pinned,error&cids="),
            ("settings", "/ip4/127.0.0.1/tcp/9096,/dns4/a.example/tcp/1"),
            ("settings", "zone=a,disk=ssd"),
        ];
        sound.extend(texts.map(|(name, text)| (name, text.as_bytes().to_vec())));
        sound
    }

    /// These and some others as a starting point.
    fn samples() -> Vec<Vec<u8>> {
        let mut samples: Vec<Vec<u8>> = sound().into_iter().map(|(_, sample)| sample).collect();
        samples.extend(kubo::fuzzing::samples().into_iter().map(|(_, sample)| sample));
        samples.push(vec![1, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        // Found by fuzzing: a log filter on which its parser panics.
        samples.push(" 0\u{d46}=".as_bytes().to_vec());
        samples
    }

    /// Passes bytes to each input.
    fn all(bytes: &[u8]) {
        for (_, input) in INPUTS {
            input(bytes);
        }
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
        for (name, sample) in sound() {
            let text = String::from_utf8_lossy(&sample);
            assert!(taken(name, &sample) > 0, "{name} refuses {text:?}");
        }
        let kinds: BTreeSet<&str> = sound().into_iter().map(|(name, _)| name).collect();
        assert_eq!(kinds, BTreeSet::from(INPUTS.map(|(name, _)| name)));
    }

    #[test]
    fn no_input_fails_at_those_of_the_others() {
        for sample in samples() {
            all(&sample);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_input_or_refused(bytes in vec(any::<u8>(), 0..300)) {
            all(&bytes);
        }

        #[test]
        fn any_text_is_an_input_or_refused(text: String) {
            all(text.as_bytes());
        }

        #[test]
        fn an_input_changed_anywhere_is_one_or_refused(
            at: Index, changes in vec(change(), 1..4)
        ) {
            let samples = samples();
            let bytes = changed(samples[at.index(samples.len())].clone(), changes);
            all(&bytes);
        }
    }
}
