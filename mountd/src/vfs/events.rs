//! What the server asks of this mount: give data back, stop caching. Nothing here waits for a request
//! that may itself wait at the server for another mount.

use super::Vfs;
use super::inode::State;
use crate::client::{DataClient, EventSink, MetaClient};
use crate::fuse::notify::Notice;
use cairn_common::error::FsError;
use cairn_common::ids::Ino;
use cairn_common::proto::meta::{DataLease, OpenState};

impl<M: MetaClient, D: DataClient> Vfs<M, D> {
    async fn flush_for_others(&self, ino: Ino) {
        // What little there is goes inside the operation: whoever waits for it need not wait for a disk.
        let inline = match self.inodes.get(ino) {
            Some(inode) => self.commit_inline(&inode).await,
            None => return,
        };
        let stored = match inline {
            Some(result) => result,
            None => self.flush_inode(ino).await.map(|_seq| ()),
        };
        if let Err(error) = stored {
            // The file's handles are told; the others see the file without this data.
            tracing::warn!(%ino, %error, "flush for another mount");
        }
    }

    /// Drops the kernel's attributes and pages of a file.
    async fn drop_pages(&self, ino: Ino) {
        self.closed.lock().pop(&ino);
        self.notify(Notice::InvalInode { ino: self.to_kernel(ino), offset: 0, length: 0 }).await;
    }

    async fn drop_attributes(&self, ino: Ino) {
        self.notify(Notice::InvalInode { ino: self.to_kernel(ino), offset: -1, length: 0 }).await;
    }
}

impl<M: MetaClient, D: DataClient> EventSink for Vfs<M, D> {
    async fn flush(&self, inos: Vec<Ino>) {
        for ino in inos {
            self.flush_for_others(ino).await;
        }
    }

    async fn uncache(&self, ino: Ino, generation: u64) {
        if let Some(inode) = self.inodes.get(ino) {
            let mut state = inode.lock();
            state.recalled = state.recalled.max(generation);
            if state.lease.is_some() {
                state.lease = Some(DataLease::Shared);
            }
            state.drop_cached();
        }
        self.recent.mark(ino);
        self.flush_for_others(ino).await;
        self.drop_pages(ino).await;
        // What mapped pages wrote while they were dropped.
        self.flush_for_others(ino).await;
        self.retire(ino);
    }

    async fn invalidate(&self, ino: Ino) {
        self.recent.mark(ino);
        if let Some(inode) = self.inodes.get(ino) {
            inode.lock().drop_cached();
        }
        self.drop_pages(ino).await;
    }

    fn lock_released(&self, ino: Ino) {
        self.lock_waiters.wake(ino);
    }

    async fn shared(&self, generation: u64) {
        if !self.policy.set_sole(false, generation) {
            return;
        }
        self.dirs.clear();
        self.recent.mark_all();
        // Names first: the epoch also catches answers on their way. Then attributes that it leaves.
        self.notify(Notice::Epoch).await;
        self.drop_attributes(self.config.root).await;
        for inode in self.inodes.all() {
            self.drop_attributes(inode.ino).await;
        }
    }

    fn sole(&self, generation: u64) {
        self.dirs.clear();
        self.recent.mark_all();
        self.policy.set_sole(true, generation);
    }

    fn open_states(&self) -> Vec<OpenState> {
        self.inodes.open_states()
    }

    fn evicted(&self) {
        self.dirs.clear();
        self.recent.mark_all();
        for inode in self.inodes.all() {
            let mut state = inode.lock();
            let lost = state.dirty.bytes();
            if lost > 0 {
                tracing::error!(ino = %inode.ino, lost, "written data is lost: the session was ended");
            }
            self.free_dirty(&mut state, 0, u64::MAX);
            state.end_session(lost > 0);
            drop(state);
            self.retire(inode.ino);
        }
    }
}

impl State {
    /// Handles of an ended session answer errors from now on.
    fn end_session(&mut self, lost: bool) {
        self.lease = None;
        self.registered = super::inode::Registered::default();
        self.lock_owners.clear();
        self.drop_cached();
        if lost {
            self.store_error(FsError::Io);
        }
    }
}
