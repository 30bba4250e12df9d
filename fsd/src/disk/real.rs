//! A directory of the machine's own file system, by rustix.

use super::stall::{self, Calls};
use super::{Disk, DiskFile, Mapping, Space};
use rustix::fs::{self, Advice, FallocateFlags, Mode, OFlags};
use rustix::io::{self as rio, Errno, ReadWriteFlags};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// A directory, held open: later calls stay in it even if it is renamed.
pub struct RealDisk {
    dir: OwnedFd,
    read_only: bool,
    calls: Arc<Calls>,
}

impl RealDisk {
    /// Opens an existing directory.
    pub fn open(path: &Path) -> io::Result<RealDisk> {
        RealDisk::new(path, false)
    }

    /// The same, for a daemon: its log tells when the disk hangs, until nobody has the directory and its files any more.
    pub fn watched(path: &Path) -> io::Result<RealDisk> {
        let disk = RealDisk::open(path)?;
        stall::watch(&disk.calls, path)?;
        Ok(disk)
    }

    /// Opens an existing directory of which nothing can be changed through this disk: the kernel refuses it.
    pub fn read_only(path: &Path) -> io::Result<RealDisk> {
        RealDisk::new(path, true)
    }

    fn new(path: &Path, read_only: bool) -> io::Result<RealDisk> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(RealDisk { dir: fs::open(path, flags, Mode::empty())?, read_only, calls: Arc::default() })
    }

    fn open_file(&self, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let access = if self.read_only { OFlags::RDONLY } else { OFlags::RDWR };
        let flags = flags | access | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(fs::openat(&self.dir, name, flags, Mode::from_raw_mode(0o600))?)
    }

    fn file(&self, fd: OwnedFd) -> Arc<RealFile> {
        Arc::new(RealFile { fd, calls: self.calls.clone() })
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.read_only { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
    }
}

impl Disk for RealDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.check_writable()?;
        let _running = self.calls.begin("creation of a file");
        Ok(self.file(self.open_file(name, OFlags::CREATE | OFlags::EXCL)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let _running = self.calls.begin("look at a file");
        Ok(self.file(self.open_file(name, OFlags::empty())?))
    }

    fn map(&self, name: &str) -> io::Result<Mapping> {
        let file = File::from(self.open_file(name, OFlags::empty())?);
        // SAFETY: only files that are renamed into place complete and never changed afterwards are
        // mapped, and the directory's lock keeps other daemons out, so the bytes stay as they are.
        Ok(Box::new(unsafe { memmap2::Mmap::map(&file)? }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.check_writable()?;
        let _running = self.calls.begin("rename");
        Ok(fs::renameat(&self.dir, from, &self.dir, to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.check_writable()?;
        let _running = self.calls.begin("removal of a file");
        Ok(fs::unlinkat(&self.dir, name, fs::AtFlags::empty())?)
    }

    fn sync_dir(&self) -> io::Result<()> {
        let _running = self.calls.begin("sync of the directory");
        Ok(fs::fsync(&self.dir)?)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(&self.dir)? {
            // Names that are not UTF-8 are none of ours.
            if let Ok(name) = entry?.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    fn space(&self) -> io::Result<Space> {
        let stat = fs::fstatvfs(&self.dir)?;
        Ok(Space {
            capacity: stat.f_blocks.saturating_mul(stat.f_frsize),
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }

    fn hangs(&self) -> bool {
        self.calls.stalled(Instant::now())
    }
}

struct RealFile {
    fd: OwnedFd,
    calls: Arc<Calls>,
}

impl DiskFile for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let _running = self.calls.begin("read");
        Ok(rio::retry_on_intr(|| rio::pread(&self.fd, &mut *buf, offset))?)
    }

    fn read_cached(&self, buf: &mut [u8], offset: u64) -> Option<usize> {
        let mut bufs = [IoSliceMut::new(buf)];
        rio::preadv2(&self.fd, &mut bufs, offset, ReadWriteFlags::NOWAIT).ok()
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let _running = self.calls.begin("write");
        Ok(rio::retry_on_intr(|| rio::pwritev(&self.fd, bufs, offset))?)
    }

    fn sync_data(&self) -> io::Result<()> {
        let _running = self.calls.begin("sync");
        // Not retried on EINTR: after an interrupted sync nobody knows what was dropped.
        Ok(fs::fdatasync(&self.fd)?)
    }

    fn forget_cache(&self) -> io::Result<()> {
        // Without a length: to the end of the file.
        unless_unsupported(fs::fadvise(&self.fd, 0, None, Advice::DontNeed))
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let _running = self.calls.begin("reservation of space");
        unless_unsupported(fs::fallocate(&self.fd, FallocateFlags::empty(), offset, len))
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let _running = self.calls.begin("punch");
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        unless_unsupported(fs::fallocate(&self.fd, flags, offset, len))
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let _running = self.calls.begin("truncation");
        Ok(fs::ftruncate(&self.fd, len)?)
    }

    fn len(&self) -> io::Result<u64> {
        let size = fs::fstat(&self.fd)?.st_size;
        u64::try_from(size).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    fn allocated(&self) -> io::Result<u64> {
        // Whatever the file system's blocks are: stat(2) counts by 512 bytes.
        let blocks = u64::try_from(fs::fstat(&self.fd)?.st_blocks);
        Ok(blocks.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?.saturating_mul(512))
    }

    fn start_writeback(&self, offset: u64, len: u64) {
        let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else { return };
        // SAFETY: the descriptor is ours and open; the call touches no memory. Its result does not
        // matter: errors of the write come back from the fdatasync that follows.
        unsafe {
            libc::sync_file_range(self.fd.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE);
        }
    }

    fn will_need(&self, offset: u64, len: u64) {
        // Only advice: nothing to do if it is not taken.
        let _ = fs::fadvise(&self.fd, offset, std::num::NonZeroU64::new(len), Advice::WillNeed);
    }
}

/// Reserving and punching only save space and time, and who keeps no pages has none to forget: a file
/// system without them serves as well.
fn unless_unsupported(result: Result<(), Errno>) -> io::Result<()> {
    match result {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on purpose")]
    use super::*;
    use crate::disk::{read_exact_at, write_all_at};

    #[test]
    fn does_what_the_trait_says() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(dir.path()).unwrap();
        let file = disk.create("a").unwrap();
        assert_eq!(disk.create("a").err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(disk.open("b").err().unwrap().kind(), io::ErrorKind::NotFound);
        assert!(disk.map("a").unwrap().is_empty());

        file.allocate(0, 100_000).unwrap();
        assert_eq!(file.len().unwrap(), 100_000);
        // More parts than one call takes.
        let parts = vec![[7_u8; 10].as_slice(); 3000];
        write_all_at(&*file, &parts, 5).unwrap();
        file.start_writeback(0, 30_005);
        file.sync_data().unwrap();
        let allocated = file.allocated().unwrap();
        assert!(allocated >= 30_005, "{allocated}");
        file.punch(4096, 8192).unwrap();
        file.will_need(0, 4096);
        file.forget_cache().unwrap();
        let mut bytes = vec![1; 30_010];
        read_exact_at(&*file, &mut bytes, 0).unwrap();
        let expected = |i: usize| u8::from((5..30_005).contains(&i) && !(4096..12_288).contains(&i)) * 7;
        assert!(bytes.iter().enumerate().all(|(i, byte)| *byte == expected(i)));
        assert!(file.read_cached(&mut bytes[..10], 0).is_none_or(|count| count == 10));

        file.truncate(10).unwrap();
        assert_eq!(file.read_at(&mut bytes, 0).unwrap(), 10);
        let beyond = read_exact_at(&*file, &mut bytes, 0);
        assert_eq!(beyond.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        disk.rename("a", "b").unwrap();
        disk.sync_dir().unwrap();
        assert_eq!(disk.list().unwrap(), ["b"]);
        assert_eq!(disk.map("b").unwrap()[..], [0, 0, 0, 0, 0, 7, 7, 7, 7, 7]);
        disk.remove("b").unwrap();
        assert!(disk.list().unwrap().is_empty());
        let space = disk.space().unwrap();
        assert!(space.available <= space.capacity && space.capacity > 0);
    }

    #[test]
    fn a_read_only_disk_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), b"content").unwrap();
        let disk = RealDisk::read_only(dir.path()).unwrap();
        let file = disk.open("a").unwrap();
        assert!(write_all_at(&*file, &[b"x"], 0).is_err() && file.truncate(0).is_err());
        assert!(file.punch(0, 4096).is_err() && file.allocate(0, 4096).is_err());
        file.sync_data().unwrap();
        file.forget_cache().unwrap();
        for refused in [disk.create("b").map(drop), disk.rename("a", "b"), disk.remove("a")] {
            assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
        }
        assert_eq!(disk.map("a").unwrap()[..], *b"content");
        assert_eq!(disk.list().unwrap(), ["a"]);
    }
}
