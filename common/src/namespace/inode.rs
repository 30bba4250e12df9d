//! What all operations do with inodes: load them with the right error, move their times, give and
//! take names.

use super::tables::{Inode, Read, Tables};
use crate::attr::{Caller, FileKind, Timestamp};
use crate::error::{FsError, FsResult};
use crate::ids::Ino;
use crate::limits::NAME_MAX;

/// `st_size` of an empty directory, and what each entry adds.
pub(super) const DIR_SIZE: u64 = 4096;
pub(super) const DIR_ENTRY_SIZE: u64 = 32;

pub(super) const SETUID: u16 = 0o4000;
pub(super) const SETGID: u16 = 0o2000;
const GROUP_EXEC: u16 = 0o010;

/// The inode that an operation is about. `Stale` makes the kernel look its name up again.
pub(super) fn target<T: Read + ?Sized>(tables: &T, ino: Ino) -> FsResult<Inode> {
    tables.inode(ino)?.ok_or(FsError::Stale)
}

/// The regular file that an operation on content is about.
pub(super) fn file<T: Read + ?Sized>(tables: &T, ino: Ino) -> FsResult<Inode> {
    let inode = target(tables, ino)?;
    match inode.attr.kind {
        FileKind::File => Ok(inode),
        FileKind::Dir => Err(FsError::IsDir),
        _ => Err(FsError::Invalid),
    }
}

/// A directory to look for names in: it may have been removed, then it is empty.
pub(super) fn directory<T: Read + ?Sized>(tables: &T, ino: Ino) -> FsResult<Inode> {
    let inode = tables.inode(ino)?.ok_or(FsError::NotFound)?;
    if inode.attr.kind == FileKind::Dir { Ok(inode) } else { Err(FsError::NotDir) }
}

/// A directory in which names change: not a removed one.
pub(super) fn live_directory<T: Read + ?Sized>(tables: &T, ino: Ino) -> FsResult<Inode> {
    let inode = directory(tables, ino)?;
    if inode.attr.nlink == 0 { Err(FsError::NotFound) } else { Ok(inode) }
}

/// The inode that an entry names. That it is missing can only be damage.
pub(super) fn named<T: Read + ?Sized>(tables: &T, ino: Ino) -> FsResult<Inode> {
    tables.inode(ino)?.ok_or(FsError::Corrupt)
}

/// Refuses a number that is in use: inode numbers are never given twice.
pub(super) fn check_new_ino<T: Read + ?Sized>(tables: &T, ino: Ino) -> FsResult<()> {
    if ino <= Ino::ROOT || tables.inode(ino)?.is_some() { Err(FsError::Invalid) } else { Ok(()) }
}

/// Refuses what can't be the name of an entry.
pub(super) fn check_name(name: &[u8]) -> FsResult<()> {
    if name.len() > NAME_MAX {
        return Err(FsError::NameTooLong);
    }
    if matches!(name, b"" | b"." | b"..") || name.iter().any(|&byte| byte == b'/' || byte == 0) {
        return Err(FsError::Invalid);
    }
    Ok(())
}

impl Inode {
    /// Attributes changed.
    pub(super) fn changed(&mut self, now: Timestamp) {
        self.attr.ctime = self.attr.ctime.advance(now);
    }

    /// Content or entries changed.
    pub(super) fn modified(&mut self, now: Timestamp) {
        self.changed(now);
        self.attr.mtime = self.attr.ctime;
    }

    /// The content or the extents changed: nobody may use what was cached under the old version.
    pub(super) fn bump_version(&mut self) {
        self.attr.data_version = self.attr.data_version.wrapping_add(1);
    }

    /// A directory got an entry.
    pub(super) fn entry_added(&mut self, kind: FileKind) {
        self.entries += 1;
        self.attr.size = DIR_SIZE + self.entries * DIR_ENTRY_SIZE;
        self.attr.nlink += u32::from(kind == FileKind::Dir);
    }

    /// A directory lost an entry.
    pub(super) fn entry_removed(&mut self, kind: FileKind) {
        self.entries = self.entries.saturating_sub(1);
        self.attr.size = DIR_SIZE + self.entries * DIR_ENTRY_SIZE;
        self.attr.nlink = self.attr.nlink.saturating_sub(u32::from(kind == FileKind::Dir));
    }

    /// `caller` changed the content by an operation with which the kernel does not say whether setuid and
    /// setgid must go.
    pub(super) fn modified_by(&mut self, caller: &Caller) {
        if caller.uid != 0 {
            self.kill_suidgid();
        }
    }

    /// What a write by an unprivileged user and any chown do: setuid goes, setgid goes if it means
    /// "run as this group" (without group execution it is the mark of mandatory locking).
    pub(super) fn kill_suidgid(&mut self) {
        if self.attr.kind == FileKind::Dir {
            return;
        }
        self.attr.perm &= !SETUID;
        if self.attr.perm & GROUP_EXEC != 0 {
            self.attr.perm &= !SETGID;
        }
    }
}

/// Takes one name away from an inode and stores it; a directory has only one. Without names it
/// becomes an orphan: it lives on until nobody has it open. Returns the names left.
pub(super) fn drop_name<T: Tables + ?Sized>(
    tables: &mut T,
    inode: &mut Inode,
    now: Timestamp,
) -> FsResult<u32> {
    let attr = &mut inode.attr;
    attr.nlink = if attr.kind == FileKind::Dir { 0 } else { attr.nlink.saturating_sub(1) };
    let left = attr.nlink;
    inode.changed(now);
    tables.put_inode(inode)?;
    if left == 0 {
        tables.put_orphan(inode.attr.ino)?;
    }
    Ok(left)
}

/// Counts inodes in the totals.
pub(super) fn count_inodes<T: Tables + ?Sized>(tables: &mut T, by: i64) -> FsResult<()> {
    let mut totals = tables.totals()?;
    totals.inodes = totals.inodes.saturating_add_signed(by);
    tables.put_totals(totals)
}
