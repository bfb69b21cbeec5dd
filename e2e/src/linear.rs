//! Whether a history of one CID's pins, unpins and looks is linearizable. Pure.
//!
//! The CID is a register that is absent or holds what the last pin put there. Each operation must
//! seem to take effect at one instant between its call and its answer; one whose answer is unknown
//! may have taken effect at any instant after its call, or never. The search is that of Wing and Gong
//! with Lowe's memory of what was tried. Every pin of a history must put another value, so that an
//! answer tells which pin it saw.

use std::{collections::HashSet, fmt, time::Duration};

/// Situations the search may visit. A history of one CID needs some thousands.
const VISITS_MAX: usize = 2_000_000;

/// What a pin puts, and another operation finds.
pub type Value = u32;

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Put a value, whatever was there.
    Pin(Value),
    /// Take away what is there, and answer it.
    Unpin,
    /// Answer what is there.
    Get,
}

/// What was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To a pin: it is there.
    Done,
    /// This value was there.
    Found(Value),
    /// Nothing was there.
    Absent,
    /// No answer came, or one that does not say whether it took effect.
    Unknown,
}

/// An operation; instants since any one beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The client, for people.
    pub client: usize,
    /// What was asked.
    pub call: Call,
    /// What was answered.
    pub answer: Answer,
    /// When it was sent.
    pub called: Duration,
    /// When the answer had come.
    pub answered: Duration,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, call, answer, called, answered } = self;
        write!(f, "{called:>12.3?} – {answered:>12.3?} client {client:>2}: {call:?} -> {answer:?}")
    }
}

/// Why a history is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// No order explains the answers.
    NotLinearizable {
        /// The most operations that an order could be found for.
        explained: usize,
        /// What was there after these, if anything.
        value: Option<Value>,
        /// The operations of which one would have had to be next, and could not.
        stuck: Vec<Operation>,
    },
    /// The search was given up.
    TooHard,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooHard => write!(f, "no order was found in {VISITS_MAX} steps"),
            Self::NotLinearizable { explained, value, stuck } => {
                writeln!(
                    f,
                    "after {explained} operations the value is {value:?}, next is one of:"
                )?;
                stuck.iter().try_for_each(|operation| writeln!(f, "{operation}"))
            }
        }
    }
}

/// Looks for an order of the operations that explains all answers.
///
/// # Errors
/// When there is none.
pub fn check(operations: &[Operation]) -> Result<(), Violation> {
    let history = History::new(operations);
    let mut seen = HashSet::new();
    let mut deepest = Situation::start(history.0.len());
    let mut open = vec![deepest.clone()];
    while let Some(mut situation) = open.pop() {
        situation.take_looks(&history);
        if situation.is_end(&history) {
            return Ok(());
        }
        if !seen.insert(situation.clone()) {
            continue;
        }
        if seen.len() > VISITS_MAX {
            return Err(Violation::TooHard);
        }
        if situation.count() > deepest.count() {
            deepest = situation.clone();
        }
        open.extend(situation.next(&history));
    }
    let stuck = deepest.candidates(&history).iter().map(|n| history.0[*n].operation).collect();
    Err(Violation::NotLinearizable { explained: deepest.count(), value: deepest.value, stuck })
}

/// What matters of a history, in order of the calls.
struct History(Vec<Entry>);

struct Entry {
    operation: Operation,
    /// Of a pin: the operations that found its value.
    finders: Vec<usize>,
}

impl Entry {
    fn is_known(&self) -> bool {
        self.operation.answer != Answer::Unknown
    }

    /// A pin that took effect and that nobody saw.
    fn is_unseen_pin(&self) -> bool {
        matches!(self.operation.call, Call::Pin(_)) && self.is_known() && self.finders.is_empty()
    }
}

impl History {
    /// Leaves out looks without an answer, and pins of which it is unknown whether they took effect
    /// and which nobody saw: whatever came after such a pin overwrote it, or could do without.
    fn new(operations: &[Operation]) -> Self {
        let mut relevant: Vec<Operation> = operations
            .iter()
            .filter(|operation| match (operation.call, operation.answer) {
                (Call::Get, Answer::Unknown) => false,
                (Call::Pin(value), Answer::Unknown) => {
                    operations.iter().any(|other| other.answer == Answer::Found(value))
                }
                _ => true,
            })
            .copied()
            .collect();
        relevant.sort_by_key(|operation| operation.called);
        let finders = |value| {
            let found = |n: &usize| relevant[*n].answer == Answer::Found(value);
            (0..relevant.len()).filter(found).collect()
        };
        let entry = |operation: &Operation| match operation.call {
            Call::Pin(value) => Entry { operation: *operation, finders: finders(value) },
            Call::Unpin | Call::Get => Entry { operation: *operation, finders: Vec::new() },
        };
        Self(relevant.iter().map(entry).collect())
    }
}

/// Which operations have taken effect, and what is there then.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Situation {
    done: Vec<u64>,
    value: Option<Value>,
    /// The pin that put it.
    pin: Option<usize>,
}

impl Situation {
    fn start(len: usize) -> Self {
        Self { done: vec![0; len.div_ceil(64)], value: None, pin: None }
    }

    fn has(&self, n: usize) -> bool {
        self.done[n / 64] & (1 << (n % 64)) != 0
    }

    fn mark(&mut self, n: usize) {
        self.done[n / 64] |= 1 << (n % 64);
    }

    fn count(&self) -> usize {
        self.done.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Operations that have not taken effect, in order of their calls.
    fn left<'a>(&'a self, history: &'a History) -> impl Iterator<Item = (usize, &'a Entry)> {
        let words = self.done.iter().enumerate().filter(|(_, word)| **word != u64::MAX);
        let numbers = words.flat_map(|(word, _)| word * 64..history.0.len().min(word * 64 + 64));
        numbers.filter(|n| !self.has(*n)).map(|n| (n, &history.0[n]))
    }

    /// What is left is only what may never have taken effect.
    fn is_end(&self, history: &History) -> bool {
        self.left(history).all(|(_, entry)| !entry.is_known())
    }

    /// Operations that can be next: none that is left was answered before they were called.
    fn candidates(&self, history: &History) -> Vec<usize> {
        let mut first_answer = Duration::MAX;
        let mut candidates = Vec::new();
        for (n, entry) in self.left(history) {
            if entry.operation.called > first_answer {
                break;
            }
            if entry.is_known() {
                first_answer = first_answer.min(entry.operation.answered);
            }
            candidates.push(n);
        }
        candidates.retain(|n| history.0[*n].operation.called <= first_answer);
        candidates
    }

    /// Takes every operation that only confirms what is there: to take it at once is never wrong.
    fn take_looks(&mut self, history: &History) {
        loop {
            let confirms = |n: &usize| {
                let Operation { call, answer, .. } = history.0[*n].operation;
                match (call, answer) {
                    (Call::Get, Answer::Found(value)) => self.value == Some(value),
                    (Call::Get | Call::Unpin, Answer::Absent) => self.value.is_none(),
                    _ => false,
                }
            };
            let mut looks = self.candidates(history);
            looks.retain(confirms);
            if looks.is_empty() {
                return;
            }
            looks.into_iter().for_each(|n| self.mark(n));
        }
    }

    /// The situations after one more operation that changes what is there; the one to be tried first,
    /// which was answered first, is the last.
    fn next(&self, history: &History) -> Vec<Self> {
        let mut candidates = self.candidates(history);
        // Unpins without an answer are alike from their calls on, so only the first is tried.
        let mut lost_unpins = 0;
        candidates.retain(|n| {
            let Operation { call, answer, .. } = history.0[*n].operation;
            let lost = call == Call::Unpin && answer == Answer::Unknown;
            lost_unpins += usize::from(lost);
            !lost || lost_unpins == 1
        });
        let mut next: Vec<(usize, Self)> = candidates
            .iter()
            .filter_map(|n| Some((*n, self.after(*n, &candidates, history)?)))
            .collect();
        next.sort_by_key(|(n, _)| {
            let entry = &history.0[*n];
            std::cmp::Reverse((!entry.is_known(), entry.operation.answered))
        });
        next.into_iter().map(|(_, situation)| situation).collect()
    }

    /// The situation after a candidate, if it can be next and changes what is there.
    fn after(&self, n: usize, candidates: &[usize], history: &History) -> Option<Self> {
        let Operation { call, answer, .. } = history.0[n].operation;
        let (value, pin) = match (call, answer) {
            (Call::Pin(value), _) => (Some(value), Some(n)),
            (Call::Unpin, Answer::Found(value)) if self.value == Some(value) => (None, None),
            (Call::Unpin, Answer::Unknown) if self.value.is_some() => (None, None),
            _ => return None,
        };
        let mut after = Self { value, pin, ..self.clone() };
        after.mark(n);
        // What was there never comes back, so nobody may be left who has to find it.
        let finders = self.pin.map_or(&[][..], |pin| &history.0[pin].finders);
        if !finders.iter().all(|finder| after.has(*finder)) {
            return None;
        }
        // Pins that nobody saw can have come just before this and have been overwritten.
        if !matches!(answer, Answer::Found(_)) {
            let unseen = candidates.iter().filter(|other| history.0[**other].is_unseen_pin());
            unseen.for_each(|other| after.mark(*other));
        }
        Some(after)
    }
}

#[cfg(test)]
mod tests;
