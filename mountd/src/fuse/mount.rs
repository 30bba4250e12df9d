//! Mounting and unmounting.
//!
//! [`serve`] returns when the mount works: mounted, agreed with the kernel, threads running. It and
//! [`Session::unmount`] block (the kernel may need answers of ours meanwhile), so they are not for async code.

use super::control::Control;
use super::dispatch::Adapter;
use super::notify::FuseNotifier;
use super::ops::FuseOps;
use crate::{mount_point, table};
use fuser::{Config, MountOption, SessionACL};
use parking_lot::Mutex;
use rustix::mount::UnmountFlags;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// The type in `/proc/mounts` is `fuse.` and this.
const SUBTYPE: &str = "cairn";
/// Threads that read requests. More do not help: what waits does so in tokio.
const DEFAULT_THREADS: usize = 2;
/// The kernel reads ahead 128 KiB on FUSE; a stream from a server wants larger and more requests. Not more
/// than this: a page fault in a mapped file reads as much *around* it.
const DEFAULT_READ_AHEAD_KIB: u32 = 1024;

/// How to mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// What `/proc/mounts` and `df` show as the source.
    pub source: String,
    pub read_only: bool,
    /// Other users than who mounts may use the mount (else not even root may, unless root mounts).
    pub allow_other: bool,
    pub nosuid: bool,
    pub nodev: bool,
    pub noexec: bool,
    pub noatime: bool,
    pub sync: bool,
    pub dirsync: bool,
    /// Options that the kernel's FUSE takes, passed on as they are (`max_read=65536`, `context=...`).
    pub kernel: Vec<String>,
    /// Threads that read requests.
    pub threads: usize,
    /// Read-ahead of the kernel. Only root may raise it above 128 KiB; for others that is what they get.
    pub read_ahead_kib: u32,
}

impl Default for MountOptions {
    fn default() -> MountOptions {
        MountOptions {
            source: SUBTYPE.to_owned(),
            read_only: false,
            allow_other: false,
            nosuid: false,
            nodev: false,
            noexec: false,
            noatime: false,
            sync: false,
            dirsync: false,
            kernel: Vec::new(),
            threads: DEFAULT_THREADS,
            read_ahead_kib: DEFAULT_READ_AHEAD_KIB,
        }
    }
}

impl MountOptions {
    fn config(&self, root: bool) -> Config {
        let mut options = vec![
            MountOption::FSName(self.source.clone()),
            MountOption::Subtype(SUBTYPE.to_owned()),
            // Permissions are the kernel's to check: it knows groups, capabilities and ACLs.
            MountOption::DefaultPermissions,
            if self.read_only { MountOption::RO } else { MountOption::RW },
        ];
        // fuser defaults to nosuid and nodev; fusermount3 allows nothing else to an ordinary user.
        options.push(if self.nosuid || !root { MountOption::NoSuid } else { MountOption::Suid });
        options.push(if self.nodev || !root { MountOption::NoDev } else { MountOption::Dev });
        let flags = [
            (self.noexec, MountOption::NoExec),
            (self.noatime, MountOption::NoAtime),
            (self.sync, MountOption::Sync),
            (self.dirsync, MountOption::DirSync),
        ];
        options.extend(flags.into_iter().filter(|(on, _)| *on).map(|(_, option)| option));
        options.extend(self.kernel.iter().cloned().map(MountOption::CUSTOM));
        let mut config = Config::default();
        config.mount_options = options;
        config.acl = if self.allow_other { SessionACL::All } else { SessionACL::Owner };
        config.n_threads = Some(self.threads.max(1));
        config.clone_fd = self.threads > 1;
        config
    }
}

/// A mounted file system. Dropped, it is unmounted if it is not busy, which blocks like [`Session::unmount`].
#[derive(Debug)]
pub struct Session {
    // Locked by unmount and join only.
    inner: Mutex<Option<fuser::BackgroundSession>>,
    notifier: FuseNotifier,
    ended: CancellationToken,
    refusing: Arc<AtomicBool>,
    mountpoint: PathBuf,
    /// `major:minor`, the kernel's name for the mount.
    device: Option<String>,
}

/// Mounts `ops` at `mountpoint`. Calls that wait run on `runtime`.
pub fn serve<O: FuseOps>(
    ops: Arc<O>,
    mountpoint: &Path,
    options: &MountOptions,
    runtime: Handle,
) -> io::Result<Session> {
    let mountpoint = mountpoint.canonicalize()?;
    let root = rustix::process::geteuid().is_root();
    let ended = CancellationToken::new();
    let adapter = Adapter::new(ops, runtime, ended.clone());
    let refusing = adapter.refusing();
    let session = fuser::Session::new(adapter, &mountpoint, &options.config(root))?;
    let notifier = FuseNotifier(session.notifier());
    let inner = Mutex::new(Some(session.spawn()?));
    let device = device_at(&mountpoint);
    if let (true, Some(device)) = (root, &device) {
        set_read_ahead(device, options.read_ahead_kib);
    }
    Ok(Session { inner, notifier, ended, refusing, mountpoint, device })
}

impl Session {
    /// Where it is mounted.
    #[must_use]
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// `major:minor`, the kernel's name for the mount.
    #[must_use]
    pub fn device(&self) -> Option<&str> {
        self.device.as_deref()
    }

    /// To take back what the kernel caches.
    #[must_use]
    pub fn notifier(&self) -> FuseNotifier {
        self.notifier.clone()
    }

    /// Cancelled when the mount is gone, whoever unmounted it, after [`FuseOps::destroy`].
    #[must_use]
    pub fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Unmounts. `EBUSY` while somebody uses it, and then it goes on working; with `lazy` it leaves the
    /// tree at once, and ends when the last user has left.
    pub fn unmount(&self, lazy: bool) -> io::Result<()> {
        match &mut *self.inner.lock() {
            Some(session) => session.unmount(lazy),
            None => Ok(()),
        }
    }

    /// Ends the connection to the kernel and leaves the tree, whatever is under way: who waits for us
    /// gets an error. The last resort when we can't answer any more, as nothing else ends the wait
    /// of a client. What the kernel has not written back is lost.
    ///
    /// False if the connection could not be ended, because the tree was left lazily and the kernel's control
    /// files are out of reach (an ordinary user, and fusectl is not mounted). Then each request is refused from
    /// now on, and the end of this process ends the connection: don't [`Session::join`].
    pub fn abort(&self) -> io::Result<bool> {
        warn!(mountpoint = %self.mountpoint.display(), "aborting the mount");
        self.refusing.store(true, Ordering::SeqCst);
        let mut aborted = self.abort_connection();
        if !aborted && self.is_ours() {
            // Aborts first; what is busy stays, for the next step.
            let unmounted = rustix::mount::unmount(&self.mountpoint, UnmountFlags::FORCE);
            aborted = matches!(unmounted, Ok(()) | Err(rustix::io::Errno::BUSY));
        }
        if !self.is_ours() {
            return Ok(aborted);
        }
        mount_point::detach(&self.mountpoint)?;
        Ok(aborted)
    }

    /// Through the kernel's control file system, mounted or not.
    fn abort_connection(&self) -> bool {
        self.device.as_deref().is_some_and(|device| Control::open(device).and_then(|it| it.abort()).is_ok())
    }

    /// Whether what is mounted at our place is still us.
    fn is_ours(&self) -> bool {
        self.device.is_some() && device_at(&self.mountpoint) == self.device
    }

    /// Waits until the mount is gone and its threads have ended.
    pub fn join(self) -> io::Result<()> {
        let session = self.inner.lock().take();
        match session.map_or(Ok(()), fuser::BackgroundSession::join) {
            // A thread that was reading when the connection ended hears this, or that it is gone.
            Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => Ok(()),
            result => result,
        }
    }
}

/// Raises the kernel's read-ahead. Everything works without, only slower, so a failure is no error.
fn set_read_ahead(device: &str, kib: u32) {
    if let Err(error) = fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), kib.to_string()) {
        warn!(%error, "the kernel's read-ahead stays at its default");
    }
}

/// `major:minor` of what is mounted at `mountpoint`.
fn device_at(mountpoint: &Path) -> Option<String> {
    table::mounted_at(mountpoint).map(|mount| mount.device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_user_gets_nosuid_and_nodev() {
        let options = MountOptions::default();
        let user = options.config(false).mount_options;
        assert!(user.contains(&MountOption::NoSuid) && user.contains(&MountOption::NoDev));
        let root = options.config(true).mount_options;
        assert!(root.contains(&MountOption::Suid) && root.contains(&MountOption::Dev));
    }
}
