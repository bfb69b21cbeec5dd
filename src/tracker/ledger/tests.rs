//! The ledger on disk.
#![allow(clippy::unwrap_used)]

use redb::backends::InMemoryBackend;

use super::*;
use crate::sim::damage;

const ME: PeerId = PeerId([1; 32]);
const OTHER: PeerId = PeerId([2; 32]);

fn cid(n: u8) -> Cid {
    // CIDv1, raw, identity multihash of one byte.
    Cid::from_bytes(&[1, 0x55, 0, 1, n]).unwrap()
}

fn entry(origin: Origin, since: u64) -> Option<LedgerEntry> {
    Some(LedgerEntry { origin, since: Timestamp(since) })
}

#[test]
fn what_was_written_is_there_after_opening_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let ledger = Ledger::open(&path).unwrap();
    assert_eq!(ledger.daemon().unwrap(), None);
    ledger.bind("one", ME).unwrap();
    ledger.write(&[(cid(2), entry(Origin::Foreign, 7)), (cid(1), entry(Origin::Ours, 8))]).unwrap();
    ledger.write(&[(cid(3), entry(Origin::Ours, 9)), (cid(2), None)]).unwrap();
    drop(ledger);
    let ledger = Ledger::open(&path).unwrap();
    assert_eq!(ledger.daemon().unwrap().as_deref(), Some("one"));
    let entries: Vec<_> =
        ledger.entries(ME).unwrap().into_iter().map(|(c, e)| (c, Some(e))).collect();
    assert_eq!(entries, [(cid(1), entry(Origin::Ours, 8)), (cid(3), entry(Origin::Ours, 9))]);
}

#[test]
fn another_daemon_voids_the_entries() {
    let ledger = Ledger::with_backend(InMemoryBackend::new).unwrap();
    ledger.bind("one", ME).unwrap();
    ledger.write(&[(cid(1), entry(Origin::Ours, 1))]).unwrap();
    ledger.bind("one", ME).unwrap();
    assert_eq!(ledger.entries(ME).unwrap().len(), 1);
    ledger.bind("two", ME).unwrap();
    assert!(ledger.entries(ME).unwrap().is_empty());
    assert_eq!(ledger.daemon().unwrap().as_deref(), Some("two"));
}

#[test]
fn under_another_peer_what_was_ours_is_a_former_ones() {
    let ledger = Ledger::with_backend(InMemoryBackend::new).unwrap();
    ledger.bind("one", OTHER).unwrap();
    let written = [(cid(1), entry(Origin::Ours, 1)), (cid(2), entry(Origin::Foreign, 2))];
    ledger.write(&written).unwrap();
    let origins = || {
        let entries = ledger.entries(ME).unwrap();
        entries.into_iter().map(|(_, entry)| entry.origin).collect::<Vec<_>>()
    };
    // Already before it is bound, and permanently afterwards.
    assert_eq!(origins(), [Origin::Former, Origin::Foreign]);
    ledger.bind("one", ME).unwrap();
    assert_eq!(ledger.peer().unwrap(), Some(ME));
    assert_eq!(origins(), [Origin::Former, Origin::Foreign]);
    ledger.write(&[(cid(1), entry(Origin::Ours, 3))]).unwrap();
    ledger.bind("one", ME).unwrap();
    assert_eq!(origins(), [Origin::Ours, Origin::Foreign]);
    ledger.bind("two", OTHER).unwrap();
    assert_eq!(origins(), []);
}

#[test]
fn another_version_is_refused_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let ledger = Ledger::open(&path).unwrap();
    let stamp = |database: &Database| {
        let write = ledger.begin(database)?;
        write.open_table(HEADER).unwrap().insert(FORMAT_KEY, &[9_u8][..]).unwrap();
        ledger.commit(write)
    };
    ledger.with(stamp).unwrap();
    drop(ledger);
    let error = Ledger::open(&path).unwrap_err().to_string();
    assert!(error.contains("ledger is not understood: its format is [9]"), "{error}");
    assert!(error.contains("move it away"), "{error}");
    // An entry of a newer version.
    let ledger = Ledger::with_backend(InMemoryBackend::new).unwrap();
    let insert = |database: &Database| {
        let write = ledger.begin(database)?;
        let key = cid(1).to_bytes();
        write.open_table(ENTRIES).unwrap().insert(&key[..], &[2_u8, 0][..]).unwrap();
        ledger.commit(write)
    };
    ledger.with(insert).unwrap();
    assert!(matches!(ledger.entries(ME), Err(LedgerError::NotUnderstood { .. })));
}

/// The ledger's contents in a comparable form.
fn told(ledger: &Ledger) -> Result<String, LedgerError> {
    Ok(format!("{:?} {:?}", ledger.daemon()?, ledger.entries(ME)?))
}

/// Replaces `path` with many damaged files: each must read as `expected` or be refused.
fn after_damage(path: &Path, expected: &str) {
    let whole = std::fs::read(path).unwrap();
    let mark = std::fs::read(path.with_extension("synced")).unwrap();
    let (mut refused, mut sound) = (0, 0);
    damage::each(&whole, 400, 397, |what, bytes| {
        std::fs::write(path, bytes).unwrap();
        std::fs::write(path.with_extension("synced"), &mark).unwrap();
        match Ledger::open(path).and_then(|ledger| told(&ledger)) {
            Ok(told) => {
                assert_eq!(told, expected, "{what}");
                sound += 1;
            }
            Err(error) => {
                let text = error.to_string();
                let place = path.display().to_string();
                assert!(text.contains(&place) && text.contains("move it away"), "{text}");
                refused += 1;
            }
        }
    });
    println!("{refused} refused, {sound} whole, of {} bytes", whole.len());
    assert!(refused > 100 && sound > 100, "the damage was looked for");
}

#[test]
fn a_file_cut_anywhere_or_overwritten_never_reads_as_something_else() {
    let folder = damage::folder();
    let (path, crashed) = (folder.path().join("ledger"), folder.path().join("crashed"));
    let ledger = Ledger::open(&path).unwrap();
    ledger.bind("one", ME).unwrap();
    for round in 0..3 {
        let changes: Vec<_> = (0..200).map(|n| (cid(n), entry(Origin::Ours, round))).collect();
        ledger.write(&changes).unwrap();
    }
    let expected = told(&ledger).unwrap();
    for end in ["", "synced"] {
        std::fs::copy(path.with_extension(end), crashed.with_extension(end)).unwrap();
    }
    drop(ledger);
    after_damage(&path, &expected);
    after_damage(&crashed, &expected);

    let len = usize::try_from(path.metadata().unwrap().len()).unwrap();
    std::fs::write(&path, vec![0x55; len]).unwrap();
    let error = Ledger::open(&path).unwrap_err().to_string();
    assert!(error.contains("move it away"), "{error}");
    // Once it is moved away, the ledger starts empty.
    std::fs::remove_file(&path).unwrap();
    assert!(Ledger::open(&path).unwrap().entries(ME).unwrap().is_empty());
    assert!(Ledger::open(&path).is_ok());
}
