//! Disks that lose power, all at one instant and while whoever uses them goes on.
//!
//! The disks are files on a volume below. While that is frozen nothing reaches them, and whoever waits
//! for a sync waits; so what they hold then is what a power cut leaves. What was written and not synced
//! is in memory above them, where the system keeps it for minutes. Needs root.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::volume::{Frozen, MOUNTED, Volume, run};

/// How the volume below is mounted. What it was given counts as on the disk, so it need not wait for
/// the machine's own.
const MOUNTED_BELOW: &str = "loop,barrier=0";

/// What some disks hang on.
#[derive(Debug)]
pub struct Supply {
    below: Volume,
    /// Where what survives is kept meanwhile.
    aside: PathBuf,
}

impl Supply {
    /// Makes it beside a folder, which is made; its disks have `size` bytes together, at most.
    ///
    /// # Errors
    /// When mounting is not allowed.
    pub fn new(folder: &Path, size: u64) -> anyhow::Result<Self> {
        let aside = folder.with_extension("aside");
        std::fs::create_dir_all(&aside)?;
        let image = folder.with_extension("image");
        let below = Volume::in_this_file(folder, &image, size, MOUNTED_BELOW)?;
        Ok(Self { below, aside })
    }

    /// Makes a disk and mounts it on a folder, which is made.
    ///
    /// # Errors
    /// When mounting is not allowed.
    pub fn disk(&self, folder: &Path, name: &str, size: u64) -> anyhow::Result<Volume> {
        Volume::in_this_file(folder, &self.below.folder().join(name), size, MOUNTED)
    }

    /// Cuts the power of some disks. All hang until the answer is dropped; whoever uses those that were
    /// cut is to be killed before.
    ///
    /// # Errors
    /// When they are no disks of this supply.
    pub fn cut(&self, disks: &[Volume]) -> anyhow::Result<Frozen> {
        let frozen = self.below.freeze()?;
        for disk in disks {
            copy(disk.image()?, &self.survivor(disk)?)?;
        }
        Ok(frozen)
    }

    /// Gives power back to disks that were cut, when nobody uses them any more.
    ///
    /// # Errors
    /// When one is in use.
    pub fn restore(&self, disks: &[Volume]) -> anyhow::Result<()> {
        for disk in disks {
            let new = disk.image()?.with_extension("new");
            copy(&self.survivor(disk)?, &new)?;
            disk.replace(&new)?;
        }
        Ok(())
    }

    fn survivor(&self, disk: &Volume) -> anyhow::Result<PathBuf> {
        Ok(self.aside.join(disk.image()?.file_name().context("a file")?))
    }
}

/// Leaves out what is empty.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    run("cp", &["--sparse=always".as_ref(), from, to])
}
