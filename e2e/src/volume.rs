//! A small volume that can be filled up, or whose disk can hang. Needs root.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};
use rustix::fs::statvfs;

/// A mounted volume; unmounted when dropped.
#[derive(Debug)]
pub struct Volume {
    folder: PathBuf,
}

/// Whatever writes to the volume waits, also after SIGKILL, until this is dropped.
#[derive(Debug)]
pub struct Frozen(PathBuf);

impl Volume {
    /// Mounts a tmpfs of `size` bytes on a folder, which is made.
    ///
    /// # Errors
    /// When that is not allowed.
    pub fn in_memory(folder: &Path, size: u64) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let size = format!("size={size}");
        run(
            "mount",
            &[
                "-t".as_ref(),
                "tmpfs".as_ref(),
                "-o".as_ref(),
                size.as_ref(),
                "pinkeeper-test".as_ref(),
                folder,
            ],
        )?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// Mounts an ext4 of `size` bytes, kept in a file beside the folder, which is made.
    ///
    /// # Errors
    /// When that is not allowed.
    pub fn in_file(folder: &Path, size: u64) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let image = folder.with_extension("image");
        File::create(&image)?.set_len(size)?;
        run("mkfs.ext4", &["-q".as_ref(), &image])?;
        run("mount", &["-o".as_ref(), "loop".as_ref(), &image, folder])?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// Lets the disk hang.
    ///
    /// # Errors
    /// When it is no volume in a file.
    pub fn freeze(&self) -> anyhow::Result<Frozen> {
        run("fsfreeze", &["--freeze".as_ref(), &self.folder])?;
        Ok(Frozen(self.folder.clone()))
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }

    /// Bytes that are free.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn free(&self) -> anyhow::Result<u64> {
        let volume = statvfs(&self.folder).context("statvfs")?;
        Ok(volume.f_bavail * volume.f_frsize)
    }

    /// Fills it up to `left` bytes.
    ///
    /// # Errors
    /// When it is fuller already, or cannot be written.
    pub fn fill(&self, left: u64) -> anyhow::Result<()> {
        let len = self.free()?.checked_sub(left).context("it is fuller already")?;
        let mut filler = File::create(self.filler())?;
        Ok(filler.write_all(&vec![1; usize::try_from(len)?])?)
    }

    /// Gives the space back.
    ///
    /// # Errors
    /// When it was not filled.
    pub fn relieve(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.filler())?)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(error) = run("fsfreeze", &["--unfreeze".as_ref(), &self.0]) {
            eprintln!("{error:#}");
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Lazily: the peer on it may still run.
        if let Err(error) = run("umount", &["--lazy".as_ref(), &self.folder]) {
            eprintln!("{error:#}");
        }
    }
}

fn run(program: &str, args: &[&Path]) -> anyhow::Result<()> {
    let output = Command::new(program).args(args).output().with_context(|| program.to_owned())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} (which needs root): {}", said.trim());
    Ok(())
}
