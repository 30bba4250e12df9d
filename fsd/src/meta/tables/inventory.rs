//! Walking all tables, for the check of invariants.

use super::schema::Table;
use super::{Snapshot, rows};
use cairn_common::error::FsResult;
use cairn_common::ids::{BlockRef, Ino};
use cairn_common::namespace::check::Inventory;
use cairn_common::namespace::tables::{BlockUse, Inode};

impl Inventory for Snapshot {
    fn all_inodes(&self, visit: &mut dyn FnMut(Inode)) -> FsResult<()> {
        rows::inodes(self.view(), visit)
    }

    fn all_blocks(&self, visit: &mut dyn FnMut(BlockRef, BlockUse)) -> FsResult<()> {
        rows::blocks(self.view(), visit)
    }

    fn all_orphans(&self, visit: &mut dyn FnMut(Ino)) -> FsResult<()> {
        rows::owners(self.view(), Table::Orphan, visit)
    }

    fn all_owners(&self, visit: &mut dyn FnMut(Ino)) -> FsResult<()> {
        let tables = [Table::Dentry, Table::Extent, Table::Xattr, Table::Lock];
        tables.into_iter().try_for_each(|table| rows::owners(self.view(), table, visit))
    }
}
