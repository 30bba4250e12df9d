//! Values of the kernel's interface to ours and back. Pure.

use super::ops::{OpenMode, Opened};
use cairn_common::attr::{Attr, Caller, FileKind, SetAttr, SetTime, Timestamp};
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::Ino;
use cairn_common::namespace::op::{
    FallocateMode, LockFamily, LockOwner, LockRequest, LockType, Name, XattrMode,
};
use fuser::{Errno, FileAttr, FileType, FopenFlags, INodeNo, Request, TimeOrNow};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `st_blksize`: what programs without a better idea read at a time. A page: the kernel reads ahead.
const PREFERRED_IO: u32 = 4096;

pub fn errno(error: FsError) -> Errno {
    Errno::from_i32(cairn_common::errno::errno(error))
}

pub fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid() }
}

pub fn ino(number: INodeNo) -> Ino {
    Ino(number.0)
}

pub fn name(name: &OsStr) -> Name {
    Name::copy_from_slice(name.as_bytes())
}

pub fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Dir => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

pub fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks(),
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: system_time(attr.btime),
        kind: file_type(attr.kind),
        perm: attr.perm,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: PREFERRED_IO,
        flags: 0,
    }
}

fn system_time(time: Timestamp) -> SystemTime {
    let whole = Duration::from_secs(time.secs.unsigned_abs());
    let second = if time.secs < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    second.and_then(|s| s.checked_add(Duration::from_nanos(u64::from(time.nanos)))).unwrap_or(UNIX_EPOCH)
}

fn timestamp(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Timestamp {
            secs: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            nanos: after.subsec_nanos(),
        },
        Err(before) => {
            let before = before.duration();
            let secs = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            match before.subsec_nanos() {
                0 => Timestamp { secs: -secs, nanos: 0 },
                // Nanoseconds count forward, also before 1970.
                nanos => Timestamp { secs: -secs - 1, nanos: 1_000_000_000 - nanos },
            }
        }
    }
}

pub fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(timestamp(time)),
    }
}

/// What SETATTR asks for, of which `size` and `kill_suidgid` are given as they are.
pub fn set_attr(
    mode: Option<u32>,
    (uid, gid): (Option<u32>, Option<u32>),
    size: Option<u64>,
    (atime, mtime): (Option<TimeOrNow>, Option<TimeOrNow>),
    kill_suidgid: bool,
) -> SetAttr {
    SetAttr {
        perm: mode.map(perm),
        uid,
        gid,
        size,
        atime: atime.map(set_time),
        mtime: mtime.map(set_time),
        kill_suidgid,
    }
}

/// The permission bits of a mode.
#[allow(clippy::cast_possible_truncation, reason = "07777 fits 16 bits")]
pub fn perm(mode: u32) -> u16 {
    (mode & 0o7777) as u16
}

pub fn fopen_flags(opened: &Opened) -> FopenFlags {
    let OpenMode { direct_io, keep_cache, cache_dir, noflush, parallel_direct_writes } = opened.mode;
    let mut flags = FopenFlags::empty();
    flags.set(FopenFlags::FOPEN_DIRECT_IO, direct_io);
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, keep_cache);
    flags.set(FopenFlags::FOPEN_CACHE_DIR, cache_dir);
    flags.set(FopenFlags::FOPEN_NOFLUSH, noflush);
    flags.set(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES, parallel_direct_writes);
    flags
}

/// The modes of `fallocate`. Linux (6.18) refuses `COLLAPSE_RANGE`, `INSERT_RANGE` and `UNSHARE_RANGE`
/// on FUSE with EOPNOTSUPP before it asks us (`tests/fuse_adapter.rs` measures it); they are
/// translated for a kernel that lets them through.
pub fn fallocate_mode(mode: i32) -> FsResult<FallocateMode> {
    let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
    match mode & !libc::FALLOC_FL_KEEP_SIZE {
        0 => Ok(FallocateMode::Allocate { keep_size }),
        libc::FALLOC_FL_PUNCH_HOLE if keep_size => Ok(FallocateMode::PunchHole),
        libc::FALLOC_FL_ZERO_RANGE => Ok(FallocateMode::ZeroRange { keep_size }),
        libc::FALLOC_FL_COLLAPSE_RANGE if !keep_size => Ok(FallocateMode::CollapseRange),
        libc::FALLOC_FL_INSERT_RANGE if !keep_size => Ok(FallocateMode::InsertRange),
        _ => Err(FsError::NotSupported),
    }
}

pub fn xattr_mode(flags: i32) -> FsResult<XattrMode> {
    match flags {
        0 => Ok(XattrMode::Set),
        libc::XATTR_CREATE => Ok(XattrMode::Create),
        libc::XATTR_REPLACE => Ok(XattrMode::Replace),
        _ => Err(FsError::Invalid),
    }
}

/// `range` is first and last byte; `flock` tells the family.
pub fn lock_request(
    owner: u64,
    flock: bool,
    range: (u64, u64),
    kind: i32,
    pid: u32,
) -> FsResult<LockRequest> {
    let kind = match kind {
        libc::F_RDLCK => LockType::Read,
        libc::F_WRLCK => LockType::Write,
        libc::F_UNLCK => LockType::Unlock,
        _ => return Err(FsError::Invalid),
    };
    if range.0 > range.1 {
        return Err(FsError::Invalid);
    }
    let family = if flock { LockFamily::Flock } else { LockFamily::Posix };
    Ok(LockRequest { owner: LockOwner { family, owner }, kind, start: range.0, end: range.1, pid })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;

    #[test]
    fn times_go_there_and_back() {
        for (secs, nanos) in [(0, 0), (1, 999_999_999), (-1, 500_000_000), (-7, 0), (i64::MAX, 1)] {
            let time = Timestamp { secs, nanos };
            assert_eq!(timestamp(system_time(time)), time);
        }
    }

    #[test]
    fn fallocate_modes() {
        let punch = libc::FALLOC_FL_PUNCH_HOLE;
        assert_eq!(fallocate_mode(0), Ok(FallocateMode::Allocate { keep_size: false }));
        assert_eq!(fallocate_mode(punch | libc::FALLOC_FL_KEEP_SIZE), Ok(FallocateMode::PunchHole));
        assert_eq!(fallocate_mode(punch), Err(FsError::NotSupported));
        assert_eq!(fallocate_mode(libc::FALLOC_FL_UNSHARE_RANGE), Err(FsError::NotSupported));
        assert_eq!(fallocate_mode(libc::FALLOC_FL_INSERT_RANGE), Ok(FallocateMode::InsertRange));
    }

    #[test]
    fn locks_keep_their_family() {
        let posix = lock_request(7, false, (0, 9), libc::F_WRLCK, 3).unwrap();
        let flock = lock_request(7, true, (0, 9), libc::F_WRLCK, 3).unwrap();
        assert_ne!(posix.owner, flock.owner);
        assert_eq!(lock_request(7, true, (9, 0), libc::F_RDLCK, 3), Err(FsError::Invalid));
        assert_eq!(lock_request(7, true, (0, 9), 99, 3), Err(FsError::Invalid));
    }
}
