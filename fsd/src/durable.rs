//! Crash-safe creation and replacement of small files, spelled out once.
//!
//! POSIX promises nothing about a new name until its directory is synced, nor about content until the
//! file is. After a call of [`replace`] returns, power may go: the file is there, whole. If power goes
//! before, the old file is there, whole (or none, if there was none); never a mix.

use crate::disk::{Disk, RealDisk, write_all_at};
use rustix::fs::{self, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Ending of files that are being made; whoever opens a directory removes what a crash left of them.
pub const TEMPORARY: &str = ".tmp";

/// The file by which a directory is locked.
pub const LOCK: &str = "LOCK";

/// Puts a file `name` with exactly `parts` in place, durable on return.
pub fn replace(disk: &dyn Disk, name: &str, parts: &[&[u8]]) -> io::Result<()> {
    let temporary = format!("{name}{TEMPORARY}");
    match disk.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(&temporary)?;
    write_all_at(&*file, parts, 0)?;
    // Before the rename: a name that is durable must have durable content.
    file.sync_data()?;
    disk.rename(&temporary, name)?;
    disk.sync_dir()
}

/// [`replace`] for a path.
pub fn replace_path(path: &Path, content: &[u8]) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    replace(&RealDisk::open(parent)?, name, &[content])
}

/// To be called before the names in a directory are believed that a process before this one may have made: removes what
/// it left half made, and makes the others durable. It may have been killed between a rename and the sync of the
/// directory; what this one then syncs below that name would be lost with the name.
pub fn settle_names(disk: &dyn Disk) -> io::Result<()> {
    for name in disk.list()?.iter().filter(|n| n.ends_with(TEMPORARY)) {
        disk.remove(name)?;
    }
    disk.sync_dir()
}

/// Makes a directory and its missing parents (mode 0700), each durable in its own parent.
pub fn create_dir_all(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    create_dir_all(parent(path))?;
    create_dir(path)
}

/// Makes a directory (mode 0700) unless it is there, durable in its parent.
pub fn create_dir(path: &Path) -> io::Result<()> {
    match fs::mkdir(path, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    sync_dir(parent(path))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes creations, renames and removals inside the directory `path` durable.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    let dir = fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(fs::fsync(dir)?)
}

/// Why a directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("{0} belongs to a {1} daemon: give each daemon a directory of its own")]
    OtherRole(PathBuf, &'static str),
    #[error("{0} is in use by another daemon or a check")]
    InUse(PathBuf),
    #[error("cannot lock {0}: {1}")]
    Io(PathBuf, io::Error),
}

/// The right to use a directory, held until dropped. The kernel gives it back if the process dies.
///
/// `flock` is on two things. The directory itself can always be locked, on media that can't be written as well, and if
/// it is a copy that was made without the file `LOCK`. The file is what network file systems lock for all machines: they
/// lock directories for one machine only.
#[derive(Debug)]
pub struct DirLock {
    _dir: OwnedFd,
    _file: Option<OwnedFd>,
}

impl DirLock {
    /// Refuses a directory that has a file of another role.
    pub fn refuse(dir: &Path, file: &str, role: &'static str) -> Result<(), LockError> {
        if dir.join(file).exists() { Err(LockError::OtherRole(dir.to_owned(), role)) } else { Ok(()) }
    }

    /// Locks `dir` for a daemon, and makes the file `LOCK` in it if there is none; never waits.
    pub fn acquire(dir: &Path) -> Result<DirLock, LockError> {
        DirLock::lock(dir, OFlags::RDWR | OFlags::CREATE, FlockOperation::NonBlockingLockExclusive)
    }

    /// Keeps daemons out of `dir` while it is only looked at; others may look, too. Nothing is made.
    pub fn share(dir: &Path) -> Result<DirLock, LockError> {
        DirLock::lock(dir, OFlags::RDONLY, FlockOperation::NonBlockingLockShared)
    }

    /// Keeps daemons out of `dir`, and who looks at it as well. Nothing is made.
    pub fn alone(dir: &Path) -> Result<DirLock, LockError> {
        DirLock::lock(dir, OFlags::RDWR, FlockOperation::NonBlockingLockExclusive)
    }

    fn lock(dir: &Path, flags: OFlags, how: FlockOperation) -> Result<DirLock, LockError> {
        let failed = |errno: Errno| LockError::Io(dir.to_owned(), errno.into());
        let locked = |file: OwnedFd| match fs::flock(&file, how) {
            Ok(()) => Ok(file),
            Err(Errno::WOULDBLOCK) => Err(LockError::InUse(dir.to_owned())),
            Err(errno) => Err(failed(errno)),
        };
        let opened = fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let held = locked(opened.map_err(failed)?)?;
        let file = match fs::openat(&held, LOCK, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o600)) {
            Ok(file) => Some(locked(file)?),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(failed(errno)),
        };
        Ok(DirLock { _dir: held, _file: file })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use crate::disk::sim::SimDisk;

    #[test]
    fn second_lock_is_refused_until_the_first_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirLock::acquire(dir.path()).unwrap();
        assert!(matches!(DirLock::acquire(dir.path()), Err(LockError::InUse(_))));
        drop(first);
        DirLock::acquire(dir.path()).unwrap();
    }

    /// In a copy without the file `LOCK`, and in a directory that a daemon has made.
    #[test]
    fn who_looks_keeps_daemons_out_and_makes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        assert!(matches!(DirLock::share(&path.join("absent")), Err(LockError::Io(..))));
        for files in 0..2 {
            let looks = [DirLock::share(path).unwrap(), DirLock::share(path).unwrap()];
            assert!(matches!(DirLock::acquire(path), Err(LockError::InUse(_))), "{files} files");
            assert!(matches!(DirLock::alone(path), Err(LockError::InUse(_))), "{files} files");
            drop(looks);
            let alone = DirLock::alone(path).unwrap();
            assert!(matches!(DirLock::acquire(path), Err(LockError::InUse(_))), "{files} files");
            assert!(matches!(DirLock::share(path), Err(LockError::InUse(_))), "{files} files");
            drop(alone);
            assert_eq!(std::fs::read_dir(path).unwrap().count(), files);
            let daemon = DirLock::acquire(path).unwrap();
            assert!(matches!(DirLock::share(path), Err(LockError::InUse(_))));
            assert!(matches!(DirLock::alone(path), Err(LockError::InUse(_))));
            drop(daemon);
        }
    }

    /// The directory's lock is of this machine only where its file system is another's.
    #[test]
    fn the_file_is_locked_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        drop(DirLock::acquire(path).unwrap());
        let elsewhere = std::fs::File::open(path.join(LOCK)).unwrap();
        fs::flock(&elsewhere, FlockOperation::NonBlockingLockShared).unwrap();
        assert!(matches!(DirLock::acquire(path), Err(LockError::InUse(_))));
        assert!(matches!(DirLock::alone(path), Err(LockError::InUse(_))));
        drop(DirLock::share(path).unwrap());
        fs::flock(&elsewhere, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(matches!(DirLock::share(path), Err(LockError::InUse(_))));
    }

    #[test]
    fn replaces_on_a_real_directory() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b");
        create_dir_all(&deep).unwrap();
        create_dir_all(&deep).unwrap();
        replace_path(&deep.join("f"), b"one").unwrap();
        replace_path(&deep.join("f"), b"three").unwrap();
        assert_eq!(std::fs::read(deep.join("f")).unwrap(), b"three");
        assert_eq!(std::fs::read_dir(&deep).unwrap().count(), 1);
    }

    #[test]
    fn power_loss_at_any_call_leaves_old_or_new() {
        for seed in 0..8 {
            let mut calls = 0;
            loop {
                let disk = SimDisk::new();
                replace(&disk, "f", &[&[1; 3000]]).unwrap();
                disk.power_off_after(calls);
                let done = replace(&disk, "f", &[&[2; 2000], &[3; 50]]).is_ok();
                let after = disk.power_cycle(seed);
                let content = after.map("f").unwrap();
                let old = content[..] == [1; 3000];
                let new = content[..] == [[2; 2000].as_slice(), &[3; 50]].concat();
                assert!(new || (old && !done), "seed {seed} calls {calls} done {done}");
                if done {
                    break;
                }
                calls += 1;
            }
        }
    }
}
