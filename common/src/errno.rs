//! The only table from [`FsError`] to errno. A reason stands where the choice is arguable.

use crate::error::FsError;

/// The errno that a program sees for `error`.
#[must_use]
pub fn errno(error: FsError) -> i32 {
    match error {
        FsError::NotFound => libc::ENOENT,
        FsError::Exists => libc::EEXIST,
        FsError::NotDir => libc::ENOTDIR,
        FsError::IsDir => libc::EISDIR,
        FsError::NotEmpty => libc::ENOTEMPTY,
        FsError::Access => libc::EACCES,
        FsError::NotPermitted => libc::EPERM,
        FsError::Invalid => libc::EINVAL,
        FsError::NameTooLong => libc::ENAMETOOLONG,
        FsError::TooManyLinks => libc::EMLINK,
        FsError::FileTooLarge => libc::EFBIG,
        FsError::NoSpace => libc::ENOSPC,
        FsError::NoAttr => libc::ENODATA,
        FsError::Range => libc::ERANGE,
        FsError::TooBig => libc::E2BIG,
        FsError::ReadOnly => libc::EROFS,
        FsError::NotSupported => libc::EOPNOTSUPP,
        FsError::CrossDevice => libc::EXDEV,
        FsError::WouldBlock => libc::EAGAIN,
        FsError::Deadlock => libc::EDEADLK,
        FsError::NoLocks => libc::ENOLCK,
        FsError::Interrupted => libc::EINTR,
        FsError::Stale => libc::ESTALE,
        FsError::NoData => libc::ENXIO,
        FsError::Loop => libc::ELOOP,
        FsError::BadHandle => libc::EBADF,
        FsError::Busy => libc::EBUSY,
        FsError::Quota => libc::EDQUOT,
        // A corrupt byte is never returned; to a program that is a failed read.
        FsError::Io | FsError::Corrupt => libc::EIO,
        // With `soft` the wait has ended; programs know EIO, few know ETIMEDOUT on files.
        FsError::Unavailable | FsError::TimedOut => libc::EIO,
        // The mount can't know what others did since: nothing it holds is valid.
        FsError::Evicted => libc::EIO,
        FsError::WrongPeer => libc::EIO,
        // Both are answers between mount and servers that never reach a program; EIO if they do.
        FsError::OutOfOrder | FsError::Sealed => libc::EIO,
        FsError::Changed => libc::EAGAIN,
        // The limit is the mount's, not that of one process (EMFILE).
        FsError::TooManyOpen => libc::ENFILE,
    }
}
