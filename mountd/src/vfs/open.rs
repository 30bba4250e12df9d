//! Opening, making and closing files: who else may touch the data, and what the kernel may keep of it.

use super::Vfs;
use super::handle::{File, Handle};
use super::inode::{Inode, State};
use crate::cache::extent::ExtentCache;
use crate::client::{DataClient, MetaClient};
use crate::fuse::ops::{Fh, Make, OpenMode, Opened};
use cairn_common::attr::{Attr, Caller, SetAttr};
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{Ino, Seq};
use cairn_common::namespace::op::{Create, LockFamily, LockOwner, OpBody, OpReply};
use cairn_common::proto::meta::{DataLease, OpenReply};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How often an answer to `open` that a recall overtook is asked for again.
const TRIES: u32 = 16;

/// Whether `flags` allow writing.
fn may_write(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

impl<M: MetaClient, D: DataClient> Vfs<M, D> {
    /// Opens a file that this mount has open in a way that covers this one: nobody else need be asked.
    pub(super) fn open_again(&self, ino: Ino, flags: i32) -> Option<Opened> {
        let inode = self.inodes.get(ino)?;
        let mut state = inode.lock();
        if state.unlinked && state.handles == 0 {
            // Its data may be gone.
            return None;
        }
        let covered = state.registered.opens > 0 && (!may_write(flags) || state.registered.writers > 0);
        if !covered || !state.is_cached() || state.attr.is_none() {
            return None;
        }
        let fh = self.add_handle(&inode, &mut state, may_write(flags));
        Some(Opened { fh, mode: OpenMode { keep_cache: true, ..OpenMode::default() } })
    }

    pub(super) async fn open_file(&self, ino: Ino, flags: i32) -> FsResult<Opened> {
        match self.open_again(ino, flags) {
            Some(opened) => Ok(opened),
            None => self.open_at_server(ino, flags).await,
        }
    }

    /// A file that exists although it was to be made. The kernel, which did not know it, does not cut it.
    async fn open_existing(&self, caller: &Caller, ino: Ino, flags: i32) -> FsResult<Opened> {
        let opened = self.open_file(ino, flags).await?;
        if flags & libc::O_TRUNC != 0 {
            let set = SetAttr { size: Some(0), kill_suidgid: caller.uid != 0, ..SetAttr::default() };
            if let Err(error) = self.set_attr(caller, ino, set).await {
                self.close_handle(opened.fh, None);
                return Err(error);
            }
        }
        Ok(opened)
    }

    async fn open_at_server(&self, ino: Ino, flags: i32) -> FsResult<Opened> {
        let write = may_write(flags);
        for _ in 0..TRIES {
            let (inode, stamp) = self.inodes.hold(ino, |state| {
                state.opening += 1;
                state.stamp
            });
            if self.unlinked.was_discarded(ino) {
                inode.lock().opening -= 1;
                self.retire(ino);
                // The kernel looks the name up again: it is another's, or nobody's.
                return Err(FsError::Stale);
            }
            let epoch = self.attr_epoch.load(Ordering::SeqCst);
            let reply = self.meta.open(ino, write).await;
            let answer = match reply {
                Ok(reply) => self.take_open(&inode, &reply, flags, (stamp, epoch)),
                Err(error) => {
                    inode.lock().opening -= 1;
                    self.retire(ino);
                    return Err(error);
                }
            };
            let Some((opened, flush)) = answer else { continue };
            if flush && let Err(error) = self.while_answered(self.flush_inode(ino)).await {
                self.close_handle(opened.fh, None);
                return Err(error);
            }
            return Ok(opened);
        }
        self.retire(ino);
        Err(FsError::Unavailable)
    }

    /// Makes a handle by the answer to `open`, and tells whether dirty data must be flushed first.
    /// `None`: something overtook the answer.
    fn take_open(
        &self,
        inode: &Arc<Inode>,
        reply: &OpenReply,
        flags: i32,
        (stamp, epoch): (u64, u64),
    ) -> Option<(Opened, bool)> {
        let mut state = inode.lock();
        state.opening -= 1;
        state.registered.opens += 1;
        state.registered.writers += u32::from(may_write(flags));
        let known = state.is_cached() && state.attr.is_some();
        if state.recalled > reply.generation || (!known && state.stamp != stamp) {
            // Counted at the server, so it is closed with the others at the end; asked again now.
            return None;
        }
        let keep_cache = known && state.handles > 0 || self.kernel_has(inode.ino, reply);
        let flush = state.adopt(reply, epoch);
        let fh = self.add_handle(inode, &mut state, may_write(flags));
        let cached = state.is_cached();
        let mode = OpenMode { direct_io: !cached, keep_cache: cached && keep_cache, ..OpenMode::default() };
        Some((Opened { fh, mode }, flush))
    }

    /// The kernel's pages, if it has any, are those of this version.
    fn kernel_has(&self, ino: Ino, reply: &OpenReply) -> bool {
        self.closed.lock().get(&ino) == Some(&reply.attr.data_version)
    }

    fn add_handle(&self, inode: &Arc<Inode>, state: &mut State, writable: bool) -> Fh {
        state.handles += 1;
        state.writers += u32::from(writable);
        let file = File::new(Arc::clone(inode), self.meta.session(), writable, state.error.count);
        self.handles.insert(Handle::File(Arc::new(file)))
    }

    pub(super) async fn new_ino(&self) -> FsResult<Ino> {
        match self.meta.try_new_ino() {
            Some(ino) => Ok(ino),
            None => self.meta.new_ino().await,
        }
    }

    /// `open` with `O_CREAT`.
    pub(super) async fn create_file(
        &self,
        caller: &Caller,
        make: Make,
        flags: i32,
    ) -> FsResult<(Attr, Opened)> {
        let ino = self.new_ino().await?;
        let parent = make.parent;
        let body = OpBody::Create(Create {
            parent: make.parent,
            name: make.name,
            ino,
            kind: make.kind,
            perm: make.perm,
            umask: make.umask,
            rdev: 0,
            exclusive: flags & libc::O_EXCL != 0,
            open: true,
        });
        match self.make_open(caller, (parent, ino), body, flags).await? {
            Made::New(attr, opened) => Ok((attr, opened)),
            Made::Existing(found) => {
                // Permission to open it is the kernel's to check, and it did not know the file.
                let opened = self.open_existing(caller, found.ino, flags).await?;
                Ok((self.attr_now(found.ino).await?, opened))
            }
        }
    }

    /// `open` with `O_TMPFILE`.
    pub(super) async fn create_unnamed(
        &self,
        caller: &Caller,
        parent: Ino,
        perm: u16,
        umask: u16,
        flags: i32,
    ) -> FsResult<(Attr, Opened)> {
        let ino = self.new_ino().await?;
        let body = OpBody::Tmpfile { parent, ino, perm, umask };
        match self.make_open(caller, (parent, ino), body, flags).await? {
            Made::New(attr, opened) => Ok((attr, opened)),
            Made::Existing(_) => Err(FsError::Io),
        }
    }

    async fn make_open(
        &self,
        caller: &Caller,
        (parent, ino): (Ino, Ino),
        body: OpBody,
        flags: i32,
    ) -> FsResult<Made> {
        // The entry is there before the server is asked: a recall may come before the answer.
        let name = match &body {
            OpBody::Create(create) => Some(create.name.clone()),
            _ => None,
        };
        let (inode, ()) = self.inodes.hold(ino, |state| {
            state.opening += 1;
            state.name = name;
        });
        let epoch = self.attr_epoch.load(Ordering::SeqCst);
        // It counts already: of several at once, none is beyond the limit.
        let result = if self.inodes.count() > self.config.opens_max {
            Err(FsError::TooManyOpen)
        } else {
            self.change_in(caller, parent, body).await
        };
        let mut state = inode.lock();
        state.opening -= 1;
        match result {
            Ok((OpReply::Entry { attr, created: true }, seq)) => {
                state.registered.opens += 1;
                state.registered.writers += 1;
                state.adopt_new(attr, seq, epoch);
                let fh = self.add_handle(&inode, &mut state, may_write(flags));
                let mode = OpenMode { direct_io: !state.is_cached(), ..OpenMode::default() };
                Ok(Made::New(attr, Opened { fh, mode }))
            }
            other => {
                drop(state);
                self.retire(ino);
                match other?.0 {
                    OpReply::Entry { attr, .. } => Ok(Made::Existing(attr)),
                    _ => Err(FsError::Io),
                }
            }
        }
    }

    /// The last descriptor of a handle is closed.
    pub(super) fn close_handle(&self, fh: Fh, flock_owner: Option<u64>) {
        let Some(Handle::File(file)) = self.handles.remove(fh) else { return };
        let inode = &file.inode;
        let mut state = inode.lock();
        state.handles -= 1;
        state.writers -= u32::from(file.writable);
        if let Some(owner) = flock_owner {
            let owner = LockOwner { family: LockFamily::Flock, owner };
            // Nobody waits for it, but the operation log does not forget it.
            drop(self.release_locks(&Caller::default(), inode, &mut state, owner));
        }
        if state.unlinked {
            self.discard_later(inode.ino, &state);
        } else if state.handles == 0 {
            self.move_inline(inode.ino, &mut state);
        }
        drop(state);
        self.retire(inode.ino);
    }

    /// An error of a background flush that this handle has not been told of.
    pub(super) fn stored_error(file: &File, state: &State) -> FsResult<()> {
        let seen = file.errors_seen.swap(state.error.count, Ordering::Relaxed);
        match state.error.last {
            Some(error) if seen < state.error.count => Err(error),
            _ => Ok(()),
        }
    }

    /// A descriptor is closed: POSIX drops all locks of the process, and errors are told. `None`: the server has
    /// to drop some, or there may be no room for the file's data; ask [`Vfs::flush_handle`].
    pub(super) fn try_flush_handle(&self, fh: Fh, lock_owner: u64) -> Option<FsResult<()>> {
        let Some(file) = self.handles.file(fh) else { return Some(Err(FsError::BadHandle)) };
        let owner = LockOwner { family: LockFamily::Posix, owner: lock_owner };
        let mut state = file.inode.lock();
        if state.locks.knows(owner) && !state.locks.are_here() || !self.closes_at_once(&file, &state) {
            return None;
        }
        drop(self.release_locks(&Caller::default(), &file.inode, &mut state, owner));
        Some(Self::stored_error(&file, &state))
    }

    /// See [`Vfs::try_flush_handle`].
    pub(super) async fn flush_handle(&self, caller: &Caller, fh: Fh, lock_owner: u64) -> FsResult<()> {
        let file = self.handles.file(fh).ok_or(FsError::BadHandle)?;
        let owner = LockOwner { family: LockFamily::Posix, owner: lock_owner };
        let (told, at_once) = {
            let mut state = file.inode.lock();
            let told = self.release_locks(caller, &file.inode, &mut state, owner);
            (told, self.closes_at_once(&file, &state))
        };
        let unlocked = match told {
            Some(told) => told.await.map(|_reply| ()),
            None => Ok(()),
        };
        let stored = if at_once { Ok(()) } else { self.store_at_close(&file).await };
        // Told by this, whichever it is.
        let error = Self::stored_error(&file, &file.inode.lock());
        unlocked.and(stored).and(error)
    }
}

enum Made {
    New(Attr, Opened),
    Existing(Attr),
}

impl State {
    /// Takes in the answer to `open`. True if dirty data must go to the server now.
    fn adopt(&mut self, reply: &OpenReply, epoch: u64) -> bool {
        let known = self.is_cached() && self.attr.is_some();
        match reply.lease {
            DataLease::Cached if known => false,
            // A change is on its way that does not know of the lease: for this open, the file stays shared.
            DataLease::Cached if self.lease == Some(DataLease::Shared) && self.pending > 0 => {
                self.dirty.has_unstored()
            }
            DataLease::Cached => {
                self.lease = Some(DataLease::Cached);
                self.attr = Some(reply.attr);
                self.attr_epoch = epoch;
                self.size = reply.attr.size.max(self.dirty.end());
                let page = &reply.extents;
                self.extents.clear();
                self.extents.learn(page.start, page.end, &page.extents);
                false
            }
            DataLease::Shared => {
                self.lease = Some(DataLease::Shared);
                self.drop_cached();
                self.dirty.has_unstored()
            }
        }
    }

    fn adopt_new(&mut self, attr: Attr, seq: Seq, epoch: u64) {
        if self.recalled > 0 {
            // Somebody else has opened it meanwhile.
            self.lease = Some(DataLease::Shared);
            return;
        }
        self.lease = Some(DataLease::Cached);
        self.attr = Some(attr);
        self.attr_seq = seq;
        self.attr_epoch = epoch;
        self.no_capability = Some(epoch);
        self.size = attr.size;
        self.extents = ExtentCache::empty_file();
    }
}
