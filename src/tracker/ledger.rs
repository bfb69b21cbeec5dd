//! The ledger: which of the daemon's pins are ours and which are somebody else's, on disk.
//!
//! Invariants: bound to one daemon's ID, under another ID its entries are void; a write is on disk
//! when it returns; it knows nothing of what is wanted or pinned now. It must not guess: a file it
//! cannot read is an error that says what to do, never an empty ledger.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use redb::{
    Database, Durability, ReadableDatabase as _, ReadableTable as _, StorageBackend,
    TableDefinition, WriteTransaction,
};

use crate::types::{Cid, CidError, Timestamp};

/// Binary CID → [`Entry`] in the form of [`Entry::encode`].
const ENTRIES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("entries");
/// `format` → version of the whole file, one byte; `daemon` → the daemon's ID.
const HEADER: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("header");
const FORMAT_KEY: &str = "format";
const DAEMON_KEY: &str = "daemon";
/// Version of the tables' layout. Another one is refused.
const FORMAT: u8 = 1;
/// Version of an entry's bytes. Another one is refused.
const ENTRY_FORMAT: u8 = 1;
/// Memory for pages in bytes; redb's own default is 1 GiB.
const CACHE_SIZE: usize = 4 * 1024 * 1024;

/// Who pinned a CID in the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This peer, or it was about to.
    Ours,
    /// It was pinned before this peer came.
    Foreign,
}

/// What the ledger says of one CID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Who pinned it.
    pub origin: Origin,
    /// When that was written.
    pub since: Timestamp,
}

/// One change: the new entry, or none to forget the CID.
pub type Change = (Cid, Option<Entry>);

/// What can go wrong with the ledger. Every text says where.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file cannot be opened as a database.
    #[error(
        "the ledger {place} cannot be opened: {reason}; if the file is damaged, move it away and \
         start again: content pinned before is then taken for somebody else's and stays pinned"
    )]
    Open {
        /// The file.
        place: Place,
        /// Why.
        reason: String,
    },
    /// The file is a database, but not a ledger this version can read.
    #[error(
        "the ledger {place} is not understood: {what}; use the version of pinkeeper that wrote it, \
         or move it away and start again: content pinned before is then taken for somebody else's \
         and stays pinned"
    )]
    NotUnderstood {
        /// The file.
        place: Place,
        /// What was found.
        what: String,
    },
    /// The disk failed.
    #[error("the ledger {place} cannot be read or written: {reason}")]
    Disk {
        /// The file.
        place: Place,
        /// Why.
        reason: String,
    },
}

/// Where a ledger is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file.
    File(PathBuf),
    /// In a backend given by the caller.
    Backend,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Backend => f.write_str("(in a backend)"),
        }
    }
}

/// The open ledger; clones are the same one. Calls block for a disk write or less per call.
#[derive(Clone)]
pub struct Ledger {
    /// Absent after an error of the disk: redb refuses everything then, also when there is space
    /// again, until the file is opened anew.
    database: Arc<Mutex<Option<Arc<Database>>>>,
    open: Arc<dyn Fn() -> Result<Database, redb::DatabaseError> + Send + Sync>,
    place: Place,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Entry {
    /// Version, origin, milliseconds since the epoch (8 bytes, big endian).
    fn encode(self) -> [u8; 10] {
        let mut bytes = [0; 10];
        bytes[0] = ENTRY_FORMAT;
        bytes[1] = match self.origin {
            Origin::Ours => 0,
            Origin::Foreign => 1,
        };
        bytes[2..].copy_from_slice(&self.since.0.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[ENTRY_FORMAT, origin], since) = bytes.split_first_chunk()? else { return None };
        let origin = match origin {
            0 => Origin::Ours,
            1 => Origin::Foreign,
            _ => return None,
        };
        Some(Self { origin, since: Timestamp(u64::from_be_bytes(since.try_into().ok()?)) })
    }
}

impl Ledger {
    /// Opens the ledger in a file, or makes it.
    ///
    /// # Errors
    /// When the file cannot be opened, is damaged, or is of another version.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let file = path.to_owned();
        let open = move || Database::builder().set_cache_size(CACHE_SIZE).create(&file);
        Self::checked(open, Place::File(path.to_owned()))
    }

    /// Opens the ledger in a backend, or makes it: for simulated worlds. Each call of `backend` gives
    /// the same contents.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub fn with_backend<B: StorageBackend>(
        backend: impl Fn() -> B + Send + Sync + 'static,
    ) -> Result<Self, LedgerError> {
        let open =
            move || Database::builder().set_cache_size(CACHE_SIZE).create_with_backend(backend());
        Self::checked(open, Place::Backend)
    }

    fn checked(
        open: impl Fn() -> Result<Database, redb::DatabaseError> + Send + Sync + 'static,
        place: Place,
    ) -> Result<Self, LedgerError> {
        let database = open()
            .map_err(|e| LedgerError::Open { place: place.clone(), reason: e.to_string() })?;
        let database = Arc::new(Mutex::new(Some(Arc::new(database))));
        let ledger = Self { database, open: Arc::new(open), place };
        ledger.check_format()?;
        Ok(ledger)
    }

    fn database(&self) -> Result<Arc<Database>, LedgerError> {
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = &*database {
            return Ok(Arc::clone(open));
        }
        let opened = (self.open)().map_err(|error| LedgerError::Disk {
            place: self.place.clone(),
            reason: error.to_string(),
        })?;
        Ok(Arc::clone(database.insert(Arc::new(opened))))
    }

    fn check_format(&self) -> Result<(), LedgerError> {
        let write = self.begin()?;
        {
            let mut header = write.open_table(HEADER).map_err(|e| self.not_a_ledger(&e))?;
            write.open_table(ENTRIES).map_err(|e| self.not_a_ledger(&e))?;
            let found = header
                .get(FORMAT_KEY)
                .map_err(|e| self.disk(&e))?
                .map(|value| value.value().to_vec());
            match found.as_deref() {
                Some([FORMAT]) => return Ok(()),
                Some(other) => {
                    return Err(self.not_understood(format!("its format is {other:?}")));
                }
                None => header.insert(FORMAT_KEY, &[FORMAT][..]).map_err(|e| self.disk(&e))?,
            };
        }
        self.commit(write)
    }

    /// The daemon it is bound to; none when it is new.
    ///
    /// # Errors
    /// When the disk fails or the ID is not text.
    pub fn daemon(&self) -> Result<Option<String>, LedgerError> {
        let read = self.database()?.begin_read().map_err(|e| self.disk(&e))?;
        let header = read.open_table(HEADER).map_err(|e| self.disk(&e))?;
        let id = header.get(DAEMON_KEY).map_err(|e| self.disk(&e))?;
        id.map(|id| {
            String::from_utf8(id.value().to_vec())
                .map_err(|_| self.not_understood("the daemon's ID is not text".to_owned()))
        })
        .transpose()
    }

    /// Binds it to a daemon. Entries of another daemon are dropped; returns how many.
    ///
    /// # Errors
    /// When the disk fails; then nothing has changed.
    pub fn bind(&self, daemon: &str) -> Result<u64, LedgerError> {
        use redb::ReadableTableMetadata as _;
        if self.daemon()?.as_deref() == Some(daemon) {
            return Ok(0);
        }
        let write = self.begin()?;
        let dropped = {
            let entries = write.open_table(ENTRIES).map_err(|e| self.disk(&e))?;
            entries.len().map_err(|e| self.disk(&e))?
        };
        write.delete_table(ENTRIES).map_err(|e| self.disk(&e))?;
        write.open_table(ENTRIES).map_err(|e| self.disk(&e))?;
        {
            let mut header = write.open_table(HEADER).map_err(|e| self.disk(&e))?;
            header.insert(DAEMON_KEY, daemon.as_bytes()).map_err(|e| self.disk(&e))?;
        }
        self.commit(write)?;
        Ok(dropped)
    }

    /// All entries, in order of their CIDs.
    ///
    /// # Errors
    /// When the disk fails or an entry is not understood.
    pub fn entries(&self) -> Result<Vec<(Cid, Entry)>, LedgerError> {
        let read = self.database()?.begin_read().map_err(|e| self.disk(&e))?;
        let table = read.open_table(ENTRIES).map_err(|e| self.disk(&e))?;
        let mut entries = Vec::new();
        for item in table.iter().map_err(|e| self.disk(&e))? {
            let (key, value) = item.map_err(|e| self.disk(&e))?;
            let cid = Cid::from_bytes(key.value())
                .map_err(|e: CidError| self.not_understood(e.to_string()))?;
            let entry = Entry::decode(value.value()).ok_or_else(|| {
                self.not_understood(format!("the entry of {cid} is {}", hex::encode(value.value())))
            })?;
            entries.push((cid, entry));
        }
        Ok(entries)
    }

    /// Writes changes in one transaction; they are on disk when it returns.
    ///
    /// # Errors
    /// When the disk fails; then nothing has changed.
    pub fn write(&self, changes: &[Change]) -> Result<(), LedgerError> {
        let write = self.begin()?;
        {
            let mut table = write.open_table(ENTRIES).map_err(|e| self.disk(&e))?;
            for (cid, entry) in changes {
                let key = cid.to_bytes();
                match entry {
                    Some(entry) => {
                        table.insert(&key[..], &entry.encode()[..]).map_err(|e| self.disk(&e))?
                    }
                    None => table.remove(&key[..]).map_err(|e| self.disk(&e))?,
                };
            }
        }
        self.commit(write)
    }

    fn begin(&self) -> Result<WriteTransaction, LedgerError> {
        let mut write = self.database()?.begin_write().map_err(|e| self.disk(&e))?;
        write.set_durability(Durability::Immediate).map_err(|e| self.disk(&e))?;
        Ok(write)
    }

    fn commit(&self, write: WriteTransaction) -> Result<(), LedgerError> {
        write.commit().map_err(|e| self.disk(&e))
    }

    fn disk(&self, error: &dyn fmt::Display) -> LedgerError {
        *self.database.lock().unwrap_or_else(PoisonError::into_inner) = None;
        LedgerError::Disk { place: self.place.clone(), reason: error.to_string() }
    }

    fn not_a_ledger(&self, error: &dyn fmt::Display) -> LedgerError {
        self.not_understood(error.to_string())
    }

    fn not_understood(&self, what: String) -> LedgerError {
        LedgerError::NotUnderstood { place: self.place.clone(), what }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use redb::backends::InMemoryBackend;

    use super::*;

    fn cid(n: u8) -> Cid {
        // CIDv1, raw, identity multihash of one byte.
        Cid::from_bytes(&[1, 0x55, 0, 1, n]).unwrap()
    }

    fn entry(origin: Origin, since: u64) -> Option<Entry> {
        Some(Entry { origin, since: Timestamp(since) })
    }

    #[test]
    fn what_was_written_is_there_after_opening_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let ledger = Ledger::open(&path).unwrap();
        assert_eq!(ledger.daemon().unwrap(), None);
        assert_eq!(ledger.bind("one").unwrap(), 0);
        ledger
            .write(&[(cid(2), entry(Origin::Foreign, 7)), (cid(1), entry(Origin::Ours, 8))])
            .unwrap();
        ledger.write(&[(cid(3), entry(Origin::Ours, 9)), (cid(2), None)]).unwrap();
        drop(ledger);
        let ledger = Ledger::open(&path).unwrap();
        assert_eq!(ledger.daemon().unwrap().as_deref(), Some("one"));
        let entries: Vec<_> =
            ledger.entries().unwrap().into_iter().map(|(c, e)| (c, Some(e))).collect();
        assert_eq!(entries, [(cid(1), entry(Origin::Ours, 8)), (cid(3), entry(Origin::Ours, 9))]);
    }

    #[test]
    fn another_daemon_voids_the_entries() {
        let ledger = Ledger::with_backend(InMemoryBackend::new).unwrap();
        ledger.bind("one").unwrap();
        ledger.write(&[(cid(1), entry(Origin::Ours, 1))]).unwrap();
        assert_eq!(ledger.bind("one").unwrap(), 0);
        assert_eq!(ledger.entries().unwrap().len(), 1);
        assert_eq!(ledger.bind("two").unwrap(), 1);
        assert!(ledger.entries().unwrap().is_empty());
        assert_eq!(ledger.daemon().unwrap().as_deref(), Some("two"));
    }

    #[test]
    fn another_version_is_refused_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let ledger = Ledger::open(&path).unwrap();
        let write = ledger.begin().unwrap();
        write.open_table(HEADER).unwrap().insert(FORMAT_KEY, &[9_u8][..]).unwrap();
        ledger.commit(write).unwrap();
        drop(ledger);
        let error = Ledger::open(&path).unwrap_err().to_string();
        assert!(error.contains("ledger is not understood: its format is [9]"), "{error}");
        assert!(error.contains("move it away"), "{error}");
        // An entry of a newer version.
        let ledger = Ledger::with_backend(InMemoryBackend::new).unwrap();
        let write = ledger.begin().unwrap();
        let key = cid(1).to_bytes();
        write.open_table(ENTRIES).unwrap().insert(&key[..], &[2_u8, 0][..]).unwrap();
        ledger.commit(write).unwrap();
        assert!(matches!(ledger.entries(), Err(LedgerError::NotUnderstood { .. })));
    }

    #[test]
    fn a_file_cut_anywhere_or_overwritten_never_reads_as_something_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let ledger = Ledger::open(&path).unwrap();
        ledger.bind("one").unwrap();
        let changes: Vec<_> = (0..200).map(|n| (cid(n), entry(Origin::Ours, 1))).collect();
        ledger.write(&changes).unwrap();
        drop(ledger);
        let whole = std::fs::read(&path).unwrap();
        let mut cuts: Vec<usize> = (1..whole.len()).step_by(whole.len() / 40).collect();
        cuts.push(whole.len() - 1);
        for cut in cuts {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let read = Ledger::open(&path).and_then(|ledger| ledger.entries());
            // All of it, or an error.
            match read {
                Ok(entries) => assert_eq!(entries.len(), changes.len(), "cut at {cut}"),
                Err(error) => assert!(error.to_string().contains("ledger"), "{error}"),
            }
        }
        std::fs::write(&path, vec![0x55; whole.len()]).unwrap();
        let error = Ledger::open(&path).unwrap_err().to_string();
        assert!(error.contains("move it away"), "{error}");
    }
}
