//! Removing names.

use super::dentry;
use super::inode::{check_name, drop_name, live_directory, named};
use super::op::{Name, OpReply, OpResult};
use super::tables::{Dentry, Inode, Tables};
use crate::attr::{FileKind, Timestamp};
use crate::error::{FsError, FsResult};
use crate::ids::Ino;

pub(super) fn unlink<T: Tables + ?Sized>(
    tables: &mut T,
    now: Timestamp,
    parent: Ino,
    name: &Name,
) -> OpResult {
    let (parent, dentry) = locate(tables, parent, name)?;
    if dentry.kind == FileKind::Dir {
        return Err(FsError::IsDir);
    }
    let inode = named(tables, dentry.ino)?;
    detach(tables, now, parent, &dentry, inode)
}

/// The directory itself becomes an orphan like a file does: another mount may stand in it.
pub(super) fn rmdir<T: Tables + ?Sized>(
    tables: &mut T,
    now: Timestamp,
    parent: Ino,
    name: &Name,
) -> OpResult {
    let (parent, dentry) = locate(tables, parent, name)?;
    if dentry.kind != FileKind::Dir {
        return Err(FsError::NotDir);
    }
    let inode = named(tables, dentry.ino)?;
    if inode.entries > 0 {
        return Err(FsError::NotEmpty);
    }
    dentry::sweep(tables, dentry.ino)?;
    detach(tables, now, parent, &dentry, inode)
}

fn locate<T: Tables + ?Sized>(tables: &T, parent: Ino, name: &Name) -> FsResult<(Inode, Dentry)> {
    check_name(name)?;
    let parent = live_directory(tables, parent)?;
    let dentry = dentry::find(tables, parent.attr.ino, name)?.taken()?;
    Ok((parent, dentry))
}

fn detach<T: Tables + ?Sized>(
    tables: &mut T,
    now: Timestamp,
    mut parent: Inode,
    dentry: &Dentry,
    mut inode: Inode,
) -> OpResult {
    dentry::remove(tables, parent.attr.ino, dentry)?;
    parent.entry_removed(dentry.kind);
    parent.modified(now);
    tables.put_inode(&parent)?;
    let nlink = drop_name(tables, &mut inode, now)?;
    Ok(OpReply::Unlinked { ino: dentry.ino, nlink })
}
