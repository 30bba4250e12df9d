//! Walking all tables, for the check of invariants.

use super::schema::{self, Bytes as Value, Key8, Key12, Key16};
use super::{Snapshot, failed, keys, values};
use cairn_common::error::FsResult;
use cairn_common::ids::{BlockRef, Ino};
use cairn_common::namespace::check::Inventory;
use cairn_common::namespace::tables::{BlockUse, Inode};
use redb::TableDefinition;

impl Inventory for Snapshot {
    fn all_inodes(&self, visit: &mut dyn FnMut(Inode)) -> FsResult<()> {
        self.each_ino(schema::INODE, &mut |ino, value| {
            visit(values::decode_inode(ino, value)?);
            Ok(())
        })
    }

    fn all_blocks(&self, visit: &mut dyn FnMut(BlockRef, BlockUse)) -> FsResult<()> {
        let table = self.open(schema::BLOCK)?;
        for row in table.range::<Key12>(..).map_err(failed)? {
            let (key, value) = row.map_err(failed)?;
            visit(keys::block_of(key.value()), values::decode_block(value.value())?);
        }
        Ok(())
    }

    fn all_orphans(&self, visit: &mut dyn FnMut(Ino)) -> FsResult<()> {
        self.each_ino(schema::ORPHAN, &mut |ino, _| {
            visit(ino);
            Ok(())
        })
    }

    fn all_owners(&self, visit: &mut dyn FnMut(Ino)) -> FsResult<()> {
        self.owners(schema::DENTRY, visit)?;
        self.owners(schema::EXTENT, visit)?;
        let xattrs = self.open(schema::XATTR)?;
        for row in xattrs.range::<Value>(..).map_err(failed)? {
            let (key, _) = row.map_err(failed)?;
            if let Some(ino) = key.value().first_chunk() {
                visit(keys::ino_of(ino));
            }
        }
        self.each_ino(schema::LOCK, &mut |ino, _| {
            visit(ino);
            Ok(())
        })
    }
}

impl Snapshot {
    fn each_ino(
        &self,
        table: TableDefinition<'_, Key8, Value>,
        visit: &mut dyn FnMut(Ino, &[u8]) -> FsResult<()>,
    ) -> FsResult<()> {
        let table = self.open(table)?;
        for row in table.range::<Key8>(..).map_err(failed)? {
            let (key, value) = row.map_err(failed)?;
            visit(keys::ino_of(key.value()), value.value())?;
        }
        Ok(())
    }

    /// First halves of the keys, once for each run of equal ones.
    fn owners(&self, table: TableDefinition<'_, Key16, Value>, visit: &mut dyn FnMut(Ino)) -> FsResult<()> {
        let table = self.open(table)?;
        let mut last = None;
        for row in table.range::<Key16>(..).map_err(failed)? {
            let (key, _) = row.map_err(failed)?;
            let ino = keys::first_of(key.value());
            if last.replace(ino) != Some(ino) {
                visit(Ino(ino));
            }
        }
        Ok(())
    }
}
