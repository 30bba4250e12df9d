//! Locks, signals and users: what takes a second process.

use super::Mounted;
use cairn_mountd::fuse::mount::{MountOptions, serve};
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// A process that runs `body` and exits with what it returns. `body` may only make system calls.
struct Child(libc::pid_t);

impl Child {
    fn fork(body: impl FnOnce() -> i32) -> Child {
        // SAFETY: the child makes system calls only (no allocation, no locks) and leaves by _exit.
        match unsafe { libc::fork() } {
            0 => {
                let code = body();
                // SAFETY: ends the process without running anything of the parent's.
                unsafe { libc::_exit(code) }
            }
            pid => {
                assert!(pid > 0, "fork");
                Child(pid)
            }
        }
    }

    fn signal(&self, signal: i32) {
        // SAFETY: sends a signal to our own child, which has not been waited for.
        assert_eq!(unsafe { libc::kill(self.0, signal) }, 0);
    }

    /// Exit status, if it has ended.
    fn try_wait(&self) -> Option<i32> {
        let mut status = 0;
        // SAFETY: `status` is a valid place for the result.
        let pid = unsafe { libc::waitpid(self.0, &raw mut status, libc::WNOHANG) };
        (pid == self.0).then_some(status)
    }

    fn wait(&self) -> i32 {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.try_wait() {
                return status;
            }
            assert!(Instant::now() < deadline, "the child does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

extern "C" fn ignore(_signal: i32) {}

/// Catches SIGALRM without restarting system calls.
fn catch_alarm() {
    // SAFETY: a zeroed sigaction is valid (no flags, empty mask); the handler does nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = ignore as extern "C" fn(i32) as usize;
        libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut());
    }
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

/// `fcntl` with a write lock on the whole file; errno or 0.
fn lock_fcntl(fd: i32, command: i32) -> i32 {
    // SAFETY: a zeroed flock is valid; fcntl reads it.
    let result = unsafe {
        let mut lock: libc::flock = std::mem::zeroed();
        lock.l_type = libc::F_WRLCK as i16;
        libc::fcntl(fd, command, &raw mut lock)
    };
    if result == 0 { 0 } else { last_errno() }
}

fn lock_flock(file: &File, operation: i32) -> i32 {
    // SAFETY: the descriptor is open.
    if unsafe { libc::flock(file.as_raw_fd(), operation) } == 0 { 0 } else { last_errno() }
}

fn last_errno() -> i32 {
    // SAFETY: the location is valid for this thread.
    unsafe { *libc::__errno_location() }
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

#[test]
fn flock_and_fcntl_locks_are_apart() {
    let Some(m) = Mounted::new(true) else { return };
    let (one, two) = (open(&m.path("a")), open(&m.path("a")));
    assert_eq!(lock_flock(&one, libc::LOCK_EX), 0);
    // The same process takes the other kind, and a second open file does not get the flock.
    assert_eq!(lock_fcntl(two.as_raw_fd(), libc::F_SETLK), 0);
    assert_eq!(lock_flock(&two, libc::LOCK_EX | libc::LOCK_NB), libc::EWOULDBLOCK);
    let path = c_path(&m.path("a"));
    let other = Child::fork(|| {
        // SAFETY: the path is valid.
        let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDWR) };
        lock_fcntl(fd, libc::F_SETLK)
    });
    assert_eq!(libc::WEXITSTATUS(other.wait()), libc::EAGAIN);
    // That of its own file; it may come after the process has ended.
    m.fs.wait_for("release");
    // Closing the file that holds the flock gives it up, by RELEASE.
    m.fs.take_record();
    drop(one);
    m.fs.wait_for("release");
    assert_eq!(lock_flock(&two, libc::LOCK_EX | libc::LOCK_NB), 0);
}

#[test]
fn getlk_names_the_holder() {
    let Some(m) = Mounted::new(true) else { return };
    let file = open(&m.path("a"));
    assert_eq!(lock_fcntl(file.as_raw_fd(), libc::F_SETLK), 0);
    let (path, parent) = (c_path(&m.path("a")), std::process::id());
    let other = Child::fork(|| {
        // SAFETY: the path is valid; a zeroed flock is valid, fcntl fills it.
        let lock = unsafe {
            let fd = libc::open(path.as_ptr(), libc::O_RDWR);
            let mut lock: libc::flock = std::mem::zeroed();
            lock.l_type = libc::F_WRLCK as i16;
            libc::fcntl(fd, libc::F_GETLK, &raw mut lock);
            lock
        };
        i32::from(lock.l_type != libc::F_WRLCK as i16 || lock.l_pid as u32 != parent)
    });
    assert_eq!(other.wait(), 0);
}

#[test]
fn a_signal_ends_the_wait_for_a_lock() {
    let Some(m) = Mounted::new(true) else { return };
    let file = open(&m.path("a"));
    assert_eq!(lock_fcntl(file.as_raw_fd(), libc::F_SETLK), 0);
    let path = c_path(&m.path("a"));
    let waiter = || {
        Child::fork(|| {
            catch_alarm();
            // SAFETY: the path is valid.
            let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDWR) };
            lock_fcntl(fd, libc::F_SETLKW)
        })
    };
    m.fs.take_record();
    let interrupted = waiter();
    m.fs.wait_for("waits for a Posix lock");
    interrupted.signal(libc::SIGALRM);
    assert_eq!(libc::WEXITSTATUS(interrupted.wait()), libc::EINTR);

    m.fs.take_record();
    let killed = waiter();
    m.fs.wait_for("waits for a Posix lock");
    killed.signal(libc::SIGKILL);
    assert_eq!(libc::WTERMSIG(killed.wait()), libc::SIGKILL);

    // And without a signal it gets the lock once that is free.
    m.fs.take_record();
    let patient = waiter();
    m.fs.wait_for("waits for a Posix lock");
    drop(file);
    assert_eq!(patient.wait(), 0);
}

/// Programs do not expect EINTR from `stat`: only a fatal signal ends it, also one after a harmless one.
#[test]
fn only_a_fatal_signal_ends_a_lookup() {
    let Some(m) = Mounted::new(true) else { return };
    let path = c_path(&m.path("hold"));
    let child = Child::fork(|| {
        catch_alarm();
        // SAFETY: a zeroed stat is valid, the path too.
        unsafe {
            let mut stat: libc::stat = std::mem::zeroed();
            libc::stat(path.as_ptr(), &raw mut stat)
        };
        last_errno()
    });
    m.fs.wait_for("held hold");
    child.signal(libc::SIGALRM);
    // Long enough for an EINTR to arrive if there were one.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(child.try_wait(), None);
    child.signal(libc::SIGKILL);
    assert_eq!(libc::WTERMSIG(child.wait()), libc::SIGKILL);
}

#[test]
fn a_change_outlives_its_process() {
    let Some(m) = Mounted::new(false) else { return };
    let path = c_path(&m.path("hold-dir"));
    m.fs.hold_made();
    m.fs.take_record();
    let killed = Child::fork(|| {
        // SAFETY: the path is valid.
        unsafe { libc::mkdir(path.as_ptr(), 0o700) };
        0
    });
    m.fs.wait_for("making hold-dir");
    killed.signal(libc::SIGKILL);
    assert_eq!(libc::WTERMSIG(killed.wait()), libc::SIGKILL);
    m.fs.release_held();
    m.fs.wait_for("made hold-dir");
    // The kernel was told EINTR, so it holds no lookup of the new directory.
    m.fs.wait_for_lookups("hold-dir", 0);
    assert!(fs::metadata(m.path("hold-dir")).unwrap().is_dir());
}

/// `HANDLE_KILLPRIV_V2`: the kernel leaves clearing setuid to us, and says when.
#[test]
fn setuid_is_ours_to_clear() {
    let options = MountOptions { allow_other: true, ..MountOptions::default() };
    let Some(m) = Mounted::with(true, &options) else { return };
    fs::write(m.path("a"), b"program").unwrap();
    fs::set_permissions(m.path("a"), fs::Permissions::from_mode(0o6777)).unwrap();
    fs::set_permissions(m.dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    m.fs.take_record();
    let path = c_path(&m.path("a"));
    let child = Child::fork(|| {
        // SAFETY: system calls with a valid path and buffer.
        let done = unsafe {
            libc::setuid(65_534) == 0 && {
                let fd = libc::open(path.as_ptr(), libc::O_WRONLY);
                libc::write(fd, c"x".as_ptr().cast(), 1) == 1
                    && libc::ftruncate(fd, 3) == 0
                    && libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_TRUNC) >= 0
            }
        };
        i32::from(!done)
    });
    assert_eq!(child.wait(), 0);
    let record = m.fs.take_record();
    for what in ["write kills suid", "setattr size=Some(3) kill=true", "setattr size=Some(0) kill=true"] {
        assert!(record.iter().any(|recorded| recorded == what), "{what} in {record:?}");
    }
}

/// Through fusermount3. The test runs itself again as nobody.
#[test]
fn an_ordinary_user_mounts() {
    const AS_USER: &str = "CAIRN_TEST_MOUNTPOINT";
    if let Some(mountpoint) = std::env::var_os(AS_USER) {
        return mount_as_user(Path::new(&mountpoint));
    }
    if Mounted::new(true).is_none() {
        return;
    }
    if std::process::Command::new("fusermount3").arg("-V").output().is_err() {
        eprintln!("skipped: no fusermount3");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mountpoint = dir.path().join("mnt");
    fs::create_dir(&mountpoint).unwrap();
    chown(&mountpoint, Some(65_534), Some(65_534)).unwrap();
    // Where nobody can read it.
    let binary = dir.path().join("test");
    // Not by `fs::copy`: a process forked by another test meanwhile would hold it open for writing.
    let copy = std::process::Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&binary).status();
    assert!(copy.unwrap().success());
    let mut command = std::process::Command::new(&binary);
    command
        .args(["--exact", "process::an_ordinary_user_mounts", "--nocapture"])
        .env(AS_USER, &mountpoint)
        .current_dir("/");
    become_nobody(&mut command, dir.path());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}

/// The child runs as nobody, in a mount namespace of its own where `/dev/fuse` is open to all, as it
/// is on most systems.
fn become_nobody(command: &mut std::process::Command, dir: &Path) {
    let device = c_path(&dir.join("fuse"));
    let number = libc::makedev(10, 229);
    // SAFETY: the path ends in NUL.
    assert_eq!(unsafe { libc::mknod(device.as_ptr(), libc::S_IFCHR | 0o600, number) }, 0);
    fs::set_permissions(dir.join("fuse"), fs::Permissions::from_mode(0o666)).unwrap();
    let become_nobody = move || {
        let none = std::ptr::null();
        // SAFETY: system calls only, with strings that end in NUL.
        let failed = unsafe {
            libc::unshare(libc::CLONE_NEWNS) != 0
                || libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) != 0
                || libc::mount(device.as_ptr(), c"/dev/fuse".as_ptr(), none, libc::MS_BIND, none.cast()) != 0
                || libc::setgroups(0, std::ptr::null()) != 0
                || libc::setgid(65_534) != 0
                || libc::setuid(65_534) != 0
        };
        if failed { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: the closure makes system calls only.
    unsafe { command.pre_exec(become_nobody) };
}

fn mount_as_user(mountpoint: &Path) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let options = MountOptions { source: "h1,h2:/".into(), ..MountOptions::default() };
    let fs = super::memfs::MemFs::new(true);
    let session = serve(fs, mountpoint, &options, runtime.handle().clone()).unwrap();
    fs::write(mountpoint.join("a"), b"mine").unwrap();
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let line = mounts.lines().find(|line| line.contains(mountpoint.to_str().unwrap())).unwrap();
    assert!(line.starts_with("h1,h2:/ ") && line.contains(" fuse.cairn "), "{line}");
    let file = File::open(mountpoint.join("a")).unwrap();
    assert_eq!(session.unmount(false).unwrap_err().raw_os_error(), Some(libc::EBUSY));
    drop(file);
    session.unmount(true).unwrap();
    session.join().unwrap();
}
