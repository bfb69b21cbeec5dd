//! The deletion guard: how much may be unpinned within an hour because objects are gone, before a person is
//! asked.
//!
//! A CID counts when it loses its last claim because its object is gone, and would be unpinned. It also
//! counts if the object's whole namespace is gone: a pruned namespace is a common accident. Retain, a
//! claim of somebody else and a release by REST do not count. Two rules, both over the last hour and
//! with [`Limits`] that are settings of the leader:
//!
//! - the comparison would take more than 10 and more than 10 % of the CIDs, or at least 2 and with
//!   them the last that there are;
//! - the number of CIDs would fall by more than 100 and more than 25 % below where it was at any moment
//!   of the hour (watched deletions, and what the comparison took). So neither way can be used to get
//!   round the limit of the other.
//!
//! For the second rule a CID that is new makes up for one that was lost before it, never for one that
//! is lost after it: Pins that come and go all the time pass, and a set that is replaced at once waits.
//!
//! *The CIDs* are those that hang on Pins alone, and as many as their number has fallen by: as many as
//! there would be had nothing been lost. So the limit does not shrink with what is taken, and neither
//! content that is pinned by REST or retained, nor what has waited for a person for longer, makes it
//! larger.
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

use minicbor::{Decode, Encode};
use sha2::{Digest as _, Sha256};

use crate::types::{Cid, Timestamp, Uid};

/// The comparison never takes the last CIDs, if it takes at least so many.
const ALL_MIN: u64 = 2;

const MINUTE_MS: u64 = 60_000;
/// Minutes that count beside the present one: bounds the window's size.
const WINDOW_MINUTES: u64 = 60;

/// A limit is exceeded by more than so many CIDs that are also more than so many percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// So many CIDs always pass.
    pub cids: u64,
    /// So many percent of the CIDs always pass.
    pub percent: u64,
}

impl Limit {
    fn is_exceeded(&self, taken: u64, cids: u64) -> bool {
        taken > self.cids && taken.saturating_mul(100) > cids.saturating_mul(self.percent)
    }
}

/// What may go within an hour without a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// What the comparison may take.
    pub compared: Limit,
    /// How far the number of CIDs may fall, whatever took them.
    pub total: Limit,
}

impl Default for Limits {
    fn default() -> Self {
        Self { compared: Limit { cids: 10, percent: 10 }, total: Limit { cids: 100, percent: 25 } }
    }
}

/// How the leader learned that an object is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(index_only)]
pub enum Found {
    /// It watched the deletion.
    #[n(0)]
    Watched,
    /// The object was missing in a list, and proven to be gone.
    #[n(1)]
    Compared,
}

/// What the leader decided on a claim whose object is gone, should it be the content's last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Ruling {
    /// It goes and counts.
    #[n(0)]
    Take(#[n(0)] Found),
    /// It waits for a person, and counts.
    #[n(1)]
    Wait(#[n(0)] Found),
}

/// CIDs that lose their last claim, by how that was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Lost {
    /// By watched deletions.
    #[n(0)]
    pub watched: u64,
    /// By the comparison.
    #[n(1)]
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
}

/// Whether the deletion guard holds.
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Window {
    #[n(0)]
    minutes: BTreeMap<u64, Minute>,
    #[n(1)]
    approvals: u64,
}

/// What was ruled on in one minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
struct Minute {
    /// What the comparison lost, taken or waiting.
    #[n(0)]
    compared: u64,
    /// By all losses.
    #[n(1)]
    all: Fall,
    /// By all but what waits for the sake of the first rule.
    #[n(2)]
    total: Fall,
}

/// How far a number fell in a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
struct Fall {
    /// Less what it rose: from the beginning of the time to its end.
    #[n(0)]
    net: i64,
    /// From its highest in that time to its end.
    #[n(1)]
    drop: u64,
}

impl Fall {
    fn lose(&mut self) {
        self.net = self.net.saturating_add(1);
        self.drop = self.drop.saturating_add(1);
    }

    fn gain(&mut self) {
        self.net = self.net.saturating_sub(1);
        self.drop = self.drop.saturating_sub(1);
    }

    /// In this time and the next together.
    fn and(self, next: Self) -> Self {
        Self {
            net: self.net.saturating_add(next.net),
            drop: self.drop.saturating_add_signed(next.net).max(next.drop),
        }
    }
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
        minute.all.lose();
        if found == Found::Compared {
            minute.compared = minute.compared.saturating_add(1);
        }
        // What waits for the sake of the first rule is not taken, so it is nothing to the second.
        if !waits || found == Found::Watched {
            minute.total.lose();
        }
    }

    /// A CID is new. It makes up for one that was lost before it; its time does not matter then.
    pub(super) fn gain(&mut self) {
        if let Some(mut last) = self.minutes.last_entry() {
            last.get_mut().all.gain();
            last.get_mut().total.gain();
        }
    }

    /// A person has looked at what is there, and agreed: counting begins anew.
    pub(super) fn begin_anew(&mut self) {
        self.minutes.clear();
        self.approvals += 1;
    }

    /// Whether what is about to be lost has to wait.
    pub(super) fn holds(
        &self,
        lost: Lost,
        at_stake: AtStake,
        at: Timestamp,
        limits: &Limits,
    ) -> Holds {
        let from = self.minute(at).saturating_sub(WINDOW_MINUTES);
        let hour = self.minutes.range(from..).fold(Minute::default(), |sum, (_, next)| Minute {
            compared: sum.compared.saturating_add(next.compared),
            all: sum.all.and(next.all),
            total: sum.total.and(next.total),
        });
        let living = at_stake.cids.saturating_sub(at_stake.waiting);
        let cids = living.saturating_add(hour.all.drop);
        let left = living.saturating_sub(lost.watched.saturating_add(lost.compared));
        let compared = hour.compared.saturating_add(lost.compared);
        let too_many_compared = limits.compared.is_exceeded(compared, cids)
            || (lost.compared > 0 && left == 0 && compared >= ALL_MIN);
        let compared_lost = if too_many_compared { 0 } else { lost.compared };
        let total = hour.total.drop.saturating_add(lost.watched).saturating_add(compared_lost);
        let too_many = limits.total.is_exceeded(total, cids);
        Holds { watched: too_many, compared: too_many || too_many_compared }
    }
}

/// Names what waits: exactly these objects, since the last approval. So it is good once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct WaitingDigest(#[cbor(n(0), with = "minicbor::bytes")] [u8; 6]);

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
