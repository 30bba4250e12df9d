//! The calls of a program, by path and descriptor, made on a mount as its FUSE adapter makes them:
//! first the form that answers in place, then the one that may wait.

use super::mount::{Mount, Tree};
use bytes::Bytes;
use cairn_common::attr::{Attr, Caller, FileKind, SetAttr};
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::Ino;
use cairn_common::namespace::op::{
    FallocateMode, LockFamily, LockOwner, LockRequest, LockType, Name, XattrMode,
};
use cairn_mountd::fuse::interrupt::Interrupts;
use cairn_mountd::fuse::ops::{
    CopyRange, DirEntry, Entry, Fh, FuseOps, LockInfo, Lookup, Make, OpenMode, ReadAt, ReadData, ReadDir,
    Segment, StatFs, WriteAt,
};
use std::sync::Arc;

/// Most bytes of one READ or WRITE request.
const IO_MAX: usize = 1 << 20;
/// The kernel's buffer for a page of a directory.
const DIR_BYTES: usize = 32 << 10;
/// Last byte of any file, as locks say it.
pub const END_OF_FILE: u64 = u64::MAX >> 1;

/// Who makes all calls.
fn root() -> Caller {
    Caller { uid: 0, gid: 0, pid: std::process::id() }
}

fn name_of(name: &str) -> Name {
    Name::copy_from_slice(name.as_bytes())
}

/// Splits off the last name of a path.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// Who holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(pub LockOwner);

impl Owner {
    /// Locks this range, both ends inclusive; `write`: for itself alone.
    #[must_use]
    pub fn lock(self, write: bool, start: u64, end: u64) -> LockRequest {
        let kind = if write { LockType::Write } else { LockType::Read };
        LockRequest { owner: self.0, kind, start, end, pid: std::process::id() }
    }

    /// Locks the whole file.
    #[must_use]
    pub fn lock_all(self, write: bool) -> LockRequest {
        self.lock(write, 0, END_OF_FILE)
    }

    /// Unlocks this range.
    #[must_use]
    pub fn unlock(self, start: u64, end: u64) -> LockRequest {
        LockRequest { kind: LockType::Unlock, ..self.lock(true, start, end) }
    }
}

impl Mount {
    /// Makes one request: in place if that can be, else as a task of the mount.
    async fn request<T, F>(
        &self,
        what: &str,
        now: impl FnOnce(&Tree) -> Option<FsResult<T>>,
        later: impl FnOnce(Arc<Tree>) -> F,
    ) -> FsResult<T>
    where
        T: Send + 'static,
        F: Future<Output = FsResult<T>> + Send + 'static,
    {
        let tree = self.tree();
        match now(&tree) {
            Some(answer) => answer,
            None => self.run(what, later(tree)).await,
        }
    }

    async fn ask<T, F>(&self, what: &str, later: impl FnOnce(Arc<Tree>) -> F) -> FsResult<T>
    where
        T: Send + 'static,
        F: Future<Output = FsResult<T>> + Send + 'static,
    {
        self.request(what, |_tree| None, later).await
    }

    /// What one LOOKUP answers.
    pub async fn lookup(&self, parent: Ino, name: &str) -> FsResult<Lookup> {
        let (now, later) = (name_of(name), name_of(name));
        self.request(
            &format!("lookup {name}"),
            move |tree| tree.try_lookup(&root(), parent, &now),
            |tree| tree.lookup(root(), parent, later),
        )
        .await
    }

    /// Follows a path from the root; "" is the root itself. Symbolic links are not followed.
    pub async fn find(&self, path: &str) -> FsResult<Ino> {
        let mut ino = Ino::ROOT;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            ino = self.entry(ino, name).await?.attr.ino;
        }
        Ok(ino)
    }

    async fn entry(&self, parent: Ino, name: &str) -> FsResult<Entry> {
        match self.lookup(parent, name).await? {
            Lookup::Found(entry) => Ok(entry),
            Lookup::Missing { .. } => Err(FsError::NotFound),
        }
    }

    async fn place(&self, path: &str) -> FsResult<(Ino, Name)> {
        let (parent, name) = split(path);
        Ok((self.find(parent).await?, name_of(name)))
    }

    /// `fstat` by inode.
    pub async fn attr(&self, ino: Ino) -> FsResult<Attr> {
        let now = |tree: &Tree| tree.try_getattr(&root(), ino, None);
        let reply = self.request("getattr", now, |tree| tree.getattr(root(), ino, None)).await?;
        Ok(reply.attr)
    }

    /// `lstat`.
    pub async fn stat(&self, path: &str) -> FsResult<Attr> {
        self.attr(self.find(path).await?).await
    }

    /// What the lookup of the last name says, without asking further.
    pub async fn looked_up(&self, path: &str) -> FsResult<Attr> {
        let (parent, name) = split(path);
        Ok(self.entry(self.find(parent).await?, name).await?.attr)
    }

    async fn make(&self, path: &str, kind: FileKind, perm: u16) -> FsResult<Attr> {
        let (parent, name) = self.place(path).await?;
        let make = Make { parent, name, kind, perm, umask: 0, rdev: 0 };
        Ok(self.ask(&format!("make {path}"), |tree| tree.make(root(), make)).await?.attr)
    }

    pub async fn mkdir(&self, path: &str) -> FsResult<Attr> {
        self.make(path, FileKind::Dir, 0o755).await
    }

    pub async fn symlink(&self, target: &str, path: &str) -> FsResult<Attr> {
        let (parent, name) = self.place(path).await?;
        let target = name_of(target);
        Ok(self.ask("symlink", |tree| tree.symlink(root(), parent, name, target)).await?.attr)
    }

    pub async fn readlink(&self, path: &str) -> FsResult<Bytes> {
        let ino = self.find(path).await?;
        self.ask("readlink", |tree| tree.readlink(ino)).await
    }

    pub async fn link(&self, from: &str, to: &str) -> FsResult<Attr> {
        let ino = self.find(from).await?;
        let (parent, name) = self.place(to).await?;
        Ok(self.ask("link", |tree| tree.link(root(), ino, parent, name)).await?.attr)
    }

    pub async fn unlink(&self, path: &str) -> FsResult<()> {
        let (parent, name) = self.place(path).await?;
        self.ask(&format!("unlink {path}"), |tree| tree.unlink(root(), parent, name)).await
    }

    pub async fn rmdir(&self, path: &str) -> FsResult<()> {
        let (parent, name) = self.place(path).await?;
        self.ask(&format!("rmdir {path}"), |tree| tree.rmdir(root(), parent, name)).await
    }

    pub async fn rename(&self, from: &str, to: &str) -> FsResult<()> {
        self.rename_with(from, to, 0).await
    }

    /// `renameat2`.
    pub async fn rename_with(&self, from: &str, to: &str, flags: u32) -> FsResult<()> {
        let (from, to) = (self.place(from).await?, self.place(to).await?);
        self.ask("rename", |tree| tree.rename(root(), from, to, flags)).await
    }

    /// `chmod`, `chown`, `utimensat`, `truncate`.
    pub async fn set(&self, path: &str, set: SetAttr) -> FsResult<Attr> {
        let ino = self.find(path).await?;
        Ok(self.ask("setattr", |tree| tree.setattr(root(), ino, None, set)).await?.attr)
    }

    pub async fn truncate(&self, path: &str, size: u64) -> FsResult<Attr> {
        self.set(path, SetAttr { size: Some(size), ..SetAttr::default() }).await
    }

    pub async fn set_xattr(&self, path: &str, name: &str, value: &[u8]) -> FsResult<()> {
        let ino = self.find(path).await?;
        let (name, value) = (name_of(name), Bytes::copy_from_slice(value));
        self.ask("setxattr", |tree| tree.setxattr(root(), ino, name, value, XattrMode::Set)).await
    }

    pub async fn xattr(&self, path: &str, name: &str) -> FsResult<Bytes> {
        let ino = self.find(path).await?;
        let (now, later) = (name_of(name), name_of(name));
        let now = |tree: &Tree| tree.try_getxattr(&root(), ino, &now);
        self.request("getxattr", now, |tree| tree.getxattr(root(), ino, later)).await
    }

    pub async fn xattrs(&self, path: &str) -> FsResult<Vec<Bytes>> {
        let ino = self.find(path).await?;
        self.ask("listxattr", |tree| tree.listxattr(root(), ino)).await
    }

    pub async fn remove_xattr(&self, path: &str, name: &str) -> FsResult<()> {
        let ino = self.find(path).await?;
        let name = name_of(name);
        self.ask("removexattr", |tree| tree.removexattr(root(), ino, name)).await
    }

    pub async fn statfs(&self) -> FsResult<StatFs> {
        self.request("statfs", Tree::try_statfs, |tree| tree.statfs()).await
    }

    /// All entries of a directory but `.` and `..`.
    pub async fn list(&self, path: &str) -> FsResult<Vec<DirEntry>> {
        let ino = self.find(path).await?;
        let open = |tree: &Tree| tree.try_opendir(&root(), ino, 0);
        let fh = self.request("opendir", open, |tree| tree.opendir(root(), ino, 0)).await?.fh;
        let mut entries: Vec<DirEntry> = Vec::new();
        loop {
            let cookie = entries.last().map_or(0, |entry| entry.cookie);
            let read = ReadDir { ino, fh, cookie, max_bytes: DIR_BYTES, plus: true };
            let now = |tree: &Tree| tree.try_readdir(&root(), &read);
            let page = self.request("readdir", now, |tree| tree.readdir(root(), read)).await?;
            if page.is_empty() {
                break;
            }
            self.tree().entries_sent(&read, &page);
            entries.extend(page);
        }
        let close = |tree: &Tree| tree.try_releasedir(ino, fh, 0);
        self.request("releasedir", close, |tree| tree.releasedir(ino, fh, 0)).await?;
        entries.retain(|entry| &entry.name[..] != b"." && &entry.name[..] != b"..");
        Ok(entries)
    }

    /// Makes a file that is not there yet, and opens it for reading and writing.
    pub async fn create(&self, path: &str) -> FsResult<File> {
        self.open(path, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL).await
    }

    /// `open(2)`.
    pub async fn open(&self, path: &str, flags: i32) -> FsResult<File> {
        if flags & libc::O_CREAT != 0 {
            let (parent, name) = self.place(path).await?;
            let make = Make { parent, name, kind: FileKind::File, perm: 0o644, umask: 0, rdev: 0 };
            let flags = flags & !(libc::O_CREAT | libc::O_NOCTTY);
            let made = self.ask(&format!("create {path}"), |tree| tree.create(root(), make, flags)).await?;
            return Ok(File::new(self, made.entry.attr.ino, made.opened.fh, made.opened.mode, flags));
        }
        let ino = self.find(path).await?;
        self.open_ino(ino, flags).await
    }

    /// `open(2)` of an inode that is known.
    pub async fn open_ino(&self, ino: Ino, flags: i32) -> FsResult<File> {
        let plain = flags & !libc::O_TRUNC;
        let opened =
            self.request("open", |tree| tree.try_open(ino, plain), |tree| tree.open(ino, plain)).await?;
        let file = File::new(self, ino, opened.fh, opened.mode, flags);
        if flags & libc::O_TRUNC != 0 {
            file.truncate(0).await?;
        }
        Ok(file)
    }

    /// Makes a file with this content, and closes it.
    pub async fn write_file(&self, path: &str, data: &[u8]) -> FsResult<()> {
        let file = self.open(path, libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC).await?;
        file.write_at(0, data).await?;
        file.close().await
    }

    /// The whole content of a file.
    pub async fn read_file(&self, path: &str) -> FsResult<Vec<u8>> {
        let file = self.open(path, libc::O_RDONLY).await?;
        let data = file.read_all().await?;
        file.close().await?;
        Ok(data)
    }
}

/// An open file. Dropped without [`File::close`], it stays open.
pub struct File {
    mount: Mount,
    pub ino: Ino,
    fh: Fh,
    /// How the kernel was told to treat it.
    pub mode: OpenMode,
    flags: i32,
    /// For locks by `fcntl`, and by `flock`.
    owner: u64,
}

impl File {
    fn new(mount: &Mount, ino: Ino, fh: Fh, mode: OpenMode, flags: i32) -> File {
        File { mount: mount.clone(), ino, fh, mode, flags, owner: mount.new_owner() }
    }

    /// Where it is open.
    #[must_use]
    pub fn mount(&self) -> &Mount {
        &self.mount
    }

    /// The owner of this descriptor's locks.
    #[must_use]
    pub fn owner(&self, family: LockFamily) -> Owner {
        Owner(LockOwner { family, owner: self.owner })
    }

    /// `pread`: fewer bytes only at the end of the file.
    pub async fn read_at(&self, offset: u64, length: usize) -> FsResult<Vec<u8>> {
        let mut out = Vec::with_capacity(length);
        while out.len() < length {
            let size = u32::try_from(IO_MAX.min(length - out.len())).expect("at most 1 MiB");
            let at = offset + out.len() as u64;
            let read = ReadAt { ino: self.ino, fh: self.fh, offset: at, size, flags: self.flags };
            let now = |tree: &Tree| tree.try_read(&read);
            let data = self.mount.request("read", now, |tree| tree.read(read)).await?;
            assert!(data.len() <= size as usize, "a read of {size} bytes answers {}", data.len());
            append(&mut out, &data);
            if data.len() < size as usize {
                break;
            }
        }
        Ok(out)
    }

    /// Everything up to the end of the file.
    pub async fn read_all(&self) -> FsResult<Vec<u8>> {
        let mut out = Vec::new();
        loop {
            let more = self.read_at(out.len() as u64, IO_MAX).await?;
            out.extend_from_slice(&more);
            if more.len() < IO_MAX {
                return Ok(out);
            }
        }
    }

    /// `pwrite`, or with `O_APPEND` a write at the end, of at most 1 MiB in one request.
    pub async fn write_at(&self, offset: u64, data: &[u8]) -> FsResult<()> {
        for (index, part) in data.chunks(IO_MAX).enumerate() {
            let offset = offset + (index * IO_MAX) as u64;
            let write = WriteAt {
                ino: self.ino,
                fh: self.fh,
                offset,
                flags: self.flags,
                from_mapping: false,
                kill_suidgid: false,
            };
            let now = |tree: &Tree| tree.try_write(&root(), &write, part);
            let bytes = Bytes::copy_from_slice(part);
            let written = self.mount.request("write", now, |tree| tree.write(root(), write, bytes)).await?;
            assert_eq!(written as usize, part.len(), "a write takes all or fails");
        }
        Ok(())
    }

    /// `write` on a descriptor with `O_APPEND`.
    pub async fn append(&self, data: &[u8]) -> FsResult<()> {
        assert!(self.flags & libc::O_APPEND != 0 && data.len() <= IO_MAX);
        self.write_at(0, data).await
    }

    pub async fn fsync(&self) -> FsResult<()> {
        let (ino, fh) = (self.ino, self.fh);
        self.mount.ask("fsync", |tree| tree.fsync(ino, fh, false)).await
    }

    /// `fstat`.
    pub async fn stat(&self) -> FsResult<Attr> {
        let (ino, fh) = (self.ino, Some(self.fh));
        let now = |tree: &Tree| tree.try_getattr(&root(), ino, fh);
        Ok(self.mount.request("fstat", now, |tree| tree.getattr(root(), ino, fh)).await?.attr)
    }

    /// `ftruncate`.
    pub async fn truncate(&self, size: u64) -> FsResult<Attr> {
        let (ino, fh) = (self.ino, Some(self.fh));
        let set = SetAttr { size: Some(size), ..SetAttr::default() };
        Ok(self.mount.ask("ftruncate", |tree| tree.setattr(root(), ino, fh, set)).await?.attr)
    }

    pub async fn fallocate(&self, mode: FallocateMode, offset: u64, length: u64) -> FsResult<()> {
        let (ino, fh) = (self.ino, self.fh);
        self.mount.ask("fallocate", |tree| tree.fallocate(root(), ino, fh, mode, offset, length)).await
    }

    /// `copy_file_range` within a mount; answers how many bytes.
    pub async fn copy_to(&self, offset: u64, to: &File, to_offset: u64, length: u64) -> FsResult<u64> {
        let copy = CopyRange {
            from: self.ino,
            from_fh: self.fh,
            from_offset: offset,
            to: to.ino,
            to_fh: to.fh,
            to_offset,
            length,
        };
        self.mount.ask("copy_file_range", |tree| tree.copy_range(root(), copy)).await
    }

    /// Sets or releases a lock; a conflict is `WouldBlock`.
    pub async fn try_lock(&self, lock: LockRequest) -> FsResult<()> {
        self.set_lock(lock, false).await
    }

    /// Sets a lock, and waits for it.
    pub async fn lock(&self, lock: LockRequest) -> FsResult<()> {
        self.set_lock(lock, true).await
    }

    async fn set_lock(&self, lock: LockRequest, wait: bool) -> FsResult<()> {
        let (ino, fh) = (self.ino, self.fh);
        let interrupt = Arc::new(Interrupts::default()).register(self.owner, std::process::id());
        self.mount.ask("lock", |tree| tree.setlk(root(), ino, fh, lock, wait, interrupt)).await
    }

    /// `F_GETLK`.
    pub async fn conflict(&self, lock: LockRequest) -> FsResult<Option<LockInfo>> {
        let (ino, fh) = (self.ino, self.fh);
        self.mount.ask("getlk", |tree| tree.getlk(root(), ino, fh, lock)).await
    }

    /// `close`: FLUSH, and RELEASE even if that fails.
    pub async fn close(self) -> FsResult<()> {
        let (ino, fh, owner, flags) = (self.ino, self.fh, self.owner, self.flags);
        let now = |tree: &Tree| tree.try_flush(ino, fh, owner);
        let flushed = self.mount.request("flush", now, |tree| tree.flush(root(), ino, fh, owner)).await;
        let now = |tree: &Tree| tree.try_release(ino, fh, flags, Some(owner));
        self.mount.request("release", now, |tree| tree.release(ino, fh, flags, Some(owner))).await?;
        flushed
    }
}

fn append(out: &mut Vec<u8>, data: &ReadData) {
    for segment in data.segments() {
        match segment {
            Segment::Data(bytes) => out.extend_from_slice(bytes),
            Segment::Zeros(length) => out.resize(out.len() + length, 0),
        }
    }
}
