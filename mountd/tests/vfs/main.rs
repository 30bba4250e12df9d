//! The vfs over servers in memory.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests panic on purpose, and their numbers are small"
)]

mod behaviour;
mod fake;
mod full;
mod locks;
mod model;
mod moves;
mod names;
mod session;
mod shared;
mod tables;

use bytes::Bytes;
use cairn_common::attr::{Attr, Caller, FileKind};
use cairn_common::error::FsResult;
use cairn_common::ids::Ino;
use cairn_mountd::fuse::ops::{Created, Fh, FuseOps, Make, ReadAt, WriteAt};
use cairn_mountd::vfs::{Vfs, VfsConfig};
use fake::{FakeData, FakeMeta};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// A mount over fakes.
pub struct Mount {
    pub meta: Arc<FakeMeta>,
    pub data: Arc<FakeData>,
    pub vfs: Arc<Vfs<FakeMeta, FakeData>>,
}

impl Mount {
    pub fn new(seed: u64, slow: bool, config: VfsConfig) -> Mount {
        let meta = FakeMeta::start(seed, slow);
        let data = Arc::new(FakeData { slow, ..FakeData::default() });
        let vfs = Vfs::new(Arc::clone(&meta), Arc::clone(&data), config, Handle::current());
        Mount { meta, data, vfs }
    }

    pub fn quick() -> Mount {
        Mount::new(1, false, small())
    }

    pub async fn create(&self, name: &str) -> Created {
        let name = Bytes::copy_from_slice(name.as_bytes());
        let make = Make { parent: Ino::ROOT, name, kind: FileKind::File, perm: 0o644, umask: 0, rdev: 0 };
        Arc::clone(&self.vfs).create(Caller::default(), make, libc::O_RDWR).await.unwrap()
    }

    pub async fn write(&self, ino: Ino, fh: Fh, offset: u64, data: &[u8]) -> FsResult<u32> {
        let write =
            WriteAt { ino, fh, offset, flags: libc::O_RDWR, from_mapping: false, kill_suidgid: false };
        match self.vfs.try_write(&Caller::default(), &write, data) {
            Some(result) => result,
            None => Arc::clone(&self.vfs).write(Caller::default(), write, Bytes::copy_from_slice(data)).await,
        }
    }

    pub async fn read(&self, ino: Ino, fh: Fh, offset: u64, size: u32) -> FsResult<Vec<u8>> {
        let read = ReadAt { ino, fh, offset, size, flags: libc::O_RDWR };
        let data = match self.vfs.try_read(&read) {
            Some(result) => result?,
            None => Arc::clone(&self.vfs).read(read).await?,
        };
        let mut out = Vec::new();
        for segment in data.segments() {
            match segment {
                cairn_mountd::fuse::ops::Segment::Data(bytes) => out.extend_from_slice(bytes),
                cairn_mountd::fuse::ops::Segment::Zeros(length) => out.resize(out.len() + length, 0),
            }
        }
        Ok(out)
    }

    pub async fn stat(&self, ino: Ino) -> Attr {
        match self.vfs.try_getattr(&Caller::default(), ino, None) {
            Some(reply) => reply.unwrap().attr,
            None => Arc::clone(&self.vfs).getattr(Caller::default(), ino, None).await.unwrap().attr,
        }
    }

    pub async fn fsync(&self, ino: Ino, fh: Fh) -> FsResult<()> {
        Arc::clone(&self.vfs).fsync(ino, fh, false).await
    }

    /// `close` of one descriptor.
    pub async fn flush(&self, ino: Ino, fh: Fh) -> FsResult<()> {
        match self.vfs.try_flush(ino, fh, 1) {
            Some(result) => result,
            None => Arc::clone(&self.vfs).flush(Caller::default(), ino, fh, 1).await,
        }
    }

    /// The file as the servers have it.
    pub fn stored(&self, ino: Ino) -> Vec<u8> {
        let maps = self.meta.maps.lock();
        let mut out = Vec::new();
        let mut at = 0;
        while at < u64::MAX {
            let page = cairn_common::namespace::extents(&*maps, ino, at, u64::MAX).unwrap();
            out.resize(page.size as usize, 0);
            for extent in page.extents {
                let start = extent.offset as usize;
                if start < out.len() {
                    let end = (start + extent.length as usize).min(out.len());
                    out[start..end].copy_from_slice(&self.data.bytes(&extent.data, end - start));
                }
            }
            at = page.end;
        }
        out
    }
}

pub fn small() -> VfsConfig {
    VfsConfig {
        dirty_bytes: 8 << 20,
        cache_bytes: 4 << 20,
        flush_after: Duration::from_millis(20),
        inline_per_file: 1 << 20,
        ..VfsConfig::default()
    }
}
