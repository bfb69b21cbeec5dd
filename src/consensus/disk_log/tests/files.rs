//! Which files are accepted as a log at an opening, which are repaired, and which are refused.

use super::{
    super::{DiskLog, whole},
    image::Files,
    *,
};

/// A log of at least three files, not purged.
async fn written(folder: &Path) -> Files {
    let mut log = DiskLog::open_with(folder, 300).unwrap();
    log.set_cluster(CLUSTER.0, CLUSTER.1).unwrap();
    for n in 0..12 {
        log.blocking_append(entries(n * 2..n * 2 + 2)).await.unwrap();
    }
    log.save_vote(&vote(2)).await.unwrap();
    drop(log);
    let files = Files::of(folder);
    assert!(files.0.len() > 2, "{}", files.0.len());
    files
}

/// The result of the check, and the files afterwards.
fn checked(files: &Files, synced: Option<u64>) -> (io::Result<u64>, Files) {
    let folder = TempDir::new().unwrap();
    files.write(folder.path()).unwrap();
    let checked = whole::check_files(folder.path(), synced);
    (checked, Files::of(folder.path()))
}

#[tokio::test]
async fn files_are_whole_up_to_the_mark_or_refused() {
    let folder = TempDir::new().unwrap();
    let sound = written(&folder.path().join("log")).await;
    let (end, last) = (sound.end(), sound.start_of_last());
    let torn = sound.cut(end - 1);
    let (before_last, _) = checked(&torn, Some(0));
    let before_last = before_last.unwrap();
    assert!(last < before_last && before_last < end - 1);
    let unbegun = sound.cut(last);
    // Each with the mark, and the whole bytes if the files are accepted.
    let cases = [
        ("whole", &sound, Some(end), Some(end)),
        ("whole, with an old mark", &sound, Some(0), Some(end)),
        ("whole, without a mark", &sound, None, Some(end)),
        ("less than the mark", &sound, Some(end + 1), None),
        ("torn behind the mark", &torn, Some(before_last), Some(before_last)),
        ("torn before the mark", &torn, Some(before_last + 1), None),
        ("the last not begun", &unbegun, Some(last), Some(last)),
        ("the last not begun, before the mark", &unbegun, Some(last + 1), None),
        ("nothing", &Files::default(), Some(0), Some(0)),
        ("nothing, with a mark", &Files::default(), Some(1), None),
        ("nothing, without a mark", &Files::default(), None, Some(0)),
    ];
    for (case, files, mark, whole) in cases {
        let (found, left) = checked(files, mark);
        assert_eq!(found.ok(), whole, "{case}");
        match whole {
            Some(whole) if mark.is_some() => assert_eq!(left, files.cut(whole), "{case}"),
            _ => assert_eq!(&left, files, "{case}: nothing is changed"),
        }
    }
    let (_, left) = checked(&torn, None);
    assert_eq!(left, torn, "without a mark nothing is cut off");
}

/// A file is created as soon as the one before is full; the writes to both wait for the log's thread.
#[tokio::test]
async fn files_begun_before_the_last_was_written_are_no_damage() {
    let folder = TempDir::new().unwrap();
    let sound = written(&folder.path().join("log")).await;
    let (first, second) = (sound.0[0].2.len() as u64, sound.0[2].1);
    // Whole bytes, number of files, the mark; then whether they are accepted.
    let cases = [
        (first - 1, 2, first - 1, false),
        (first - 1, 2, 0, true),
        (first - 1, 3, 0, true),
        (first, 3, first, true),
        (second, 3, second, true),
        (second - 1, 3, first, true),
        (second - 1, 3, second, false),
    ];
    for (len, count, mark, is_taken) in cases {
        let case = format!("{len} bytes in {count} files, mark {mark}");
        let mut files = sound.cut(len);
        files.0.truncate(count);
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("log");
        files.write(&path).unwrap();
        HighWater::open(&path.with_extension("synced")).unwrap().0.raise(mark);
        let opened = DiskLog::open_with(&path, 300);
        assert_eq!(opened.is_ok(), is_taken, "{case}: {:?}", opened.map(drop));
    }
    // A hole between begun files is damage, whatever the mark says.
    let mut files = sound.clone();
    files.0[0].2.truncate(5);
    assert!(checked(&files, Some(0)).0.is_err());
    let mut hole = sound.clone();
    hole.0.remove(1);
    assert!(checked(&hole, Some(0)).0.is_err());
    // Without a mark it is unknown what was synced.
    let mut files = sound.cut(first - 1);
    files.0.truncate(2);
    assert!(checked(&files, None).0.is_err());
}

/// The data may be in memory only: the process that wrote it was killed before it could sync.
#[tokio::test]
async fn what_is_taken_at_an_opening_is_synced_and_marked() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log");
    let sound = written(&path).await;
    for mark in [0, sound.start_of_last() + 1] {
        HighWater::open(&path.with_extension("synced")).unwrap().0.raise(mark);
        let log = DiskLog::open_with(&path, 300).unwrap();
        assert_eq!(*log.flushed().borrow(), Some(23));
        let marked = HighWater::open(&path.with_extension("synced")).unwrap().1;
        assert_eq!(marked, Some(sound.end()), "what flushed says is known to be on disk");
    }
}

#[tokio::test]
async fn a_log_without_its_first_entry_is_refused() {
    // The number of entries, and up to where they are purged.
    for (count, purged) in [(1, None), (3, None), (3, Some(0)), (4, Some(1))] {
        let case = format!("{count} entries, purged {purged:?}");
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("log");
        // One entry per file.
        let mut log = DiskLog::open_with(&path, 1).unwrap();
        for n in 0..count {
            log.blocking_append(entries(n..n + 1)).await.unwrap();
        }
        if let Some(upto) = purged {
            log.purge(entries(upto..upto + 1).next().unwrap().log_id).await.unwrap();
        }
        log.save_vote(&vote(2)).await.unwrap();
        drop(log);
        let first = Files::of(&path).0.remove(0).0;
        drop(DiskLog::open_with(&path, 1).unwrap());
        std::fs::remove_file(path.join(first)).unwrap();
        let opened = DiskLog::open_with(&path, 1);
        assert_eq!(opened.map(drop).unwrap_err().kind(), io::ErrorKind::InvalidData, "{case}");
    }
}
