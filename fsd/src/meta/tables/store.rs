//! The database: opened, read as of the last checkpoint, changed by checkpoints only.

use super::backend::{Backend, ReadFailure, Severed};
use super::base::{Base, OneTable};
use super::files::Files;
use super::memtable::Memtable;
use super::schema::{Bytes as Value, META, SESSION, STATE, Table, with_definition};
use super::values::{self, State};
use super::view::{ALL, View};
use super::{Tx, failed};
use cairn_common::error::FsResult;
use cairn_common::ids::SessionId;
use redb::{Builder, Database, Key, ReadableDatabase, TableDefinition, WriteTransaction};
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

pub use super::values::SessionRow;

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("metadata tables: {0}")]
pub struct StoreError(String);

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> StoreError {
        StoreError(error.into().to_string())
    }
}

impl StoreError {
    pub(super) fn new(what: &str) -> StoreError {
        StoreError(what.to_owned())
    }
}

/// The tables.
///
/// Dropped without [`Store::close`], it leaves the file as a killed process would: at the last checkpoint.
pub struct Store {
    db: Contained,
    backend: Backend,
    severed: Severed,
    cache_bytes: usize,
    /// Each base that is read has one of these, too.
    reads: Arc<()>,
    closed: bool,
}

impl Store {
    /// Opens the database in `files`, or begins one if they are empty. Without checksums that fit it reads the whole
    /// database first, and makes them.
    pub fn open(files: Files, cache_bytes: usize) -> Result<Store, StoreError> {
        Store::open_with(files, cache_bytes, ReadFailure::default())
    }

    fn open_with(files: Files, cache_bytes: usize, failure: ReadFailure) -> Result<Store, StoreError> {
        let severed = Severed::default();
        let backend = Backend::open(files, severed.clone(), failure).map_err(redb::StorageError::Io)?;
        let db = Builder::new().set_cache_size(cache_bytes).create_with_backend(backend.clone())?;
        let (db, reads) = (Contained(Some(db)), Arc::default());
        let mut store = Store { db, backend, severed, cache_bytes, reads, closed: false };
        store.learn()?;
        Ok(store)
    }

    /// Makes checksums of what is verified, if there are none.
    fn learn(&mut self) -> Result<(), StoreError> {
        let Some(why) = self.backend.learning() else { return Ok(()) };
        self.verify_pages()?;
        self.backend.learnt().map_err(redb::StorageError::Io)?;
        tracing::warn!("metadata tables: their checksums {why}; all pages were verified, and have new ones");
        Ok(())
    }

    /// Tells, once reading has failed, why.
    #[must_use]
    pub fn read_failure(&self) -> ReadFailure {
        self.backend.failure()
    }

    /// The state and the sessions as of the last checkpoint.
    pub fn load(&self) -> Result<(State, Vec<(SessionId, SessionRow)>), StoreError> {
        let txn = self.db.begin_read()?;
        let corrupt = |what: &str| StoreError(format!("{what} does not decode"));
        let meta = txn.open_table(META)?;
        let state = meta.get(STATE)?.ok_or_else(|| corrupt("an absent state"))?;
        let state = values::decode_state(state.value()).map_err(|_| corrupt("the state"))?;
        let mut sessions = Vec::new();
        for row in txn.open_table(SESSION)?.range::<&[u8; 8]>(..)? {
            let (key, value) = row?;
            let session = SessionId(u64::from_be_bytes(*key.value()));
            let row =
                values::decode_session(value.value()).map_err(|_| corrupt(&format!("session {session}")))?;
            sessions.push((session, row));
        }
        Ok((state, sessions))
    }

    /// Compares all pages with their checksums; reads the whole file, and rolls back to an older checkpoint if the last
    /// one is damaged, so what is on the disk below should be a copy.
    pub fn verify(mut self) -> Result<(), StoreError> {
        self.verify_pages()
    }

    fn verify_pages(&mut self) -> Result<(), StoreError> {
        let (before, _) = self.load()?;
        if let Some(db) = self.db.0.as_mut() {
            db.check_integrity()?;
        }
        let (after, _) = self.load()?;
        if before == after {
            // If redb has repaired something it was its list of free pages, which no row depends on.
            Ok(())
        } else {
            Err(StoreError(format!("the checkpoint of entry {} is damaged", before.applied)))
        }
    }

    /// Makes all tables with a first state, durably. `fill` puts the first rows.
    pub fn init(&self, state: State, fill: impl FnOnce(&mut Tx) -> FsResult<()>) -> FsResult<()> {
        let txn = self.db.begin_write().map_err(failed)?;
        for table in Table::ALL {
            with_definition!(table, definition => drop(txn.open_table(definition).map_err(failed)?));
        }
        commit(txn, &state).map_err(failed)?;
        let mut tx = Tx::new(View::new(self.base()?), state);
        fill(&mut tx)?;
        let (state, mut view) = tx.finish();
        self.checkpoint(&state, &view.freeze()).map(drop)
    }

    /// The tables as of the last checkpoint.
    pub fn base(&self) -> FsResult<Arc<Base>> {
        let txn = self.db.begin_read().map_err(failed)?;
        Ok(Arc::new(Base::open(&txn, Arc::clone(&self.reads)).map_err(failed)?))
    }

    /// One table as of the last checkpoint: it may be there when others can't be read.
    pub fn only(&self, table: Table) -> FsResult<OneTable> {
        let txn = self.db.begin_read().map_err(failed)?;
        OneTable::open(&txn, table).map_err(failed)
    }

    /// Somebody has a [`Store::base`] of this store.
    #[must_use]
    pub fn is_read(&self) -> bool {
        Arc::strong_count(&self.reads) > 1
    }

    /// Rows of all tables, as of the last checkpoint.
    pub fn rows(&self) -> FsResult<u64> {
        let base = self.base()?;
        Table::ALL.into_iter().map(|table| base.len(table)).sum()
    }

    /// Bytes of all keys and values, as of the last checkpoint; `None` if they are more than `most`: no more is read then.
    pub fn content_bytes(&self, most: u64) -> FsResult<Option<u64>> {
        let base = self.base()?;
        let mut bytes = 0;
        for table in Table::ALL {
            for row in base.range(table, ALL, false)? {
                let (key, value) = row?;
                bytes += (key.len() + value.value().len()) as u64;
                if bytes > most {
                    return Ok(None);
                }
            }
        }
        Ok(Some(bytes))
    }

    /// The tables as of the last checkpoint in new, empty `files`, durably: a store that tells the same as this one when
    /// reading fails. Blocks while it reads all of them.
    pub fn copy_to(&self, files: Files) -> Result<Store, StoreError> {
        let (state, _sessions) = self.load()?;
        let unreadable = |error| StoreError(format!("they can't be read: {error}"));
        let base = self.base().map_err(unreadable)?;
        let copy = Store::open_with(files, self.cache_bytes, self.read_failure())?;
        let txn = copy.db.begin_write()?;
        for table in Table::ALL {
            with_definition!(table, definition => copy_rows(&txn, definition, &base, table)?);
        }
        commit(txn, &state)?;
        Ok(copy)
    }

    /// Makes `rows` durable together with the state that they lead to; answers the tables with them.
    /// Blocks, and may take a second for a hundred thousand rows.
    pub fn checkpoint(&self, state: &State, rows: &Memtable) -> FsResult<Arc<Base>> {
        let txn = self.db.begin_write().map_err(failed)?;
        for table in Table::ALL.into_iter().filter(|table| !rows.is_untouched(*table)) {
            with_definition!(table, definition => write_rows(&txn, definition, table, rows)?);
        }
        commit(txn, state).map_err(failed)?;
        self.base()
    }

    /// Bytes of the file that have space on the disk and hold nothing: the next checkpoints take them first. Reads all
    /// pages that hold something, so it may take as long as the file is large. Blocks.
    pub fn idle_bytes(&self) -> FsResult<u64> {
        // What a checkpoint gave up is free only with the commit after it.
        let mut txn = self.db.begin_write().map_err(failed)?;
        as_all_commits(&mut txn);
        txn.commit().map_err(failed)?;
        let txn = self.db.begin_write().map_err(failed)?;
        let stats = txn.stats().map_err(failed)?;
        txn.abort().map_err(failed)?;
        let used = stats.allocated_pages().saturating_mul(stats.page_size() as u64);
        Ok(self.allocated_bytes()?.saturating_sub(used))
    }

    /// Bytes of the disk that the file takes.
    pub fn allocated_bytes(&self) -> FsResult<u64> {
        self.backend.allocated().map_err(|error| failed(redb::StorageError::Io(error)))
    }

    /// Marks the file as cleanly closed. Only right after a checkpoint.
    pub fn close(mut self) {
        self.closed = true;
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if !self.closed {
            self.severed.sever();
        }
    }
}

/// A database whose end can't end the process: redb panics when it closes on some damaged pages, and by
/// then nothing of ours depends on it.
struct Contained(Option<Database>);

impl Deref for Contained {
    type Target = Database;
    fn deref(&self) -> &Database {
        self.0.as_ref().expect("taken only when dropped")
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        let db = self.0.take();
        if catch_unwind(AssertUnwindSafe(|| drop(db))).is_err() {
            tracing::error!(target: "cairn", "metadata tables: damaged; they could not be closed in order");
        }
    }
}

fn write_rows<K: Key + 'static>(
    txn: &WriteTransaction,
    definition: TableDefinition<'static, K, Value>,
    table: Table,
    rows: &Memtable,
) -> FsResult<()> {
    let mut stored = txn.open_table(definition).map_err(failed)?;
    for (key, value) in rows.range(table, ALL) {
        let key = K::from_bytes(key);
        match value {
            Some(value) => drop(stored.insert(key, value).map_err(failed)?),
            None => drop(stored.remove(key).map_err(failed)?),
        }
    }
    Ok(())
}

fn copy_rows<K: Key + 'static>(
    txn: &WriteTransaction,
    definition: TableDefinition<'static, K, Value>,
    base: &Base,
    table: Table,
) -> Result<(), StoreError> {
    let unreadable = |error| StoreError(format!("they can't be read: {error}"));
    let mut copied = txn.open_table(definition)?;
    for row in base.range(table, ALL, false).map_err(unreadable)? {
        let (key, value) = row.map_err(unreadable)?;
        copied.insert(K::from_bytes(&key), value.value())?;
    }
    Ok(())
}

/// The allocator's state is stored too, so that opening after a crash needs no scan of the file. It has two phases, which the
/// backend relies on.
fn as_all_commits(txn: &mut WriteTransaction) {
    txn.set_quick_repair(true);
}

fn commit(mut txn: WriteTransaction, state: &State) -> Result<(), redb::Error> {
    as_all_commits(&mut txn);
    {
        let mut table = txn.open_table(META)?;
        table.insert(STATE, values::encode_state(state).as_slice())?;
    }
    Ok(txn.commit()?)
}
