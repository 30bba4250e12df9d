//! The POSIX view of the mount: open files, names, attributes, data. Knows nothing of FUSE requests
//! ([`ops`] implements [`crate::fuse::ops::FuseOps`]) nor of connections ([`crate::client`]).

pub mod atime;
pub mod attr;
pub mod away;
pub mod complaint;
pub mod dirs;
pub mod events;
pub mod file_locks;
pub mod flush;
pub mod full;
pub mod handle;
pub mod inode;
pub mod locks;
pub mod names;
pub mod namespace;
pub mod open;
pub mod ops;
pub mod read;
pub mod readdir;
pub mod recent;
pub mod room;
pub mod space;
pub mod sync;
pub mod unlinked;
pub mod write;

use crate::cache::data::PieceCache;
use crate::cache::policy::CachePolicy;
use crate::client::{DataClient, MetaClient, OpTicket};
use crate::fuse::gate::ReplyGate;
use crate::fuse::notify::{Notice, NotifyThreads};
use crate::fuse::ops::Fh;
use crate::writeback::buffer::WriteBuffer;
use away::LastKnown;
use cairn_common::attr::{Attr, Caller};
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{Ino, Seq};
use cairn_common::limits::OPENS_MAX;
use cairn_common::namespace::op::{OpBody, OpReply};
use complaint::Complaint;
use dirs::Dirs;
use flush::Progress;
use handle::{File, HandleTable};
use inode::{Inode, InodeTable, State};
use locks::LockWaiters;
use lru::LruCache;
use names::Names;
use parking_lot::{Mutex, MutexGuard};
use recent::Recent;
use room::Room;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use unlinked::Unlinked;

/// Closed files whose pages the kernel may still hold.
const CLOSED_REMEMBERED: NonZeroUsize = NonZeroUsize::new(64 << 10).expect("not zero");

/// How often a flush that must not wait for better times is tried; each try ends with a failure of its own.
const LAST_TRIES: u32 = 5;

/// What a mount is made with.
#[derive(Clone, Debug)]
pub struct VfsConfig {
    /// The directory that is shown as the root of the mount.
    pub root: Ino,
    /// Memory for written data that is not stored yet.
    pub dirty_bytes: usize,
    /// Memory for data read.
    pub cache_bytes: usize,
    /// Written data is stored at the latest after this time.
    pub flush_after: Duration,
    /// What another mount waits for is stored in this time, or it is told to ask again: a data daemon may be away for long, and the
    /// server evicts a mount that says nothing.
    pub give_back: Duration,
    /// An fsync of at most so much data puts it into the operation instead of a block.
    pub inline_max: u64,
    /// Most bytes of one file that are in the metadata by such operations. From half of it on they are moved into
    /// a block in the background; who would have more waits for that.
    pub inline_per_file: u64,
    /// Most files that are open or have data to store: the server is told of no more when the session is taken up again.
    pub opens_max: usize,
    /// When reads change the access time.
    pub atime: crate::options::AtimeMode,
}

impl Default for VfsConfig {
    fn default() -> VfsConfig {
        VfsConfig {
            root: Ino::ROOT,
            dirty_bytes: 256 << 20,
            cache_bytes: 256 << 20,
            flush_after: Duration::from_secs(1),
            give_back: Duration::from_secs(60),
            inline_max: 32 << 10,
            inline_per_file: 4 << 20,
            opens_max: OPENS_MAX,
            atime: crate::options::AtimeMode::Relatime,
        }
    }
}

/// A mounted tree.
pub struct Vfs<M, D> {
    meta: Arc<M>,
    data: Arc<D>,
    config: VfsConfig,
    runtime: Handle,
    pieces: Arc<PieceCache<D>>,
    buffer: WriteBuffer,
    inodes: InodeTable,
    handles: HandleTable,
    policy: CachePolicy,
    recent: Recent,
    dirs: Dirs,
    names: Names,
    lock_waiters: LockWaiters,
    unlinked: Unlinked,
    /// Held while dirty data is cut or taken into a commit and the operation is submitted: the order of
    /// operations is then the order of effects. Taken before any inode's lock.
    order: Mutex<()>,
    /// Grows when an operation changed attributes that its answer does not tell.
    attr_epoch: AtomicU64,
    /// Data version that the kernel's pages of a closed file stand for.
    closed: Mutex<LruCache<Ino, u64>>,
    progress: watch::Sender<Progress>,
    room: Mutex<Room>,
    /// What the log has said of data that is not stored.
    complaint: Mutex<Complaint>,
    /// Held by who asks for the free space.
    asking: tokio::sync::Mutex<()>,
    /// Writers that wait for memory, in order.
    writers: tokio::sync::Mutex<()>,
    commits: AtomicU64,
    /// An inline commit has been answered.
    inline_settled: Notify,
    /// Access times under way: one per open handle at most.
    touched: mpsc::UnboundedSender<atime::Sent>,
    /// For whoever looks at the mount as a whole while the server is away.
    last: LastKnown,
    notify: OnceLock<NotifyThreads>,
    /// Holds back what answers under way allow the kernel to cache.
    gate: Arc<ReplyGate>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl<M: MetaClient, D: DataClient> Vfs<M, D> {
    /// A tree over `meta` and `data`, with its background tasks on `runtime`.
    #[must_use]
    pub fn new(meta: Arc<M>, data: Arc<D>, config: VfsConfig, runtime: Handle) -> Arc<Vfs<M, D>> {
        let (touched, sent) = mpsc::unbounded_channel();
        let vfs = Arc::new(Vfs {
            pieces: Arc::new(PieceCache::new(Arc::clone(&data), runtime.clone(), config.cache_bytes)),
            buffer: WriteBuffer::new(config.dirty_bytes),
            meta,
            data,
            config,
            runtime,
            inodes: InodeTable::default(),
            handles: HandleTable::default(),
            policy: CachePolicy::default(),
            recent: Recent::default(),
            dirs: Dirs::default(),
            names: Names::default(),
            lock_waiters: LockWaiters::default(),
            unlinked: Unlinked::default(),
            order: Mutex::new(()),
            attr_epoch: AtomicU64::new(0),
            closed: Mutex::new(LruCache::new(CLOSED_REMEMBERED)),
            progress: watch::Sender::new(Progress::default()),
            room: Mutex::default(),
            complaint: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            writers: tokio::sync::Mutex::new(()),
            commits: AtomicU64::new(0),
            inline_settled: Notify::new(),
            touched,
            last: LastKnown::default(),
            notify: OnceLock::new(),
            gate: Arc::default(),
            cancel: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        flush::start(&vfs, sent);
        vfs
    }

    /// Says how to reach the kernel, once it is mounted. Until then nothing is cached in it.
    pub async fn attach_kernel(&self, threads: NotifyThreads) {
        let works = threads.send(Notice::Epoch).await.is_ok();
        if self.notify.set(threads).is_ok() {
            self.policy.set_epoch_works(works);
        }
    }

    /// Stores everything, waits until it is durable, and ends the background tasks.
    ///
    /// # Errors
    /// What could not be stored: it is lost now.
    pub async fn shutdown(&self) -> FsResult<()> {
        self.discard_all();
        let stored = self.store_everything().await;
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        stored
    }

    /// Everything that was written and changed so far is on stable storage.
    async fn store_everything(&self) -> FsResult<()> {
        let mut stored = self.flush_all().await;
        for _ in 0..LAST_TRIES {
            if stored.is_ok() {
                break;
            }
            stored = self.flush_all().await;
        }
        if stored.is_err() && !self.inodes.all().iter().any(|inode| inode.lock().is_busy()) {
            // All that could not be stored is inside the metadata already, and stays there.
            for inode in self.inodes.all() {
                self.free_stored(&mut inode.lock(), 0, u64::MAX);
                self.retire(inode.ino);
            }
            stored = Ok(());
        }
        let synced = self.meta.sync(self.meta.last_submitted()).await;
        stored.and(synced)
    }

    /// Files with data that is not stored, for the log: what can be said of each, in one line.
    #[must_use]
    pub fn unstored(&self) -> Vec<String> {
        let line = |inode: Arc<Inode>| {
            let state = inode.lock();
            let bytes = state.dirty.unstored_bytes();
            let name = state.name.as_ref().map(|name| String::from_utf8_lossy(name).into_owned());
            let of = name.map_or_else(String::new, |name| format!("'{name}', "));
            (bytes > 0 && !state.unlinked).then(|| format!("{of}inode {}: {bytes} bytes", inode.ino))
        };
        self.inodes.all().into_iter().filter_map(line).collect()
    }

    /// An open file, for work on its data.
    fn file(&self, fh: Fh) -> FsResult<Arc<File>> {
        let file = self.handles.file(fh).ok_or(FsError::BadHandle)?;
        if file.session == self.meta.session() { Ok(file) } else { Err(FsError::Evicted) }
    }

    /// An open file that may be written.
    fn writable_file(&self, fh: Fh) -> FsResult<Arc<File>> {
        self.file(fh).and_then(|file| if file.writable { Ok(file) } else { Err(FsError::BadHandle) })
    }

    /// Tells the kernel, if there is one.
    async fn notify(&self, notice: Notice) {
        if let Some(threads) = self.notify.get()
            && let Err(error) = threads.send(notice.clone()).await
        {
            tracing::debug!(%error, ?notice, "notify kernel");
        }
    }

    /// The server's number for the kernel's.
    fn to_server(&self, ino: Ino) -> Ino {
        if ino == Ino::ROOT { self.config.root } else { ino }
    }

    /// The kernel's number for the server's.
    fn to_kernel(&self, ino: Ino) -> Ino {
        if ino == self.config.root { Ino::ROOT } else { ino }
    }

    /// Submits an operation on an inode's data: `prepare` changes what is known here to how things are after it.
    fn submit_on(
        &self,
        caller: &Caller,
        ino: Ino,
        body: OpBody,
        prepare: impl FnOnce(&mut State),
    ) -> (OpTicket, Option<Arc<Inode>>) {
        let _order = self.order.lock();
        let inode = self.inodes.get(ino);
        let state = inode.as_ref().map(|inode| {
            let mut state = inode.lock();
            prepare(&mut state);
            state.pending += 1;
            state.stamp += 1;
            state
        });
        let ticket = self.meta.submit(caller, body);
        drop(state);
        (ticket, inode)
    }

    /// Waits for an operation of [`Vfs::submit_on`].
    async fn settle(&self, ino: Ino, ticket: OpTicket, inode: Option<Arc<Inode>>) -> FsResult<OpReply> {
        let seq = ticket.seq;
        let result = ticket.await;
        self.recent.mark(ino);
        let Some(inode) = inode else { return result };
        let mut state = inode.lock();
        state.pending -= 1;
        match result.as_ref().map(attr_of) {
            Ok(Some(attr)) => state.learn_attr(attr, seq, self.attr_epoch.load(Ordering::SeqCst)),
            Ok(None) => state.stamp += 1,
            // What was prepared did not happen.
            Err(_) => state.drop_cached(),
        }
        drop(state);
        self.retire(ino);
        result
    }

    /// Takes in attributes that an operation replied.
    fn note_attr(&self, attr: Attr, seq: Seq) {
        self.recent.mark(attr.ino);
        self.dirs.replace(attr, seq);
        if let Some(inode) = self.inodes.get(attr.ino) {
            inode.lock().learn_attr(attr, seq, self.attr_epoch.load(Ordering::SeqCst));
        }
    }

    /// Forgets `ino` if nothing keeps it, and tells the server of its closes.
    fn retire(&self, ino: Ino) {
        if let Some((item, attr)) = self.inodes.retire(ino) {
            if let Some(attr) = attr {
                self.closed.lock().put(ino, attr.data_version);
            }
            self.meta.close(item);
        }
    }

    /// Bytes of `start..end` that the server has inside its metadata stay there.
    fn free_stored(&self, state: &mut MutexGuard<'_, State>, start: u64, end: u64) {
        let buffer = &self.buffer;
        state.dirty.remove_stored(start, end, &mut |segment, bytes| buffer.release(segment, bytes));
    }

    fn free_dirty(&self, state: &mut MutexGuard<'_, State>, start: u64, end: u64) {
        let buffer = &self.buffer;
        state.dirty.remove(start, end, &mut |segment, bytes| buffer.release(segment, bytes));
    }
}

/// The attributes in a reply, if it has those of one inode.
fn attr_of(reply: &OpReply) -> Option<Attr> {
    match reply {
        OpReply::Attr(attr)
        | OpReply::Entry { attr, .. }
        | OpReply::Appended { attr, .. }
        | OpReply::Copied { attr, .. } => Some(*attr),
        _ => None,
    }
}
