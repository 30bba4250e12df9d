//! Reading the state as of one entry of the log.

use super::schema::Table;
use super::view::{ALL, View, Visit};
use super::{NodeRow, rows};
use bytes::Bytes;
use cairn_common::error::FsResult;
use cairn_common::ids::{BlockRef, Ino, NodeId, SessionId, VolumeId};
use cairn_common::namespace::op::Extent;
use cairn_common::namespace::tables::{BlockUse, Dentry, HeldLock, Inode, Read, Totals};
use cairn_common::proto::meta::BlockFate;
use std::sync::Arc;

/// The state as of the last transaction when the snapshot was made.
pub struct Snapshot {
    view: Arc<View>,
    totals: Totals,
}

impl Snapshot {
    /// `totals` are those of the same transaction.
    pub fn new(view: Arc<View>, totals: Totals) -> Snapshot {
        Snapshot { view, totals }
    }

    pub(super) fn view(&self) -> &View {
        &self.view
    }

    /// Orphans above `after`, at most `max`.
    pub fn orphans(&self, after: Ino, max: usize) -> FsResult<Vec<Ino>> {
        rows::orphans(&self.view, after, max)
    }

    /// How many orphans there are.
    pub fn orphan_count(&self) -> FsResult<u64> {
        self.view.len(Table::Orphan)
    }

    /// Dead blocks of `volume` that its node has not deleted yet, at most `max`.
    pub fn delete_queue(&self, volume: VolumeId, max: usize) -> FsResult<Vec<BlockRef>> {
        rows::dead_blocks(&self.view, volume, max)
    }

    /// Cheaper than to count them.
    pub fn is_delete_queue_empty(&self) -> FsResult<bool> {
        let first = self.view.last(Table::Delete, ALL, |_key, _value| Ok(()))?;
        Ok(first.is_none())
    }

    /// Blocks that files have above `after`, in order, at most `max`.
    pub fn blocks_after(&self, after: BlockRef, max: usize) -> FsResult<Vec<(BlockRef, BlockUse)>> {
        rows::blocks_after(&self.view, after, max)
    }

    /// What has become of a block.
    pub fn fate(&self, block: BlockRef) -> FsResult<BlockFate> {
        match rows::block(&self.view, block)? {
            Some(usage) => Ok(BlockFate::Used(usage)),
            None if rows::is_dead(&self.view, block)? => Ok(BlockFate::Dying),
            None => Ok(BlockFate::Unknown),
        }
    }

    /// The last block that files have in a volume.
    pub fn last_block(&self, volume: VolumeId) -> FsResult<Option<BlockRef>> {
        rows::last_block(&self.view, volume)
    }

    /// How many blocks wait to be deleted.
    pub fn delete_queue_len(&self) -> FsResult<u64> {
        self.view.len(Table::Delete)
    }

    /// All rows of a table as they are stored, in order of their keys, until `visit` answers false.
    pub fn rows(&self, table: Table, visit: &mut Visit<'_>) -> FsResult<()> {
        self.view.scan(table, ALL, visit)
    }

    /// Inodes on which `session` holds locks.
    pub fn locked_by(&self, session: SessionId) -> FsResult<Vec<Ino>> {
        rows::locked_by(&self.view, session)
    }

    /// All data daemons, in order.
    pub fn nodes(&self) -> FsResult<Vec<NodeRow>> {
        rows::nodes(&self.view)
    }

    /// All volumes with the node that has them, in order.
    pub fn volumes(&self) -> FsResult<Vec<(VolumeId, NodeId)>> {
        rows::volumes(&self.view)
    }
}

impl Read for Snapshot {
    fn inode(&self, ino: Ino) -> FsResult<Option<Inode>> {
        rows::inode(&self.view, ino)
    }

    fn dentry_at(&self, parent: Ino, cookie: u64) -> FsResult<Option<Dentry>> {
        rows::dentry(&self.view, parent, cookie)
    }

    fn scan_dentries(&self, parent: Ino, from: u64, visit: &mut dyn FnMut(Dentry) -> bool) -> FsResult<()> {
        rows::scan_dentries(&self.view, parent, from, visit)
    }

    fn scan_extents(
        &self,
        ino: Ino,
        start: u64,
        end: u64,
        visit: &mut dyn FnMut(Extent) -> bool,
    ) -> FsResult<()> {
        rows::scan_extents(&self.view, ino, start, end, visit)
    }

    fn scan_extents_beginning(
        &self,
        ino: Ino,
        start: u64,
        end: u64,
        visit: &mut dyn FnMut(Extent) -> bool,
    ) -> FsResult<()> {
        rows::scan_extents_beginning(&self.view, ino, start, end, visit)
    }

    fn xattr(&self, ino: Ino, name: &[u8]) -> FsResult<Option<Bytes>> {
        rows::xattr(&self.view, ino, name)
    }

    fn xattr_names(&self, ino: Ino) -> FsResult<Vec<Bytes>> {
        rows::xattr_names(&self.view, ino)
    }

    fn locks(&self, ino: Ino) -> FsResult<Vec<HeldLock>> {
        rows::locks(&self.view, ino)
    }

    fn block(&self, block: BlockRef) -> FsResult<Option<BlockUse>> {
        rows::block(&self.view, block)
    }

    fn is_dead(&self, block: BlockRef) -> FsResult<bool> {
        rows::is_dead(&self.view, block)
    }

    fn is_orphan(&self, ino: Ino) -> FsResult<bool> {
        rows::is_orphan(&self.view, ino)
    }

    fn totals(&self) -> FsResult<Totals> {
        Ok(self.totals)
    }
}

/// All rows of all tables but the sessions', for tests that compare whole states.
#[cfg(test)]
pub type Dump = std::collections::BTreeMap<(String, Vec<u8>), Vec<u8>>;

#[cfg(test)]
impl Snapshot {
    pub fn dump(&self) -> FsResult<Dump> {
        let mut dump = Dump::new();
        for table in Table::ALL.into_iter().filter(|table| *table != Table::Session) {
            self.rows(table, &mut |key, value| {
                dump.insert((format!("{table:?}"), key.to_vec()), value.to_vec());
                Ok(true)
            })?;
        }
        let totals = format!("{:?}", self.totals);
        dump.insert(("totals".into(), Vec::new()), totals.into_bytes());
        Ok(dump)
    }
}
