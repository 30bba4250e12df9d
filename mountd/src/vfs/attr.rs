//! Attributes: the server's, with what was written here and is not committed.

use super::Vfs;
use super::inode::State;
use crate::client::{DataClient, MetaClient};
use bytes::Bytes;
use cairn_common::attr::{Attr, Caller, FileKind, SetAttr};
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::Ino;
use cairn_common::limits::FILE_SIZE_MAX;
use cairn_common::namespace::op::{OpBody, XattrMode};
use std::sync::atomic::Ordering;

/// File capabilities: a write takes them away, so the kernel wants to know whether there are any.
const CAPABILITY: &[u8] = b"security.capability";
/// How often an answer that was overtaken by a change of ours is asked for again.
const TRIES: u32 = 8;

impl<M: MetaClient, D: DataClient> Vfs<M, D> {
    /// Attributes without asking the server, where this mount knows them.
    pub(super) fn local_attr(&self, ino: Ino) -> Option<Attr> {
        if !self.policy.is_sole() {
            return None;
        }
        let Some(inode) = self.inodes.get(ino) else { return self.dirs.get(ino) };
        let state = inode.lock();
        if !state.is_cached() || state.attr_epoch != self.attr_epoch.load(Ordering::SeqCst) {
            return None;
        }
        let attr = state.attr?;
        (!needs_flush(&state)).then(|| state.view(attr))
    }

    /// Attributes of `ino` as of now.
    pub(super) async fn attr_now(&self, ino: Ino) -> FsResult<Attr> {
        let mut last = None;
        for _ in 0..TRIES {
            if let Some(attr) = self.local_attr(ino) {
                return Ok(attr);
            }
            let flush = self.inodes.get(ino).is_some_and(|inode| needs_flush(&inode.lock()));
            if flush {
                // Reported by fsync and close; a stat can only tell what it knows.
                let _stored = self.flush_inode(ino).await;
            }
            let moment = self.recent.now();
            let epoch = self.attr_epoch.load(Ordering::SeqCst);
            let stamp = self.inodes.get(ino).map(|inode| inode.lock().stamp);
            let attr = self.meta.getattr(ino).await?;
            last = Some(attr);
            match (self.inodes.get(ino), stamp) {
                (Some(inode), Some(stamp)) => {
                    let mut state = inode.lock();
                    if state.stamp == stamp {
                        state.take_in(attr, epoch);
                        return Ok(state.view(attr));
                    }
                }
                (None, None) if !self.recent.changed_since(ino, moment) => {
                    if attr.kind == FileKind::Dir {
                        self.dirs.learn(attr, moment, &self.recent);
                    }
                    return Ok(attr);
                }
                _ => {}
            }
        }
        let attr = last.ok_or(FsError::Io)?;
        Ok(self.overlaid(attr))
    }

    /// An attribute from the server with what is uncommitted here.
    pub(super) fn overlaid(&self, attr: Attr) -> Attr {
        match self.inodes.get(attr.ino) {
            Some(inode) => inode.lock().view(attr),
            None => attr,
        }
    }

    /// `setattr`, `truncate` among it.
    pub(super) async fn set_attr(&self, caller: &Caller, ino: Ino, set: SetAttr) -> FsResult<Attr> {
        if set.size.is_some_and(|size| size > FILE_SIZE_MAX) {
            return Err(FsError::FileTooLarge);
        }
        let buffer = &self.buffer;
        let (ticket, inode) = self.submit_on(caller, ino, OpBody::SetAttr { ino, set }, |state| {
            if let Some(size) = set.size {
                // The rules cut what was set aside beyond the end only if they know of the end.
                self.commit_size(ino, state);
                state.dirty.remove(size, u64::MAX, &mut |segment, bytes| buffer.release(segment, bytes));
                // Growing keeps what was set aside beyond the end.
                if size <= state.size {
                    state.extents.hole(size, u64::MAX);
                }
                state.size = size;
            }
            if set.size.is_some() || set.mtime.is_some() {
                state.write_time = None;
            }
            if set.perm.is_some() {
                state.kill_suidgid = false;
            }
        });
        let seq = ticket.seq;
        let reply = self.settle(ino, ticket, inode).await?;
        let attr = super::attr_of(&reply).ok_or(FsError::Io)?;
        self.dirs.replace(attr, seq);
        Ok(self.overlaid(attr))
    }

    /// The kernel asks for this attribute before the first write after each look at a file's attributes. It
    /// is not there unless this mount puts it there, as long as nobody else is.
    pub(super) fn lacks_xattr(&self, ino: Ino, name: &[u8]) -> bool {
        name == CAPABILITY
            && self.policy.is_sole()
            && self.inodes.get(ino).is_some_and(|inode| {
                inode.lock().no_capability == Some(self.attr_epoch.load(Ordering::SeqCst))
            })
    }

    pub(super) async fn find_xattr(&self, ino: Ino, name: Bytes) -> FsResult<Bytes> {
        let inode = self.inodes.get(ino).filter(|_| name == CAPABILITY && self.policy.is_sole());
        let epoch = self.attr_epoch.load(Ordering::SeqCst);
        let asked = inode.as_ref().map(|inode| inode.lock().xattr_changes);
        let found = self.meta.getxattr(ino, name).await;
        if let (Some(inode), Err(FsError::NoAttr)) = (inode, &found) {
            let mut state = inode.lock();
            if Some(state.xattr_changes) == asked {
                state.no_capability = Some(epoch);
            }
        }
        found
    }

    pub(super) async fn set_xattr(
        &self,
        caller: &Caller,
        ino: Ino,
        name: Bytes,
        value: Bytes,
        mode: XattrMode,
    ) -> FsResult<()> {
        // Before and after: what is asked for meanwhile may come from either side.
        self.forget_xattrs(ino);
        let set = self.attr_op(caller, OpBody::SetXattr { ino, name, value, mode }).await;
        self.forget_xattrs(ino);
        set
    }

    pub(super) async fn remove_xattr(&self, caller: &Caller, ino: Ino, name: Bytes) -> FsResult<()> {
        self.attr_op(caller, OpBody::RemoveXattr { ino, name }).await
    }

    fn forget_xattrs(&self, ino: Ino) {
        if let Some(inode) = self.inodes.get(ino) {
            let mut state = inode.lock();
            state.xattr_changes += 1;
            state.no_capability = None;
        }
    }

    async fn attr_op(&self, caller: &Caller, body: OpBody) -> FsResult<()> {
        let ticket = self.meta.submit(caller, body);
        let seq = ticket.seq;
        let reply = ticket.await?;
        if let Some(attr) = super::attr_of(&reply) {
            self.note_attr(attr, seq);
        }
        Ok(())
    }
}

/// `st_blocks` of a file with uncommitted data is exact only if all its extents are known.
fn needs_flush(state: &State) -> bool {
    state.is_cached() && state.is_busy() && state.extents.allocated().is_none()
}

impl State {
    /// Takes in what the server answered to a question during which nothing changed here.
    fn take_in(&mut self, attr: Attr, epoch: u64) {
        if self.is_cached() {
            if self.attr.is_none() {
                self.size = attr.size.max(self.dirty.end());
            }
            self.attr = Some(attr);
            self.attr_epoch = epoch;
            self.settle_size();
        }
    }
}
