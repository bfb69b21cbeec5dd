//! The words every part shares: identities, pins, statuses and the messages between peers.
//!
//! Invariant: plain data only. Nothing here does I/O, reads a clock or draws randomness, and nothing
//! here imports another module of this crate.

mod bounds;
mod bytes;
mod cid;
mod cid_map;
mod claims;
mod garbage;
mod message;
mod peer;
mod pin;
mod status;
mod time;

pub use self::{
    bounds::{ADDRESSES_MAX, TooMuch},
    cid::{Cid, CidError},
    cid_map::{CidMap, PackedCid},
    claims::Claims,
    garbage::{CollectResult, Collected, Collections, Garbage, Run},
    message::{
        Append, AppendReply, CallerPolicy, Entry, EntryBody, Envelope, Hello, HelloReply, Lane,
        LogPosition, Metrics, PinRequest, RaftMessage, RaftReply, Refusal, Request, Response,
        SnapshotChunk, SpaceLimit, StatusBatch, StatusReply, Vote, Write,
    },
    peer::{ClusterId, DaemonInfo, Member, PeerId, PeerIdError},
    pin::{Allocation, Claim, ClaimOptions, Factor, Owner, Pin, Replication, Uid},
    status::{PinState, PinStatus, Progress},
    time::{Timestamp, millis},
};
