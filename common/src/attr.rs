//! Inode attributes as plain values.

use crate::ids::Ino;
use serde::{Deserialize, Serialize};

/// A point in time with nanoseconds, as in `struct timespec`. `nanos` is below [`SECOND`]; nothing else is decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(i64, u32)")]
pub struct Timestamp {
    /// Seconds since 1970; negative before.
    pub secs: i64,
    /// Nanoseconds within the second.
    pub nanos: u32,
}

/// Nanoseconds in a second.
pub const SECOND: u32 = 1_000_000_000;

/// A time with more nanoseconds than a second has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a time with {0} nanoseconds")]
pub struct NoTime(u32);

impl TryFrom<(i64, u32)> for Timestamp {
    type Error = NoTime;

    fn try_from((secs, nanos): (i64, u32)) -> Result<Timestamp, NoTime> {
        if nanos < SECOND { Ok(Timestamp { secs, nanos }) } else { Err(NoTime(nanos)) }
    }
}

impl Timestamp {
    /// The smallest time after this one.
    #[must_use]
    pub fn next(self) -> Timestamp {
        if self.nanos == SECOND - 1 {
            Timestamp { secs: self.secs.saturating_add(1), nanos: 0 }
        } else {
            Timestamp { secs: self.secs, nanos: self.nanos + 1 }
        }
    }

    /// `now`, but always later than `self`: each change of a file moves its times forward, also when
    /// the clock stands still or goes back.
    #[must_use]
    pub fn advance(self, now: Timestamp) -> Timestamp {
        if now > self { now } else { self.next() }
    }
}

/// Kind of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FileKind {
    File,
    Dir,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

impl FileKind {
    /// The `S_IFMT` bits of `st_mode`.
    #[must_use]
    pub fn mode_bits(self) -> u32 {
        match self {
            FileKind::File => libc::S_IFREG,
            FileKind::Dir => libc::S_IFDIR,
            FileKind::Symlink => libc::S_IFLNK,
            FileKind::Fifo => libc::S_IFIFO,
            FileKind::Socket => libc::S_IFSOCK,
            FileKind::CharDevice => libc::S_IFCHR,
            FileKind::BlockDevice => libc::S_IFBLK,
        }
    }

    /// The kind that the `S_IFMT` bits of `mode` name; 0 means a regular file, as for `mknod`.
    #[must_use]
    pub fn from_mode(mode: u32) -> Option<FileKind> {
        Some(match mode & libc::S_IFMT {
            0 | libc::S_IFREG => FileKind::File,
            libc::S_IFDIR => FileKind::Dir,
            libc::S_IFLNK => FileKind::Symlink,
            libc::S_IFIFO => FileKind::Fifo,
            libc::S_IFSOCK => FileKind::Socket,
            libc::S_IFCHR => FileKind::CharDevice,
            libc::S_IFBLK => FileKind::BlockDevice,
            _ => return None,
        })
    }
}

/// What `stat` tells of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attr {
    pub ino: Ino,
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky (`07777`).
    pub perm: u16,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    /// Device number of a character or block device, as the kernel's 32-bit encoding.
    pub rdev: u32,
    /// Bytes; of a directory: 4096 plus a constant per entry; of a symlink: the target's length.
    pub size: u64,
    /// Bytes held by extents (data and preallocation). `st_blocks` is this divided by 512, rounded up.
    pub allocated: u64,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    /// Time of creation (`btime` of statx).
    pub btime: Timestamp,
    /// Grows with each change of the file's content or extents: who cached data under another version drops it.
    pub data_version: u64,
}

impl Attr {
    /// `st_blocks`: units of 512 bytes.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.allocated.div_ceil(512)
    }
}

/// A time to set: the operation's own, or a given one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetTime {
    /// `UTIME_NOW`: the time of the operation.
    Now,
    /// A given time.
    At(Timestamp),
}

/// What `setattr` changes; `None` leaves a field alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAttr {
    pub perm: Option<u16>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
    /// Clear setuid and setgid as a write by an unprivileged user does (`FATTR_KILL_SUIDGID`).
    pub kill_suidgid: bool,
}

/// Who asks. The kernel has checked permissions (`default_permissions`); rules that the kernel
/// leaves to the file system (setgid inheritance, sticky bits on rename, clearing setgid on chmod) use this.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use crate::wire::codec::{decode, encode};

    /// Found on reading what fuzzing had not reached: the time after one with 2^32 - 1 nanoseconds has none.
    #[test]
    fn a_time_that_there_is_not_is_refused() {
        let last = Timestamp { secs: -1, nanos: SECOND - 1 };
        let bytes = encode(&last).unwrap();
        assert_eq!(bytes, [1, 252, 0xff, 0xc9, 0x9a, 0x3b]);
        assert_eq!(decode::<Timestamp>(&bytes, 100).unwrap(), last);
        assert_eq!(last.next(), Timestamp { secs: 0, nanos: 0 });
        for nanos in [SECOND, u32::MAX] {
            let bytes = encode(&Timestamp { secs: 0, nanos }).unwrap();
            let error = decode::<Timestamp>(&bytes, 100).unwrap_err().to_string();
            assert!(error.contains("nanoseconds"), "{error}");
        }
    }
}
