//! A log's contents as plain data, and the requests to it.

use std::{collections::BTreeMap, fmt, io};

use openraft::{RaftLogReader as _, storage::RaftLogStorage as _};
use rand::{RngExt as _, rngs::StdRng};

use super::super::{DiskLog, RaftEntry, entry_in, position_in, position_out, vote_out};
use crate::types::{ClusterId, Entry, EntryBody, LogPosition, Member, PeerId, Vote};

const PEER: PeerId = PeerId([1; 32]);

/// One record.
#[derive(Clone, PartialEq)]
pub(super) enum Record {
    Cluster(u64),
    Vote(Vote),
    Entry(RaftEntry),
    Committed(LogPosition),
    /// The last entry that stays.
    Truncate(Option<LogPosition>),
    Purge(LogPosition),
}

/// The contents of a log.
#[derive(Clone, Default, PartialEq)]
pub(super) struct Contents {
    pub(super) cluster: Option<(ClusterId, u64)>,
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogPosition>,
    pub(super) purged: Option<LogPosition>,
    pub(super) entries: BTreeMap<u64, RaftEntry>,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster(epoch) => write!(f, "epoch {epoch}"),
            Self::Vote(vote) => write!(f, "vote in {}", vote.term),
            Self::Entry(entry) => write!(f, "append {}", entry.log_id),
            Self::Committed(at) => write!(f, "committed {}", position_in(*at)),
            Self::Truncate(kept) => write!(f, "truncate after {:?}", kept.map(|kept| kept.index)),
            Self::Purge(upto) => write!(f, "purge up to {}", position_in(*upto)),
        }
    }
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let index = |at: Option<LogPosition>| at.map(|at| at.index);
        let epoch = self.cluster.map(|(_, epoch)| epoch);
        let vote = self.vote.map(|vote| vote.term);
        write!(f, "epoch {epoch:?}, vote in {vote:?}, committed {:?}, ", index(self.committed))?;
        write!(f, "purged {:?}, entries", index(self.purged))?;
        self.entries.values().try_for_each(|entry| write!(f, " {}", entry.log_id))
    }
}

impl Contents {
    pub(super) async fn of(log: &DiskLog) -> io::Result<Self> {
        let mut log = log.clone();
        let entries = log.try_get_log_entries(..).await?;
        let said = Self {
            cluster: log.cluster()?,
            vote: log.read_vote().await?.map(|vote| vote_out(&vote)),
            committed: log.read_committed().await?.map(position_out),
            purged: log.purged(),
            entries: entries.into_iter().map(|entry| (entry.log_id.index, entry)).collect(),
        };
        if log.last() != said.last() {
            return Err(io::Error::other(format!("its last is {:?}: {said:?}", log.last())));
        }
        Ok(said)
    }

    pub(super) fn last(&self) -> Option<LogPosition> {
        let last = self.entries.last_key_value();
        last.map(|(_, entry)| position_out(entry.log_id)).or(self.purged)
    }

    pub(super) fn next(&self) -> u64 {
        self.last().map_or(0, |last| last.index + 1)
    }

    pub(super) fn apply(&mut self, record: &Record) {
        match record {
            Record::Cluster(epoch) => self.cluster = Some((ClusterId([7; 16]), *epoch)),
            Record::Vote(vote) => self.vote = Some(*vote),
            Record::Committed(at) => self.committed = Some(*at),
            Record::Entry(entry) => drop(self.entries.insert(entry.log_id.index, entry.clone())),
            Record::Truncate(kept) => {
                drop(self.entries.split_off(&kept.map_or(0, |kept| kept.index + 1)));
            }
            Record::Purge(upto) => {
                self.entries = self.entries.split_off(&(upto.index + 1));
                self.purged = Some(*upto);
            }
        }
    }

    /// A request like openraft's, as records. `term` is above all earlier ones.
    pub(super) fn draw(&self, random: &mut StdRng, term: u64) -> Vec<Record> {
        let below = self.committed.max(self.purged);
        let open = || self.entries.values().map(|entry| position_out(entry.log_id));
        let mut open: Vec<_> = open().filter(|at| Some(*at) > below).collect();
        match random.random_range(0..20) {
            0 => vec![Record::Cluster(term)],
            1..4 => {
                let vote = Vote { term, candidate: PEER, committed: random.random_bool(0.5) };
                vec![Record::Vote(vote)]
            }
            4..7 if !open.is_empty() => {
                vec![Record::Committed(open.swap_remove(random.random_range(0..open.len())))]
            }
            7..11 if !open.is_empty() => {
                // Mostly recent entries.
                let kept = open.len() - random.random_range(1..=open.len().min(4));
                let kept = kept.checked_sub(1).map(|at| open[at]);
                vec![Record::Truncate(kept.or(below))]
            }
            11 | 12 if self.committed > self.purged => {
                let committed = self.committed.map_or(0, |at| at.index);
                let entries = self.entries.range(..=committed).map(|(_, entry)| entry.log_id);
                let upto: Vec<_> = entries.map(position_out).collect();
                vec![Record::Purge(upto[random.random_range(0..upto.len())])]
            }
            // A snapshot was installed.
            13 if random.random_bool(0.2) => {
                let index = self.next() + random.random_range(0..3);
                vec![Record::Purge(LogPosition { term, index })]
            }
            _ => (0..random.random_range(1..5))
                .map(|n| Record::Entry(entry(random, LogPosition { term, index: self.next() + n })))
                .collect(),
        }
    }
}

fn entry(random: &mut StdRng, id: LogPosition) -> RaftEntry {
    let body = if random.random_bool(0.3) {
        EntryBody::Blank
    } else {
        let name = "x".repeat(random.random_range(0..200));
        let member = Member { name, addresses: Vec::new() };
        let members = BTreeMap::from([(PEER, member)]);
        EntryBody::Membership { voters: vec![vec![PEER]], members }
    };
    entry_in(Entry { id, body }).expect("one voter that is a member")
}
