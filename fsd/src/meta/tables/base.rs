//! The tables as of a checkpoint, in redb, opened once and read by everyone until the next.

use super::failed_in;
use super::memtable::Bounds;
use super::schema::{Bytes as Value, Table, with_definition};
use cairn_common::error::FsResult;
use redb::{AccessGuard, Key, ReadOnlyTable, ReadTransaction, ReadableTableMetadata, TableDefinition};
use smallvec::SmallVec;
use std::ops::Bound;
use std::sync::Arc;

/// A value that redb holds in its cache.
pub type Stored = AccessGuard<'static, Value>;
/// Of the keys only those of extended attributes are longer.
pub type RowKey = SmallVec<[u8; 16]>;
/// Rows one after the other.
pub type StoredRows = Box<dyn Iterator<Item = FsResult<(RowKey, Stored)>>>;

/// See the module.
pub struct Base {
    tables: Vec<Box<dyn Readable>>,
    /// Tells the store that it is read.
    _reads: Arc<()>,
}

impl Base {
    /// `reads` lives as long as the base.
    pub fn open(txn: &ReadTransaction, reads: Arc<()>) -> Result<Base, redb::TableError> {
        let tables = Table::ALL.into_iter().map(|table| open_one(txn, table));
        Ok(Base { tables: tables.collect::<Result<_, _>>()?, _reads: reads })
    }

    pub fn get(&self, table: Table, key: &[u8]) -> FsResult<Option<Stored>> {
        self.tables[table as usize].get(table, key)
    }

    /// Rows in order of their keys, or against it.
    pub fn range(&self, table: Table, bounds: Bounds<'_>, backwards: bool) -> FsResult<StoredRows> {
        self.tables[table as usize].range(table, bounds, backwards)
    }

    pub fn len(&self, table: Table) -> FsResult<u64> {
        self.tables[table as usize].len(table)
    }
}

/// One table by itself, as of a checkpoint: opening any of them reads its topmost page.
pub struct OneTable {
    table: Table,
    rows: Box<dyn Readable>,
}

impl OneTable {
    pub fn open(txn: &ReadTransaction, table: Table) -> Result<OneTable, redb::TableError> {
        Ok(OneTable { table, rows: open_one(txn, table)? })
    }

    pub fn get(&self, key: &[u8]) -> FsResult<Option<Stored>> {
        self.rows.get(self.table, key)
    }

    /// As [`Base::range`].
    pub fn range(&self, bounds: Bounds<'_>, backwards: bool) -> FsResult<StoredRows> {
        self.rows.range(self.table, bounds, backwards)
    }
}

/// Bytes of each key of a table, if all have as many.
pub fn key_width(table: Table) -> Option<usize> {
    fn of<K: Key>(_: &TableDefinition<'_, K, Value>) -> Option<usize> {
        K::fixed_width()
    }
    with_definition!(table, definition => of(&definition))
}

fn open_one(txn: &ReadTransaction, table: Table) -> Result<Box<dyn Readable>, redb::TableError> {
    with_definition!(table, definition => Ok(Box::new(txn.open_table(definition)?)))
}

fn typed<K: Key>(bound: Bound<&[u8]>) -> Bound<K::SelfType<'_>> {
    bound.map(K::from_bytes)
}

/// A table whatever the type of its keys. `table` says which, for the log.
trait Readable: Send + Sync {
    fn get(&self, table: Table, key: &[u8]) -> FsResult<Option<Stored>>;
    fn range(&self, table: Table, bounds: Bounds<'_>, backwards: bool) -> FsResult<StoredRows>;
    fn len(&self, table: Table) -> FsResult<u64>;
}

impl<K: Key + Send + Sync + 'static> Readable for ReadOnlyTable<K, Value> {
    fn get(&self, table: Table, key: &[u8]) -> FsResult<Option<Stored>> {
        ReadOnlyTable::get(self, K::from_bytes(key)).map_err(|error| failed_in(table, error))
    }

    fn range(&self, table: Table, (first, last): Bounds<'_>, backwards: bool) -> FsResult<StoredRows> {
        let rows = ReadOnlyTable::range(self, (typed::<K>(first), typed::<K>(last)))
            .map_err(|error| failed_in(table, error))?;
        let row = move |row: Result<(AccessGuard<'static, K>, Stored), redb::StorageError>| {
            let (key, value) = row.map_err(|error| failed_in(table, error))?;
            Ok((RowKey::from_slice(K::as_bytes(&key.value()).as_ref()), value))
        };
        Ok(if backwards { Box::new(rows.rev().map(row)) } else { Box::new(rows.map(row)) })
    }

    fn len(&self, table: Table) -> FsResult<u64> {
        ReadableTableMetadata::len(self).map_err(|error| failed_in(table, error))
    }
}
