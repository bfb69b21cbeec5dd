//! Copies the running program, so that a container with another image can run it.
//!
//! The daemon's container runs `pinkeeper kubo` in Kubo's image: an init container with our image
//! copies the program into a shared volume.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Copies this program to `<folder>/pinkeeper`, readable and executable for all, and returns that
/// path. An existing file is replaced atomically; processes that run it keep the old one.
///
/// # Errors
/// When the folder cannot be written, or the program cannot be read.
pub fn install(folder: &Path) -> io::Result<PathBuf> {
    let target = folder.join("pinkeeper");
    let unfinished = folder.join(".pinkeeper.unfinished");
    fs::copy(std::env::current_exe()?, &unfinished)?;
    fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o555))?;
    fs::rename(&unfinished, &target)?;
    Ok(target)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_copy_is_whole_executable_and_can_be_replaced() {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let path = install(folder.path()).unwrap();
            let own = fs::metadata(std::env::current_exe().unwrap()).unwrap();
            let copy = fs::metadata(&path).unwrap();
            assert_eq!(copy.len(), own.len());
            assert_eq!(copy.permissions().mode() & 0o777, 0o555);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left over");
    }

    #[test]
    fn a_missing_folder_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(install(&folder.path().join("absent")).is_err());
    }
}
