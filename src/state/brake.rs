//! The brake: how much may be unpinned within an hour because objects are gone, before a person is
//! asked.
//!
//! What counts is a CID that loses its last claim because its object is gone, and would be unpinned.
//! Retain, a claim of somebody else, a release by REST, and a Pin that went with its whole namespace
//! do not count. Two rules, both over the last hour:
//!
//! - the comparison would take more than 10 and more than 10 % of the CIDs, or at least 2 and with
//!   them the last that there are;
//! - all together (watched deletions, and what the comparison took) would be more than 100 and more
//!   than 25 % of the CIDs. So neither way can be used to get round the limit of the other.
//!
//! *The CIDs* are those that hang on Pins alone, now and those lost within the hour: as many as there
//! would be had nothing been lost. So the limit does not shrink with what is taken, and neither content
//! that is pinned by REST or retained, nor what has waited for a person for longer, makes it larger.
//!
//! Invariants: each CID that is lost counts once, when it is ruled on, also if it has to wait; the
//! leader rules on all that it knows of together, so that a whole set passes or waits; the counts are
//! part of the replicated state, so a new leader or a restart finds no fresh limit.
//!
//! **Time** is the leader's: its wall clock when its leadership begins, never before what is counted
//! already, and from there on the time that has passed, whatever its wall clock does. A clock set back
//! lets counts live until somebody has led for an hour, and no longer. A clock set forward can empty
//! the window at the beginning of a leadership; as time here never goes back, the same wrong clock
//! cannot do so twice within an hour. Nobody can tell such a clock from an operator that was down.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::types::{Cid, Timestamp, Uid};

/// What the comparison may take without a person: CIDs, or percent of them if that is more.
const COMPARED_MAX: Limit = Limit { cids: 10, percent: 10 };
/// What all together may take.
const TOTAL_MAX: Limit = Limit { cids: 100, percent: 25 };
/// The comparison never takes the last CIDs, if it takes at least so many.
const ALL_MIN: u64 = 2;

const MINUTE_MS: u64 = 60_000;
/// Minutes that count beside the present one: bounds the window's size.
const WINDOW_MINUTES: u64 = 60;

struct Limit {
    cids: u64,
    percent: u64,
}

impl Limit {
    fn is_exceeded(&self, taken: u64, cids: u64) -> bool {
        taken > self.cids && taken.saturating_mul(100) > cids.saturating_mul(self.percent)
    }
}

/// How the leader learned that an object is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Found {
    /// It watched the deletion.
    Watched,
    /// The object was missing in a list, and proven to be gone.
    Compared,
}

/// What the leader decided on a claim whose object is gone, should it be the content's last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ruling {
    /// It goes and does not count: the whole namespace has gone.
    Free,
    /// It goes and counts.
    Take(Found),
    /// It waits for a person, and counts.
    Wait(Found),
}

/// CIDs that lose their last claim, by how that was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// By watched deletions.
    pub watched: u64,
    /// By the comparison.
    pub compared: u64,
}

impl Lost {
    /// One more.
    pub fn add(&mut self, found: Found) {
        match found {
            Found::Watched => self.watched += 1,
            Found::Compared => self.compared += 1,
        }
    }

    fn total(self) -> u64 {
        self.watched.saturating_add(self.compared)
    }

    fn plus(self, other: Self) -> Self {
        Self {
            watched: self.watched.saturating_add(other.watched),
            compared: self.compared.saturating_add(other.compared),
        }
    }
}

/// Whether the brake holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holds {
    /// What was lost by watched deletions.
    pub watched: bool,
    /// What was lost by the comparison.
    pub compared: bool,
}

impl Holds {
    /// What is to become of the last claim of a CID.
    #[must_use]
    pub fn ruling(self, found: Found) -> Ruling {
        let holds = match found {
            Found::Watched => self.watched,
            Found::Compared => self.compared,
        };
        if holds { Ruling::Wait(found) } else { Ruling::Take(found) }
    }
}

/// How many CIDs there are to lose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AtStake {
    /// CIDs that hang on Pins alone, waiting ones included.
    pub(super) cids: u64,
    /// Those of them that wait for a person.
    pub(super) waiting: u64,
}

/// What counts, and how often a person has let something go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    minutes: BTreeMap<u64, Minute>,
    approvals: u64,
}

/// What was ruled on in one minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Minute {
    taken: Lost,
    waited: Lost,
}

impl Window {
    /// The time of the last that counts; a leader's time must not be before it.
    #[must_use]
    pub fn latest(&self) -> Timestamp {
        let last = self.minutes.last_key_value().map_or(0, |(minute, _)| *minute);
        Timestamp(last.saturating_mul(MINUTE_MS))
    }

    fn minute(&self, at: Timestamp) -> u64 {
        at.max(self.latest()).0 / MINUTE_MS
    }

    pub(super) fn count(&mut self, at: Timestamp, found: Found, waits: bool) {
        let now = self.minute(at);
        self.minutes = self.minutes.split_off(&now.saturating_sub(WINDOW_MINUTES));
        let minute = self.minutes.entry(now).or_default();
        if waits { minute.waited.add(found) } else { minute.taken.add(found) }
    }

    /// A person has looked at what is there, and agreed: counting begins anew.
    pub(super) fn begin_anew(&mut self) {
        self.minutes.clear();
        self.approvals += 1;
    }

    /// Whether what is about to be lost has to wait.
    pub(super) fn holds(&self, lost: Lost, at_stake: AtStake, at: Timestamp) -> Holds {
        let from = self.minute(at).saturating_sub(WINDOW_MINUTES);
        let (taken, waited) = self
            .minutes
            .range(from..)
            .fold((Lost::default(), Lost::default()), |(taken, waited), (_, minute)| {
                (taken.plus(minute.taken), waited.plus(minute.waited))
            });
        let living = at_stake.cids.saturating_sub(at_stake.waiting);
        // What began to wait earlier does not make the limit larger.
        let waiting = at_stake.waiting.min(waited.total());
        let cids = living.saturating_add(waiting).saturating_add(taken.total());
        let left = living.saturating_sub(lost.total());
        let compared = taken.plus(waited).plus(lost).compared;
        let too_many_compared = COMPARED_MAX.is_exceeded(compared, cids)
            || (lost.compared > 0 && left == 0 && compared >= ALL_MIN);
        // What only the first rule keeps back is not taken, so it is nothing to the second.
        let compared_lost = if too_many_compared { 0 } else { lost.compared };
        let total = taken.total() + waited.watched + lost.watched + compared_lost;
        let too_many = TOTAL_MAX.is_exceeded(total, cids);
        Holds { watched: too_many, compared: too_many || too_many_compared }
    }
}

/// Names what waits: exactly these objects, since the last approval. So it is good once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WaitingDigest([u8; 6]);

impl fmt::Display for WaitingDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for WaitingDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What was put in a digest's place is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not 12 hexadecimal digits")]
pub struct NoDigest;

impl FromStr for WaitingDigest {
    type Err = NoDigest;

    fn from_str(text: &str) -> Result<Self, NoDigest> {
        let mut bytes = [0; 6];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| NoDigest)?;
        Ok(Self(bytes))
    }
}

/// What waits for a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// CIDs that are pinned for gone objects alone.
    pub cids: u64,
    /// Their name, for the approval.
    pub digest: WaitingDigest,
}

/// The objects whose claims wait, with their content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct WaitingSet {
    of: BTreeMap<Uid, Cid>,
    /// The hashes of all UIDs, each xor the others: the same for the same set, and kept up to date
    /// without a look at all of it.
    sum: [u8; 32],
}

impl WaitingSet {
    pub(super) fn insert(&mut self, uid: &Uid, cid: Cid) {
        if self.of.insert(uid.clone(), cid).is_none() {
            self.toggle(uid);
        }
    }

    pub(super) fn remove(&mut self, uid: &Uid) {
        if self.of.remove(uid).is_some() {
            self.toggle(uid);
        }
    }

    fn toggle(&mut self, uid: &Uid) {
        let hash = Sha256::digest(uid.0.as_bytes());
        self.sum.iter_mut().zip(hash).for_each(|(sum, byte)| *sum ^= byte);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Uid, &Cid)> {
        self.of.iter()
    }

    pub(super) fn cids(&self) -> u64 {
        self.of.len() as u64
    }

    pub(super) fn summary(&self, window: &Window) -> Option<Waiting> {
        let cids = self.cids();
        let mut hash = Sha256::new();
        hash.update(self.sum);
        hash.update(cids.to_be_bytes());
        hash.update(window.approvals.to_be_bytes());
        let hash: [u8; 32] = hash.finalize().into();
        let (digest, _) = hash.split_first_chunk()?;
        (cids > 0).then_some(Waiting { cids, digest: WaitingDigest(*digest) })
    }
}

#[cfg(test)]
mod tests;
