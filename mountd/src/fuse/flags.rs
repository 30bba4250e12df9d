//! What is agreed with the kernel when a mount begins: an allow-list of our own. A flag that is not in
//! the table is never asked for, so a kernel that learns something new changes nothing here.

use fuser::{InitFlags, KernelConfig};
use tracing::{debug, warn};

/// Largest WRITE and READ. The kernel allows 256 pages unless `fs.fuse.max_pages_limit` says more.
const MAX_WRITE: u32 = 1 << 20;
/// Requests that the kernel may have under way without a process waiting: read-ahead, asynchronous
/// direct I/O. (Its default is 12; each may be one round trip to a server.)
const MAX_BACKGROUND: u16 = 128;

/// What we ask for, and why.
const WANTED: &[(InitFlags, &str)] = &[
    (InitFlags::FUSE_ASYNC_READ, "several reads of one file at a time: read-ahead hides the network"),
    (InitFlags::FUSE_POSIX_LOCKS, "fcntl locks hold across all mounts"),
    (InitFlags::FUSE_FLOCK_LOCKS, "flock too; the two come apart by FUSE_LK_FLOCK"),
    (InitFlags::FUSE_EXPORT_SUPPORT, "lookups of . and .. resolve file handles (NFS, open_by_handle_at)"),
    (InitFlags::FUSE_BIG_WRITES, "writes above one page, on old kernels"),
    (InitFlags::FUSE_DONT_MASK, "the umask comes to us: a default ACL takes its place"),
    (InitFlags::FUSE_DO_READDIRPLUS, "a listing brings attributes"),
    (InitFlags::FUSE_READDIRPLUS_AUTO, "but only where somebody looks at them"),
    (InitFlags::FUSE_ASYNC_DIO, "direct I/O in parallel"),
    (InitFlags::FUSE_PARALLEL_DIROPS, "lookups and listings of one directory in parallel"),
    (InitFlags::FUSE_POSIX_ACL, "the kernel checks ACLs, which we store"),
    (InitFlags::FUSE_MAX_PAGES, "requests of MAX_WRITE bytes"),
    (InitFlags::FUSE_CACHE_SYMLINKS, "targets never change, inode numbers are never reused"),
    (
        InitFlags::FUSE_EXPLICIT_INVAL_DATA,
        "we say when pages are stale; a guess by mtime drops a writer's own",
    ),
    (InitFlags::FUSE_HANDLE_KILLPRIV_V2, "no GETXATTR before each write; setuid is cleared with the data"),
    (InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP, "programs that map a file which two mounts share keep working"),
];

// Not asked for, on purpose:
//   ATOMIC_O_TRUNC        the file would be cut before the kernel looks whether it may be: an
//                         open(O_RDONLY|O_TRUNC) of a running program emptied it and then answered ETXTBSY
//   WRITEBACK_CACHE       our write-back is below us, where fsync and other mounts can reach it; the
//                         kernel's would also keep sizes and times of its own
//   AUTO_INVAL_DATA       EXPLICIT_INVAL_DATA takes its place
//   NO_OPEN_SUPPORT       opens must be seen: removed files live until the last close
//   NO_OPENDIR_SUPPORT    directory streams have state
//   SETXATTR_EXT          another request layout for one flag (setgid after setting an ACL)
//   CREATE_SUPP_GROUP     the kernel strips setgid itself before it asks us to create
//   SPLICE_*              fuser reads and writes plain buffers
//   ABORT_ERROR           the session threads end on ENODEV
//   PASSTHROUGH, DAX      there is no local file behind
//   ALLOW_IDMAP           requests then carry mapped owners only for some operations
//   OVER_IO_URING         fuser has no rings
// And STATX (no flag, but asked for until it is answered ENOSYS, which fuser does): it brings the time of
// creation, at the price of one more request for each inode that a Rust program stats.

/// Chooses flags and sizes for this mount.
pub fn negotiate(config: &mut KernelConfig) {
    let wanted = WANTED.iter().fold(InitFlags::empty(), |all, (flag, _)| all | *flag);
    let missing = config.set_capabilities(wanted);
    for (flag, why) in WANTED.iter().filter(|(flag, _)| missing.contains(*flag)) {
        // Needed for what users are promised; the rest is speed.
        if is_required(*flag) {
            warn!(?flag, why, "the kernel lacks a FUSE feature");
        } else {
            debug!(?flag, why, "the kernel lacks a FUSE feature");
        }
    }
    // Each of these tells the nearest value that is allowed when it refuses.
    if let Err(nearest) = config.set_max_write(MAX_WRITE) {
        let _previous = config.set_max_write(nearest);
    }
    let _previous = config.set_max_readahead(config.max_max_readahead());
    let _previous = config.set_max_background(MAX_BACKGROUND);
    // Times have nanoseconds: fuser's default.
}

fn is_required(flag: InitFlags) -> bool {
    flag.intersects(
        InitFlags::FUSE_POSIX_LOCKS
            | InitFlags::FUSE_FLOCK_LOCKS
            | InitFlags::FUSE_DONT_MASK
            | InitFlags::FUSE_POSIX_ACL,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flag_is_asked_for_once_and_none_is_harmful() {
        let mut all = InitFlags::empty();
        for (flag, why) in WANTED {
            assert!(!all.intersects(*flag), "{flag:?} twice");
            assert!(!why.is_empty());
            all |= *flag;
        }
        let harmful = InitFlags::FUSE_ATOMIC_O_TRUNC
            | InitFlags::FUSE_SETXATTR_EXT
            | InitFlags::FUSE_NO_OPEN_SUPPORT
            | InitFlags::FUSE_NO_OPENDIR_SUPPORT
            | InitFlags::FUSE_WRITEBACK_CACHE;
        assert!(!all.intersects(harmful));
    }
}
