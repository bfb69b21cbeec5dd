//! The bytes of every stored record and message, compared with those that were written before; compiled
//! for tests only.
//!
//! `tests/baseline.txt` has a line for each form that was ever in use: its kind, and the bytes in
//! hexadecimal. Lines are only ever added. Each is still read, and of each kind the last one is what is
//! written now. `PINKEEPER_GENERATE=1` adds the lines of new forms.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use crate::{
    consensus,
    state::{Away, Beside, Fence, Found, Op, Page, PinSet, Ruling},
    types::{
        Allocation, Append, AppendReply, Cid, Claim, ClaimName, ClaimOptions, ClusterId,
        ConfirmNow, DaemonInfo, Depart, Entry, EntryBody, Envelope, FIRST_LEVEL, Factor,
        GcProgress, GcReport, GcState, Hello, HelloReply, LogPosition, Member, Metrics,
        MetricsReply, ObjectKey, OnePin, Owner, PeerId, Pin, PinEntry, PinRequest, PinState,
        PinStatus, PinsAfter, Question, RaftMessage, RaftReply, ReadIndex, Refusal, Replication,
        Request, Response, Run, RunGc, RunGcHere, SnapshotChunk, SnapshotReply, SpaceLimit,
        StatusBatch, StatusReply, Timestamp, Uid, Vote, Write, Writes, encoding,
    },
};

/// A kind of record or message: what is written now, and whether bytes are read as one.
struct Sample {
    kind: &'static str,
    bytes: Vec<u8>,
    reads: Reads,
}

type Reads = fn(&[u8]) -> bool;

fn sample<T: minicbor::Encode<()> + encoding::Readable>(kind: &'static str, value: &T) -> Sample {
    let reads = |bytes: &[u8]| encoding::from_slice::<T>(bytes).is_ok();
    Sample { kind, bytes: encoding::to_vec(value), reads }
}

const AT: LogPosition = LogPosition { term: 3, index: 500 };
const VOTE: Vote = Vote { term: 3, candidate: PeerId([2; 32]), committed: true };
const RUN: Run = Run { ticket: u64::MAX, begin: true };

fn cid() -> Cid {
    "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy".parse().unwrap()
}

fn uid() -> Uid {
    Uid("0b0c4b5e-6b1a-4c0e-9a53-1f0a4b7c2d3e".to_owned())
}

fn options(name: ClaimName) -> ClaimOptions {
    let replication = Replication { min: Factor::Count(2), max: Factor::Everywhere };
    ClaimOptions { replication, retain: true, name }
}

fn key() -> ClaimName {
    let (namespace, name) = ("web".to_owned(), "docs".to_owned());
    ClaimName::Object(Box::new(ObjectKey { namespace, name }))
}

fn pin() -> Pin {
    let claim = |name| Claim { options: options(name), generation: 4, since: Timestamp(1) };
    let owners = [Owner::Object(uid()), Owner::Rest, Owner::Retained, Owner::Waiting(uid())];
    let names = [key(), ClaimName::Given("by hand".to_owned()), key(), key()];
    let claims = owners.into_iter().zip(names.map(claim)).collect();
    let allocation = |n, leaving| Allocation { peer: PeerId([n; 32]), leaving, at_entry: 501 };
    let allocations = vec![allocation(1, false), allocation(2, true)];
    Pin { claims, allocations, created: Timestamp(1_700_000_000_000) }
}

fn member() -> Member {
    Member { name: "pod-0".to_owned(), addresses: vec!["/ip4/10.0.0.1/tcp/9096".to_owned()] }
}

fn members() -> BTreeMap<PeerId, Member> {
    [(PeerId([1; 32]), member())].into()
}

fn status(state: PinState) -> PinStatus {
    PinStatus { state, since: Timestamp(2), message: "why".to_owned(), attempts: 3 }
}

fn ops() -> Vec<Op> {
    let (cid, at, fence) = (cid(), Timestamp(5), Fence { term: 3, generation: -1 });
    let peers = || vec![PeerId([1; 32]), PeerId([2; 32])];
    let owner = || Owner::Object(uid());
    let gone = |ruling| Op::Gone { cid, uid: uid(), ruling, at, fence };
    let mut pins = PinSet::default();
    let claim = Op::Claim {
        cid,
        owner: owner(),
        options: options(key()),
        candidates: peers(),
        at,
        fence: Some(fence),
    };
    let one = Replication { min: Factor::Count(1), max: Factor::Count(1) };
    let only = ClaimOptions { replication: one, retain: false, name: key() };
    let fenced = Some(fence);
    for op in [
        Op::Claim { cid, owner: owner(), options: only, candidates: peers(), at, fence: fenced },
        gone(Ruling::Wait(Found::Compared)),
    ] {
        pins.apply(AT, &op);
    }
    let digest = pins.waiting().unwrap().digest;
    let page = Page { after: None, last: cid };
    let away = Away { seconds: 60, absences: 2, back_seconds: 3, zone: Some("a".to_owned()) };
    vec![
        claim,
        Op::Release { cid, owner: Owner::Rest, at, fence: None },
        Op::Allocate { cid, candidates: peers() },
        Op::Leave { cid, peers: peers() },
        Op::LetGo { cid, peer: PeerId([2; 32]), confirmed: pin().allocations },
        gone(Ruling::Take(Found::Watched)),
        Op::Allow { digest, term: 3 },
        Op::Raise { level: FIRST_LEVEL + 1, term: 3 },
        Op::Transfer { from: PeerId([1; 32]), to: PeerId([2; 32]), page, term: 3 },
        Op::Remove { peer: PeerId([1; 32]), term: 3 },
        Op::Depart { peer: PeerId([2; 32]), departs: true, term: 3, scaled_in: true },
        Op::Move { cid, from: PeerId([1; 32]), candidates: peers() },
        Op::Stay { cid, peer: PeerId([1; 32]) },
        Op::Away { peer: PeerId([2; 32]), away: Some(away), term: 3 },
    ]
}

/// What the state holds beside pins, after it has counted.
fn beside() -> Beside {
    let mut pins = PinSet::default();
    for op in ops() {
        pins.apply(AT, &op);
    }
    pins.beside().clone()
}

fn stored() -> Vec<Sample> {
    let membership =
        EntryBody::Membership { voters: vec![vec![PeerId([1; 32])]], members: members() };
    vec![
        sample("pin", &pin()),
        sample("beside", &beside()),
        sample("ops", &ops()),
        sample("vote", &VOTE),
        sample("binding", &(ClusterId([7; 16]), 2_u64)),
        sample("entry blank", &EntryBody::Blank),
        sample("entry ops", &EntryBody::Ops(vec![1, 2, 3])),
        sample("entry membership", &membership),
    ]
}

/// As they stand in files, with their versions.
fn in_files() -> Vec<Sample> {
    let log = |bytes: &[u8]| consensus::fuzzing::log(bytes) > 0;
    let state = |bytes: &[u8]| consensus::fuzzing::state(bytes) > 0;
    let snapshot = |bytes: &[u8]| consensus::fuzzing::snapshot(bytes) > 0;
    let kinds: [(&str, Reads); 7] = [
        ("file log membership", log),
        ("file log ops", log),
        ("file log vote", log),
        ("file state pin", state),
        ("file state head", state),
        ("file state record", state),
        ("file snapshot", snapshot),
    ];
    let samples = kinds.into_iter().zip(consensus::fuzzing::samples());
    samples.map(|((kind, reads), bytes)| Sample { kind, bytes, reads }).collect()
}

fn metrics() -> Metrics {
    Metrics {
        daemon: Some(DaemonInfo {
            id: "12D3Kubo".to_owned(),
            agent: "kubo/0.43.1".to_owned(),
            addresses: member().addresses,
        }),
        free_space: Some(1 << 40),
        repository_size: None,
        pins: 7,
        pin_queue: 8,
        tags: [("zone".to_owned(), "a".to_owned())].into(),
        version: "0.1.0".to_owned(),
        addresses: member().addresses,
        ttl_ms: 6_000,
        full_percent: Some(70),
        gc: GcState { running: true, unpinned: false, idle_minutes: Some(5) },
        space_limit: Some(SpaceLimit::StorageMax),
        level: FIRST_LEVEL,
    }
}

fn requests() -> Vec<Sample> {
    let hello = Hello {
        member: member(),
        version: "0.1.0".to_owned(),
        daemon: Some("12D3Kubo".to_owned()),
        join: true,
        cluster: Some(ClusterId([7; 16])),
        size: 3,
        members: members(),
        level: FIRST_LEVEL,
    };
    let entries = vec![Entry { id: AT, body: EntryBody::Ops(vec![1, 2, 3]) }];
    let append = Append { vote: VOTE, previous: None, entries, committed: Some(AT) };
    let (data, last) = (vec![9; 5], true);
    let chunk = SnapshotChunk { vote: VOTE, transfer: 6, offset: 7, data, last };
    let statuses = vec![(cid(), Some(status(PinState::Pinned))), (cid(), None)];
    let batch = StatusBatch { stream: 1, sequence: 2, more: true, entries: 501, statuses };
    let name = ClaimName::Given("by hand".to_owned());
    let write = Write::Pin(PinRequest { cid: cid(), options: options(name) });
    let (vote, last, from, to) = (VOTE, Some(AT), VOTE, PeerId([3; 32]));
    let of =
        |kind, request| sample(kind, &Envelope { cluster: Some((ClusterId([7; 16]), 2)), request });
    vec![
        of("request hello", hello.into_request()),
        of("request vote", RaftMessage::Vote { vote, last, transfer: true }.into_request()),
        of("request pre-vote", RaftMessage::PreVote { vote, last }.into_request()),
        of("request append", RaftMessage::Append(append).into_request()),
        of("request transfer", RaftMessage::TransferLeader { from, to, last }.into_request()),
        of("request snapshot", chunk.into_request()),
        of("request statuses", batch.into_request()),
        of("request metrics", metrics().into_request()),
        of("request writes", Writes(vec![write, Write::Unpin(cid())]).into_request()),
        of("request read index", ReadIndex.into_request()),
        of("request one pin", OnePin { cid: cid() }.into_request()),
        of("request pins after", PinsAfter { after: Some(cid()) }.into_request()),
        of("request collect", RunGc { run: RUN, only: Some(to) }.into_request()),
        of("request depart", Depart { peer: to, departs: true, scaled_in: true }.into_request()),
        of("request collect here", Request::RunGcHere(RunGcHere { run: RUN })),
        of("request confirm now", ConfirmNow { cids: vec![cid()] }.into_request()),
    ]
}

fn refusals() -> Vec<Refusal> {
    let text = || "why".to_owned();
    vec![
        Refusal::OtherCluster(Some(ClusterId([7; 16]))),
        Refusal::NotMember,
        Refusal::NotLeader(None),
        Refusal::Invalid(text()),
        Refusal::Failed(text()),
        Refusal::Busy,
        Refusal::DaemonTaken(PeerId([1; 32])),
        Refusal::NotFound,
        Refusal::NotYet(text()),
        Refusal::GcRunning(text()),
        Refusal::TooOld { cluster: 2, program: 1 },
        Refusal::NameTaken(PeerId([1; 32])),
        Refusal::Removed,
    ]
}

fn responses() -> Vec<Sample> {
    let states = [
        PinState::Queued,
        PinState::Pinning,
        PinState::Pinned,
        PinState::NotFound,
        PinState::Failed,
        PinState::Unpinnable,
        PinState::DaemonDown,
        PinState::Unpinning,
        PinState::UnpinFailed,
        PinState::Rechecking,
    ];
    let statuses = (0..).map(|n| PeerId([n; 32])).zip(states.map(status)).collect();
    let entry = PinEntry { cid: cid(), pin: pin(), statuses };
    let hello = HelloReply {
        member: member(),
        version: "0.1.0".to_owned(),
        cluster: Some((ClusterId([7; 16]), 2)),
        leader: Some(PeerId([1; 32])),
        members: members(),
        admitted: true,
    };
    let collected = Ok(GcReport { removed: 9, errors: vec!["why".to_owned()] });
    let daemons = metrics().daemon.map(|daemon| (PeerId([1; 32]), daemon)).into_iter().collect();
    let addresses = [(PeerId([1; 32]), member().addresses)].into();
    let raft = |kind, reply| sample(kind, &Response::Raft(reply));
    let append = |kind, reply| raft(kind, RaftReply::Append(reply));
    let all = [(PeerId([1; 32]), collected.clone()), (PeerId([2; 32]), Err("why".to_owned()))];
    let written = refusals().into_iter().map(Err).chain([Ok(pin())]).collect();
    vec![
        sample("response refused", &Response::Refused(Refusal::Busy)),
        sample("response hello", &Response::Hello(hello)),
        raft("response vote", RaftReply::Vote { vote: VOTE, last: Some(AT), granted: true }),
        append("response append success", AppendReply::Success),
        append("response append partial", AppendReply::Partial(Some(AT))),
        append("response append conflict", AppendReply::Conflict),
        append("response append higher vote", AppendReply::HigherVote(VOTE)),
        raft("response transfer", RaftReply::TransferLeader),
        sample("response snapshot taken", &Response::Snapshot(SnapshotReply::Taken)),
        sample("response snapshot", &Response::Snapshot(SnapshotReply::Installed(VOTE))),
        sample("response statuses taken", &Response::Statuses(StatusReply::Taken)),
        sample("response statuses send all", &Response::Statuses(StatusReply::SendAll)),
        sample("response metrics", &Response::Metrics(MetricsReply { daemons, addresses })),
        sample("response written", &Response::Written(written)),
        sample("response position", &Response::Position(Some(500))),
        sample("response pins", &Response::Pins(vec![entry])),
        sample("response copies", &Response::Copies(9)),
        sample("response held", &Response::Held(vec![cid()])),
        sample("response collecting", &Response::GcHere(GcProgress::Running)),
        sample("response collected here", &Response::GcHere(GcProgress::Ended(collected))),
        sample("response collected", &Response::Gc(GcProgress::Ended(all.into()))),
    ]
}

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/baseline.txt")
}

/// Kind and bytes of each line.
fn lines(text: &str) -> Vec<(&str, Vec<u8>)> {
    let line = |line| {
        let (kind, bytes): (&str, &str) = str::rsplit_once(line, ' ').unwrap();
        (kind, hex::decode(bytes).unwrap())
    };
    text.lines().map(line).collect()
}

#[test]
fn what_was_written_before_is_read_and_what_is_written_is_the_last_of_it() {
    let mut text = std::fs::read_to_string(file()).unwrap_or_default();
    let samples = [stored(), in_files(), requests(), responses()].into_iter().flatten();
    let samples: BTreeMap<&str, Sample> = samples.map(|sample| (sample.kind, sample)).collect();
    let mut last = BTreeMap::new();
    for (kind, bytes) in lines(&text) {
        let sample = samples.get(kind).unwrap_or_else(|| panic!("no sample of {kind}"));
        assert!((sample.reads)(&bytes), "{kind}: {} is not read", hex::encode(&bytes));
        last.insert(kind.to_owned(), bytes);
    }
    let mut is_new = false;
    for (kind, sample) in &samples {
        if last.get(*kind) != Some(&sample.bytes) {
            is_new = true;
            writeln!(text, "{kind} {}", hex::encode(&sample.bytes)).unwrap();
        }
    }
    if is_new && std::env::var_os("PINKEEPER_GENERATE").is_some() {
        std::fs::write(file(), &text).unwrap();
        return;
    }
    let hint =
        "another form is written now: if that is meant, add its lines with PINKEEPER_GENERATE=1";
    assert!(!is_new, "{hint}");
}
