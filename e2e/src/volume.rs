//! A small volume that can be filled up, and whose disk can hang or be slow. Needs root.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use rustix::fs::statvfs;

/// How a volume in a file is mounted: what nobody syncs stays in memory for minutes.
pub(crate) const MOUNTED: &str = "loop,commit=300";

/// A mounted volume; unmounted when dropped.
#[derive(Debug)]
pub struct Volume {
    folder: PathBuf,
    /// The file it is kept in, if it is in one.
    image: Option<PathBuf>,
    /// Where one of its files is mounted too.
    lent: Option<PathBuf>,
}

/// A disk that hangs over and over, until this is dropped.
#[derive(Debug)]
pub struct Slow {
    until: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
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
        Ok(Self { folder: folder.to_owned(), image: None, lent: None })
    }

    /// Mounts an ext4 of `size` bytes, kept in a file beside the folder, which is made.
    ///
    /// # Errors
    /// When that is not allowed.
    pub fn in_file(folder: &Path, size: u64) -> anyhow::Result<Self> {
        Self::in_this_file(folder, &folder.with_extension("image"), size, MOUNTED)
    }

    /// The same, kept in another file and mounted in this way.
    ///
    /// # Errors
    /// When that is not allowed.
    pub fn in_this_file(
        folder: &Path,
        image: &Path,
        size: u64,
        mounted: &str,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        File::create(image)?.set_len(size)?;
        run("mkfs.ext4", &["-q".as_ref(), image])?;
        run("mount", &["-o".as_ref(), mounted.as_ref(), image, folder])?;
        Ok(Self { folder: folder.to_owned(), image: Some(image.to_owned()), lent: None })
    }

    /// Has one of its files appear at `at`, which is made: where links are not followed.
    ///
    /// # Errors
    /// When that is not allowed.
    pub fn lend(&mut self, file: &str, at: &Path) -> anyhow::Result<()> {
        File::create_new(at)?;
        run("mount", &["--bind".as_ref(), &self.folder.join(file), at])?;
        self.lent = Some(at.to_owned());
        Ok(())
    }

    /// The file it is kept in.
    ///
    /// # Errors
    /// When it is in memory.
    pub fn image(&self) -> anyhow::Result<&Path> {
        self.image.as_deref().context("a volume in memory")
    }

    /// Puts another file in the place of its own. Nobody may use it.
    ///
    /// # Errors
    /// When it is in use.
    pub fn replace(&self, other: &Path) -> anyhow::Result<()> {
        let image = self.image()?;
        run("umount", &[&self.folder])?;
        std::fs::rename(other, image)?;
        run("mount", &["-o".as_ref(), MOUNTED.as_ref(), image, &self.folder])
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes everything out, as the system may at any time.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn write_out(&self) -> anyhow::Result<()> {
        run("sync", &["--file-system".as_ref(), &self.folder])
    }

    /// Lets the disk hang.
    ///
    /// # Errors
    /// When it is no volume in a file.
    pub fn freeze(&self) -> anyhow::Result<Frozen> {
        freeze(&self.folder)
    }

    /// Lets the disk hang for `hang`, work for `between`, and so on.
    ///
    /// # Errors
    /// When it is no volume in a file.
    pub fn slow(&self, hang: Duration, between: Duration) -> anyhow::Result<Slow> {
        let (until, over) = mpsc::channel();
        let (folder, frozen) = (self.folder.clone(), self.freeze()?);
        let work = move || hang_on_and_off(&folder, frozen, &over, [hang, between]);
        Ok(Slow { until: Some(until), thread: Some(std::thread::spawn(work)) })
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

fn freeze(folder: &Path) -> anyhow::Result<Frozen> {
    run("fsfreeze", &["--freeze".as_ref(), folder])?;
    Ok(Frozen(folder.to_owned()))
}

/// Until the other end of `over` is gone; the volume is frozen at first.
fn hang_on_and_off(folder: &Path, frozen: Frozen, over: &Receiver<()>, pauses: [Duration; 2]) {
    let [hang, between] = pauses;
    let mut frozen = Some(frozen);
    while over.recv_timeout(hang) == Err(RecvTimeoutError::Timeout) {
        frozen.take();
        if over.recv_timeout(between) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        match freeze(folder) {
            Ok(again) => frozen = Some(again),
            Err(error) => eprintln!("{error:#}"),
        }
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.until.take();
        if let Some(thread) = self.thread.take() {
            // It thaws the volume in any case.
            let _ = thread.join();
        }
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
        for mounted in self.lent.iter().chain([&self.folder]) {
            if let Err(error) = run("umount", &["--lazy".as_ref(), mounted]) {
                eprintln!("{error:#}");
            }
        }
    }
}

pub(crate) fn run(program: &str, args: &[&Path]) -> anyhow::Result<()> {
    let output = Command::new(program).args(args).output().with_context(|| program.to_owned())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} (which needs root): {}", said.trim());
    Ok(())
}
