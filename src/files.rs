//! Files of this peer in its own folders: private to its user, and never opened through a link.
//!
//! Anyone who can write to such a folder could place a link there, so that the peer overwrites another
//! of its own files. Invariants: an opened file is not a link; a created file did not exist before;
//! files are readable by their owner only.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
};

const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;
/// Longest text of a process ID.
const PID_LEN_MAX: u64 = 20;

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    // The flag's bit is positive on every system.
    let no_link = OFlags::NOFOLLOW.bits().cast_signed();
    options.read(true).mode(FILE_MODE).custom_flags(no_link);
    options
}

/// Opens a file for reading and writing.
///
/// # Errors
/// When it does not exist, is a link, or cannot be opened.
pub fn open(path: &Path) -> io::Result<File> {
    options().write(true).open(path).and_then(private).map_err(|error| named(error, path))
}

/// As [`open`]; creates the file if it does not exist.
///
/// # Errors
/// When it is a link, or cannot be opened.
pub fn open_or_create(path: &Path) -> io::Result<File> {
    let opened = options().write(true).create(true).truncate(false).open(path);
    opened.and_then(private).map_err(|error| named(error, path))
}

/// Creates a file. A leftover file or link with that name is removed first, but not the target of a
/// link.
///
/// # Errors
/// When it cannot be created, or another process creates it.
pub fn create_anew(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    options().write(true).create_new(true).open(path)
}

/// Reads a file.
///
/// # Errors
/// When it does not exist, is a link, or cannot be read.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut file = options().open(path).map_err(|error| named(error, path))?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Creates a folder and its parents if they are missing. It must not contain links, since libraries
/// open files in it by name.
///
/// # Errors
/// When it cannot be created or read, or contains a link.
pub fn folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path)?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_symlink() {
            let link = entry.path();
            return Err(io::Error::other(format!("{} is a link; remove it", link.display())));
        }
    }
    Ok(())
}

/// Reserves a folder for this process until the process ends.
#[derive(Debug)]
pub struct FolderLock {
    file: File,
    path: PathBuf,
}

impl FolderLock {
    /// Whether the folder is still the one that was locked: open files survive the deletion of their
    /// folder, and anything written to them then is lost.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn is_in_place(&self) -> io::Result<bool> {
        let ours = self.file.metadata()?;
        match fs::symlink_metadata(&self.path) {
            Ok(found) => Ok((found.dev(), found.ino()) == (ours.dev(), ours.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }
}

/// Why a folder cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has locked it.
    #[error("another process{} uses it; stop that one first", pid.map_or_else(String::new, |pid| format!(" (PID {pid})")))]
    Taken {
        /// That process' ID, if readable.
        pid: Option<u32>,
    },
    /// The check failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Locks a folder for this process, and writes its process ID there for people.
///
/// # Errors
/// When another process has locked it.
pub fn lock(folder: &Path) -> Result<FolderLock, LockError> {
    let path = folder.join("lock");
    let mut file = open_or_create(&path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut text = String::new();
            let read = file.take(PID_LEN_MAX).read_to_string(&mut text);
            let pid = read.ok().and_then(|_| text.trim().parse().ok());
            return Err(LockError::Taken { pid });
        }
        Err(error) => return Err(LockError::Io(error.into())),
    }
    // The lock holds without the ID, as on a full disk.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(FolderLock { file, path })
}

/// Makes files of older versions private; that fails for files of another owner.
fn private(file: File) -> io::Result<File> {
    let permissions = file.metadata()?.permissions();
    if permissions.mode() & 0o077 != 0 {
        let _ = file.set_permissions(fs::Permissions::from_mode(FILE_MODE));
    }
    Ok(file)
}

/// Names the link in the error: the system reports "too many levels of symbolic links" for any link.
fn named(error: io::Error, path: &Path) -> io::Error {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => {
            io::Error::other(format!("{} is a link; remove it", path.display()))
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn no_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("identity"), folder.path().join("link"));
        fs::write(&target, "mine").unwrap();
        symlink(&target, &link).unwrap();
        for result in
            [open(&link).map(drop), open_or_create(&link).map(drop), read(&link).map(drop)]
        {
            assert!(result.unwrap_err().to_string().contains("is a link"));
        }
        assert!(super::folder(folder.path()).unwrap_err().to_string().contains("link is a link"));
        create_anew(&link).unwrap().write_all(b"other").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"mine");
        assert_eq!(read(&link).unwrap(), b"other");
        assert_eq!(open(&folder.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_folder_is_one_processes_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path()).unwrap();
        let error = lock(folder.path()).unwrap_err();
        assert!(matches!(error, LockError::Taken { pid } if pid == Some(std::process::id())));
        let expected = format!("another process (PID {}) uses it", std::process::id());
        assert!(error.to_string().starts_with(&expected), "{error}");
        drop(held);
        let held = lock(folder.path()).unwrap();
        assert!(held.is_in_place().unwrap());
        // Deleted, and created again by another process.
        fs::remove_file(folder.path().join("lock")).unwrap();
        assert!(!held.is_in_place().unwrap());
        fs::write(folder.path().join("lock"), "").unwrap();
        assert!(!held.is_in_place().unwrap());
    }

    #[test]
    fn what_is_made_is_for_its_owner_alone() {
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("a/b");
        super::folder(&inner).unwrap();
        super::folder(&inner).unwrap();
        assert_eq!(mode(&inner), 0o700);
        let file = inner.join("file");
        open_or_create(&file).unwrap();
        assert_eq!(mode(&file), 0o600);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        open(&file).unwrap();
        assert_eq!(mode(&file), 0o600);
        create_anew(&file).unwrap();
        assert_eq!(mode(&file), 0o600);
    }
}
