//! Operations: every change of the tree is one of these, in a session's operation log and in the
//! metadata log alike. They are plain values: the time, the caller and new inode numbers are inside,
//! so that applying one is deterministic wherever it runs.

use crate::attr::{Attr, Caller, FileKind, SetAttr, Timestamp};
use crate::error::FsResult;
use crate::ids::{BlockRef, Ino};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A name in a directory: raw bytes, checked by the rules (not empty, no `/`, no NUL, at most
/// `NAME_MAX`, not `.` or `..`).
pub type Name = Bytes;

/// One operation of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Op {
    /// When it happened, on the server's clock as the mount knows it.
    pub time: Timestamp,
    /// Who asked.
    pub caller: Caller,
    pub body: OpBody,
}

/// What an operation does.
///
/// The order is part of the wire and log formats (bincode encodes the index): new ones go to the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpBody {
    /// Make a file, directory, fifo, socket or device. Replies `Entry`.
    Create(Create),
    /// Make a symbolic link. Replies `Entry`.
    Symlink { parent: Ino, name: Name, ino: Ino, target: Bytes },
    /// Make a file without a name (`O_TMPFILE`); `parent` gives group and default ACL. It is
    /// open-unlinked until linked. Replies `Entry`.
    Tmpfile { parent: Ino, ino: Ino, perm: u16, umask: u16 },
    /// Give an inode one more name. Replies `Entry`.
    Link { ino: Ino, parent: Ino, name: Name },
    /// Remove a name of anything but a directory. Replies `Unlinked`.
    Unlink { parent: Ino, name: Name },
    /// Remove an empty directory. Replies `Unlinked`.
    Rmdir { parent: Ino, name: Name },
    /// Rename, with the `RENAME_*` flags of `renameat2`. Replies `Renamed`.
    Rename(Rename),
    /// Change attributes. Replies `Attr`.
    SetAttr { ino: Ino, set: SetAttr },
    /// Set an extended attribute; ACLs and capabilities come this way too. Replies `Attr`.
    SetXattr { ino: Ino, name: Bytes, value: Bytes, mode: XattrMode },
    /// Remove an extended attribute. Replies `Attr`.
    RemoveXattr { ino: Ino, name: Bytes },
    /// Make written data visible: the extents of each piece replace what they overlap. Replies `Committed`.
    Commit(Commit),
    /// Add data at the end of the file, wherever that is when the operation is applied. Replies `Appended`.
    Append { ino: Ino, length: u64, data: ExtentData, block_length: u32, kill_suidgid: bool },
    /// `fallocate`. Replies `Attr`.
    Fallocate { ino: Ino, mode: FallocateMode, offset: u64, length: u64 },
    /// `copy_file_range` by sharing extents. Replies `Copied`.
    CloneRange { from: Ino, from_offset: u64, to: Ino, to_offset: u64, length: u64 },
    /// Retired, answered `NotSupported`: mounts move nothing, data daemons do (see [`Relocation`]). Keeps the numbers of
    /// those that follow; stands for an operation that had failed, where a mount repeats what a server lost.
    Relocate,
    /// Set, change or (with `LockType::Unlock`) release a lock. `WouldBlock` on a conflict. Replies `Done`.
    Lock { ino: Ino, lock: LockRequest },
    /// Release all locks of an owner on an inode (the last close). Replies `Done`.
    ReleaseLocks { ino: Ino, owner: LockOwner },
    /// The file was read: moves `atime` forward (never back) and nothing else. Replies `Attr`.
    Touch { ino: Ino, atime: Timestamp },
    /// As `Commit`; besides, bytes that lie inside the metadata move into its blocks. Replies `Moved`.
    CommitAndMove { commit: Commit, moves: Vec<Move> },
}

/// Bytes of a file inside the metadata that are in a block now, too. They move there if they are still the same, and
/// all inside the metadata; else nothing happens: the file was changed meanwhile, by another mount perhaps. Neither
/// content nor times nor size change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    pub ino: Ino,
    /// First byte in the file.
    pub offset: u64,
    pub length: u64,
    pub block: BlockRef,
    /// First byte in the block.
    pub at: u32,
    /// CRC-64/NVME of the bytes.
    pub sum: u64,
}

/// A live stretch of a block, of which there is a copy in another one. Extents that still point to it point to the copy
/// afterwards; those that don't stay as they are. Neither content nor version nor times of the file change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relocation {
    pub ino: Ino,
    /// First byte in the file.
    pub offset: u64,
    pub length: u32,
    pub from: BlockRef,
    /// First byte in `from`.
    pub from_at: u32,
    /// First byte in the block that has the copy.
    pub to_at: u32,
}

/// See [`OpBody::Create`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Create {
    pub parent: Ino,
    pub name: Name,
    /// Number of the new inode, from the session's range.
    pub ino: Ino,
    pub kind: FileKind,
    /// Permission bits as asked for; `umask` is applied unless the parent has a default ACL.
    pub perm: u16,
    pub umask: u16,
    pub rdev: u32,
    /// Fail with `Exists` if the name is there; else an existing regular file is replied (`created: false`).
    pub exclusive: bool,
    /// The mount opens the file for reading and writing at once: the server registers the open.
    pub open: bool,
}

/// See [`OpBody::Rename`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rename {
    pub parent: Ino,
    pub name: Name,
    pub new_parent: Ino,
    pub new_name: Name,
    /// `RENAME_NOREPLACE`, `RENAME_EXCHANGE`, `RENAME_WHITEOUT`; any other bit is refused.
    pub flags: u32,
    /// Number for the whiteout that `RENAME_WHITEOUT` leaves; 0 without that flag.
    pub whiteout: Ino,
}

/// How `setxattr` treats an existing value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum XattrMode {
    Set,
    /// `XATTR_CREATE`: `Exists` if it is there.
    Create,
    /// `XATTR_REPLACE`: `NoAttr` if it is not.
    Replace,
}

/// Where the bytes of an extent are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExtentData {
    /// In a block, from `offset` on.
    Block { block: BlockRef, offset: u32 },
    /// In the metadata itself: small synchronous writes, until they are moved to a block.
    Inline(Bytes),
    /// Nowhere: space set aside by `fallocate`. Reads as zeros, counts as allocated, is a hole to `SEEK_DATA`.
    Reserved,
}

/// A run of a file's bytes. Extents of a file never overlap; what none covers is a hole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// First byte in the file.
    pub offset: u64,
    /// Bytes; not 0.
    pub length: u64,
    pub data: ExtentData,
}

/// One stretch of a file that a commit makes visible.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    pub ino: Ino,
    pub extent: Extent,
}

/// See [`OpBody::Commit`]. All or nothing, for many files at once. Pieces of an inode that is gone
/// are dropped (it was removed while its data was under way); the others count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The blocks that pieces point to, with their payload lengths.
    pub blocks: Vec<(BlockRef, u32)>,
    pub pieces: Vec<Piece>,
    /// Per file: what else changes with the data.
    pub files: Vec<FileCommit>,
}

/// The file's side of a commit. The mount has shown these values to its programs already, so they
/// are taken as they are: nobody may see a time change because written data was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileCommit {
    pub ino: Ino,
    /// The file is at least this long afterwards; it never shrinks by a commit.
    pub size_at_least: u64,
    /// Time of the last write that the commit carries: exactly the new `mtime`, and the new `ctime` unless
    /// that is later already. `None` leaves both: `utimensat` came after the write, in program order.
    pub mtime: Option<Timestamp>,
    /// Clear setuid and setgid, as a write by an unprivileged user does.
    pub kill_suidgid: bool,
}

/// The modes of `fallocate`; other combinations of flags are `NotSupported` before they get here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FallocateMode {
    Allocate { keep_size: bool },
    PunchHole,
    ZeroRange { keep_size: bool },
    CollapseRange,
    InsertRange,
}

/// Which of the two families of locks: they don't see each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LockFamily {
    /// `fcntl`: byte ranges, owned by a process.
    Posix,
    /// `flock`: whole files, owned by an open file.
    Flock,
}

/// Who holds a lock, within a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LockOwner {
    pub family: LockFamily,
    /// The kernel's owner number.
    pub owner: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockType {
    Read,
    Write,
    Unlock,
}

/// A lock to set, or a range to unlock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRequest {
    pub owner: LockOwner,
    pub kind: LockType,
    /// First byte.
    pub start: u64,
    /// Last byte, inclusive; `u64::MAX >> 1` is the end of any file.
    pub end: u64,
    /// For `F_GETLK`.
    pub pid: u32,
}

/// What an applied operation answers.
///
/// The order is part of the wire format: new ones go to the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpReply {
    Done,
    Attr(Attr),
    /// The inode at the name; `created` is false if it was there before.
    Entry {
        attr: Attr,
        created: bool,
    },
    /// The inode that lost a name, and how many it has left (0: gone, or open-unlinked).
    Unlinked {
        ino: Ino,
        nlink: u32,
    },
    /// The inode that was replaced (lost its name), if any, with the names it has left.
    Renamed {
        replaced: Option<(Ino, u32)>,
    },
    /// Attributes after a commit, for each file of it that still exists.
    Committed {
        files: Vec<Attr>,
    },
    /// Where appended data went, and attributes after it.
    Appended {
        offset: u64,
        attr: Attr,
    },
    /// Bytes copied (the source may end earlier than asked), and the target's attributes.
    Copied {
        length: u64,
        attr: Attr,
    },
    /// As `Committed`, with the files of moves; and those of them of which not all has moved.
    Moved {
        files: Vec<Attr>,
        kept: Vec<Ino>,
    },
}

/// Result of one operation: an error means that it changed nothing at all.
pub type OpResult = FsResult<OpReply>;
