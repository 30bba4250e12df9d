//! chmod, chown, truncate, utimensat: one operation.

use super::inode::{SETGID, SETUID, target};
use super::ledger::Ledger;
use super::op::{OpReply, OpResult};
use super::tables::{Inode, Tables};
use super::{acl, extents, xattr};
use crate::attr::{FileKind, SetAttr, SetTime, Timestamp};
use crate::error::{FsError, FsResult};
use crate::ids::Ino;
use crate::limits::FILE_SIZE_MAX;

pub(super) fn setattr<T: Tables + ?Sized>(
    tables: &mut T,
    now: Timestamp,
    ino: Ino,
    set: &SetAttr,
) -> OpResult {
    let mut inode = target(tables, ino)?;
    if *set == SetAttr::default() {
        return Ok(OpReply::Attr(inode.attr));
    }
    if let Some(size) = set.size {
        check_size(&inode, size)?;
    }
    if set.perm.is_some() && inode.attr.kind == FileKind::Symlink {
        return Err(FsError::NotSupported);
    }

    set_owner(tables, &mut inode, set)?;
    if let Some(size) = set.size {
        truncate(tables, &mut inode, size)?;
        inode.modified(now);
    } else {
        inode.changed(now);
    }
    if set.kill_suidgid {
        inode.kill_suidgid();
    }
    if let Some(perm) = set.perm {
        inode.attr.perm = perm & (0o777 | SETUID | SETGID | 0o1000);
        acl::follow_chmod(tables, ino, perm)?;
    }
    set_times(&mut inode, set);
    tables.put_inode(&inode)?;
    Ok(OpReply::Attr(inode.attr))
}

/// Reading is no change: `ctime` stays.
pub(super) fn touch<T: Tables + ?Sized>(tables: &mut T, ino: Ino, atime: Timestamp) -> OpResult {
    let mut inode = target(tables, ino)?;
    if atime > inode.attr.atime {
        inode.attr.atime = atime;
        tables.put_inode(&inode)?;
    }
    Ok(OpReply::Attr(inode.attr))
}

fn check_size(inode: &Inode, size: u64) -> FsResult<()> {
    match inode.attr.kind {
        FileKind::File if size > FILE_SIZE_MAX => Err(FsError::FileTooLarge),
        FileKind::File => Ok(()),
        FileKind::Dir => Err(FsError::IsDir),
        _ => Err(FsError::Invalid),
    }
}

/// Any chown takes privileges away, also one by root: a setuid file must not change into another
/// user's hands and keep the bit.
fn set_owner<T: Tables + ?Sized>(tables: &mut T, inode: &mut Inode, set: &SetAttr) -> FsResult<()> {
    if set.uid.is_none() && set.gid.is_none() {
        return Ok(());
    }
    inode.attr.uid = set.uid.unwrap_or(inode.attr.uid);
    inode.attr.gid = set.gid.unwrap_or(inode.attr.gid);
    if inode.attr.kind != FileKind::Dir {
        inode.kill_suidgid();
        xattr::drop_capability(tables, inode.attr.ino)?;
    }
    Ok(())
}

/// Cuts extents at the new end, those set aside beyond the old end included; growing leaves a hole.
fn truncate<T: Tables + ?Sized>(tables: &mut T, inode: &mut Inode, size: u64) -> FsResult<()> {
    let mut ledger = Ledger::default();
    if size <= inode.attr.size {
        extents::cut(tables, inode, size, u64::MAX, &mut ledger)?;
    }
    inode.attr.size = size;
    inode.bump_version();
    xattr::drop_capability(tables, inode.attr.ino)?;
    ledger.settle(tables)
}

/// `Now` is the time that the change itself got, so that a file touched twice moves forward.
fn set_times(inode: &mut Inode, set: &SetAttr) {
    let changed = inode.attr.ctime;
    let resolve = |time: SetTime| match time {
        SetTime::Now => changed,
        SetTime::At(time) => time,
    };
    if let Some(atime) = set.atime {
        inode.attr.atime = resolve(atime);
    }
    if let Some(mtime) = set.mtime {
        inode.attr.mtime = resolve(mtime);
    }
}
