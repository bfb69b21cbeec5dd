//! The meaning of each answer.

use ::http::StatusCode;

use super::*;
use crate::ipfs::kubo::wire::{self, GcItem, RunningCommand, error_of, error_of_response};

fn failed(text: &str) -> IpfsError {
    IpfsError::Failed(text.to_owned())
}

fn not_pinned(cid: &str) -> String {
    format!("path '{cid}' is not pinned")
}

#[test]
fn only_its_very_words_about_the_next_cid_say_that_it_is_not_pinned() {
    let asked = [CID.to_owned(), OTHER.to_owned()];
    for (named, text) in [(0, not_pinned(CID)), (1, not_pinned(OTHER))] {
        assert_eq!(verdict::leading_pinned(&asked, named, Err(failed(&text))), Ok(named));
    }
    let errors = [
        // About another CID than the next one.
        (0, failed(&not_pinned(OTHER))),
        (1, failed(&not_pinned(CID))),
        (2, failed(&not_pinned(CID))),
        (2, failed(&not_pinned(OTHER))),
        (2, failed(&not_pinned(""))),
        // Not exactly this text.
        (0, failed(&format!("{}: context canceled", not_pinned(CID)))),
        (0, failed(&format!("lock: {}", not_pinned(CID)))),
        (0, failed(&format!("'{CID}' is not pinned"))),
        (0, failed("is not pinned")),
        (0, failed(wire::NOT_PINNED_RECURSIVELY)),
        // Other errors.
        (0, failed("context deadline exceeded")),
        (0, failed("merkledag: not found")),
        (0, failed("")),
        (1, failed("shutting down")),
        // The text is not the daemon's, or proves nothing.
        (0, IpfsError::Down(not_pinned(CID))),
        (0, IpfsError::Slow(not_pinned(CID))),
        (0, IpfsError::Refused(not_pinned(CID))),
    ];
    for (named, error) in errors {
        let end = Err(error.clone());
        assert_eq!(verdict::leading_pinned(&asked, named, end), Err(error), "after {named}");
    }
}

#[test]
fn an_end_without_an_error_counts_when_all_were_named() {
    let asked = [CID.to_owned(), OTHER.to_owned()];
    assert_eq!(verdict::leading_pinned(&asked, 2, Ok(())), Ok(2));
    for named in 0..2 {
        let end = verdict::leading_pinned(&asked, named, Ok(()));
        assert_eq!(end, Err(failed("pin/ls ended before all answers")));
    }
}

#[test]
fn an_item_counts_only_for_the_cid_that_is_next() {
    let item = |cid: &str| serde_json::from_value(serde_json::json!({ "Cid": cid })).unwrap();
    let next = cid(CID);
    assert_eq!(verdict::is_next(&item(CID), Some(&next)), Ok(()));
    for (named, asked) in [(OTHER, Some(&next)), (CID, None), ("", Some(&next)), ("x", None)] {
        let error = failed(&format!("pin/ls answers about {named}, which was not asked"));
        assert_eq!(verdict::is_next(&item(named), asked), Err(error));
    }
}

#[test]
fn a_recursive_pin_is_one_whatever_else_there_is() {
    let table = [
        ((true, true), Held::Recursive),
        ((true, false), Held::Recursive),
        ((false, true), Held::Direct),
        ((false, false), Held::No),
    ];
    for ((recursive, direct), held) in table {
        assert_eq!(verdict::held(recursive, direct), held);
    }
}

#[test]
fn a_pin_is_done_only_when_its_last_object_names_it() {
    let (pins, others) =
        (format!("{{\"Pins\":[\"{CID}\"]}}"), format!("{{\"Pins\":[\"{OTHER}\"]}}"));
    let both = format!("{{\"Pins\":[\"{OTHER}\",\"{CID}\"]}}");
    let at = |blocks, bytes| Some(Progress { blocks, bytes });
    let table: [(&[&str], bool, Option<Progress>); 11] = [
        (&[&pins], true, None),
        (&[&both], true, None),
        (&["{}", "{\"Progress\":5,\"Bytes\":9}", "{}", &pins], true, at(5, 9)),
        (&["{\"Progress\":5}", "{\"Progress\":7,\"Bytes\":8}", &pins], true, at(7, 8)),
        (&[], false, None),
        (&["{}"], false, None),
        (&["{\"Progress\":5}"], false, at(5, 0)),
        (&[&pins, "{\"Progress\":6}"], false, at(6, 0)),
        (&[&pins, "{}"], false, None),
        (&[&pins, &others], false, None),
        (&["{\"Pins\":[]}"], false, None),
    ];
    for (objects, done, expected) in table {
        let (mut pinning, mut progress) = (Pinning::new(cid(CID)), None);
        for object in objects {
            progress = pinning.hear(&serde_json::from_str(object).unwrap()).or(progress);
        }
        assert_eq!((pinning.end().is_ok(), progress), (done, expected), "{objects:?}");
    }
}

#[test]
fn only_success_and_its_words_for_not_pinned_mean_that_it_is_unpinned() {
    let words = "not pinned or pinned indirectly";
    assert_eq!(verdict::unpinned(Ok(())), Ok(()));
    assert_eq!(verdict::unpinned(Err(failed(words))), Ok(()));
    let errors = [
        failed("context canceled"),
        failed("no space left on device"),
        failed(""),
        failed("not pinned"),
        failed(&format!("{words}: {CID}")),
        failed(&format!("pin: {words}")),
        failed(&not_pinned(CID)),
        IpfsError::Down(words.to_owned()),
        IpfsError::Slow(words.to_owned()),
        IpfsError::Refused(words.to_owned()),
        IpfsError::Refused("HTTP 404: 404 page not found".to_owned()),
    ];
    for error in errors {
        assert_eq!(verdict::unpinned(Err(error.clone())), Err(error));
    }
}

#[test]
fn a_collection_counts_blocks_keeps_some_errors_and_ends_with_those_alone() {
    let item = |error: &str| GcItem { error: error.to_owned() };
    let heard = |errors: &[&str]| {
        let mut collecting = verdict::Collecting::default();
        errors.iter().for_each(|error| collecting.hear(&item(error)));
        collecting
    };
    let done = |removed, errors: &[&str]| {
        let errors = errors.iter().map(|error| (*error).to_owned()).collect();
        Ok(GcReport { removed, errors })
    };
    let late = || Err(failed("encountered errors during gc run"));
    type Row<'a> = (&'a [&'a str], Result<(), IpfsError>, Result<GcReport, IpfsError>);
    let table: [Row<'_>; 7] = [
        (&[], Ok(()), done(0, &[])),
        (&["", ""], Ok(()), done(2, &[])),
        (&["", "a", ""], late(), done(2, &["a"])),
        (&["a"], Ok(()), done(0, &["a"])),
        (&["", ""], late(), Err(failed("encountered errors during gc run"))),
        // A broken connection is no end, whatever was reported before.
        (&["", "a"], Err(IpfsError::Down("reset".into())), Err(IpfsError::Down("reset".into()))),
        (&["", "a"], Err(IpfsError::Slow("so".into())), Err(IpfsError::Slow("so".into()))),
    ];
    for (errors, end, expected) in table {
        assert_eq!(heard(errors).end(end), expected, "{errors:?}");
    }
    let many: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let kept = &many[..GcReport::ERRORS_MAX];
    assert_eq!(heard(&many).end(Ok(())), done(0, kept));
}

#[test]
fn a_collection_waits_for_what_holds_the_lock_and_runs() {
    let command = |command: &str, active| RunningCommand { command: command.to_owned(), active };
    let locking =
        ["add", "block/put", "dag/import", "dag/put", "pin/add", "pin/rm", "pin/update", "repo/gc"];
    for name in locking {
        let commands = [command("pin/ls", true), command(name, false), command(name, true)];
        assert_eq!(verdict::lock_holder(&commands), Some(name));
        assert_eq!(verdict::lock_holder(&commands[..2]), None);
    }
    for name in ["pin/ls", "cat", "get", "repo/stat", "diag/cmds", "pin/verify"] {
        assert_eq!(verdict::lock_holder(&[command(name, true)]), None);
    }
    assert_eq!(verdict::lock_holder(&[]), None);
}

#[test]
fn errors_of_the_cid_itself_are_told_from_others() {
    for text in [
        "pin: potentially insecure hash functions not allowed",
        "digest too large: must be at most 128 bytes",
        "invalid path \"x\"",
        "invalid cid: selected encoding not supported",
        "pin: could not choose a decoder: no decoder registered for multicodec code 176 (0xb0)",
    ] {
        assert_eq!(error_of(text), IpfsError::Unpinnable(text.to_owned()));
    }
    for text in [
        "pin: merkledag: not found",
        "block was not found locally (offline): ipld: could not find it",
        "pin: context canceled",
        "no space left on device",
        "shutting down",
        "digest too small: must be at least 20 bytes",
        "invalid argument",
        "",
    ] {
        assert_eq!(error_of(text), failed(text));
    }
}

#[test]
fn the_status_counts_where_there_are_no_words() {
    let of = |status: u16, body: &str| {
        error_of_response(StatusCode::from_u16(status).unwrap(), body.as_bytes())
    };
    for status in [400, 403, 404, 405, 429, 499] {
        let error = IpfsError::Refused(format!("HTTP {status}: no"));
        assert_eq!(of(status, " no\n"), error);
    }
    for status in [204, 301, 500, 502, 503, 599] {
        assert_eq!(of(status, "no"), failed(&format!("HTTP {status}: no")));
        // The text comes from a proxy, not from the daemon.
        let words = not_pinned(CID);
        assert_eq!(of(status, &words), failed(&format!("HTTP {status}: {words}")));
    }
    for status in [400, 404, 500] {
        let said = |text: &str| of(status, &format!("{{\"Message\":\"{text}\",\"Code\":1}}"));
        assert_eq!(said("context canceled"), failed("context canceled"));
        assert_eq!(said("invalid cid: x"), IpfsError::Unpinnable("invalid cid: x".to_owned()));
    }
}

#[test]
fn a_daemon_without_an_id_of_fit_length_is_none() {
    let info = |len: usize| {
        DaemonInfo::try_from(Id {
            id: "x".repeat(len),
            agent_version: String::new(),
            addresses: None,
        })
    };
    assert!(info(1).is_ok() && info(128).is_ok());
    assert!(info(0).is_err() && info(129).is_err());
}
