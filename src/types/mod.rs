//! The types that all parts share: identities, pins, statuses and the messages between peers.
//!
//! Invariant: plain data only. No code here does I/O, reads a clock, uses randomness or imports another
//! module of this crate.

mod bounds;
mod cid;
mod cid_map;
mod claims;
pub mod encoding;
mod gc;
mod level;
mod message;
mod peer;
mod pin;
mod question;
mod raft;
mod status;
mod time;

pub use self::{
    bounds::{ADDRESSES_MAX, MEMBERS_MAX, TooMuch},
    cid::{Cid, CidError},
    cid_map::{CidMap, PackedCid},
    claims::Claims,
    gc::{GcCounters, GcProgress, GcReport, GcResult, GcResults, GcState, Run},
    level::{FIRST_LEVEL, Program, TooOld},
    message::{
        CallerPolicy, ConfirmNow, Depart, Envelope, Hello, HelloReply, Lane, LeaderRequest,
        Metrics, MetricsReply, OnePin, PinEntry, PinRequest, PinsAfter, ReadIndex, Refusal,
        Request, Response, RunGc, RunGcHere, SpaceLimit, StatusBatch, StatusReply, Write, Writes,
    },
    peer::{ClusterId, DaemonInfo, Member, PeerId, PeerIdError},
    pin::{
        Allocation, Claim, ClaimName, ClaimOptions, Factor, ObjectKey, Owner, Pin, Replication, Uid,
    },
    question::{LeaderQuestion, Question},
    raft::{
        Append, AppendReply, Entry, EntryBody, LogPosition, RaftMessage, RaftReply, SnapshotChunk,
        SnapshotReply, Vote,
    },
    status::{PinState, PinStatus, Progress},
    time::{Timestamp, millis},
};
