//! The meaning of answers, decided on plain data: the content of an answer, and how it ended.

use super::wire::{self, GcItem, PinEvent, PinLsItem, RunningCommand};
use crate::{
    ipfs::{Held, IpfsError},
    types::{Cid, GcReport, Progress},
};

/// Commands that hold the pin lock while they run (Kubo 0.43, core/coreapi).
const LOCKING: [&str; 8] =
    ["add", "block/put", "dag/import", "dag/put", "pin/add", "pin/rm", "pin/update", "repo/gc"];

/// Whether `pin/ls` names the next CID asked about; an error if it names another.
pub(super) fn is_next(item: &PinLsItem, asked: Option<&Cid>) -> Result<(), IpfsError> {
    if asked.is_some_and(|asked| item.cid.parse().as_ref() == Ok(asked)) {
        return Ok(());
    }
    let cid = wire::shortened(&item.cid);
    Err(IpfsError::Failed(format!("pin/ls answers about {cid}, which was not asked")))
}

/// How many of `asked` are pinned before the first that is not, given how many `pin/ls` named and how
/// it ended. Only the exact "not pinned" text for the next CID proves that it is not pinned; any other
/// error proves nothing.
pub(super) fn leading_pinned(
    asked: &[String],
    named: usize,
    end: Result<(), IpfsError>,
) -> Result<usize, IpfsError> {
    match (asked.get(named), end) {
        (None, Ok(())) => Ok(named),
        (Some(_), Ok(())) => Err(IpfsError::Failed("pin/ls ended before all answers".to_owned())),
        (Some(next), Err(IpfsError::Failed(message))) if message == wire::not_pinned(next) => {
            Ok(named)
        }
        (_, Err(error)) => Err(error),
    }
}

/// How a CID is held, given whether it is pinned recursively and directly.
pub(super) fn held(recursive: bool, direct: bool) -> Held {
    match (recursive, direct) {
        (true, _) => Held::Recursive,
        (false, true) => Held::Direct,
        (false, false) => Held::No,
    }
}

/// The answer of `pin/add` so far.
#[derive(Debug)]
pub(super) struct Pinning {
    cid: Cid,
    /// The last object says that the CID is pinned.
    is_pinned: bool,
}

impl Pinning {
    pub(super) fn new(cid: Cid) -> Self {
        Self { cid, is_pinned: false }
    }

    /// Takes the next object; returns its progress.
    pub(super) fn hear(&mut self, event: &PinEvent) -> Option<Progress> {
        self.is_pinned = event.pins.as_ref().is_some_and(|pins| pins.contains(&self.cid));
        let bytes = event.bytes.unwrap_or_default();
        event.blocks.map(|blocks| Progress { blocks, bytes })
    }

    /// The stream ended without an error.
    pub(super) fn end(self) -> Result<(), IpfsError> {
        let unsaid = || "pin/add ended without saying that it is pinned".to_owned();
        self.is_pinned.then_some(()).ok_or_else(|| IpfsError::Failed(unsaid()))
    }
}

/// Whether the CID is unpinned after this answer to `pin/rm`: it was unpinned, or had not been pinned.
pub(super) fn unpinned(answer: Result<(), IpfsError>) -> Result<(), IpfsError> {
    match answer {
        Err(IpfsError::Failed(message)) if message == wire::NOT_PINNED_RECURSIVELY => Ok(()),
        answer => answer,
    }
}

/// The command that a collection must wait for.
pub(super) fn lock_holder(commands: &[RunningCommand]) -> Option<&str> {
    let holds = |c: &&RunningCommand| c.active && LOCKING.contains(&c.command.as_str());
    commands.iter().find(holds).map(|holder| holder.command.as_str())
}

/// The answer of `repo/gc` so far.
#[derive(Debug, Default)]
pub(super) struct Collecting {
    done: GcReport,
}

impl Collecting {
    /// Takes the next object: a removed block, or a block with an error.
    pub(super) fn hear(&mut self, item: &GcItem) {
        if item.error.is_empty() {
            self.done.removed += 1;
        } else if self.done.errors.len() < GcReport::ERRORS_MAX {
            self.done.errors.push(wire::shortened(&item.error));
        }
    }

    /// The stream ended this way. If single blocks had errors, it ends with an error that adds nothing.
    pub(super) fn end(self, end: Result<(), IpfsError>) -> Result<GcReport, IpfsError> {
        match end {
            Err(IpfsError::Failed(_)) if !self.done.errors.is_empty() => Ok(self.done),
            end => end.map(|()| self.done),
        }
    }
}
