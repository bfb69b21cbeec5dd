//! A host's disk: the duration of its syncs, whether it is full, and redb files on it. Writes are
//! volatile until synced; a crash keeps the synced ones and none, some or all of the others.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hasher as _},
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use redb::StorageBackend;

use crate::{runtime::random_u64, types::millis};

/// The disk; clones share it.
#[derive(Clone, Debug)]
pub struct SimDisk {
    sync_ms: Arc<AtomicU64>,
    full: Arc<AtomicBool>,
}

impl SimDisk {
    /// A disk with free space.
    #[must_use]
    pub fn new(sync_time: Duration) -> Self {
        let disk = Self { sync_ms: Arc::default(), full: Arc::default() };
        disk.set_sync_time(sync_time);
        disk
    }

    /// Sets the duration of later syncs.
    pub fn set_sync_time(&self, time: Duration) {
        self.sync_ms.store(millis(time), Ordering::Relaxed);
    }

    /// While `true`, nothing can be written.
    pub fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::Relaxed);
    }

    /// Duration of a sync.
    #[must_use]
    pub fn sync_time(&self) -> Duration {
        Duration::from_millis(self.sync_ms.load(Ordering::Relaxed))
    }

    /// The same in milliseconds, following later changes.
    #[must_use]
    pub fn sync_ms(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.sync_ms)
    }

    /// An error while the disk is full.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`].
    pub fn space(&self) -> io::Result<()> {
        if self.full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

/// A file; clones share it.
#[derive(Clone, Debug)]
pub struct SimFile {
    disk: SimDisk,
    contents: Arc<Mutex<Contents>>,
}

#[derive(Debug, Default)]
struct Contents {
    volatile: Vec<u8>,
    durable: Vec<u8>,
    /// Writes since the last sync, in order.
    unsynced: Vec<Write>,
}

#[derive(Clone, Debug)]
enum Write {
    Bytes(usize, Vec<u8>),
    Len(usize),
}

impl Write {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::Len(len) => to.resize(*len, 0),
            Self::Bytes(start, bytes) => {
                let end = start + bytes.len();
                if to.len() < end {
                    to.resize(end, 0);
                }
                to[*start..end].copy_from_slice(bytes);
            }
        }
    }
}

impl SimFile {
    /// A synced file with these contents, on its own disk.
    #[must_use]
    pub fn with_contents(bytes: Vec<u8>) -> Self {
        let contents = Contents { volatile: bytes.clone(), durable: bytes, unsynced: Vec::new() };
        Self { disk: SimDisk::new(Duration::ZERO), contents: Arc::new(Mutex::new(contents)) }
    }

    /// The contents at the last sync.
    #[must_use]
    pub fn synced(&self) -> Vec<u8> {
        self.lock().durable.clone()
    }

    /// An empty file.
    #[must_use]
    pub fn new(disk: SimDisk) -> Self {
        Self { disk, contents: Arc::default() }
    }

    /// The file after a crash: the synced contents, and none, all or some of the later writes in any
    /// order. Writes to the old handle are lost.
    #[must_use]
    pub fn after_crash(&self) -> Self {
        let contents = self.lock();
        let mut durable = contents.durable.clone();
        let (fate, salt) = (random_u64() % 3, random_u64());
        let mut seen: BTreeMap<usize, u64> = BTreeMap::new();
        for write in &contents.unsynced {
            let kept = match (fate, write) {
                (0, _) => false,
                (1, _) | (_, Write::Len(_)) => true,
                // Decided by place, not in sequence: the order of redb's writes is not fixed.
                (_, Write::Bytes(start, _)) => {
                    let turn = seen.entry(*start).or_default();
                    *turn += 1;
                    let mut hasher = DefaultHasher::new();
                    hasher.write_u64(salt ^ *turn);
                    hasher.write_usize(*start);
                    hasher.finish().is_multiple_of(2)
                }
            };
            if kept {
                write.apply(&mut durable);
            }
        }
        let contents = Contents { volatile: durable.clone(), durable, unsynced: Vec::new() };
        Self { disk: self.disk.clone(), contents: Arc::new(Mutex::new(contents)) }
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock()
    }

    fn write(&self, write: Write) -> io::Result<()> {
        self.disk.space()?;
        let mut contents = self.lock();
        write.apply(&mut contents.volatile);
        contents.unsynced.push(write);
        Ok(())
    }
}

impl StorageBackend for SimFile {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.lock().volatile.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let contents = self.lock();
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let source = contents.volatile.get(start..start + out.len());
        out.copy_from_slice(source.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.write(Write::Len(usize::try_from(len).map_err(io::Error::other)?))
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.disk.space()?;
        let mut contents = self.lock();
        let unsynced = std::mem::take(&mut contents.unsynced);
        unsynced.iter().for_each(|write| write.apply(&mut contents.durable));
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        self.write(Write::Bytes(start, data.to_vec()))
    }
}
