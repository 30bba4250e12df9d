//! Reading the state as of one commit.

use super::schema::{self, Bytes as Value, Key4, Key8, Key16};
use super::{NodeRow, failed, rows, values};
use bytes::Bytes;
use cairn_common::error::FsResult;
use cairn_common::ids::{BlockRef, Ino, NodeId, SessionId, VolumeId};
use cairn_common::namespace::op::Extent;
use cairn_common::namespace::tables::{BlockUse, Dentry, HeldLock, Inode, Read, Totals};
#[cfg(test)]
use redb::ReadableTable;
use redb::{Key, ReadOnlyTable, ReadTransaction, ReadableTableMetadata, TableDefinition};
use std::cell::OnceCell;

/// The state as of the last commit when the snapshot was made. Tables are opened when first used.
pub struct Snapshot {
    txn: ReadTransaction,
    totals: Totals,
    inode: OnceCell<ReadOnlyTable<Key8, Value>>,
    dentry: OnceCell<ReadOnlyTable<Key16, Value>>,
    extent: OnceCell<ReadOnlyTable<Key16, Value>>,
    xattr: OnceCell<ReadOnlyTable<Value, Value>>,
}

impl Snapshot {
    /// `totals` are those of the same commit, or of one shortly before or after it.
    pub(super) fn new(txn: ReadTransaction, totals: Totals) -> Snapshot {
        Snapshot {
            txn,
            totals,
            inode: OnceCell::new(),
            dentry: OnceCell::new(),
            extent: OnceCell::new(),
            xattr: OnceCell::new(),
        }
    }

    pub(super) fn open<K: Key>(
        &self,
        table: TableDefinition<'_, K, Value>,
    ) -> FsResult<ReadOnlyTable<K, Value>> {
        self.txn.open_table(table).map_err(failed)
    }

    fn cached<'s, K: Key>(
        &'s self,
        cell: &'s OnceCell<ReadOnlyTable<K, Value>>,
        table: TableDefinition<'_, K, Value>,
    ) -> FsResult<&'s ReadOnlyTable<K, Value>> {
        if let Some(open) = cell.get() {
            return Ok(open);
        }
        let open = self.open(table)?;
        Ok(cell.get_or_init(|| open))
    }

    fn inodes(&self) -> FsResult<&ReadOnlyTable<Key8, Value>> {
        self.cached(&self.inode, schema::INODE)
    }

    fn dentries(&self) -> FsResult<&ReadOnlyTable<Key16, Value>> {
        self.cached(&self.dentry, schema::DENTRY)
    }

    fn extents(&self) -> FsResult<&ReadOnlyTable<Key16, Value>> {
        self.cached(&self.extent, schema::EXTENT)
    }

    fn xattrs(&self) -> FsResult<&ReadOnlyTable<Value, Value>> {
        self.cached(&self.xattr, schema::XATTR)
    }

    /// Orphans above `after`, at most `max`.
    pub fn orphans(&self, after: Ino, max: usize) -> FsResult<Vec<Ino>> {
        rows::inos_after(&self.open(schema::ORPHAN)?, after, max)
    }

    /// How many orphans there are.
    pub fn orphan_count(&self) -> FsResult<u64> {
        self.open(schema::ORPHAN)?.len().map_err(failed)
    }

    /// Dead blocks of `volume` that its node has not deleted yet, at most `max`.
    pub fn delete_queue(&self, volume: VolumeId, max: usize) -> FsResult<Vec<BlockRef>> {
        rows::blocks_of(&self.open(schema::DELETE)?, volume, max)
    }

    /// How many blocks wait to be deleted.
    pub fn delete_queue_len(&self) -> FsResult<u64> {
        self.open(schema::DELETE)?.len().map_err(failed)
    }

    /// Inodes on which `session` holds locks.
    pub fn locked_by(&self, session: SessionId) -> FsResult<Vec<Ino>> {
        rows::locked_by(&self.open(schema::LOCK_BY_SESSION)?, session)
    }

    /// All data daemons, in order.
    pub fn nodes(&self) -> FsResult<Vec<NodeRow>> {
        self.all(schema::NODE, |key, value| values::decode_node(NodeId(u32::from_be_bytes(*key)), value))
    }

    /// All volumes with the node that has them, in order.
    pub fn volumes(&self) -> FsResult<Vec<(VolumeId, NodeId)>> {
        self.all(schema::VOLUME, |key, value| {
            Ok((VolumeId(u32::from_be_bytes(*key)), values::decode_volume(value)?))
        })
    }

    fn all<T>(
        &self,
        table: TableDefinition<'_, Key4, Value>,
        decode: impl Fn(&[u8; 4], &[u8]) -> FsResult<T>,
    ) -> FsResult<Vec<T>> {
        let table = self.open(table)?;
        let rows = table.range::<&[u8; 4]>(..).map_err(failed)?;
        rows.map(|row| {
            let (key, value) = row.map_err(failed)?;
            decode(key.value(), value.value())
        })
        .collect()
    }
}

impl Read for Snapshot {
    fn inode(&self, ino: Ino) -> FsResult<Option<Inode>> {
        rows::inode(self.inodes()?, ino)
    }

    fn dentry_at(&self, parent: Ino, cookie: u64) -> FsResult<Option<Dentry>> {
        rows::dentry(self.dentries()?, parent, cookie)
    }

    fn scan_dentries(&self, parent: Ino, from: u64, visit: &mut dyn FnMut(Dentry) -> bool) -> FsResult<()> {
        rows::scan_dentries(self.dentries()?, parent, from, visit)
    }

    fn scan_extents(
        &self,
        ino: Ino,
        start: u64,
        end: u64,
        visit: &mut dyn FnMut(Extent) -> bool,
    ) -> FsResult<()> {
        rows::scan_extents(self.extents()?, ino, start, end, visit)
    }

    fn xattr(&self, ino: Ino, name: &[u8]) -> FsResult<Option<Bytes>> {
        rows::xattr(self.xattrs()?, ino, name)
    }

    fn xattr_names(&self, ino: Ino) -> FsResult<Vec<Bytes>> {
        rows::xattr_names(self.xattrs()?, ino)
    }

    fn locks(&self, ino: Ino) -> FsResult<Vec<HeldLock>> {
        rows::locks(&self.open(schema::LOCK)?, ino)
    }

    fn block(&self, block: BlockRef) -> FsResult<Option<BlockUse>> {
        rows::block(&self.open(schema::BLOCK)?, block)
    }

    fn is_orphan(&self, ino: Ino) -> FsResult<bool> {
        rows::contains(&self.open(schema::ORPHAN)?, ino)
    }

    fn totals(&self) -> FsResult<Totals> {
        Ok(self.totals)
    }
}

/// All rows of all tables, for tests that compare whole states.
#[cfg(test)]
pub type Dump = std::collections::BTreeMap<(&'static str, Vec<u8>), Vec<u8>>;

#[cfg(test)]
impl Snapshot {
    pub fn dump(&self) -> FsResult<Dump> {
        let mut dump = Dump::new();
        macro_rules! table {
            ($definition:expr, $name:literal) => {
                for row in self.open($definition)?.iter().map_err(failed)? {
                    let (key, value) = row.map_err(failed)?;
                    dump.insert(($name, key.value().to_vec()), value.value().to_vec());
                }
            };
        }
        table!(schema::INODE, "inode");
        table!(schema::DENTRY, "dentry");
        table!(schema::EXTENT, "extent");
        table!(schema::XATTR, "xattr");
        table!(schema::LOCK, "lock");
        table!(schema::LOCK_BY_SESSION, "lock_by_session");
        table!(schema::BLOCK, "block");
        table!(schema::DELETE, "delete");
        table!(schema::ORPHAN, "orphan");
        table!(schema::NODE, "node");
        table!(schema::VOLUME, "volume");
        let totals = format!("{:?}", self.totals);
        dump.insert(("totals", Vec::new()), totals.into_bytes());
        Ok(dump)
    }
}
