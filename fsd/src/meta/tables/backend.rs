//! redb over the daemon's own file trait, so that a lying disk can stand in.
//!
//! A redb database that is dropped writes to its file once more. After a write or a sync that failed
//! nothing may be written as if all were well, so the backend has a switch: once [`Severed`], nothing
//! reaches the file any more, and dropping the database is the same as a killed process.

use crate::disk::{DiskFile, read_exact_at, write_all_at};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The switch of a [`Backend`].
#[derive(Clone, Default)]
pub struct Severed(Arc<AtomicBool>);

impl Severed {
    /// From now on all writes fail.
    pub fn sever(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn check(&self) -> io::Result<()> {
        if self.0.load(Ordering::SeqCst) {
            return Err(io::Error::other("closed without a checkpoint"));
        }
        Ok(())
    }
}

/// A file as redb wants it.
pub struct Backend {
    file: Arc<dyn DiskFile>,
    severed: Severed,
}

impl Backend {
    pub fn new(file: Arc<dyn DiskFile>, severed: Severed) -> Backend {
        Backend { file, severed }
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Backend")
    }
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        read_exact_at(&*self.file, out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.severed.check()?;
        self.file.truncate(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.severed.check()?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.severed.check()?;
        write_all_at(&*self.file, &[data], offset)
    }
}
