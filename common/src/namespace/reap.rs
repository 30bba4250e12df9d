//! The end of an inode: when it has no names and nobody has it open.

use super::dentry;
use super::extents::collect;
use super::inode::count_inodes;
use super::ledger::Ledger;
use super::tables::{Inode, Tables};
use crate::error::FsResult;
use crate::ids::Ino;

/// Removes an orphan with all it has, but at most `max_extents` extents of it. True when it is gone, also
/// if it was no orphan to begin with (it has been linked, or reaped before).
pub fn reap<T: Tables + ?Sized>(tables: &mut T, ino: Ino, max_extents: usize) -> FsResult<bool> {
    if !tables.is_orphan(ino)? {
        return Ok(true);
    }
    let Some(mut inode) = tables.inode(ino)? else {
        tables.remove_orphan(ino)?;
        return Ok(true);
    };
    release_extents(tables, &mut inode, max_extents.max(1))?;
    if inode.attr.allocated > 0 {
        // It can't be linked any more: some of its data is gone.
        inode.parent = Ino(0);
        inode.bump_version();
        tables.put_inode(&inode)?;
        return Ok(false);
    }
    for name in tables.xattr_names(ino)? {
        tables.remove_xattr(ino, &name)?;
    }
    if !tables.locks(ino)?.is_empty() {
        tables.put_locks(ino, &[])?;
    }
    dentry::sweep(tables, ino)?;
    tables.remove_inode(ino)?;
    tables.remove_orphan(ino)?;
    count_inodes(tables, -1)?;
    Ok(true)
}

fn release_extents<T: Tables + ?Sized>(tables: &mut T, inode: &mut Inode, max: usize) -> FsResult<()> {
    if inode.attr.allocated == 0 {
        return Ok(());
    }
    let mut ledger = Ledger::default();
    for extent in collect(tables, inode.attr.ino, (0, u64::MAX), max)? {
        tables.remove_extent(inode.attr.ino, extent.offset)?;
        ledger.release(inode, &extent.data, extent.length);
    }
    ledger.settle(tables)
}
