//! The data of an identity that was removed from its cluster: it is put aside, so that the peer starts
//! blank and may join as another one.
//!
//! The folder itself is a mount and cannot be renamed, so its content moves into a folder inside. Each
//! step may be repeated after a crash: the mark goes last.
//!
//! Invariant: only a folder with the mark is changed, and the mark is made only after the removal is
//! agreed.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

use crate::files;

/// The mark of a removed identity.
const MARK: &str = "removed";
/// The folder with the data of the last removed identity. Older ones are deleted.
const ASIDE: &str = "removed-data";
/// A file there: all of that identity's data is there.
const WHOLE: &str = "whole";
/// What stays: the lock of this process, and what the file system has for itself.
const STAYS: [&str; 4] = [MARK, ASIDE, "lock", "lost+found"];

/// Marks the folder of a removed identity.
///
/// # Errors
/// When the mark cannot be written.
pub fn mark(folder: &Path) -> io::Result<()> {
    let mut file = files::open_or_create(&folder.join(MARK))?;
    file.write_all(
        b"This identity was removed from its cluster. Its data is put aside at the next start.\n",
    )?;
    file.sync_all()?;
    sync(folder)
}

/// Puts the data of a marked folder aside. Returns whether it had the mark.
///
/// # Errors
/// When something cannot be moved; the next start tries again.
pub(super) fn put_aside(folder: &Path) -> io::Result<bool> {
    if !folder.join(MARK).try_exists()? {
        return Ok(false);
    }
    let names: Vec<OsString> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
    // Names with a dot belong to the file system, like the folder of its snapshots.
    let stays = |name: &OsString| {
        STAYS.iter().any(|stays| name == stays) || name.as_encoded_bytes().starts_with(b".")
    };
    let moves: Vec<OsString> = names.into_iter().filter(|name| !stays(name)).collect();
    if !moves.is_empty() {
        let aside = folder.join(ASIDE);
        // Without that file it is what a crash in the middle left of this identity.
        if aside.join(WHOLE).try_exists()? {
            fs::remove_dir_all(&aside)?;
        }
        files::folder(&aside)?;
        for name in moves {
            // What a crash left of an older identity there, while that was being deleted.
            remove_if_there(&aside.join(&name))?;
            fs::rename(folder.join(&name), aside.join(&name))?;
        }
        files::open_or_create(&aside.join(WHOLE))?.sync_all()?;
        sync(&aside)?;
        sync(folder)?;
    }
    fs::remove_file(folder.join(MARK))?;
    sync(folder)?;
    Ok(true)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A folder as a peer leaves it, with the data of this identity.
    fn fill(folder: &Path, of: &str) {
        fs::create_dir_all(folder.join("log")).unwrap();
        for name in ["identity", "state.redb", "addresses", "log/1"] {
            fs::write(folder.join(name), of).unwrap();
        }
        fs::write(folder.join("lock"), "7").unwrap();
    }

    fn read(folder: &Path, name: &str) -> Option<String> {
        fs::read_to_string(folder.join(name)).ok()
    }

    #[test]
    fn the_data_of_a_removed_identity_is_put_aside_once() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        fill(folder, "first");
        assert!(!put_aside(folder).unwrap(), "it has no mark");
        assert_eq!(read(folder, "log/1").unwrap(), "first");
        for of in ["first", "second"] {
            fill(folder, of);
            mark(folder).unwrap();
            assert!(put_aside(folder).unwrap());
            for name in ["identity", "state.redb", "addresses", "log/1"] {
                assert_eq!(read(folder, name), None, "{name}");
                assert_eq!(read(&folder.join(ASIDE), name).as_deref(), Some(of), "{name}");
            }
            assert_eq!(read(folder, "lock").unwrap(), "7");
            assert!(!put_aside(folder).unwrap());
        }
    }

    #[test]
    fn a_crash_while_older_data_is_deleted_does_not_stop_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        fill(folder, "new");
        fs::create_dir(folder.join(".snapshot")).unwrap();
        fill(&folder.join(ASIDE), "old");
        mark(folder).unwrap();
        assert!(put_aside(folder).unwrap());
        for name in ["identity", "state.redb", "addresses", "log/1"] {
            assert_eq!(read(&folder.join(ASIDE), name).as_deref(), Some("new"), "{name}");
        }
        assert!(folder.join(".snapshot").is_dir());
    }

    #[test]
    fn a_crash_in_the_middle_loses_nothing() {
        let names = ["addresses", "identity", "log", "state.redb"];
        for moved in 0..=names.len() {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path();
            fill(folder, "it");
            mark(folder).unwrap();
            fs::create_dir_all(folder.join(ASIDE)).unwrap();
            for name in &names[..moved] {
                fs::rename(folder.join(name), folder.join(ASIDE).join(name)).unwrap();
            }
            assert!(put_aside(folder).unwrap());
            for name in ["identity", "state.redb", "addresses", "log/1"] {
                assert_eq!(
                    read(&folder.join(ASIDE), name).as_deref(),
                    Some("it"),
                    "{moved} {name}"
                );
            }
        }
    }
}
