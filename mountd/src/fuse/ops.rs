//! What the kernel asks of a mount, in our own words: the adapter speaks FUSE, whoever implements
//! [`FuseOps`] speaks POSIX and knows nothing of requests, replies and threads.
//!
//! There are two forms of a call. The `try_` form runs on the FUSE thread and must not wait, not for
//! a server and not for a lock that is held over I/O: it answers from what the mount holds, or returns
//! `None`. The async form runs as a tokio task. Going to another thread costs more than the call (45
//! against 4 microseconds), so what can be answered in place should be.
//!
//! A task whose process is being killed, or has waited long enough (`given_up`), is not waited for:
//! - *queries* (marked so) are dropped at any `await`, so they count lookups without one after it;
//! - *changes* that were begun run to their end, and what they return is given back by `forget` and `release`.

use super::gate::ReplyGate;
use super::interrupt::Interrupt;
use bytes::Bytes;
use cairn_common::attr::{Attr, Caller, FileKind, SetAttr};
use cairn_common::error::FsResult;
use cairn_common::ids::Ino;
use cairn_common::namespace::op::{FallocateMode, LockRequest, Name, XattrMode};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// Handle of an open file or directory: chosen by `open`, `create`, `tmpfile`, `opendir`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fh(pub u64);

/// An inode that the kernel now knows. Each one returned counts as one lookup, until `forget`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub attr: Attr,
    /// Tells apart inodes that had the same number one after the other; we never reuse one, so 0 will do.
    pub generation: u64,
    /// How long the kernel may go without asking for the name, and for the attributes.
    pub entry_ttl: Duration,
    pub attr_ttl: Duration,
}

/// Answer to a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    Found(Entry),
    /// The name does not exist, and the kernel may remember that for so long. (`Err(NotFound)`: it may not.)
    Missing {
        ttl: Duration,
    },
}

/// Attributes, and how long the kernel may go without asking for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttrReply {
    pub attr: Attr,
    pub ttl: Duration,
}

/// An opened file or directory, and how the kernel is to treat it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    pub fh: Fh,
    pub mode: OpenMode,
}

/// The kernel's `FOPEN_*` flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenMode {
    /// No page cache: each read and write comes to us.
    pub direct_io: bool,
    /// What the page cache holds of the file is still right.
    pub keep_cache: bool,
    /// The kernel may keep the list of the directory, and serve later opens (with `keep_cache`) from it.
    pub cache_dir: bool,
    /// `close` need not tell us: for files without locks and without writable mappings.
    pub noflush: bool,
    /// Writers of the same `direct_io` file need not wait for each other.
    pub parallel_direct_writes: bool,
}

/// A file that was made and opened in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Created {
    pub entry: Entry,
    pub opened: Opened,
}

/// A read of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadAt {
    pub ino: Ino,
    pub fh: Fh,
    pub offset: u64,
    /// At most this many bytes; fewer only at the end of the file.
    pub size: u32,
    /// `open` flags of the file (`O_DIRECT`, ...).
    pub flags: i32,
}

/// A write to an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteAt {
    pub ino: Ino,
    pub fh: Fh,
    /// Where, as the kernel sees it: with `O_APPEND` at the size that it believes.
    pub offset: u64,
    /// `open` flags of the file (`O_APPEND`, `O_SYNC`, `O_DSYNC`, `O_DIRECT`).
    pub flags: i32,
    /// Comes from a mapped page, not from `write`; the caller is then not who wrote.
    pub from_mapping: bool,
    /// Clear setuid and setgid of the file.
    pub kill_suidgid: bool,
}

/// One name in a page of a directory; `.` and `..` are ordinary entries without `child`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    pub name: Name,
    pub ino: Ino,
    pub kind: FileKind,
    /// Where the listing goes on after this entry. Not 0.
    pub cookie: u64,
    /// With it, READDIRPLUS is a lookup of this name.
    pub child: Option<Entry>,
}

/// Which entries of a directory to return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadDir {
    pub ino: Ino,
    pub fh: Fh,
    /// Entries after this one; 0 from the start.
    pub cookie: u64,
    /// The size of the kernel's buffer: an entry takes 24 bytes and its name, with `plus` 152 and its name.
    pub max_bytes: usize,
    /// The kernel wants `child` of each entry.
    pub plus: bool,
}

/// `statvfs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    /// In units of `frsize`: all, free, free for ordinary users.
    pub blocks: u64,
    pub bfree: u64,
    pub bavail: u64,
    /// Inodes: all and free.
    pub files: u64,
    pub ffree: u64,
    /// Preferred size of I/O.
    pub bsize: u32,
    pub frsize: u32,
    pub namelen: u32,
}

/// What `lseek` looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    Data,
    Hole,
}

/// The conflicting lock that `F_GETLK` reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockInfo {
    pub write: bool,
    /// First and last byte, inclusive.
    pub start: u64,
    pub end: u64,
    /// Of a process on this machine, else 0.
    pub pid: u32,
}

/// `copy_file_range`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyRange {
    pub from: Ino,
    pub from_fh: Fh,
    pub from_offset: u64,
    pub to: Ino,
    pub to_fh: Fh,
    pub to_offset: u64,
    pub length: u64,
}

/// What to make: a file, directory, fifo, socket or device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Make {
    pub parent: Ino,
    pub name: Name,
    pub kind: FileKind,
    /// As asked for: `umask` has not been applied (a default ACL of the parent takes its place).
    pub perm: u16,
    pub umask: u16,
    pub rdev: u32,
}

/// Bytes of a file, as one or more segments that the reply sends without joining them.
#[derive(Clone, Debug, Default)]
pub struct ReadData {
    // One segment is the usual case, and takes no allocation.
    first: Option<Segment>,
    more: Vec<Segment>,
}

/// A stretch of [`ReadData`].
#[derive(Clone, Debug)]
pub enum Segment {
    Data(Bytes),
    /// A hole.
    Zeros(usize),
}

impl Segment {
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Segment::Data(bytes) => bytes.len(),
            Segment::Zeros(length) => *length,
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl ReadData {
    /// Adds bytes at the end.
    pub fn push(&mut self, bytes: Bytes) {
        self.push_segment(Segment::Data(bytes));
    }

    /// Adds zeros at the end.
    pub fn push_zeros(&mut self, length: usize) {
        self.push_segment(Segment::Zeros(length));
    }

    /// Adds a segment at the end; an empty one is left out.
    pub fn push_segment(&mut self, segment: Segment) {
        if segment.is_empty() {
            return;
        }
        if self.first.is_none() {
            self.first = Some(segment);
        } else {
            self.more.push(segment);
        }
    }

    /// The segments in order, none of them empty.
    pub fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.first.iter().chain(&self.more)
    }

    /// Bytes in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.segments().map(Segment::len).sum()
    }

    /// True at the end of the file.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }
}

impl From<Bytes> for ReadData {
    fn from(bytes: Bytes) -> ReadData {
        let mut data = ReadData::default();
        data.push(bytes);
        data
    }
}

/// A mounted file system. See the module for the two forms of calls, and for "query" and "change".
///
/// `flags` of open calls are those of `open(2)` as the kernel passes them on (`O_CREAT`, `O_EXCL`,
/// `O_NOCTTY`, and of `open` `O_TRUNC` removed: the kernel cuts by a `setattr` of its own. With `create`
/// `O_TRUNC` is ours to carry out, should the file exist against the kernel's belief).
#[allow(
    unused_variables,
    reason = "the default bodies of the try_ forms ignore their arguments; the names document them"
)]
pub trait FuseOps: Send + Sync + 'static {
    /// Through it, recalls take the time out of answers that are under way; see there. Without one, the
    /// times of answers are sent as they were given.
    fn gate(&self) -> Option<Arc<ReplyGate>> {
        None
    }

    /// Waits until a change can be begun. An error is the change's: nothing of it happens then.
    fn reachable(&self) -> impl Future<Output = FsResult<()>> + Send {
        std::future::ready(Ok(()))
    }
    /// Ready when whoever waits for an answer has waited long enough: it is told `TimedOut`. A change that was
    /// begun goes on to its end, as for a process that is killed.
    fn given_up(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    // --- Names

    fn try_lookup(&self, caller: &Caller, parent: Ino, name: &[u8]) -> Option<FsResult<Lookup>> {
        None
    }
    /// Query. The names `.` (the inode itself) and `..` come when the kernel resolves a file handle whose
    /// inode it has forgotten (NFS, `open_by_handle_at`); `NotFound` is then reported as a stale handle.
    fn lookup(
        self: Arc<Self>,
        caller: Caller,
        parent: Ino,
        name: Name,
    ) -> impl Future<Output = FsResult<Lookup>> + Send;
    /// The kernel forgets `count` lookups of `ino`. Must not wait.
    fn forget(&self, ino: Ino, count: u64);

    /// Change: anything but a regular file that is opened at once, or a symbolic link.
    fn make(self: Arc<Self>, caller: Caller, make: Make) -> impl Future<Output = FsResult<Entry>> + Send;
    /// Change.
    fn symlink(
        self: Arc<Self>,
        caller: Caller,
        parent: Ino,
        name: Name,
        target: Bytes,
    ) -> impl Future<Output = FsResult<Entry>> + Send;
    /// Query.
    fn readlink(self: Arc<Self>, ino: Ino) -> impl Future<Output = FsResult<Bytes>> + Send;
    /// Change.
    fn link(
        self: Arc<Self>,
        caller: Caller,
        ino: Ino,
        parent: Ino,
        name: Name,
    ) -> impl Future<Output = FsResult<Entry>> + Send;
    /// Change.
    fn unlink(
        self: Arc<Self>,
        caller: Caller,
        parent: Ino,
        name: Name,
    ) -> impl Future<Output = FsResult<()>> + Send;
    /// Change.
    fn rmdir(
        self: Arc<Self>,
        caller: Caller,
        parent: Ino,
        name: Name,
    ) -> impl Future<Output = FsResult<()>> + Send;
    /// Change, with the `RENAME_*` flags of `renameat2`.
    fn rename(
        self: Arc<Self>,
        caller: Caller,
        from: (Ino, Name),
        to: (Ino, Name),
        flags: u32,
    ) -> impl Future<Output = FsResult<()>> + Send;

    // --- Attributes

    fn try_getattr(&self, caller: &Caller, ino: Ino, fh: Option<Fh>) -> Option<FsResult<AttrReply>> {
        None
    }
    /// Query.
    fn getattr(
        self: Arc<Self>,
        caller: Caller,
        ino: Ino,
        fh: Option<Fh>,
    ) -> impl Future<Output = FsResult<AttrReply>> + Send;
    /// Change.
    fn setattr(
        self: Arc<Self>,
        caller: Caller,
        ino: Ino,
        fh: Option<Fh>,
        set: SetAttr,
    ) -> impl Future<Output = FsResult<AttrReply>> + Send;
    fn try_getxattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> Option<FsResult<Bytes>> {
        None
    }
    /// Query: the whole value (the adapter deals with the caller's buffer size).
    fn getxattr(
        self: Arc<Self>,
        caller: Caller,
        ino: Ino,
        name: Bytes,
    ) -> impl Future<Output = FsResult<Bytes>> + Send;
    /// Query: all names.
    fn listxattr(
        self: Arc<Self>,
        caller: Caller,
        ino: Ino,
    ) -> impl Future<Output = FsResult<Vec<Bytes>>> + Send;
    /// Change.
    fn setxattr(
        self: Arc<Self>,
        caller: Caller,
        ino: Ino,
        name: Bytes,
        value: Bytes,
        mode: XattrMode,
    ) -> impl Future<Output = FsResult<()>> + Send;
    /// Change.
    fn removexattr(
        self: Arc<Self>,
        caller: Caller,
        ino: Ino,
        name: Bytes,
    ) -> impl Future<Output = FsResult<()>> + Send;
    fn try_statfs(&self) -> Option<FsResult<StatFs>> {
        None
    }
    /// Query.
    fn statfs(self: Arc<Self>) -> impl Future<Output = FsResult<StatFs>> + Send;

    // --- Files

    /// Change: make a regular file if the name is not there, and open it. `flags` still has `O_EXCL`.
    fn create(
        self: Arc<Self>,
        caller: Caller,
        make: Make,
        flags: i32,
    ) -> impl Future<Output = FsResult<Created>> + Send;
    /// Change: make and open a file without a name (`O_TMPFILE`; with `O_EXCL` it never gets one).
    fn tmpfile(
        self: Arc<Self>,
        caller: Caller,
        parent: Ino,
        perm: u16,
        umask: u16,
        flags: i32,
    ) -> impl Future<Output = FsResult<Created>> + Send;
    fn try_open(&self, ino: Ino, flags: i32) -> Option<FsResult<Opened>> {
        None
    }
    /// Change.
    fn open(self: Arc<Self>, ino: Ino, flags: i32) -> impl Future<Output = FsResult<Opened>> + Send;
    fn try_read(&self, read: &ReadAt) -> Option<FsResult<ReadData>> {
        None
    }
    /// Query.
    fn read(self: Arc<Self>, read: ReadAt) -> impl Future<Output = FsResult<ReadData>> + Send;
    /// `data` is borrowed from the FUSE buffer: copy what is kept. Must take all of it or return `None`.
    fn try_write(&self, caller: &Caller, write: &WriteAt, data: &[u8]) -> Option<FsResult<u32>> {
        None
    }
    /// Change. Returns the number of bytes written.
    fn write(
        self: Arc<Self>,
        caller: Caller,
        write: WriteAt,
        data: Bytes,
    ) -> impl Future<Output = FsResult<u32>> + Send;
    fn try_flush(&self, ino: Ino, fh: Fh, lock_owner: u64) -> Option<FsResult<()>> {
        None
    }
    /// Change: a descriptor is closed (one of many, maybe). Drops the POSIX locks of `lock_owner`.
    fn flush(
        self: Arc<Self>,
        caller: Caller,
        ino: Ino,
        fh: Fh,
        lock_owner: u64,
    ) -> impl Future<Output = FsResult<()>> + Send;
    fn try_release(&self, ino: Ino, fh: Fh, flags: i32, flock_owner: Option<u64>) -> Option<FsResult<()>> {
        None
    }
    /// Change: the last descriptor is closed. `flock_owner`: drop this owner's flock. Nobody sees an error.
    fn release(
        self: Arc<Self>,
        ino: Ino,
        fh: Fh,
        flags: i32,
        flock_owner: Option<u64>,
    ) -> impl Future<Output = FsResult<()>> + Send;
    /// Change (it goes on when its process is killed).
    fn fsync(self: Arc<Self>, ino: Ino, fh: Fh, datasync: bool) -> impl Future<Output = FsResult<()>> + Send;
    /// Change. The kernel has no notion of a killed setuid bit here: clear it unless `caller` is root.
    fn fallocate(
        self: Arc<Self>,
        caller: Caller,
        ino: Ino,
        fh: Fh,
        mode: FallocateMode,
        offset: u64,
        length: u64,
    ) -> impl Future<Output = FsResult<()>> + Send;
    /// Query. `NoData` past the end.
    fn seek(
        self: Arc<Self>,
        ino: Ino,
        fh: Fh,
        offset: u64,
        seek: Seek,
    ) -> impl Future<Output = FsResult<u64>> + Send;
    /// Change. Returns the number of bytes copied. As for `fallocate`, setuid is ours to clear.
    fn copy_range(
        self: Arc<Self>,
        caller: Caller,
        copy: CopyRange,
    ) -> impl Future<Output = FsResult<u64>> + Send;

    // --- Directories

    fn try_opendir(&self, caller: &Caller, ino: Ino, flags: i32) -> Option<FsResult<Opened>> {
        None
    }
    /// Change.
    fn opendir(
        self: Arc<Self>,
        caller: Caller,
        ino: Ino,
        flags: i32,
    ) -> impl Future<Output = FsResult<Opened>> + Send;
    fn try_readdir(&self, caller: &Caller, read: &ReadDir) -> Option<FsResult<Vec<DirEntry>>> {
        None
    }
    /// Query. Lookups are not counted here: see `entries_sent`. No entries: the end.
    fn readdir(
        self: Arc<Self>,
        caller: Caller,
        read: ReadDir,
    ) -> impl Future<Output = FsResult<Vec<DirEntry>>> + Send;
    /// These entries, the first ones of a page, are about to reach the kernel: those with `child` count
    /// as one lookup each. Must not wait.
    fn entries_sent(&self, read: &ReadDir, entries: &[DirEntry]);
    fn try_releasedir(&self, ino: Ino, fh: Fh, flags: i32) -> Option<FsResult<()>> {
        None
    }
    /// Change.
    fn releasedir(self: Arc<Self>, ino: Ino, fh: Fh, flags: i32)
    -> impl Future<Output = FsResult<()>> + Send;
    /// Change.
    fn fsyncdir(
        self: Arc<Self>,
        ino: Ino,
        fh: Fh,
        datasync: bool,
    ) -> impl Future<Output = FsResult<()>> + Send;

    // --- Locks

    /// Query: the lock that `lock` would wait for.
    fn getlk(
        self: Arc<Self>,
        caller: Caller,
        ino: Ino,
        fh: Fh,
        lock: LockRequest,
    ) -> impl Future<Output = FsResult<Option<LockInfo>>> + Send;
    /// Sets or releases a lock. With `wait` it waits for conflicting ones, and ends with `Interrupted`
    /// and no lock held once `interrupt.signalled()` is ready; else a conflict is `WouldBlock`.
    fn setlk(
        self: Arc<Self>,
        caller: Caller,
        ino: Ino,
        fh: Fh,
        lock: LockRequest,
        wait: bool,
        interrupt: Interrupt,
    ) -> impl Future<Output = FsResult<()>> + Send;

    /// Query: everything that was written so far is on stable storage.
    fn store_all(self: Arc<Self>) -> impl Future<Output = FsResult<()>> + Send {
        std::future::ready(Ok(()))
    }

    /// The file system is unmounted: no more calls. Runs on a thread that may wait.
    fn destroy(&self) {}
}
