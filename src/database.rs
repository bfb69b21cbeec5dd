//! A redb file that is complete or absent.
//!
//! redb sets a new file's length before it writes the first page, so a full disk or a crash in between
//! leaves a file that can never be opened as a database. So a new file is created under another name.

use std::{fs, io, path::Path};

use redb::{Builder, Database, DatabaseError, StorageError, backends::FileBackend};

use crate::files;

/// Opens the file, or creates it if it does not exist.
///
/// # Errors
/// When it is damaged, or cannot be read or written.
pub fn open_or_create(builder: &Builder, path: &Path) -> Result<Database, DatabaseError> {
    if !path.try_exists().map_err(failed)? {
        let unfinished = path.with_extension("new");
        let file = files::create_anew(&unfinished).map_err(failed)?;
        drop(builder.create_with_backend(FileBackend::new(file)?)?);
        fs::rename(&unfinished, path).map_err(failed)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = fs::File::open(folder.unwrap_or_else(|| Path::new(".")));
        folder.and_then(|folder| folder.sync_all()).map_err(failed)?;
    }
    open(builder, path)
}

/// Opens an existing file.
///
/// # Errors
/// As [`open_or_create`].
pub fn open(builder: &Builder, path: &Path) -> Result<Database, DatabaseError> {
    let file = files::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.len() == 0 {
        // redb would treat it as a new one.
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, "the file is empty")));
    }
    builder.create_with_backend(FileBackend::new(file)?)
}

fn failed(error: io::Error) -> DatabaseError {
    StorageError::from(error).into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_was_left_unfinished_is_made_anew_and_what_is_there_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let names = || {
            let names = fs::read_dir(folder.path()).unwrap();
            names.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>()
        };
        fs::write(folder.path().join("state.new"), [0; 4096]).unwrap();
        drop(open_or_create(&Database::builder(), &path).unwrap());
        assert_eq!(names(), ["state.redb"]);
        drop(open_or_create(&Database::builder(), &path).unwrap());
        fs::write(&path, [0; 4096]).unwrap();
        assert!(open_or_create(&Database::builder(), &path).is_err(), "never made anew");
    }

    #[test]
    fn it_is_made_under_another_name_and_nothing_that_is_there_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("state.redb"), folder.path().join("other"));
        // Creating the file under its own name would write through the link.
        std::os::unix::fs::symlink(&other, &path).unwrap();
        drop(open_or_create(&Database::builder(), &path).unwrap());
        assert!(fs::symlink_metadata(&path).unwrap().is_file() && !other.exists());
        fs::write(&path, []).unwrap();
        assert!(open_or_create(&Database::builder(), &path).is_err());
    }
}
