//! The deletion guard limits the CIDs that may lose their last Pin within an hour without a person.
//!
//! A CID is lost when its last claim ends because the object was deleted, and the content would be
//! unpinned. Deletions with a whole namespace count too: a pruned namespace is a common accident. A CID is
//! not lost if the claim has Retain, if there are other claims, or if REST released it.
//!
//! Two rules apply, both over the last hour. Their [`Limits`] are settings of the leader. By default:
//!
//! 1. The comparison may not take more than 10 CIDs that are more than 10 %. It may not take the last
//!    CIDs either, if it takes at least 2.
//! 2. The number of CIDs may not fall by more than 100 that are more than 25 %, from its highest value
//!    within the hour. Watched deletions and the CIDs that the comparison took both count. So neither way
//!    evades the limit of the other.
//!
//! For the second rule a new CID makes up for one that was lost before it, and never for one that is lost
//! after it: Pins that come and go all the time pass, and a set that is replaced at once waits.
//!
//! Percentages are of the CIDs that only Pins want, without Retain, and of those that were lost within the
//! hour and not made up for. So a limit does not shrink as CIDs are lost. Content that is retained or
//! pinned by REST, and claims that have waited for longer than the hour, do not make it larger.
//!
//! Invariants:
//! - Each lost CID counts once, when it is ruled on, also if its claim then waits.
//! - The leader rules on all deletions that it knows of together, so that a whole set passes or waits.
//! - The counts are part of the replicated state, so a new leader or a restart does not reset them.
//!
//! **Time** is the leader's. It starts with a leadership, at the wall clock's time or at the last count if
//! that is later, and then follows the monotonic clock. If the wall clock was set back, counts live until
//! a peer has led for an hour. If it was set forward, the window can be empty when a leadership begins.
//! Since this time never goes back, the same wrong clock cannot do that twice within an hour. The guard
//! cannot distinguish such a clock from an operator that was down.

use std::{collections::BTreeMap, fmt, str::FromStr};

use minicbor::{Decode, Encode};
use sha2::{Digest as _, Sha256};

use crate::types::{Cid, Timestamp, Uid};

/// The comparison may not take the last CIDs if it takes at least this many.
const ALL_MIN: u64 = 2;

const MINUTE_MS: u64 = 60_000;
/// Minutes that count besides the current one; bounds the size of the window.
const WINDOW_MINUTES: u64 = 60;

/// A limit is exceeded by a number of CIDs above both values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// This many CIDs always pass.
    pub cids: u64,
    /// This percentage of the CIDs always passes.
    pub percent: u64,
}

impl Limit {
    fn is_exceeded(&self, taken: u64, cids: u64) -> bool {
        taken > self.cids && taken.saturating_mul(100) > cids.saturating_mul(self.percent)
    }
}

/// The CIDs that may be lost within an hour without a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rule 1: CIDs that the comparison may take.
    pub compared: Limit,
    /// Rule 2: how far the number of CIDs may fall.
    pub total: Limit,
}

impl Default for Limits {
    fn default() -> Self {
        Self { compared: Limit { cids: 10, percent: 10 }, total: Limit { cids: 100, percent: 25 } }
    }
}

/// How the leader found a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(index_only)]
pub enum Found {
    /// By its watch.
    #[n(0)]
    Watched,
    /// By the comparison: a list did not contain the object, and a GET proved that it is gone.
    #[n(1)]
    Compared,
}

/// The leader's decision on the claim of a deleted object. It applies only if the end of the claim would
/// unpin the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Ruling {
    /// The claim ends, and the CID counts.
    #[n(0)]
    Take(#[n(0)] Found),
    /// The claim waits for a person, and the CID counts.
    #[n(1)]
    Wait(#[n(0)] Found),
}

/// Numbers of lost CIDs, by how their deletions were found.
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
    /// Counts one more.
    pub fn add(&mut self, found: Found) {
        match found {
            Found::Watched => self.watched += 1,
            Found::Compared => self.compared += 1,
        }
    }
}

/// Whether the deletion guard makes claims wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holds {
    /// Whether watched deletions wait.
    pub watched: bool,
    /// Whether deletions found by the comparison wait.
    pub compared: bool,
}

impl Holds {
    /// The ruling on a last claim.
    #[must_use]
    pub fn ruling(self, found: Found) -> Ruling {
        let holds = match found {
            Found::Watched => self.watched,
            Found::Compared => self.compared,
        };
        if holds { Ruling::Wait(found) } else { Ruling::Take(found) }
    }
}

/// Numbers of the CIDs that can be lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AtStake {
    /// CIDs that only objects want, without Retain; waiting ones included.
    pub(super) cids: u64,
    /// Those of them that wait for a person.
    pub(super) waiting: u64,
}

/// The counts of the last hour by minutes since the epoch, and the number of approvals so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Window {
    #[n(0)]
    minutes: BTreeMap<u64, Minute>,
    #[n(1)]
    approvals: u64,
}

/// The counts of one minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
struct Minute {
    /// CIDs lost by the comparison, waiting ones included.
    #[n(0)]
    compared: u64,
    /// The fall by all losses.
    #[n(1)]
    all: Fall,
    /// The same, without waiting CIDs of the comparison.
    #[n(2)]
    total: Fall,
}

/// How far the number of CIDs fell in a period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
struct Fall {
    /// From the beginning of the period to its end; negative if it rose.
    #[n(0)]
    net: i64,
    /// From the highest value in the period to the value at its end.
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

    /// The fall in this period and the next one together.
    fn and(self, next: Self) -> Self {
        Self {
            net: self.net.saturating_add(next.net),
            drop: self.drop.saturating_add_signed(next.net).max(next.drop),
        }
    }
}

impl Window {
    /// Time of the last count, in whole minutes. A leader's time must not be before it.
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
        // The second rule counts only those CIDs of the comparison that it took.
        if !waits || found == Found::Watched {
            minute.total.lose();
        }
    }

    /// Counts a new CID. Its time does not matter, since it only makes up for earlier losses.
    pub(super) fn gain(&mut self) {
        if let Some(mut last) = self.minutes.last_entry() {
            last.get_mut().all.gain();
            last.get_mut().total.gain();
        }
    }

    /// Clears the counts after an approval: a person has seen the present CIDs.
    pub(super) fn begin_anew(&mut self) {
        self.minutes.clear();
        self.approvals += 1;
    }

    /// Whether the claims of CIDs that are about to be lost must wait.
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

/// Names the waiting claims and the number of approvals so far. So an approval is valid once.
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

/// The text is not a digest.
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

/// The claims that wait for a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Number of CIDs that are pinned only for deleted objects.
    pub cids: u64,
    /// Their digest, for the approval.
    pub digest: WaitingDigest,
}

/// The deleted objects whose claims wait, with their CIDs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct WaitingSet {
    of: BTreeMap<Uid, Cid>,
    /// XOR of the hashes of all UIDs. It is the same for the same set, and an update does not read the
    /// whole set.
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
