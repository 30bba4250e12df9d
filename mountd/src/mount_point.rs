//! Where a mount goes: the directory must be there, and what an earlier mount left on it must not be in the way.

use crate::table::{self, Mount};
use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

/// Dead mounts that may lie on top of each other.
const DEAD_MAX: usize = 64;
/// A dead mount answers at once.
const ALIVE_ANSWERS: Duration = Duration::from_secs(2);

/// The absolute path of a mount point. Its last name is not followed if a dead mount is there, which nothing
/// can look at.
///
/// # Errors
/// One line: it does not exist, or is no directory.
pub fn resolve(given: &Path) -> Result<PathBuf> {
    let path = match given.canonicalize() {
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => beside(given),
        result => result,
    };
    let path = path.with_context(|| format!("mount point {} can't be used", given.display()))?;
    match path.metadata() {
        Ok(found) if !found.is_dir() => bail!("mount point {} is not a directory", given.display()),
        _ => Ok(path),
    }
}

/// By way of the parent directory.
fn beside(given: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(given)?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    Ok(parent.canonicalize()?.join(name))
}

/// Makes way for a mount of `source`: takes away mounts of ours whose process has died, and refuses to mount
/// the same tree on top of itself. Says on standard error what it did.
///
/// # Errors
/// One line.
pub fn clear(mount_point: &Path, source: &str) -> Result<()> {
    for _ in 0..DEAD_MAX {
        let Some(top) = table::mounted_at(mount_point).filter(Mount::is_cairn) else { return Ok(()) };
        if !is_dead(mount_point) {
            return if top.source == source { Err(already(mount_point, source)) } else { Ok(()) };
        }
        detach(mount_point)
            .with_context(|| format!("take away the dead mount at {}", mount_point.display()))?;
        eprintln!("cairn-mountd: took away a dead mount of {} at {}", top.source, mount_point.display());
    }
    bail!("too many dead mounts at {}", mount_point.display())
}

fn already(mount_point: &Path, source: &str) -> anyhow::Error {
    anyhow::anyhow!("{source} is already mounted at {}", mount_point.display())
}

/// Nobody serves it any more. Asked in a thread, because a living one may wait for its servers.
fn is_dead(mount_point: &Path) -> bool {
    let (tell, told) = mpsc::channel();
    let path = mount_point.to_owned();
    std::thread::spawn(move || {
        // Attributes that the kernel has cached would hide that the connection is dead.
        let flags = AtFlags::STATX_FORCE_SYNC;
        let asked = rustix::fs::statx(rustix::fs::CWD, &path, flags, StatxFlags::TYPE);
        // The other side may have stopped waiting.
        let _told = tell.send(asked.err());
    });
    matches!(told.recv_timeout(ALIVE_ANSWERS), Ok(Some(Errno::NOTCONN)))
}

/// Unmounts lazily, as root or through `fusermount3`.
///
/// # Errors
/// What the kernel says.
pub fn detach(mount_point: &Path) -> io::Result<()> {
    match rustix::mount::unmount(mount_point, UnmountFlags::DETACH) {
        Err(Errno::PERM) => fusermount(&["-u", "-z", "-q", "--"], mount_point),
        result => Ok(result?),
    }
}

/// `fusermount3`, which may unmount what an ordinary user has mounted.
///
/// # Errors
/// If it can't.
pub fn fusermount(args: &[&str], mount_point: &Path) -> io::Result<()> {
    let status = Command::new("fusermount3").args(args).arg(mount_point).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other("fusermount3 can't unmount")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_a_directory_that_exists() {
        let text = |path: &str| format!("{:#}", resolve(Path::new(path)).expect_err("not usable"));
        assert!(
            text("/nonexistent/dir").starts_with("mount point /nonexistent/dir can't be used: No such file")
        );
        assert_eq!(text("/etc/passwd"), "mount point /etc/passwd is not a directory");
        assert_eq!(resolve(Path::new("/proc/../etc")).ok(), Some(PathBuf::from("/etc")));
    }

    #[test]
    fn a_path_is_found_beside_itself() {
        assert_eq!(beside(Path::new("/proc/../etc")).ok(), Some(PathBuf::from("/etc")));
        assert!(beside(Path::new("/")).is_err());
    }

    #[test]
    fn what_is_not_ours_is_no_hindrance() {
        assert!(clear(Path::new("/"), "m:/").is_ok());
        assert!(!is_dead(Path::new("/")));
    }
}
