//! A disk in memory for redb: writes are volatile until synced.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use redb::StorageBackend;

/// A file; clones are the same file.
#[derive(Clone, Debug, Default)]
pub struct SimFile(Arc<Mutex<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    volatile: Vec<u8>,
    durable: Vec<u8>,
}

impl SimFile {
    /// A file with these contents, synced.
    #[must_use]
    pub fn with_contents(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(Contents { volatile: bytes.clone(), durable: bytes })))
    }

    /// The contents as they were synced last.
    #[must_use]
    pub fn synced(&self) -> Vec<u8> {
        self.lock().durable.clone()
    }

    /// What a crash leaves: another file with the synced contents. Whoever still holds the old one
    /// writes into nothing.
    #[must_use]
    pub fn after_crash(&self) -> Self {
        Self::with_contents(self.synced())
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.lock().volatile.resize(len, 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        let mut contents = self.lock();
        contents.durable = contents.volatile.clone();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let mut contents = self.lock();
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let target = contents.volatile.get_mut(start..start + data.len());
        target.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?.copy_from_slice(data);
        Ok(())
    }
}
