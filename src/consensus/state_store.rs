//! The state's checkpoint on disk, in redb.
//!
//! Invariants:
//! - The pins, the deletion guard's counts, the position they include and the membership change in one
//!   transaction, so that a crash leaves the state of one position.
//! - Transactions of applied entries are not synced, since the log makes them durable;
//!   [`StateStore::checkpoint`] syncs all before it.
//! - The log may be purged only up to a checkpoint.

use std::{io, path::Path, sync::Arc};

use minicbor::{Decode, Encode};
use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend,
    TableDefinition, WriteTransaction,
};

use super::raft_types::{
    CodecError, RaftMembership, decode, encode, stored_membership_in, stored_membership_out,
};
use crate::{
    database::open_or_create,
    state::{Beside, PinSet},
    types::{Cid, ClusterId, EntryBody, LogPosition, Pin},
};

const PINS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("pins");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const HEAD: &str = "head";
const CLUSTER: &str = "cluster";
/// The state besides the pins; absent in a new store.
const BESIDE: &str = "beside";

pub(super) const PIN_VERSION: u8 = 1;
pub(super) const HEAD_VERSION: u8 = 1;
const CLUSTER_VERSION: u8 = 1;
const BESIDE_VERSION: u8 = 1;

/// redb's cache in bytes; its default is 1 GiB.
const CACHE_LEN_MAX: usize = 32 * 1024 * 1024;

/// Errors of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A failure of the database.
    #[error(
        "the state in {path} cannot be used: {source}; if the disk is sound, restore this file or give the peer an empty data folder so that it joins anew"
    )]
    Database {
        /// The file.
        path: String,
        /// Why.
        source: Box<redb::Error>,
    },
    /// The disk is full.
    #[error(
        "there is no space for the state in {path}; free some space or enlarge the volume, then start the peer again"
    )]
    Full {
        /// The file.
        path: String,
    },
    /// A record cannot be decoded.
    #[error(
        "the state in {path} is not understood: {source}; if the disk is sound, restore this file or give the peer an empty data folder so that it joins anew"
    )]
    Record {
        /// The file.
        path: String,
        /// Why.
        source: CodecError,
    },
}

/// The position that the stored state includes.
#[derive(Clone, Debug, Encode, Decode)]
pub(super) struct Head {
    /// The last entry applied.
    #[n(0)]
    pub(super) applied: Option<LogPosition>,
    /// The last membership applied, and its position.
    #[n(1)]
    pub(super) membership: (Option<LogPosition>, EntryBody),
    /// The position of the last installed snapshot: up to it, the state does not come from this peer's
    /// own log.
    #[n(2)]
    pub(super) installed: Option<LogPosition>,
}

/// The open store.
#[derive(Clone, Debug)]
pub struct StateStore {
    database: Arc<Database>,
    path: Arc<str>,
}

/// A consistent view of the store at one position, with the metadata of its snapshot.
pub(super) struct View {
    pub(super) head: Head,
    transaction: ReadTransaction,
    /// Reads of a transaction fail once its database is dropped.
    _database: Arc<Database>,
    path: Arc<str>,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("head", &self.head).finish_non_exhaustive()
    }
}

impl StateStore {
    /// Opens or creates the file.
    ///
    /// # Errors
    /// When it is damaged or cannot be read or written.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let name: Arc<str> = path.display().to_string().into();
        let opened = open_or_create(&builder(), path);
        Self::prepared(opened.map_err(|error| failed(&name, error))?, name)
    }

    /// Opens or creates the store in a backend.
    ///
    /// # Errors
    /// When the contents are damaged.
    pub fn with_backend(backend: impl StorageBackend) -> Result<Self, StoreError> {
        let name: Arc<str> = "memory".into();
        let opened = builder().create_with_backend(backend);
        Self::prepared(opened.map_err(|error| failed(&name, error))?, name)
    }

    /// Creates the tables, so that reads never meet a missing one.
    fn prepared(database: Database, path: Arc<str>) -> Result<Self, StoreError> {
        let store = Self { database: Arc::new(database), path };
        store.write(Durability::Immediate, |transaction| {
            transaction.open_table(PINS)?;
            transaction.open_table(META)?;
            Ok(())
        })?;
        Ok(store)
    }

    fn write(
        &self,
        durability: Durability,
        change: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        let run = || {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(durability)?;
            change(&transaction)?;
            transaction.commit()?;
            Ok(())
        };
        run().map_err(|error: redb::Error| failed(&self.path, error))
    }

    /// The cluster this disk belongs to, and its epoch; absent on a blank disk.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn cluster(&self) -> Result<Option<(ClusterId, u64)>, StoreError> {
        let read = || get(&self.database.begin_read()?, CLUSTER);
        let bytes = read().map_err(|error| failed(&self.path, error))?;
        let decoded = bytes.map(|bytes| decode("the cluster's ID", CLUSTER_VERSION, &bytes));
        decoded.transpose().map_err(|error| not_understood(&self.path, error))
    }

    /// All pins.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn pin_set(&self) -> Result<PinSet, StoreError> {
        self.view()?.pin_set()
    }

    /// Binds the disk to a cluster, durably.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn set_cluster(&self, cluster: ClusterId, epoch: u64) -> Result<(), StoreError> {
        let value = encode(CLUSTER_VERSION, &(cluster, epoch));
        self.write(Durability::Immediate, |transaction| {
            transaction.open_table(META)?.insert(CLUSTER, value.as_slice())?;
            Ok(())
        })
    }

    /// Stores the pins after applying up to `head`; an absent pin is removed. Synced only by the next
    /// checkpoint, or when the store is closed.
    pub(super) fn apply<'a>(
        &self,
        pins: impl IntoIterator<Item = (Cid, Option<&'a Pin>)>,
        beside: &Beside,
        head: &Head,
    ) -> Result<(), StoreError> {
        self.write(Durability::None, |transaction| {
            let mut table = transaction.open_table(PINS)?;
            for (cid, pin) in pins {
                let key = cid.as_bytes();
                match pin {
                    Some(pin) => {
                        table.insert(key, encode(PIN_VERSION, pin).as_slice())?;
                    }
                    None => {
                        table.remove(key)?;
                    }
                }
            }
            put_meta(transaction, beside, head)
        })
    }

    /// Replaces the whole state by an installed snapshot, durably.
    pub(super) fn replace(&self, pins: &PinSet, head: &Head) -> Result<(), StoreError> {
        self.write(Durability::Immediate, |transaction| {
            transaction.delete_table(PINS)?;
            let mut table = transaction.open_table(PINS)?;
            for (cid, pin) in pins.iter() {
                let value = encode(PIN_VERSION, pin);
                table.insert(cid.as_bytes(), value.as_slice())?;
            }
            put_meta(transaction, pins.beside(), head)
        })
    }

    /// The membership in this store's head.
    pub(super) fn membership(&self, head: &Head) -> Result<RaftMembership, StoreError> {
        head.raft_membership().map_err(|error| not_understood(&self.path, error))
    }

    /// Syncs everything applied so far.
    pub(super) fn checkpoint(&self) -> Result<(), StoreError> {
        self.write(Durability::Immediate, |_| Ok(()))
    }

    /// The current state.
    pub(super) fn view(&self) -> Result<View, StoreError> {
        let read = || {
            let transaction = self.database.begin_read()?;
            let head = get(&transaction, HEAD)?;
            Ok((transaction, head))
        };
        let (transaction, head) = read().map_err(|error: redb::Error| failed(&self.path, error))?;
        let head = match head {
            Some(bytes) => decode("the state's head", HEAD_VERSION, &bytes)
                .map_err(|error| not_understood(&self.path, error))?,
            None => Head::default(),
        };
        Ok(View { head, transaction, _database: self.database.clone(), path: self.path.clone() })
    }
}

impl Default for Head {
    fn default() -> Self {
        Self {
            applied: None,
            membership: stored_membership_out(&RaftMembership::default()),
            installed: None,
        }
    }
}

impl Head {
    /// Number of log entries included.
    pub(super) fn entries(&self) -> u64 {
        self.applied.map_or(0, |position| position.index + 1)
    }

    pub(super) fn raft_membership(&self) -> Result<RaftMembership, CodecError> {
        stored_membership_in(self.membership.clone())
    }
}

impl View {
    /// Calls `each` with the pins in order until it fails.
    pub(super) fn for_each(
        &self,
        mut each: impl FnMut(Cid, Pin) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let fail = |error: redb::Error| failed(&self.path, error);
        let table = self.transaction.open_table(PINS).map_err(|error| fail(error.into()))?;
        for record in table.iter().map_err(|error| fail(error.into()))? {
            let (key, value) = record.map_err(|error| fail(error.into()))?;
            let (cid, pin) = record_of(key.value(), value.value())
                .map_err(|error| not_understood(&self.path, error))?;
            each(cid, pin)?;
        }
        Ok(())
    }

    /// The stored state besides the pins.
    pub(super) fn beside(&self) -> Result<Beside, StoreError> {
        let bytes = get(&self.transaction, BESIDE).map_err(|error| failed(&self.path, error))?;
        let beside =
            bytes.map(|bytes| decode("the record beside the pins", BESIDE_VERSION, &bytes));
        let beside = beside.transpose().map_err(|error| not_understood(&self.path, error))?;
        Ok(beside.unwrap_or_default())
    }

    /// The whole state.
    pub(super) fn pin_set(&self) -> Result<PinSet, StoreError> {
        let mut pins = PinSet::default();
        pins.restore_beside(self.beside()?);
        self.for_each(|cid, pin| {
            pins.restore(cid, pin);
            Ok(())
        })?;
        Ok(pins)
    }
}

fn get(transaction: &ReadTransaction, key: &str) -> Result<Option<Vec<u8>>, redb::Error> {
    Ok(transaction.open_table(META)?.get(key)?.map(|value| value.value().to_vec()))
}

fn put_meta(
    transaction: &WriteTransaction,
    beside: &Beside,
    head: &Head,
) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(META)?;
    table.insert(HEAD, encode(HEAD_VERSION, head).as_slice())?;
    table.insert(BESIDE, encode(BESIDE_VERSION, beside).as_slice())?;
    Ok(())
}

/// A pin and its CID as they are stored.
pub(super) fn record_of(key: &[u8], value: &[u8]) -> Result<(Cid, Pin), CodecError> {
    let cid = Cid::from_bytes(key)
        .map_err(|error| CodecError::Damaged { what: "a pin's key", reason: error.to_string() })?;
    Ok((cid, decode("a pin", PIN_VERSION, value)?))
}

/// Compares every page's checksum at the opening, which redb otherwise does only after a crash. It
/// costs little: the whole state is read at the start anyway.
fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_LEN_MAX).set_check_integrity_on_open(true);
    builder
}

fn not_understood(path: &str, source: CodecError) -> StoreError {
    StoreError::Record { path: path.to_owned(), source }
}

fn failed(path: &str, error: impl Into<redb::Error>) -> StoreError {
    let (path, error) = (path.to_owned(), error.into());
    match error {
        redb::Error::Io(error) if error.kind() == io::ErrorKind::StorageFull => {
            StoreError::Full { path }
        }
        error => StoreError::Database { path, source: Box::new(error) },
    }
}
