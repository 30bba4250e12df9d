//! A tiny in-memory file system behind `FuseOps`, with a record of what it was asked. Names steer it:
//! - `hold*`: lookups and mkdirs of it wait until [`MemFs::release_held`];
//! - `panic*`: lookups of it panic, `panic-now` on the FUSE thread;
//! - `pieces*`: reads of it are answered in many segments.

use bytes::Bytes;
use cairn_common::attr::{Attr, Caller, FileKind, SetAttr, SetTime, Timestamp};
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::Ino;
use cairn_common::namespace::op::{FallocateMode, LockRequest, LockType, Name, XattrMode};
use cairn_mountd::fuse::gate::ReplyGate;
use cairn_mountd::fuse::interrupt::Interrupt;
use cairn_mountd::fuse::ops::{
    AttrReply, CopyRange, Created, DirEntry, Entry, Fh, FuseOps, LockInfo, Lookup, Make, OpenMode, Opened,
    ReadAt, ReadData, ReadDir, Seek, StatFs, WriteAt,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

const TTL: Duration = Duration::from_secs(3600);

#[derive(Clone)]
struct Node {
    attr: Attr,
    data: Vec<u8>,
    children: BTreeMap<Name, Ino>,
    xattrs: BTreeMap<Bytes, Bytes>,
    locks: Vec<LockRequest>,
    name: Name,
}

#[derive(Default)]
struct Tree {
    nodes: HashMap<Ino, Node>,
    lookups: HashMap<Ino, i64>,
    open: HashMap<Ino, i64>,
    record: Vec<String>,
}

/// See the module.
pub struct MemFs {
    tree: Mutex<Tree>,
    recorded: Condvar,
    next: AtomicU64,
    fast: bool,
    held: AtomicBool,
    hold_lookups: AtomicBool,
    released: Notify,
    pub gate: Arc<ReplyGate>,
    unlocked: Notify,
}

fn now() -> Timestamp {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp { secs: i64::try_from(now.as_secs()).unwrap(), nanos: now.subsec_nanos() }
}

fn attr(ino: Ino, kind: FileKind, perm: u16, caller: &Caller) -> Attr {
    let (time, size) = (now(), 0);
    Attr {
        ino,
        kind,
        perm,
        uid: caller.uid,
        gid: caller.gid,
        nlink: if kind == FileKind::Dir { 2 } else { 1 },
        rdev: 0,
        size,
        allocated: 0,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
        data_version: 0,
    }
}

impl Tree {
    fn node(&self, ino: Ino) -> FsResult<&Node> {
        self.nodes.get(&ino).ok_or(FsError::Stale)
    }

    fn node_mut(&mut self, ino: Ino) -> FsResult<&mut Node> {
        self.nodes.get_mut(&ino).ok_or(FsError::Stale)
    }

    fn entry(&mut self, ino: Ino) -> FsResult<Entry> {
        let attr = self.node(ino)?.attr;
        *self.lookups.entry(ino).or_default() += 1;
        Ok(Entry { attr, generation: 0, entry_ttl: TTL, attr_ttl: TTL })
    }

    fn child(&self, parent: Ino, name: &[u8]) -> Option<Ino> {
        self.nodes.get(&parent)?.children.get(name).copied()
    }

    fn opened(&mut self, ino: Ino) -> Opened {
        *self.open.entry(ino).or_default() += 1;
        Opened { fh: Fh(ino.0), mode: OpenMode { keep_cache: true, ..OpenMode::default() } }
    }

    fn conflict(&self, ino: Ino, wanted: &LockRequest) -> Option<LockRequest> {
        let overlaps = |held: &&LockRequest| held.start <= wanted.end && wanted.start <= held.end;
        let excludes = |held: &&LockRequest| held.kind == LockType::Write || wanted.kind == LockType::Write;
        let foreign =
            |held: &&LockRequest| held.owner.family == wanted.owner.family && held.owner != wanted.owner;
        self.nodes.get(&ino)?.locks.iter().filter(foreign).filter(overlaps).find(excludes).copied()
    }
}

impl MemFs {
    /// `fast`: answer in the `try_` forms where there are any.
    pub fn new(fast: bool) -> Arc<MemFs> {
        let mut tree = Tree::default();
        let root = attr(Ino::ROOT, FileKind::Dir, 0o777, &Caller::default());
        tree.nodes.insert(Ino::ROOT, MemFs::node(root, Name::new()));
        Arc::new(MemFs {
            tree: Mutex::new(tree),
            recorded: Condvar::new(),
            next: AtomicU64::new(2),
            fast,
            held: AtomicBool::new(true),
            hold_lookups: AtomicBool::new(true),
            released: Notify::new(),
            gate: Arc::default(),
            unlocked: Notify::new(),
        })
    }

    fn node(attr: Attr, name: Name) -> Node {
        let (children, xattrs) = (BTreeMap::new(), BTreeMap::new());
        Node { attr, data: Vec::new(), children, xattrs, locks: Vec::new(), name }
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap()
    }

    fn record(&self, what: String) {
        self.tree().record.push(what);
        self.recorded.notify_all();
    }

    /// Everything recorded so far, and forgets it.
    pub fn take_record(&self) -> Vec<String> {
        std::mem::take(&mut self.tree().record)
    }

    /// Waits until something recorded starts with `prefix`.
    pub fn wait_for(&self, prefix: &str) {
        self.wait_until(prefix, |tree| tree.record.iter().any(|what| what.starts_with(prefix)));
    }

    /// Waits until the kernel holds `lookups` lookups of the child of the root.
    pub fn wait_for_lookups(&self, name: &str, lookups: i64) {
        self.wait_until(name, |tree| {
            let ino = tree.child(Ino::ROOT, name.as_bytes());
            ino.is_some_and(|ino| tree.lookups.get(&ino).copied().unwrap_or(0) == lookups)
        });
    }

    fn wait_until(&self, what: &str, condition: impl Fn(&Tree) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut tree = self.tree();
        while !condition(&tree) {
            assert!(Instant::now() < deadline, "waited for {what:?}, have {:?}", tree.record);
            tree = self.recorded.wait_timeout(tree, Duration::from_millis(50)).unwrap().0;
        }
    }

    /// Lets everything go on that is held.
    pub fn release_held(&self) {
        self.held.store(false, Ordering::SeqCst);
        self.released.notify_waiters();
    }

    /// Holds again what is made, but not lookups.
    pub fn hold_made(&self) {
        self.hold_lookups.store(false, Ordering::SeqCst);
        self.held.store(true, Ordering::SeqCst);
    }

    /// Makes an empty file behind the kernel's back.
    pub fn add_file(&self, name: &'static str) {
        let (name, caller) = (Name::from_static(name.as_bytes()), Caller::default());
        let node = |ino| MemFs::node(attr(ino, FileKind::File, 0o644, &caller), name.clone());
        let ino = self.insert(Ino::ROOT, &name, node).unwrap().attr.ino;
        self.tree().lookups.remove(&ino);
    }

    /// Writes behind the kernel's back.
    pub fn change_data(&self, ino: u64, data: &[u8]) {
        let mut tree = self.tree();
        let node = tree.node_mut(Ino(ino)).unwrap();
        node.data = data.to_vec();
        node.attr.size = data.len() as u64;
        node.attr.mtime = now();
    }

    /// How often the kernel has something open.
    pub fn opens(&self) -> i64 {
        self.tree().open.values().sum()
    }

    async fn hold(&self, name: &[u8]) {
        if !name.starts_with(b"hold") {
            return;
        }
        let released = self.released.notified();
        self.record(format!("held {}", String::from_utf8_lossy(name)));
        if self.held.load(Ordering::SeqCst) {
            released.await;
        }
    }

    fn insert(&self, parent: Ino, name: &Name, node: impl FnOnce(Ino) -> Node) -> FsResult<Entry> {
        let mut tree = self.tree();
        if tree.child(parent, name).is_some() {
            return Err(FsError::Exists);
        }
        let ino = Ino(self.next.fetch_add(1, Ordering::SeqCst));
        tree.nodes.insert(ino, node(ino));
        tree.node_mut(parent)?.children.insert(name.clone(), ino);
        tree.entry(ino)
    }

    fn remove(&self, parent: Ino, name: &Name) -> FsResult<()> {
        let mut tree = self.tree();
        let ino = tree.node_mut(parent)?.children.remove(name).ok_or(FsError::NotFound)?;
        let node = tree.node_mut(ino)?;
        node.attr.nlink -= 1;
        Ok(())
    }

    fn write_now(&self, write: &WriteAt, data: &[u8]) -> FsResult<u32> {
        let mut tree = self.tree();
        if write.kill_suidgid {
            tree.record.push("write kills suid".into());
        }
        let node = tree.node_mut(write.ino)?;
        let start = usize::try_from(write.offset).unwrap();
        if node.data.len() < start + data.len() {
            node.data.resize(start + data.len(), 0);
        }
        node.data[start..start + data.len()].copy_from_slice(data);
        node.attr.size = node.data.len() as u64;
        Ok(u32::try_from(data.len()).unwrap())
    }

    fn read_now(&self, read: &ReadAt) -> FsResult<ReadData> {
        let tree = self.tree();
        let node = tree.node(read.ino)?;
        let start = node.data.len().min(usize::try_from(read.offset).unwrap());
        let end = node.data.len().min(start + read.size as usize);
        let bytes = &node.data[start..end];
        if !node.name.starts_with(b"pieces") {
            return Ok(Bytes::copy_from_slice(bytes).into());
        }
        // `pieces-N`: segments of N bytes; zeros are sent as such.
        let size: usize = std::str::from_utf8(&node.name[7..]).unwrap().parse().unwrap();
        let mut out = ReadData::default();
        for piece in bytes.chunks(size) {
            if piece.iter().all(|byte| *byte == 0) {
                out.push_zeros(piece.len());
            } else {
                out.push(Bytes::copy_from_slice(piece));
            }
        }
        Ok(out)
    }

    fn list_now(&self, read: &ReadDir) -> FsResult<Vec<DirEntry>> {
        let tree = self.tree();
        let dot = |name: &'static [u8], cookie| DirEntry {
            name: Name::from_static(name),
            ino: read.ino,
            kind: FileKind::Dir,
            cookie,
            child: None,
        };
        let children = tree.node(read.ino)?.children.iter().zip(3..).map(|((name, ino), cookie)| {
            let attr = tree.nodes[ino].attr;
            let child = Entry { attr, generation: 0, entry_ttl: TTL, attr_ttl: TTL };
            let child = read.plus.then_some(child);
            DirEntry { name: name.clone(), ino: *ino, kind: attr.kind, cookie, child }
        });
        let all = [dot(b".", 1), dot(b"..", 2)].into_iter().chain(children);
        Ok(all.skip_while(|entry| entry.cookie <= read.cookie).take(500).collect())
    }
}

impl FuseOps for MemFs {
    fn gate(&self) -> Option<Arc<ReplyGate>> {
        Some(Arc::clone(&self.gate))
    }

    fn try_lookup(&self, _caller: &Caller, parent: Ino, name: &[u8]) -> Option<FsResult<Lookup>> {
        assert_ne!(name, b"panic-now", "asked for");
        if !self.fast || name.starts_with(b"hold") || name.starts_with(b"panic") {
            return None;
        }
        let mut tree = self.tree();
        Some(match tree.child(parent, name) {
            Some(ino) => tree.entry(ino).map(Lookup::Found),
            None => Ok(Lookup::Missing { ttl: TTL }),
        })
    }

    async fn lookup(self: Arc<Self>, _caller: Caller, parent: Ino, name: Name) -> FsResult<Lookup> {
        assert!(!name.starts_with(b"panic"), "asked for");
        if self.hold_lookups.load(Ordering::SeqCst) {
            self.hold(&name).await;
        }
        let mut tree = self.tree();
        match tree.child(parent, &name) {
            Some(ino) => tree.entry(ino).map(Lookup::Found),
            None => Err(FsError::NotFound),
        }
    }

    fn forget(&self, ino: Ino, count: u64) {
        *self.tree().lookups.entry(ino).or_default() -= i64::try_from(count).unwrap();
        self.recorded.notify_all();
    }

    async fn make(self: Arc<Self>, caller: Caller, make: Make) -> FsResult<Entry> {
        self.record(format!("making {}", String::from_utf8_lossy(&make.name)));
        self.hold(&make.name[..]).await;
        let perm = make.perm & !make.umask;
        let node = |ino| {
            let mut attr = attr(ino, make.kind, perm, &caller);
            attr.rdev = make.rdev;
            MemFs::node(attr, make.name.clone())
        };
        let made = self.insert(make.parent, &make.name, node);
        self.record(format!("made {}", String::from_utf8_lossy(&make.name)));
        made
    }

    async fn symlink(
        self: Arc<Self>,
        caller: Caller,
        parent: Ino,
        name: Name,
        target: Bytes,
    ) -> FsResult<Entry> {
        self.insert(parent, &name, |ino| {
            let mut node = MemFs::node(attr(ino, FileKind::Symlink, 0o777, &caller), name.clone());
            node.attr.size = target.len() as u64;
            node.data = target.to_vec();
            node
        })
    }

    async fn readlink(self: Arc<Self>, ino: Ino) -> FsResult<Bytes> {
        Ok(self.tree().node(ino)?.data.clone().into())
    }

    async fn link(self: Arc<Self>, _caller: Caller, ino: Ino, parent: Ino, name: Name) -> FsResult<Entry> {
        let mut tree = self.tree();
        tree.node_mut(ino)?.attr.nlink += 1;
        tree.node_mut(parent)?.children.insert(name, ino);
        tree.entry(ino)
    }

    async fn unlink(self: Arc<Self>, _caller: Caller, parent: Ino, name: Name) -> FsResult<()> {
        self.remove(parent, &name)
    }

    async fn rmdir(self: Arc<Self>, _caller: Caller, parent: Ino, name: Name) -> FsResult<()> {
        self.remove(parent, &name)
    }

    async fn rename(
        self: Arc<Self>,
        _caller: Caller,
        from: (Ino, Name),
        to: (Ino, Name),
        flags: u32,
    ) -> FsResult<()> {
        self.record(format!("rename flags {flags}"));
        let mut tree = self.tree();
        let source = tree.child(from.0, &from.1).ok_or(FsError::NotFound)?;
        let target = tree.child(to.0, &to.1);
        tree.node_mut(to.0)?.children.insert(to.1, source);
        let children = &mut tree.node_mut(from.0)?.children;
        match target {
            Some(target) if flags == libc::RENAME_EXCHANGE => children.insert(from.1, target),
            _ => children.remove(&from.1),
        };
        Ok(())
    }

    async fn getattr(self: Arc<Self>, _caller: Caller, ino: Ino, _fh: Option<Fh>) -> FsResult<AttrReply> {
        Ok(AttrReply { attr: self.tree().node(ino)?.attr, ttl: TTL })
    }

    async fn setattr(
        self: Arc<Self>,
        _caller: Caller,
        ino: Ino,
        _fh: Option<Fh>,
        set: SetAttr,
    ) -> FsResult<AttrReply> {
        self.record(format!("setattr size={:?} kill={}", set.size, set.kill_suidgid));
        let mut tree = self.tree();
        let node = tree.node_mut(ino)?;
        node.attr.perm = set.perm.unwrap_or(node.attr.perm);
        if let Some(size) = set.size {
            node.data.resize(usize::try_from(size).unwrap(), 0);
            node.attr.size = size;
        }
        if let Some(SetTime::At(time)) = set.mtime {
            node.attr.mtime = time;
        }
        Ok(AttrReply { attr: node.attr, ttl: TTL })
    }

    async fn getxattr(self: Arc<Self>, _caller: Caller, ino: Ino, name: Bytes) -> FsResult<Bytes> {
        self.tree().node(ino)?.xattrs.get(&name).cloned().ok_or(FsError::NoAttr)
    }

    async fn listxattr(self: Arc<Self>, _caller: Caller, ino: Ino) -> FsResult<Vec<Bytes>> {
        Ok(self.tree().node(ino)?.xattrs.keys().cloned().collect())
    }

    async fn setxattr(
        self: Arc<Self>,
        _caller: Caller,
        ino: Ino,
        name: Bytes,
        value: Bytes,
        mode: XattrMode,
    ) -> FsResult<()> {
        let mut tree = self.tree();
        let xattrs = &mut tree.node_mut(ino)?.xattrs;
        if mode == XattrMode::Create && xattrs.contains_key(&name) {
            return Err(FsError::Exists);
        }
        xattrs.insert(name, value);
        Ok(())
    }

    async fn removexattr(self: Arc<Self>, _caller: Caller, ino: Ino, name: Bytes) -> FsResult<()> {
        self.tree().node_mut(ino)?.xattrs.remove(&name).map(drop).ok_or(FsError::NoAttr)
    }

    async fn statfs(self: Arc<Self>) -> FsResult<StatFs> {
        let (bsize, frsize) = (4096, 4096);
        Ok(StatFs { blocks: 1000, bfree: 500, bavail: 400, files: 9, ffree: 8, bsize, frsize, namelen: 255 })
    }

    async fn create(self: Arc<Self>, caller: Caller, make: Make, flags: i32) -> FsResult<Created> {
        let existing = self.tree().child(make.parent, &make.name);
        let entry = match existing {
            Some(_) if flags & libc::O_EXCL != 0 => return Err(FsError::Exists),
            Some(ino) => self.tree().entry(ino)?,
            None => {
                self.record(format!("create {:o} umask {:o}", make.perm, make.umask));
                let perm = make.perm & !make.umask;
                let node = |ino| MemFs::node(attr(ino, FileKind::File, perm, &caller), make.name.clone());
                self.insert(make.parent, &make.name, node)?
            }
        };
        let opened = self.tree().opened(entry.attr.ino);
        Ok(Created { entry, opened })
    }

    async fn tmpfile(
        self: Arc<Self>,
        caller: Caller,
        _parent: Ino,
        perm: u16,
        umask: u16,
        flags: i32,
    ) -> FsResult<Created> {
        self.record(format!("tmpfile excl={}", flags & libc::O_EXCL != 0));
        let ino = Ino(self.next.fetch_add(1, Ordering::SeqCst));
        let mut attr = attr(ino, FileKind::File, perm & !umask, &caller);
        attr.nlink = 0;
        let mut tree = self.tree();
        tree.nodes.insert(ino, MemFs::node(attr, Name::new()));
        Ok(Created { entry: tree.entry(ino)?, opened: tree.opened(ino) })
    }

    async fn open(self: Arc<Self>, ino: Ino, flags: i32) -> FsResult<Opened> {
        assert_eq!(flags & libc::O_TRUNC, 0, "the kernel cuts by setattr");
        Ok(self.tree().opened(ino))
    }

    fn try_read(&self, read: &ReadAt) -> Option<FsResult<ReadData>> {
        self.fast.then(|| self.read_now(read))
    }

    async fn read(self: Arc<Self>, read: ReadAt) -> FsResult<ReadData> {
        self.read_now(&read)
    }

    fn try_write(&self, _caller: &Caller, write: &WriteAt, data: &[u8]) -> Option<FsResult<u32>> {
        self.fast.then(|| self.write_now(write, data))
    }

    async fn write(self: Arc<Self>, _caller: Caller, write: WriteAt, data: Bytes) -> FsResult<u32> {
        self.write_now(&write, &data)
    }

    async fn flush(self: Arc<Self>, _caller: Caller, ino: Ino, _fh: Fh, lock_owner: u64) -> FsResult<()> {
        let mut tree = self.tree();
        let posix = cairn_common::namespace::op::LockFamily::Posix;
        tree.node_mut(ino)?.locks.retain(|l| l.owner.owner != lock_owner || l.owner.family != posix);
        drop(tree);
        self.unlocked.notify_waiters();
        Ok(())
    }

    async fn release(
        self: Arc<Self>,
        ino: Ino,
        _fh: Fh,
        _flags: i32,
        flock_owner: Option<u64>,
    ) -> FsResult<()> {
        let mut tree = self.tree();
        *tree.open.entry(ino).or_default() -= 1;
        if let Some(owner) = flock_owner {
            let flock = cairn_common::namespace::op::LockFamily::Flock;
            tree.node_mut(ino)?.locks.retain(|l| l.owner.owner != owner || l.owner.family != flock);
        }
        drop(tree);
        self.unlocked.notify_waiters();
        self.record("release".into());
        Ok(())
    }

    async fn fsync(self: Arc<Self>, _ino: Ino, _fh: Fh, datasync: bool) -> FsResult<()> {
        self.record(format!("fsync datasync={datasync}"));
        Ok(())
    }

    async fn fallocate(
        self: Arc<Self>,
        _caller: Caller,
        _ino: Ino,
        _fh: Fh,
        mode: FallocateMode,
        offset: u64,
        length: u64,
    ) -> FsResult<()> {
        self.record(format!("fallocate {mode:?} {offset} {length}"));
        Ok(())
    }

    async fn seek(self: Arc<Self>, ino: Ino, _fh: Fh, offset: u64, seek: Seek) -> FsResult<u64> {
        let size = self.tree().node(ino)?.attr.size;
        match seek {
            _ if offset >= size => Err(FsError::NoData),
            Seek::Data => Ok(offset),
            Seek::Hole => Ok(size),
        }
    }

    async fn copy_range(self: Arc<Self>, _caller: Caller, copy: CopyRange) -> FsResult<u64> {
        self.record(format!("copy {}", copy.length));
        let (from, offset) = (self.tree().node(copy.from)?.data.clone(), copy.to_offset);
        let start = from.len().min(usize::try_from(copy.from_offset).unwrap());
        let end = from.len().min(start + usize::try_from(copy.length).unwrap());
        let (ino, fh) = (copy.to, copy.to_fh);
        let write = WriteAt { ino, fh, offset, flags: 0, from_mapping: false, kill_suidgid: false };
        self.write_now(&write, &from[start..end]).map(u64::from)
    }

    async fn opendir(self: Arc<Self>, _caller: Caller, ino: Ino, _flags: i32) -> FsResult<Opened> {
        Ok(self.tree().opened(ino))
    }

    fn try_readdir(&self, _caller: &Caller, read: &ReadDir) -> Option<FsResult<Vec<DirEntry>>> {
        self.fast.then(|| self.list_now(read))
    }

    async fn readdir(self: Arc<Self>, _caller: Caller, read: ReadDir) -> FsResult<Vec<DirEntry>> {
        self.list_now(&read)
    }

    fn entries_sent(&self, _read: &ReadDir, entries: &[DirEntry]) {
        let mut tree = self.tree();
        for child in entries.iter().filter_map(|entry| entry.child) {
            *tree.lookups.entry(child.attr.ino).or_default() += 1;
        }
    }

    async fn releasedir(self: Arc<Self>, ino: Ino, _fh: Fh, _flags: i32) -> FsResult<()> {
        *self.tree().open.entry(ino).or_default() -= 1;
        Ok(())
    }

    async fn store_all(self: Arc<Self>) -> FsResult<()> {
        self.record("store_all".into());
        Ok(())
    }

    async fn fsyncdir(self: Arc<Self>, _ino: Ino, _fh: Fh, _datasync: bool) -> FsResult<()> {
        self.record("fsyncdir".into());
        Ok(())
    }

    async fn getlk(
        self: Arc<Self>,
        _caller: Caller,
        ino: Ino,
        _fh: Fh,
        lock: LockRequest,
    ) -> FsResult<Option<LockInfo>> {
        let found = self.tree().conflict(ino, &lock);
        Ok(found.map(|held| LockInfo {
            write: held.kind == LockType::Write,
            start: held.start,
            end: held.end,
            pid: held.pid,
        }))
    }

    async fn setlk(
        self: Arc<Self>,
        _caller: Caller,
        ino: Ino,
        _fh: Fh,
        lock: LockRequest,
        wait: bool,
        interrupt: Interrupt,
    ) -> FsResult<()> {
        loop {
            let unlocked = self.unlocked.notified();
            {
                let mut tree = self.tree();
                if lock.kind == LockType::Unlock || tree.conflict(ino, &lock).is_none() {
                    let locks = &mut tree.node_mut(ino)?.locks;
                    locks.retain(|held| held.owner != lock.owner);
                    if lock.kind != LockType::Unlock {
                        locks.push(lock);
                    }
                    drop(tree);
                    self.unlocked.notify_waiters();
                    return Ok(());
                }
            }
            if !wait {
                return Err(FsError::WouldBlock);
            }
            self.record(format!("waits for a {:?} lock", lock.owner.family));
            tokio::select! {
                () = unlocked => {}
                () = interrupt.signalled() => return Err(FsError::Interrupted),
            }
        }
    }

    fn destroy(&self) {
        self.record("destroy".into());
    }
}
