//! Histories that must be accepted and others that must be refused.
#![allow(clippy::unwrap_used)]

use super::*;

/// An operation between two milliseconds.
fn at(from: u64, to: u64, call: Call, answer: Answer) -> Operation {
    let (called, answered) = (Duration::from_millis(from), Duration::from_millis(to));
    Operation { client: 0, call, answer, called, answered }
}

fn pin(from: u64, to: u64, value: Value) -> Operation {
    at(from, to, Call::Pin(value), Answer::Done)
}

fn unpin(from: u64, to: u64, value: Value) -> Operation {
    at(from, to, Call::Unpin, Answer::Found(value))
}

fn get(from: u64, to: u64, value: Value) -> Operation {
    at(from, to, Call::Get, Answer::Found(value))
}

fn get_none(from: u64, to: u64) -> Operation {
    at(from, to, Call::Get, Answer::Absent)
}

fn unknown(from: u64, to: u64, call: Call) -> Operation {
    at(from, to, call, Answer::Unknown)
}

fn accepted(operations: &[Operation]) {
    check(operations).unwrap_or_else(|violation| panic!("{violation}"));
}

fn refused(operations: &[Operation]) -> Vec<Operation> {
    match check(operations) {
        Err(Violation::NotLinearizable { stuck, .. }) => stuck,
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_after_the_other() {
    let begin = [get_none(0, 1), pin(2, 3, 1), get(4, 5, 1), pin(6, 7, 2), get(8, 9, 2)];
    accepted(&begin);
    let end = [unpin(10, 11, 2), at(12, 13, Call::Unpin, Answer::Absent), get_none(14, 15)];
    accepted(&[&begin[..], &end].concat());
    accepted(&[]);
}

#[test]
fn at_once_in_any_order() {
    accepted(&[pin(0, 10, 1), pin(0, 10, 2), get(11, 12, 1)]);
    accepted(&[pin(0, 10, 1), pin(0, 10, 2), get(11, 12, 2)]);
    accepted(&[pin(0, 10, 1), get_none(1, 2), get(3, 4, 1)]);
    accepted(&[pin(0, 1, 1), unpin(2, 9, 1), get(3, 4, 1), get_none(5, 6)]);
    accepted(&[pin(0, 9, 1), unpin(0, 9, 1), get_none(1, 2)]);
}

#[test]
fn a_stale_look_is_refused() {
    let stale = get_none(4, 5);
    assert_eq!(refused(&[pin(0, 1, 1), stale]), [stale]);
    refused(&[pin(0, 1, 1), pin(2, 3, 2), get(4, 5, 1)]);
    refused(&[pin(0, 1, 1), unpin(2, 3, 1), get(4, 5, 1)]);
    // While a pin is under way it can be seen, but then no more unseen.
    refused(&[pin(0, 10, 1), get(1, 2, 1), get_none(3, 4)]);
    refused(&[pin(0, 1, 1), pin(2, 9, 2), get(3, 4, 2), get(5, 6, 1)]);
}

#[test]
fn a_lost_pin_and_one_from_nowhere_are_refused() {
    refused(&[pin(0, 1, 1), at(2, 3, Call::Unpin, Answer::Absent)]);
    refused(&[get(0, 1, 1), pin(2, 3, 1)]);
    refused(&[get(0, 1, 7)]);
}

#[test]
fn what_was_unpinned_twice_is_refused() {
    refused(&[pin(0, 1, 1), unpin(2, 9, 1), unpin(2, 9, 1)]);
    accepted(&[pin(0, 1, 1), unpin(2, 9, 1), at(2, 9, Call::Unpin, Answer::Absent)]);
}

#[test]
fn a_pin_that_takes_effect_twice_is_refused() {
    // As after a repetition: seen, unpinned by somebody, and there again.
    let twice = pin(0, 20, 1);
    refused(&[twice, get(1, 2, 1), unpin(3, 4, 1), get_none(5, 6), get(7, 8, 1)]);
    refused(&[unknown(0, 20, Call::Pin(1)), get(1, 2, 1), unpin(3, 4, 1), get(21, 22, 1)]);
}

#[test]
fn without_an_answer_it_may_take_effect_late_once_or_never() {
    let lost = unknown(0, 1, Call::Pin(1));
    accepted(&[lost, get_none(2, 3)]);
    accepted(&[lost, get_none(2, 3), get(4, 5, 1)]);
    refused(&[lost, get(2, 3, 1), get_none(4, 5)]);
    refused(&[get(0, 1, 1), unknown(2, 3, Call::Pin(1))]);

    let lost = unknown(2, 3, Call::Unpin);
    accepted(&[pin(0, 1, 1), lost, get(4, 5, 1), get_none(6, 7)]);
    refused(&[pin(0, 1, 1), lost, get_none(6, 7), get(8, 9, 1)]);
    refused(&[pin(0, 1, 1), lost, get_none(4, 5), pin(6, 7, 2), get_none(8, 9)]);
    let again = unknown(5, 6, Call::Unpin);
    accepted(&[pin(0, 1, 1), lost, again, get_none(6, 7), pin(8, 9, 2), get_none(10, 11)]);
}

#[test]
fn instants_that_touch_count_as_at_once() {
    accepted(&[pin(0, 5, 1), get_none(5, 6)]);
    refused(&[pin(0, 5, 1), get_none(6, 7)]);
}

/// A history made by a register, with calls spread around the instants of effect.
fn made(seed: u64, count: u64) -> Vec<Operation> {
    let mut random = seed;
    let mut below = |bound: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (random >> 33) % bound
    };
    let mut value = None;
    let mut operations = Vec::new();
    for n in 0..count {
        let found = value.map_or(Answer::Absent, Answer::Found);
        let (call, answer, after) = match below(4) {
            0 => (Call::Unpin, found, None),
            1 => (Call::Get, found, value),
            _ => {
                let new = u32::try_from(n).unwrap();
                (Call::Pin(new), Answer::Done, Some(new))
            }
        };
        let lost = below(8) == 0;
        if !(lost && below(2) == 0) {
            value = after;
        }
        let answer = if lost { Answer::Unknown } else { answer };
        let instant = 100 + n * 10;
        operations.push(at(instant - below(20), instant + below(20), call, answer));
    }
    operations
}

#[test]
fn what_a_register_answers_is_accepted_and_what_is_falsified_is_refused() {
    for seed in 0..6 {
        let mut history = made(seed, 600);
        accepted(&history);
        let last = history.iter().map(|operation| operation.answered).max().unwrap();
        let late = u64::try_from(last.as_millis()).unwrap() + 1;
        history.push(pin(late, late + 1, 9_000));
        history.push(get(late + 2, late + 3, 9_000));
        accepted(&history);
        history.push(get(late + 4, late + 5, history.len().try_into().unwrap()));
        refused(&history);
    }
}
