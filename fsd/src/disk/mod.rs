//! The files of one data directory, behind two small traits.
//!
//! Everything a role keeps on disk goes through [`Disk`] and [`DiskFile`], so that tests can swap the
//! real disk for one that loses what was not synced, tears writes, fills up or fails
//! ([`sim::SimDisk`]), and a check can look at a directory without changing it ([`Overlay`]). Names are plain file
//! names inside the directory.

mod overlay;
mod real;
pub mod sim;
mod stall;
pub mod sweep;

pub use overlay::Overlay;
pub use real::RealDisk;

use std::io::{self, IoSlice};
use std::ops::Deref;
use std::sync::Arc;

/// Size and free bytes of the file system below a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// All bytes of the file system.
    pub capacity: u64,
    /// Bytes that this process may still use.
    pub available: u64,
}

/// An immutable file's content, mapped or read.
pub type Mapping = Box<dyn Deref<Target = [u8]> + Send + Sync>;

/// One directory.
pub trait Disk: Send + Sync + 'static {
    /// Makes a new empty file; an existing one of that name is an error.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// The whole content of a file that nobody changes any more. A part that cannot be read kills the
    /// process when it is touched, so what is mapped was read before: see [`read_whole`].
    fn map(&self, name: &str) -> io::Result<Mapping>;
    /// Renames, replacing `to`. Durable after [`Disk::sync_dir`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a name. Durable after [`Disk::sync_dir`].
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and removals durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// The names of all files, in no order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// How much space there is.
    fn space(&self) -> io::Result<Space>;
    /// Whether the disk hangs: a call has not returned for seconds.
    fn hangs(&self) -> bool {
        false
    }
}

/// One file. All calls may come from any thread.
pub trait DiskFile: Send + Sync + 'static {
    /// Reads up to `buf.len()` bytes; fewer at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Reads only what needs no disk access: how many bytes, or `None` if it would have to wait.
    fn read_cached(&self, buf: &mut [u8], offset: u64) -> Option<usize>;
    /// Writes from `bufs`, in order; may write less, as `pwritev`.
    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;
    /// Makes content, and the length needed to read it, durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Drops what the kernel keeps of the file in memory, so that the next read asks the disk. Bytes that
    /// were not synced stay.
    fn forget_cache(&self) -> io::Result<()>;
    /// Reserves space for a range and extends the file (with zeros) to its end: appending into it then
    /// changes no length, which makes each sync cheaper.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Gives the space of a range back; it reads as zeros.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Cuts or extends (with zeros) the file, and gives back what was reserved beyond the new end.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Bytes of the disk that its content takes: less than its length if it has holes.
    fn allocated(&self) -> io::Result<u64>;
    /// True if the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Hint: begin to write a range to the disk, without waiting and without any promise.
    fn start_writeback(&self, _offset: u64, _len: u64) {}
    /// Hint: this range will be read soon.
    fn will_need(&self, _offset: u64, _len: u64) {}
}

/// Most segments that one `pwritev` takes (Linux: `UIO_MAXIOV`).
const IOV_MAX: usize = 1024;

/// Writes all of `bufs` at `offset`.
pub fn write_all_at(file: &dyn DiskFile, bufs: &[&[u8]], mut offset: u64) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> =
        bufs.iter().filter(|b| !b.is_empty()).map(|b| IoSlice::new(b)).collect();
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        let count = rest.len().min(IOV_MAX);
        let written = file.write_at(&rest[..count], offset)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        offset += written as u64;
        IoSlice::advance_slices(&mut rest, written);
    }
    Ok(())
}

/// Fills `buf` from `offset`; an error of kind `UnexpectedEof` if the file ends before.
pub fn read_exact_at(file: &dyn DiskFile, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        let count = file.read_at(buf, offset)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        offset += count as u64;
        buf = &mut buf[count..];
    }
    Ok(())
}

/// To be called before a file is believed that a process before this one may have written: makes durable
/// what it left in the kernel's memory, and reads the rest from the disk. After a failed sync the kernel
/// calls pages clean that never reached the disk, and goes on showing their content to whoever asks.
pub fn trust_only_the_disk(file: &dyn DiskFile) -> io::Result<()> {
    file.sync_data()?;
    file.forget_cache()
}

/// The whole content of a file, which is as long as it is said to be now.
pub fn read_whole(disk: &dyn Disk, name: &str) -> io::Result<Vec<u8>> {
    let file = disk.open(name)?;
    let length = usize::try_from(file.len()?).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let mut bytes = vec![0; length];
    read_exact_at(&*file, &mut bytes, 0)?;
    Ok(bytes)
}

/// True if `error` says that the disk is full.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
