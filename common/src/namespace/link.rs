//! One more name for an inode.

use super::dentry;
use super::inode::{check_name, live_directory, target};
use super::op::{Name, OpReply, OpResult};
use super::tables::Tables;
use crate::attr::{FileKind, Timestamp};
use crate::error::FsError;
use crate::ids::Ino;
use crate::limits::LINK_MAX;

/// A file without names can be linked only if it never had one (`O_TMPFILE`), as on Linux: one that lost
/// its last name may already be on its way out.
pub(super) fn link<T: Tables + ?Sized>(
    tables: &mut T,
    now: Timestamp,
    ino: Ino,
    parent: Ino,
    name: &Name,
) -> OpResult {
    check_name(name)?;
    let mut inode = target(tables, ino)?;
    if inode.attr.kind == FileKind::Dir {
        return Err(FsError::NotPermitted);
    }
    let nameless = inode.attr.nlink == 0;
    if nameless && inode.parent == Ino(0) {
        return Err(FsError::NotFound);
    }
    let mut parent = live_directory(tables, parent)?;
    let cookie = dentry::find(tables, parent.attr.ino, name)?.vacant()?;
    if inode.attr.nlink >= LINK_MAX {
        return Err(FsError::TooManyLinks);
    }

    dentry::insert(tables, parent.attr.ino, cookie, name, (ino, inode.attr.kind))?;
    if nameless {
        inode.parent = Ino(0);
        tables.remove_orphan(ino)?;
    }
    inode.attr.nlink += 1;
    inode.changed(now);
    tables.put_inode(&inode)?;
    parent.entry_added(inode.attr.kind);
    parent.modified(now);
    tables.put_inode(&parent)?;
    Ok(OpReply::Entry { attr: inode.attr, created: true })
}
