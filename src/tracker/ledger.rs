//! The ledger: records on disk which of the daemon's pins are ours and which are foreign.
//!
//! Invariants:
//! - It is bound to one daemon ID; under another daemon its entries are void.
//! - It is bound to one peer ID; under another peer the entries that were ours are a former peer's.
//! - A write is on disk when the call returns.
//! - It does not know what is wanted or pinned now.
//! - It must not guess: a file that cannot be read, or that lacks a write, is an error that says what
//!   to do, never an empty ledger.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use redb::{
    Database, Durability, ReadableDatabase as _, ReadableTable as _, StorageBackend,
    TableDefinition, WriteTransaction,
};

use crate::{
    database::{open, open_or_create},
    high_water::HighWater,
    types::{Cid, CidError, PeerId, Timestamp},
};

/// Binary CID → [`LedgerEntry`], encoded by [`LedgerEntry::encode`].
const ENTRIES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("entries");
/// `format` → version of the whole file, one byte; `daemon` → the daemon's ID; `peer` → the peer's ID,
/// 32 bytes; `writes` → number of writes so far, 8 bytes, big endian.
const HEADER: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("header");
const FORMAT_KEY: &str = "format";
const DAEMON_KEY: &str = "daemon";
const PEER_KEY: &str = "peer";
const WRITES_KEY: &str = "writes";
/// Version of the tables' layout. Other versions are refused.
const FORMAT: u8 = 1;
/// Version of an entry's bytes. Other versions are refused.
const ENTRY_FORMAT: u8 = 1;
/// Page cache in bytes; redb's default is 1 GiB.
const CACHE_SIZE: usize = 4 * 1024 * 1024;

/// Who pinned a CID in the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This peer pinned it, or was about to. Withdrawn if the attempt had no effect.
    Ours,
    /// It was already pinned when this peer asked.
    Foreign,
    /// A peer pinned it that used this daemon and lost its identity with its data folder. The cluster
    /// may still count on that copy, so it is unpinned only after it was wanted here again.
    Former,
}

/// The ledger's entry for one CID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerEntry {
    /// Who pinned it.
    pub origin: Origin,
    /// Time of that write.
    pub since: Timestamp,
}

/// One change: the new entry, or none to forget the CID.
pub type Change = (Cid, Option<LedgerEntry>);

/// Errors of the ledger. Every text names the file.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file cannot be opened as a database.
    #[error(
        "the ledger {place} cannot be opened: {reason}; if the file is damaged, move it away and \
         start again: earlier pins then count as foreign and stay pinned"
    )]
    Open {
        /// The file.
        place: Place,
        /// Why.
        reason: String,
    },
    /// The file is a database, but this version cannot read it as a ledger.
    #[error(
        "the ledger {place} is not understood: {what}; use the version of pinkeeper that wrote it, \
         or move it away and start again: earlier pins then count as foreign and stay pinned"
    )]
    NotUnderstood {
        /// The file.
        place: Place,
        /// What was found.
        what: String,
    },
    /// The file is older than the last synced write.
    #[error(
        "the ledger {place} has lost writes: {synced} were on disk, it has {found}; \
         restore it, or move it away and start again: earlier pins then count as foreign and stay \
         pinned"
    )]
    Lost {
        /// The file.
        place: Place,
        /// Writes that were synced.
        synced: u64,
        /// Writes in it.
        found: u64,
    },
    /// A disk operation failed.
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
    /// In a backend supplied by the caller.
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

/// The open ledger; clones share it. Calls block for at most a disk write each, and run one after the
/// other.
#[derive(Clone)]
pub struct Ledger {
    /// None after a disk error: redb refuses all further calls then, so the next call opens the file
    /// again.
    database: Arc<Mutex<Option<Database>>>,
    reopen: Arc<Reopen>,
    place: Place,
    /// Number of writes on disk; none with a backend.
    mark: Option<Arc<HighWater>>,
}

type Reopen = dyn Fn() -> Result<Database, redb::DatabaseError> + Send + Sync;

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("place", &self.place).finish_non_exhaustive()
    }
}

impl LedgerEntry {
    /// Version, origin, milliseconds since the epoch (8 bytes, big endian).
    pub(crate) fn encode(self) -> [u8; 10] {
        let mut bytes = [0; 10];
        bytes[0] = ENTRY_FORMAT;
        bytes[1] = match self.origin {
            Origin::Ours => 0,
            Origin::Foreign => 1,
            Origin::Former => 2,
        };
        bytes[2..].copy_from_slice(&self.since.0.to_be_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[ENTRY_FORMAT, origin], since) = bytes.split_first_chunk()? else { return None };
        let origin = match origin {
            0 => Origin::Ours,
            1 => Origin::Foreign,
            2 => Origin::Former,
            _ => return None,
        };
        Some(Self { origin, since: Timestamp(u64::from_be_bytes(since.try_into().ok()?)) })
    }
}

/// Compares every page's checksum at the opening, which redb otherwise does only after a crash. It
/// costs little: the whole ledger is read at the start anyway.
fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_SIZE).set_check_integrity_on_open(true);
    builder
}

impl Ledger {
    /// Opens the ledger file, or creates it. The mark of its writes is beside it, with the extension
    /// `synced`.
    ///
    /// # Errors
    /// When the file cannot be opened, is damaged, lacks writes, or has another version.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let place = Place::File(path.to_owned());
        let failed =
            |e: std::io::Error| LedgerError::Open { place: place.clone(), reason: e.to_string() };
        // A person moved the file away, as the error texts advise: the mark belonged to that file.
        let is_new = !path.try_exists().map_err(failed)?;
        let (mark, synced) = HighWater::open(&path.with_extension("synced")).map_err(failed)?;
        let file = path.to_owned();
        // Does not create a file: with an empty ledger, pins of ours would count as foreign.
        let reopen = Arc::new(move || open(&builder(), &file));
        let mut ledger = Self::checked(open_or_create(&builder(), path), reopen, place.clone())?;
        let found = ledger.with(|database| ledger.writes(database))?;
        match synced {
            Some(synced) if found < synced && !is_new => {
                Err(LedgerError::Lost { place, synced, found })
            }
            _ => {
                mark.raise(found);
                ledger.mark = Some(Arc::new(mark));
                Ok(ledger)
            }
        }
    }

    /// Opens or creates the ledger in a backend, for simulated worlds. Each call of `backend` must
    /// return the same contents.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub fn with_backend<B: StorageBackend>(
        backend: impl Fn() -> B + Send + Sync + 'static,
    ) -> Result<Self, LedgerError> {
        let open = move || builder().create_with_backend(backend());
        Self::checked(open(), Arc::new(open), Place::Backend)
    }

    fn checked(
        opened: Result<Database, redb::DatabaseError>,
        reopen: Arc<Reopen>,
        place: Place,
    ) -> Result<Self, LedgerError> {
        let database = opened
            .map_err(|e| LedgerError::Open { place: place.clone(), reason: e.to_string() })?;
        let database = Arc::new(Mutex::new(Some(database)));
        let ledger = Self { database, reopen, place, mark: None };
        ledger.with(|database| ledger.check_format(database))?;
        Ok(ledger)
    }

    /// Runs `call` on the database, and opens it again first if the disk failed before.
    fn with<T>(
        &self,
        call: impl FnOnce(&Database) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let mut slot = self.database.lock();
        let database = match slot.take() {
            Some(database) => database,
            None => (self.reopen)().map_err(|e| self.disk(&e))?,
        };
        let result = call(&database);
        if !matches!(result, Err(LedgerError::Disk { .. })) {
            *slot = Some(database);
        }
        result
    }

    fn check_format(&self, database: &Database) -> Result<(), LedgerError> {
        let write = self.begin(database)?;
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

    /// The daemon it is bound to; none if the ledger is new.
    ///
    /// # Errors
    /// When the disk fails or the ID is not text.
    pub fn daemon(&self) -> Result<Option<String>, LedgerError> {
        self.with(|database| self.daemon_in(database))
    }

    fn daemon_in(&self, database: &Database) -> Result<Option<String>, LedgerError> {
        let id = self.header(database, DAEMON_KEY)?.map(String::from_utf8);
        id.transpose().map_err(|_| self.not_understood("the daemon's ID is not text".to_owned()))
    }

    /// The peer it is bound to; none if the ledger is new.
    ///
    /// # Errors
    /// When the disk fails or the ID is not one.
    pub fn peer(&self) -> Result<Option<PeerId>, LedgerError> {
        self.with(|database| self.peer_in(database))
    }

    fn peer_in(&self, database: &Database) -> Result<Option<PeerId>, LedgerError> {
        let id = self.header(database, PEER_KEY)?.map(<[u8; 32]>::try_from);
        let id = id.transpose().map_err(|_| self.not_understood("the peer's ID".to_owned()))?;
        Ok(id.map(PeerId))
    }

    fn header(&self, database: &Database, key: &str) -> Result<Option<Vec<u8>>, LedgerError> {
        let read = database.begin_read().map_err(|e| self.disk(&e))?;
        let header = read.open_table(HEADER).map_err(|e| self.disk(&e))?;
        let value = header.get(key).map_err(|e| self.disk(&e))?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    /// Binds the ledger to a daemon and a peer. Entries of another daemon are dropped; those of another
    /// peer are kept as a former peer's.
    ///
    /// # Errors
    /// When the disk fails; nothing has changed then.
    pub fn bind(&self, daemon: &str, peer: PeerId) -> Result<(), LedgerError> {
        self.with(|database| self.bind_in(database, daemon, peer))
    }

    fn bind_in(&self, database: &Database, daemon: &str, peer: PeerId) -> Result<(), LedgerError> {
        let (of_daemon, of_peer) = (self.daemon_in(database)?, self.peer_in(database)?);
        let same_daemon = of_daemon.as_deref() == Some(daemon);
        if same_daemon && of_peer == Some(peer) {
            return Ok(());
        }
        let kept = match of_peer {
            Some(other) if same_daemon && other != peer => self.entries_of(database, peer)?,
            _ => Vec::new(),
        };
        let write = self.begin(database)?;
        if !same_daemon {
            write.delete_table(ENTRIES).map_err(|e| self.disk(&e))?;
        }
        {
            let mut entries = write.open_table(ENTRIES).map_err(|e| self.disk(&e))?;
            for (cid, entry) in kept {
                let entry = entry.encode();
                entries.insert(cid.as_bytes(), &entry[..]).map_err(|e| self.disk(&e))?;
            }
            let mut header = write.open_table(HEADER).map_err(|e| self.disk(&e))?;
            header.insert(DAEMON_KEY, daemon.as_bytes()).map_err(|e| self.disk(&e))?;
            header.insert(PEER_KEY, &peer.0[..]).map_err(|e| self.disk(&e))?;
        }
        self.commit(write)
    }

    /// All entries as they apply to `peer`, ordered by CID.
    ///
    /// # Errors
    /// When the disk fails or an entry is not understood.
    pub fn entries(&self, peer: PeerId) -> Result<Vec<(Cid, LedgerEntry)>, LedgerError> {
        self.with(|database| self.entries_of(database, peer))
    }

    fn entries_of(
        &self,
        database: &Database,
        peer: PeerId,
    ) -> Result<Vec<(Cid, LedgerEntry)>, LedgerError> {
        let is_former = self.peer_in(database)?.is_some_and(|of| of != peer);
        let read = database.begin_read().map_err(|e| self.disk(&e))?;
        let table = read.open_table(ENTRIES).map_err(|e| self.disk(&e))?;
        let mut entries = Vec::new();
        for item in table.iter().map_err(|e| self.disk(&e))? {
            let (key, value) = item.map_err(|e| self.disk(&e))?;
            let cid = Cid::from_bytes(key.value())
                .map_err(|e: CidError| self.not_understood(e.to_string()))?;
            let mut entry = LedgerEntry::decode(value.value()).ok_or_else(|| {
                self.not_understood(format!("the entry of {cid} is {}", hex::encode(value.value())))
            })?;
            if is_former && entry.origin == Origin::Ours {
                entry.origin = Origin::Former;
            }
            entries.push((cid, entry));
        }
        Ok(entries)
    }

    /// Writes changes in one transaction, and returns once they are on disk.
    ///
    /// # Errors
    /// When the disk fails; nothing has changed then.
    pub fn write(&self, changes: &[Change]) -> Result<(), LedgerError> {
        self.with(|database| self.write_in(database, changes))
    }

    fn write_in(&self, database: &Database, changes: &[Change]) -> Result<(), LedgerError> {
        let write = self.begin(database)?;
        {
            let mut table = write.open_table(ENTRIES).map_err(|e| self.disk(&e))?;
            for (cid, entry) in changes {
                let key = cid.as_bytes();
                match entry {
                    Some(entry) => {
                        table.insert(key, &entry.encode()[..]).map_err(|e| self.disk(&e))?
                    }
                    None => table.remove(key).map_err(|e| self.disk(&e))?,
                };
            }
        }
        self.commit(write)
    }

    fn begin(&self, database: &Database) -> Result<WriteTransaction, LedgerError> {
        let mut write = database.begin_write().map_err(|e| self.disk(&e))?;
        write.set_durability(Durability::Immediate).map_err(|e| self.disk(&e))?;
        Ok(write)
    }

    fn commit(&self, write: WriteTransaction) -> Result<(), LedgerError> {
        let count = {
            let mut header = write.open_table(HEADER).map_err(|e| self.disk(&e))?;
            let before = header.get(WRITES_KEY).map_err(|e| self.disk(&e))?;
            let count = self.count(before.map(|value| value.value().to_vec()))?.saturating_add(1);
            header.insert(WRITES_KEY, &count.to_be_bytes()[..]).map_err(|e| self.disk(&e))?;
            count
        };
        write.commit().map_err(|e| self.disk(&e))?;
        if let Some(mark) = &self.mark {
            mark.raise(count);
        }
        Ok(())
    }

    fn writes(&self, database: &Database) -> Result<u64, LedgerError> {
        self.count(self.header(database, WRITES_KEY)?)
    }

    fn count(&self, stored: Option<Vec<u8>>) -> Result<u64, LedgerError> {
        let Some(bytes) = stored else { return Ok(0) };
        let number = bytes.as_slice().try_into();
        let number = number.map_err(|_| self.not_understood("its count of writes".to_owned()))?;
        Ok(u64::from_be_bytes(number))
    }

    fn disk(&self, error: &dyn fmt::Display) -> LedgerError {
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
mod tests;
