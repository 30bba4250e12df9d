//! The FUSE adapter against the real kernel: mounts a small in-memory file system and looks at what
//! arrives. Needs root and `/dev/fuse`; without them each test says so and passes.

#![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the numbers of these tests are small"
)]

mod kernel;
mod memfs;
mod process;

use cairn_mountd::fuse::mount::{MountOptions, Session, serve};
use memfs::MemFs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// A mounted [`MemFs`], unmounted when dropped.
struct Mounted {
    fs: Arc<MemFs>,
    session: Option<Session>,
    // Fields are dropped in this order: the runtime answers requests until the mount is gone.
    _runtime: Runtime,
    dir: TempDir,
}

impl Mounted {
    /// `None` if this machine can't mount.
    fn new(fast: bool) -> Option<Mounted> {
        Mounted::with(fast, &MountOptions::default())
    }

    fn with(fast: bool, options: &MountOptions) -> Option<Mounted> {
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
            eprintln!("skipped: needs root and /dev/fuse");
            return None;
        }
        let (fs, dir) = (MemFs::new(fast), TempDir::new().unwrap());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let session = serve(Arc::clone(&fs), dir.path(), options, runtime.handle().clone()).unwrap();
        Some(Mounted { fs, session: Some(session), _runtime: runtime, dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn session(&self) -> &Session {
        self.session.as_ref().unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.fs.release_held();
        if let Some(session) = self.session.take() {
            session.unmount(true).unwrap();
            if !std::thread::panicking() {
                session.join().unwrap();
            }
        }
    }
}
