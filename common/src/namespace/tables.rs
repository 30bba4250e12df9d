//! The small transaction trait that the rules run over: the metadata daemon implements it over redb,
//! [`super::twin`] over maps. The rules never know which.
//!
//! A method fails only if the store does (`Io`), which ends the transaction. The rules check
//! everything before their first change, so that any other error leaves nothing changed.

use super::op::{Extent, LockOwner};
use crate::attr::{Attr, FileKind};
use crate::error::FsResult;
use crate::ids::{BlockRef, Ino, SessionId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// An inode as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inode {
    pub attr: Attr,
    /// The directory above, for directories (the root is its own parent). For a file made by `O_TMPFILE`
    /// that never had a name, the directory it was made in: such an orphan may still be linked. 0 for
    /// everything else.
    pub parent: Ino,
    /// Entries, for directories; 0 for everything else.
    pub entries: u64,
    /// Target, for symbolic links; empty for everything else.
    pub target: Bytes,
}

/// A directory entry as stored. Its cookie, unique in its directory, is the offset that `readdir`
/// shows: a hash of the name, so it stays where it is under concurrent change and restarts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dentry {
    pub cookie: u64,
    pub name: Bytes,
    /// 0 marks a removed entry in the middle of a probe chain of equal hashes.
    pub ino: Ino,
    pub kind: FileKind,
}

/// A lock as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldLock {
    pub session: SessionId,
    pub owner: LockOwner,
    pub write: bool,
    /// First and last byte, inclusive.
    pub start: u64,
    pub end: u64,
    pub pid: u32,
}

/// Use of a block by extents. At 0 live bytes the block moves to the delete queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockUse {
    /// Payload length of the block, in bytes.
    pub length: u32,
    /// Sum of the lengths of all extents that point into it; shared extents count each time.
    pub live: u64,
}

/// Totals that `statfs` and `cairn status` show: exact, kept in the same transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Inodes in use, open-unlinked ones included.
    pub inodes: u64,
    /// Bytes that files hold (`Attr::allocated` summed up).
    pub allocated: u64,
    /// Bytes of payload in blocks that are not in the delete queue.
    pub block_bytes: u64,
}

/// Reading half.
pub trait Read {
    fn inode(&self, ino: Ino) -> FsResult<Option<Inode>>;
    fn dentry_at(&self, parent: Ino, cookie: u64) -> FsResult<Option<Dentry>>;
    /// Entries (markers of removed ones included) with a cookie of at least `from`, in order of
    /// cookies, until `visit` answers false.
    fn scan_dentries(&self, parent: Ino, from: u64, visit: &mut dyn FnMut(Dentry) -> bool) -> FsResult<()>;
    /// Extents that overlap `start..end`, whole (not cut), in order of offsets, until `visit` answers false.
    fn scan_extents(
        &self,
        ino: Ino,
        start: u64,
        end: u64,
        visit: &mut dyn FnMut(Extent) -> bool,
    ) -> FsResult<()>;
    /// As [`Read::scan_extents`], of extents that begin within `start..end` only: what was removed below is not
    /// walked over.
    fn scan_extents_beginning(
        &self,
        ino: Ino,
        start: u64,
        end: u64,
        visit: &mut dyn FnMut(Extent) -> bool,
    ) -> FsResult<()>;
    fn xattr(&self, ino: Ino, name: &[u8]) -> FsResult<Option<Bytes>>;
    /// Names of all extended attributes, in byte order.
    fn xattr_names(&self, ino: Ino) -> FsResult<Vec<Bytes>>;
    /// All locks on an inode, in a fixed order.
    fn locks(&self, ino: Ino) -> FsResult<Vec<HeldLock>>;
    fn block(&self, block: BlockRef) -> FsResult<Option<BlockUse>>;
    /// Whether a block is in the delete queue.
    fn is_dead(&self, block: BlockRef) -> FsResult<bool>;
    fn is_orphan(&self, ino: Ino) -> FsResult<bool>;
    fn totals(&self) -> FsResult<Totals>;
    /// The hash that directory cookies come from. Only tests give another, to force collisions.
    fn name_hash(&self, name: &[u8]) -> u64 {
        super::name_hash(name)
    }
}

/// Changing half. Writes are seen by the reads that follow in the same transaction.
pub trait Tables: Read {
    fn put_inode(&mut self, inode: &Inode) -> FsResult<()>;
    fn remove_inode(&mut self, ino: Ino) -> FsResult<()>;
    fn put_dentry(&mut self, parent: Ino, dentry: &Dentry) -> FsResult<()>;
    fn remove_dentry(&mut self, parent: Ino, cookie: u64) -> FsResult<()>;
    /// Stores an extent under its offset; the rules have made room.
    fn put_extent(&mut self, ino: Ino, extent: &Extent) -> FsResult<()>;
    fn remove_extent(&mut self, ino: Ino, offset: u64) -> FsResult<()>;
    fn put_xattr(&mut self, ino: Ino, name: &[u8], value: &[u8]) -> FsResult<()>;
    fn remove_xattr(&mut self, ino: Ino, name: &[u8]) -> FsResult<()>;
    /// Replaces all locks on an inode; an empty list removes the row.
    fn put_locks(&mut self, ino: Ino, locks: &[HeldLock]) -> FsResult<()>;
    /// Inodes on which `session` holds locks (for the end of a session).
    fn locked_by(&self, session: SessionId) -> FsResult<Vec<Ino>>;
    /// Stores the use of a block.
    fn put_block(&mut self, block: BlockRef, usage: BlockUse) -> FsResult<()>;
    /// Forgets a block's use and puts it in the delete queue, in the same transaction.
    fn queue_delete(&mut self, block: BlockRef) -> FsResult<()>;
    /// Marks an inode without names: it lives until no mount has it open, then it is reaped.
    fn put_orphan(&mut self, ino: Ino) -> FsResult<()>;
    fn remove_orphan(&mut self, ino: Ino) -> FsResult<()>;
    fn put_totals(&mut self, totals: Totals) -> FsResult<()>;
}
