//! Questions to the daemon which CIDs it has pinned, and where their answers lead.

use std::collections::BTreeSet;

use super::{
    Action, Machine, Origin, Phase,
    failures::Kind,
    phase::Finding,
    turns::{Turn, Turns},
};
use crate::{
    ipfs::{Held, IpfsError},
    types::Cid,
};

/// CIDs in one question.
const ASK_LEN: usize = 64;
/// CIDs in one question while nothing may start: a short question is answered sooner.
const ASK_LEN_MIN: usize = 8;
/// Questions under way at the same time.
const ASKS_MAX: usize = 4;
/// Per turn: no further questions while so many CIDs of this turn or a better one may start.
const READY_MAX: [usize; 4] = [128, 128, 128, 32];
/// Nor while more CIDs may start than have started recently, if these are more than this: their answers
/// would get old, and new work would wait behind them.
const READY_MIN: usize = ASK_LEN_MIN;

/// What the daemon is asked about.
#[derive(Debug, Default)]
pub(super) struct Questions {
    /// CIDs to be asked about.
    pub(super) queue: Turns,
    /// CIDs to be asked about one by one, because a question for several failed.
    alone: BTreeSet<Cid>,
    /// Questions under way.
    under_way: usize,
    /// CIDs in these.
    pub(super) asking: usize,
}

impl Questions {
    /// The question for several that failed is forgotten.
    pub(super) fn clear_failure(&mut self, cid: &Cid) {
        self.alone.remove(cid);
    }

    /// All questions under way were cancelled.
    pub(super) fn cancel(&mut self) {
        self.under_way = 0;
    }

    fn end(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }
}

impl Machine {
    /// Queues a CID to be asked about.
    pub(super) fn enqueue(&mut self, cid: Cid, turn: Turn) {
        let place = self.questions.queue.place(turn);
        self.enter(cid, Phase::Queued(place));
    }

    pub(super) fn start_asks(&mut self) {
        while self.questions.under_way < ASKS_MAX {
            let cids = self.next_question();
            if cids.is_empty() {
                break;
            }
            self.questions.under_way += 1;
            self.actions.push(Action::Ask(cids));
        }
    }

    fn next_question(&mut self) -> Vec<Cid> {
        let mut cids = Vec::new();
        let len = self.pins.ready.len().clamp(ASK_LEN_MIN, ASK_LEN);
        let asking = self.questions.asking;
        let mut rooms = [const { None }; READY_MAX.len()];
        while cids.len() < len {
            let Some((turn, cid)) = self.questions.queue.next() else { break };
            let room = rooms[turn as usize].get_or_insert_with(|| self.room_to_ask(turn, asking));
            let alone = self.questions.alone.contains(&cid);
            if cids.len() >= *room || (alone && !cids.is_empty()) {
                break;
            }
            self.questions.queue.alternate();
            self.enter(cid, Phase::Asking { turn });
            cids.push(cid);
            if alone {
                break;
            }
        }
        cids
    }

    /// How many more CIDs may be asked about, so that not too many wait with an answer. Never only a
    /// few: each question, and the ledger write that follows, has a fixed cost.
    fn room_to_ask(&self, turn: Turn, asking: usize) -> usize {
        let ready = self.pins.ready.len_up_to(turn);
        let most = READY_MAX[turn as usize].min(self.pins.recent(self.now.at).max(READY_MIN));
        let step = ASK_LEN.min(most);
        let room = (most + step).saturating_sub(ready + asking);
        if room < step { 0 } else { room }
    }

    pub(super) fn asked(&mut self, cids: &[Cid], result: Result<Vec<Held>, IpfsError>) {
        self.questions.end();
        match result {
            Ok(answers) if answers.len() == cids.len() => {
                for (cid, held) in cids.iter().zip(answers) {
                    self.answered(*cid, held);
                }
            }
            Ok(_) => {
                let error =
                    IpfsError::Failed("it answered the wrong number of questions".to_owned());
                self.ask_failed(cids, &error);
            }
            Err(IpfsError::Down(reason)) => self.daemon_down(&reason),
            Err(error) => self.ask_failed(cids, &error),
        }
    }

    fn answered(&mut self, cid: Cid, held: Held) {
        let Some(entry) = self.entries.get(&cid) else { return };
        let Phase::Asking { turn } = entry.phase() else { return };
        let (wanted, origin) = (entry.wanted, entry.origin);
        let in_vain = turn == Turn::Check && entry.failed.is_some();
        let turn = turn.max(Turn::Fresh);
        self.overrule_lists(&cid);
        self.update(&cid, |entry| entry.attempted &= held == Held::Recursive);
        match (wanted, held, origin) {
            (false, ..) => self.let_go(cid),
            (true, Held::Recursive, _) => self.is_pinned(cid, turn),
            (true, Held::No, Some(Origin::Ours)) if in_vain => self.enter(cid, Phase::Withdrawing),
            (true, Held::No, Some(Origin::Ours)) | (true, Held::Direct, Some(Origin::Foreign)) => {
                self.make_ready(cid, turn, self.now.at);
            }
            // Foreign pins too: they are gone, so a new pin will be ours.
            (true, Held::No, _) => self.write_origin(cid, Finding::Ours, turn),
            (true, Held::Direct, _) => self.write_origin(cid, Finding::Direct, turn),
        }
    }

    fn ask_failed(&mut self, cids: &[Cid], error: &IpfsError) {
        for cid in cids {
            let Some(Phase::Asking { turn }) = self.phase(cid) else { continue };
            if cids.len() > 1 && !matches!(error, IpfsError::Slow(_)) {
                // One of them makes the question fail for all: find out which.
                self.enqueue(*cid, turn);
                self.questions.alone.insert(*cid);
            } else if turn == Turn::Check {
                self.be_unsure_for(*cid, turn, self.config.retry_min);
            } else if self.entries[cid].wanted {
                self.fail(*cid, Kind::of(error), &error.to_string());
            } else {
                self.let_go(*cid);
            }
        }
    }
}
