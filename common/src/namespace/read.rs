//! Questions that change nothing.

use super::dentry::{self, FIRST_COOKIE};
use super::inode::{directory, file, named, target};
use super::locks::lock_in_the_way;
use super::op::{Extent, ExtentData, LockRequest};
use super::tables::{HeldLock, Read};
use crate::attr::{Attr, FileKind};
use crate::error::{FsError, FsResult};
use crate::ids::{Ino, SessionId};
use crate::limits::{EXTENTS_PER_REPLY, INLINE_BYTES_PER_REPLY, NAME_MAX, READDIR_PAGE_MAX};
use crate::proto::meta::{DirEntry, DirPage, ExtentPage};
use bytes::Bytes;

/// Encoded size of an entry without its name, and of the attributes with it; roughly.
const ENTRY_BYTES: usize = 32;
const ATTR_BYTES: usize = 96;

/// The inode at a name. `.` and `..` are understood; above the root is the root.
pub fn lookup<T: Read + ?Sized>(tables: &T, parent: Ino, name: &[u8]) -> FsResult<Attr> {
    if name.len() > NAME_MAX {
        return Err(FsError::NameTooLong);
    }
    let directory = directory(tables, parent)?;
    let ino = match name {
        b"." => return Ok(directory.attr),
        b".." => directory.parent,
        _ => dentry::find(tables, parent, name)?.taken()?.ino,
    };
    Ok(named(tables, ino)?.attr)
}

pub fn getattr<T: Read + ?Sized>(tables: &T, ino: Ino) -> FsResult<Attr> {
    Ok(target(tables, ino)?.attr)
}

pub fn readlink<T: Read + ?Sized>(tables: &T, ino: Ino) -> FsResult<Bytes> {
    let inode = target(tables, ino)?;
    if inode.attr.kind == FileKind::Symlink { Ok(inode.target) } else { Err(FsError::Invalid) }
}

/// Entries after `cookie` (0: from the start), about `max_bytes` of them but at least one. `.` and
/// `..` are not among them.
pub fn readdir<T: Read + ?Sized>(
    tables: &T,
    ino: Ino,
    cookie: u64,
    max_bytes: u32,
    plus: bool,
) -> FsResult<DirPage> {
    let directory = directory(tables, ino)?;
    let max = usize::try_from(max_bytes).unwrap_or(READDIR_PAGE_MAX).min(READDIR_PAGE_MAX);
    let each = ENTRY_BYTES + if plus { ATTR_BYTES } else { 0 };
    let mut page = DirPage { entries: Vec::new(), end: true, parent: directory.parent };
    let mut bytes = 0;
    let from = cookie.saturating_add(1).max(FIRST_COOKIE);
    tables.scan_dentries(ino, from, &mut |dentry| {
        if dentry.ino == Ino(0) {
            return true;
        }
        bytes += each + dentry.name.len();
        if bytes > max && !page.entries.is_empty() {
            page.end = false;
            return false;
        }
        page.entries.push(DirEntry {
            name: dentry.name,
            ino: dentry.ino,
            kind: dentry.kind,
            cookie: dentry.cookie,
            attr: None,
        });
        true
    })?;
    if plus {
        for entry in &mut page.entries {
            entry.attr = Some(named(tables, entry.ino)?.attr);
        }
    }
    Ok(page)
}

pub fn getxattr<T: Read + ?Sized>(tables: &T, ino: Ino, name: &[u8]) -> FsResult<Bytes> {
    target(tables, ino)?;
    tables.xattr(ino, name)?.ok_or(FsError::NoAttr)
}

pub fn listxattr<T: Read + ?Sized>(tables: &T, ino: Ino) -> FsResult<Vec<Bytes>> {
    target(tables, ino)?;
    tables.xattr_names(ino)
}

/// The first lock that stands in the way of `lock`.
pub fn test_lock<T: Read + ?Sized>(
    tables: &T,
    session: SessionId,
    ino: Ino,
    lock: &LockRequest,
) -> FsResult<Option<HeldLock>> {
    target(tables, ino)?;
    lock_in_the_way(&tables.locks(ino)?, session, lock)
}

/// Extents that overlap `start..end`, whole. The page ends early where it is full, but not before it has one.
pub fn extents<T: Read + ?Sized>(tables: &T, ino: Ino, start: u64, end: u64) -> FsResult<ExtentPage> {
    let inode = file(tables, ino)?;
    let mut page = ExtentPage {
        data_version: inode.attr.data_version,
        size: inode.attr.size,
        start,
        end,
        extents: Vec::new(),
    };
    let mut inline = 0;
    if inode.attr.allocated > 0 && start < end {
        tables.scan_extents(ino, start, end, &mut |extent| {
            if page.extents.len() == EXTENTS_PER_REPLY || inline >= INLINE_BYTES_PER_REPLY {
                page.end = extent.offset;
                return false;
            }
            inline += inline_bytes(&extent);
            page.extents.push(extent);
            true
        })?;
    }
    Ok(page)
}

/// Bytes of data that lie in the extent itself.
fn inline_bytes(extent: &Extent) -> usize {
    match &extent.data {
        ExtentData::Inline(bytes) => bytes.len(),
        ExtentData::Reserved | ExtentData::Block { .. } => 0,
    }
}
