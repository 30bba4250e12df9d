//! The kernel as a mount sees it when there is none: takes notifications and remembers them.

use cairn_common::ids::Ino;
use cairn_mountd::fuse::notify::KernelNotify;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// See the module.
#[derive(Debug, Default)]
pub struct Kernel {
    epochs: AtomicU64,
    invalidated: Mutex<Vec<(Ino, i64)>>,
}

impl Kernel {
    /// How often it was told to drop all names.
    pub fn epochs(&self) -> u64 {
        self.epochs.load(Ordering::SeqCst)
    }

    /// Inodes it was told to drop, with the offset from which on (-1: attributes only), since the last call.
    pub fn take_invalidated(&self) -> Vec<(Ino, i64)> {
        std::mem::take(&mut self.invalidated.lock().unwrap())
    }
}

impl KernelNotify for Kernel {
    fn inval_inode(&self, ino: Ino, offset: i64, _length: i64) -> io::Result<()> {
        self.invalidated.lock().unwrap().push((ino, offset));
        Ok(())
    }

    fn inval_entry(&self, _parent: Ino, _name: &[u8], _expire_only: bool) -> io::Result<()> {
        Ok(())
    }

    fn epoch(&self) -> io::Result<()> {
        self.epochs.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}
