//! [`FuseOps`] over the vfs: the kernel's inode numbers become the server's and back, and each call goes
//! to the file that carries it out.

use super::Vfs;
use super::handle::Handle;
use super::readdir::Stream;
use crate::client::{DataClient, MetaClient};
use crate::fuse::gate::ReplyGate;
use crate::fuse::interrupt::Interrupt;
use crate::fuse::ops::{
    AttrReply, CopyRange, Created, DirEntry, Entry, Fh, FuseOps, LockInfo, Lookup, Make, OpenMode, Opened,
    ReadAt, ReadData, ReadDir, Seek, StatFs, WriteAt,
};
use bytes::Bytes;
use cairn_common::attr::{Attr, Caller, SetAttr};
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::Ino;
use cairn_common::limits::NAME_MAX;
use cairn_common::namespace::is_listed;
use cairn_common::namespace::op::{FallocateMode, LockRequest, Name, OpBody, XattrMode};
use std::sync::Arc;

/// Unit of `statfs`: blocks of a page.
const FRAGMENT: u32 = 4096;
/// Preferred size of I/O.
const IO_SIZE: u32 = 1 << 20;
/// Inodes that `statfs` says are free: numbers never run out.
const FREE_INODES: u64 = 1 << 48;

impl<M: MetaClient, D: DataClient> Vfs<M, D> {
    fn attr_reply(&self, attr: Attr) -> AttrReply {
        let ttl = self.attr_ttl(&attr);
        AttrReply { attr: Attr { ino: self.to_kernel(attr.ino), ..attr }, ttl }
    }
}

impl<M: MetaClient, D: DataClient> FuseOps for Vfs<M, D> {
    fn gate(&self) -> Option<Arc<ReplyGate>> {
        Some(Arc::clone(&self.gate))
    }

    async fn reachable(&self) -> FsResult<()> {
        self.meta.reachable().await
    }

    async fn given_up(&self) {
        self.call_given_up().await;
    }

    fn try_lookup(&self, _caller: &Caller, parent: Ino, name: &[u8]) -> Option<FsResult<Lookup>> {
        self.find_missing(self.to_server(parent), name).map(Ok)
    }

    async fn lookup(self: Arc<Self>, _caller: Caller, parent: Ino, name: Name) -> FsResult<Lookup> {
        self.find(self.to_server(parent), name).await
    }

    /// Inode numbers are the server's: there is nothing to forget.
    fn forget(&self, _ino: Ino, _count: u64) {}

    async fn make(self: Arc<Self>, caller: Caller, mut make: Make) -> FsResult<Entry> {
        make.parent = self.to_server(make.parent);
        Ok(self.entry(self.make_node(&caller, make).await?))
    }

    async fn symlink(
        self: Arc<Self>,
        caller: Caller,
        parent: Ino,
        name: Name,
        target: Bytes,
    ) -> FsResult<Entry> {
        let parent = self.to_server(parent);
        Ok(self.entry(self.make_symlink(&caller, parent, name, target).await?))
    }

    async fn readlink(self: Arc<Self>, ino: Ino) -> FsResult<Bytes> {
        self.meta.readlink(self.to_server(ino)).await
    }

    async fn link(self: Arc<Self>, caller: Caller, ino: Ino, parent: Ino, name: Name) -> FsResult<Entry> {
        let (ino, parent) = (self.to_server(ino), self.to_server(parent));
        Ok(self.entry(self.make_link(&caller, ino, parent, name).await?))
    }

    async fn unlink(self: Arc<Self>, caller: Caller, parent: Ino, name: Name) -> FsResult<()> {
        let parent = self.to_server(parent);
        self.remove(&caller, parent, OpBody::Unlink { parent, name }).await
    }

    async fn rmdir(self: Arc<Self>, caller: Caller, parent: Ino, name: Name) -> FsResult<()> {
        let parent = self.to_server(parent);
        self.remove(&caller, parent, OpBody::Rmdir { parent, name }).await
    }

    async fn rename(
        self: Arc<Self>,
        caller: Caller,
        from: (Ino, Name),
        to: (Ino, Name),
        flags: u32,
    ) -> FsResult<()> {
        let (from, to) = ((self.to_server(from.0), from.1), (self.to_server(to.0), to.1));
        self.rename_entry(&caller, from, to, flags).await
    }

    fn try_getattr(&self, _caller: &Caller, ino: Ino, _fh: Option<Fh>) -> Option<FsResult<AttrReply>> {
        self.local_attr(self.to_server(ino)).map(|attr| Ok(self.attr_reply(attr)))
    }

    async fn getattr(self: Arc<Self>, _caller: Caller, ino: Ino, _fh: Option<Fh>) -> FsResult<AttrReply> {
        let ino = self.to_server(ino);
        let attr = if self.is_root(ino) { self.root_attr().await } else { self.attr_now(ino).await };
        Ok(self.attr_reply(attr?))
    }

    async fn setattr(
        self: Arc<Self>,
        caller: Caller,
        ino: Ino,
        _fh: Option<Fh>,
        set: SetAttr,
    ) -> FsResult<AttrReply> {
        Ok(self.attr_reply(self.set_attr(&caller, self.to_server(ino), set).await?))
    }

    fn try_getxattr(&self, _caller: &Caller, ino: Ino, name: &[u8]) -> Option<FsResult<Bytes>> {
        self.lacks_xattr(self.to_server(ino), name).then_some(Err(FsError::NoAttr))
    }

    async fn getxattr(self: Arc<Self>, _caller: Caller, ino: Ino, name: Bytes) -> FsResult<Bytes> {
        self.find_xattr(self.to_server(ino), name).await
    }

    async fn listxattr(self: Arc<Self>, caller: Caller, ino: Ino) -> FsResult<Vec<Bytes>> {
        let mut names = self.meta.listxattr(self.to_server(ino)).await?;
        names.retain(|name| is_listed(&caller, name));
        Ok(names)
    }

    async fn setxattr(
        self: Arc<Self>,
        caller: Caller,
        ino: Ino,
        name: Bytes,
        value: Bytes,
        mode: XattrMode,
    ) -> FsResult<()> {
        self.set_xattr(&caller, self.to_server(ino), name, value, mode).await
    }

    async fn removexattr(self: Arc<Self>, caller: Caller, ino: Ino, name: Bytes) -> FsResult<()> {
        self.remove_xattr(&caller, self.to_server(ino), name).await
    }

    async fn statfs(self: Arc<Self>) -> FsResult<StatFs> {
        let stat = self.space().await?;
        let unit = u64::from(FRAGMENT);
        let free = stat.available / unit;
        Ok(StatFs {
            blocks: stat.totals.allocated.div_ceil(unit) + free,
            bfree: free,
            bavail: free,
            files: stat.totals.inodes + FREE_INODES,
            ffree: FREE_INODES,
            bsize: IO_SIZE,
            frsize: FRAGMENT,
            namelen: u32::try_from(NAME_MAX).expect("255"),
        })
    }

    async fn create(self: Arc<Self>, caller: Caller, mut make: Make, flags: i32) -> FsResult<Created> {
        make.parent = self.to_server(make.parent);
        let (attr, opened) = self.create_file(&caller, make, flags).await?;
        Ok(Created { entry: self.entry(attr), opened: appends_directly(opened, flags) })
    }

    async fn tmpfile(
        self: Arc<Self>,
        caller: Caller,
        parent: Ino,
        perm: u16,
        umask: u16,
        flags: i32,
    ) -> FsResult<Created> {
        let parent = self.to_server(parent);
        let (attr, opened) = self.create_unnamed(&caller, parent, perm, umask, flags).await?;
        Ok(Created { entry: self.entry(attr), opened: appends_directly(opened, flags) })
    }

    fn try_open(&self, ino: Ino, flags: i32) -> Option<FsResult<Opened>> {
        self.open_again(self.to_server(ino), flags).map(|opened| Ok(appends_directly(opened, flags)))
    }

    async fn open(self: Arc<Self>, ino: Ino, flags: i32) -> FsResult<Opened> {
        let opened = self.open_file(self.to_server(ino), flags).await?;
        Ok(appends_directly(opened, flags))
    }

    fn try_read(&self, read: &ReadAt) -> Option<FsResult<ReadData>> {
        self.read_now(read)
    }

    async fn read(self: Arc<Self>, read: ReadAt) -> FsResult<ReadData> {
        self.read_any(read).await
    }

    fn try_write(&self, _caller: &Caller, write: &WriteAt, data: &[u8]) -> Option<FsResult<u32>> {
        self.write_now(write, data)
    }

    async fn write(self: Arc<Self>, caller: Caller, write: WriteAt, data: Bytes) -> FsResult<u32> {
        self.write_any(&caller, write, data).await
    }

    fn try_flush(&self, _ino: Ino, fh: Fh, lock_owner: u64) -> Option<FsResult<()>> {
        self.try_flush_handle(fh, lock_owner)
    }

    async fn flush(self: Arc<Self>, caller: Caller, _ino: Ino, fh: Fh, lock_owner: u64) -> FsResult<()> {
        self.flush_handle(&caller, fh, lock_owner).await
    }

    fn try_release(&self, _ino: Ino, fh: Fh, _flags: i32, flock_owner: Option<u64>) -> Option<FsResult<()>> {
        self.close_handle(fh, flock_owner);
        Some(Ok(()))
    }

    async fn release(
        self: Arc<Self>,
        _ino: Ino,
        fh: Fh,
        _flags: i32,
        flock_owner: Option<u64>,
    ) -> FsResult<()> {
        self.close_handle(fh, flock_owner);
        Ok(())
    }

    async fn fsync(self: Arc<Self>, _ino: Ino, fh: Fh, _datasync: bool) -> FsResult<()> {
        let file = self.file(fh)?;
        self.sync_file(&file).await
    }

    async fn fallocate(
        self: Arc<Self>,
        caller: Caller,
        _ino: Ino,
        fh: Fh,
        mode: FallocateMode,
        offset: u64,
        length: u64,
    ) -> FsResult<()> {
        self.allocate(&caller, fh, mode, offset, length).await
    }

    async fn seek(self: Arc<Self>, _ino: Ino, fh: Fh, offset: u64, seek: Seek) -> FsResult<u64> {
        self.seek_for(fh, offset, seek).await
    }

    async fn copy_range(self: Arc<Self>, caller: Caller, copy: CopyRange) -> FsResult<u64> {
        self.copy(&caller, copy).await
    }

    fn try_opendir(&self, _caller: &Caller, ino: Ino, _flags: i32) -> Option<FsResult<Opened>> {
        let stream = Stream::new(self.to_server(ino));
        let fh = self.handles.insert(Handle::Dir(Arc::new(stream)));
        Some(Ok(Opened { fh, mode: OpenMode::default() }))
    }

    async fn opendir(self: Arc<Self>, caller: Caller, ino: Ino, flags: i32) -> FsResult<Opened> {
        self.try_opendir(&caller, ino, flags).unwrap_or(Err(FsError::Io))
    }

    async fn readdir(self: Arc<Self>, _caller: Caller, read: ReadDir) -> FsResult<Vec<DirEntry>> {
        self.list(&read).await
    }

    /// Lookups are not counted: see `forget`.
    fn entries_sent(&self, _read: &ReadDir, _entries: &[DirEntry]) {}

    fn try_releasedir(&self, _ino: Ino, fh: Fh, _flags: i32) -> Option<FsResult<()>> {
        self.handles.remove(fh);
        Some(Ok(()))
    }

    async fn releasedir(self: Arc<Self>, _ino: Ino, fh: Fh, _flags: i32) -> FsResult<()> {
        self.handles.remove(fh);
        Ok(())
    }

    async fn fsyncdir(self: Arc<Self>, _ino: Ino, _fh: Fh, _datasync: bool) -> FsResult<()> {
        self.meta.sync(self.meta.last_submitted()).await
    }

    async fn store_all(self: Arc<Self>) -> FsResult<()> {
        self.while_progress(self.store_everything()).await
    }

    async fn getlk(
        self: Arc<Self>,
        _caller: Caller,
        _ino: Ino,
        fh: Fh,
        lock: LockRequest,
    ) -> FsResult<Option<LockInfo>> {
        self.test_lock(&self.file(fh)?.inode, lock).await
    }

    async fn setlk(
        self: Arc<Self>,
        caller: Caller,
        _ino: Ino,
        fh: Fh,
        lock: LockRequest,
        wait: bool,
        interrupt: Interrupt,
    ) -> FsResult<()> {
        self.set_lock(&caller, &self.file(fh)?.inode, lock, wait, &interrupt).await
    }
}

/// The kernel puts appended data into its pages at the size that it believes, which another mount may
/// have moved: the data lies right at the server and wrong in the pages. So appends leave no pages.
fn appends_directly(mut opened: Opened, flags: i32) -> Opened {
    if flags & libc::O_APPEND != 0 {
        opened.mode.direct_io = true;
        opened.mode.keep_cache = false;
    }
    opened
}
