//! What the server asks of this mount: give data back, stop caching. Nothing here waits for a request
//! that may itself wait at the server for another mount.

use super::file_locks::FileLocks;
use super::inode::State;
use super::{LAST_TRIES, Vfs};
use crate::client::{DataClient, EventSink, MetaClient};
use crate::fuse::notify::Notice;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::{Ino, Seq};
use cairn_common::proto::meta::{DataLease, OpenState};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// Pause between tries to store what a recall needs stored.
const TRY_PAUSE: Duration = Duration::from_millis(100);

impl<M: MetaClient, D: DataClient> Vfs<M, D> {
    /// Stores what is dirty of a file by `until`. If that fails, it stays dirty here and is tried on and on.
    ///
    /// # Errors
    /// `Unavailable`: not by then.
    async fn flush_for_others(&self, ino: Ino, until: Instant) -> FsResult<()> {
        let Some(inode) = self.inodes.get(ino) else { return Ok(()) };
        // What little there is goes inside the operation: whoever waits for it need not wait for a disk.
        self.commit_inline(&inode).await?;
        if !inode.lock().dirty.has_unstored() {
            return Ok(());
        }
        let stored = tokio::time::timeout_at(until, self.flush_inode(ino)).await;
        stored.unwrap_or(Err(FsError::Unavailable)).map(|_seq| ())
    }

    /// Stores what is dirty before others may write.
    async fn flush_before_sharing(&self, ino: Ino) -> FsResult<()> {
        let until = Instant::now() + self.config.give_back;
        let mut tries = LAST_TRIES;
        loop {
            let stored = self.flush_for_others(ino, until).await;
            tries -= 1;
            match stored {
                Ok(()) => {
                    self.keep_in_metadata(ino);
                    return Ok(());
                }
                Err(error) if tries == 0 || error.is_transient() => return Err(error),
                // A commit that is refused fails at once, and the space that it needs may just be coming.
                Err(_) => tokio::time::sleep(TRY_PAUSE).await,
            }
        }
    }

    /// What was only to be moved stays where it is: others change the file now, and here it would be read in place of
    /// what they wrote.
    fn keep_in_metadata(&self, ino: Ino) {
        if let Some(inode) = self.inodes.get(ino) {
            self.free_stored(&mut inode.lock(), 0, u64::MAX);
        }
    }

    /// Drops the kernel's attributes and pages of a file.
    async fn drop_pages(&self, ino: Ino) {
        self.closed.lock().pop(&ino);
        self.notify(Notice::InvalInode { ino: self.to_kernel(ino), offset: 0, length: 0 }).await;
    }

    async fn drop_attributes(&self, ino: Ino) {
        self.notify(self.no_attributes(ino)).await;
    }

    /// Tells the kernel to drop an inode's attributes.
    pub(super) fn no_attributes(&self, ino: Ino) -> Notice {
        Notice::InvalInode { ino: self.to_kernel(ino), offset: -1, length: 0 }
    }
}

impl<M: MetaClient, D: DataClient> EventSink for Vfs<M, D> {
    async fn flush(&self, inos: Vec<Ino>) -> FsResult<()> {
        let until = Instant::now() + self.config.give_back;
        let mut all = Ok(());
        for ino in inos {
            let stored = self.flush_for_others(ino, until).await;
            if stored.is_err_and(FsError::is_transient) {
                return stored;
            }
            all = all.and(stored);
        }
        all
    }

    async fn uncache(&self, ino: Ino, generation: u64) -> FsResult<()> {
        if let Some(inode) = self.inodes.get(ino) {
            let mut state = inode.lock();
            state.recalled = state.recalled.max(generation);
            if state.lease.is_some() {
                state.lease = Some(DataLease::Shared);
            }
            state.drop_cached();
        }
        self.recent.mark(ino);
        self.flush_before_sharing(ino).await?;
        self.drop_pages(ino).await;
        // What mapped pages wrote while they were dropped.
        self.flush_before_sharing(ino).await?;
        self.retire(ino);
        Ok(())
    }

    fn give_up(&self, ino: Ino, error: FsError) {
        let Some(inode) = self.inodes.get(ino) else { return };
        let mut state = inode.lock();
        let lost = state.dirty.unstored_bytes();
        if lost > 0 {
            tracing::error!(%ino, lost, %error, "written data is lost: it could not be stored when another mount needed the file");
            state.store_error(error);
        }
        self.free_dirty(&mut state, 0, u64::MAX);
        drop(state);
        self.retire(ino);
    }

    async fn invalidate(&self, ino: Ino) {
        self.recent.mark(ino);
        if let Some(inode) = self.inodes.get(ino) {
            inode.lock().drop_cached();
        }
        self.keep_in_metadata(ino);
        self.drop_pages(ino).await;
        self.retire(ino);
    }

    fn lock_released(&self, ino: Ino) {
        self.lock_waiters.wake(ino);
    }

    async fn shared(&self, generation: u64) {
        if !self.policy.set_sole(false, generation) {
            return;
        }
        self.dirs.clear();
        self.names.clear();
        self.recent.mark_all();
        // Answers that were computed before go out without a time.
        self.gate.revoke();
        // Names first. Then attributes, which the epoch leaves where a program holds the inode.
        self.notify(Notice::Epoch).await;
        self.drop_attributes(self.config.root).await;
        for dir in self.dirs.take_granted() {
            self.drop_attributes(dir).await;
        }
        for inode in self.inodes.all() {
            self.drop_attributes(inode.ino).await;
        }
    }

    async fn hand_over_locks(self: Arc<Self>) {
        self.hand_over().await;
    }

    fn sole(&self, generation: u64) {
        self.dirs.clear();
        self.names.clear();
        // What others changed of open files meanwhile was not told here.
        self.attr_epoch.fetch_add(1, Ordering::SeqCst);
        self.recent.mark_all();
        self.policy.set_sole(true, generation);
    }

    fn open_states(&self) -> Vec<OpenState> {
        self.inodes.open_states()
    }

    fn evicted(&self) {
        self.policy.start_anew();
        self.dirs.clear();
        self.names.clear();
        // Pages of closed files are from a time that is over.
        self.closed.lock().clear();
        self.recent.mark_all();
        for inode in self.inodes.all() {
            let mut state = inode.lock();
            let lost = state.dirty.unstored_bytes();
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
        // The next one's server may count from a lower number.
        self.recalled = 0;
        // The next session numbers its operations from 1 again.
        self.attr_seq = Seq(0);
        self.registered = super::inode::Registered::default();
        self.locks = FileLocks::default();
        self.drop_cached();
        if lost {
            self.store_error(FsError::Io);
        }
    }
}
