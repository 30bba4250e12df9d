//! What writers and closers are told when the servers' disks are full or nearly so. What a disk has refused stays here and is tried on
//! and on, but nobody is led to believe that it is stored.

use super::Vfs;
use super::flush::is_full;
use super::handle::File;
use super::inode::State;
use super::room::{Refused, is_plenty};
use crate::client::{DataClient, MetaClient};
use cairn_common::error::{FsError, FsResult};
use std::time::{Duration, Instant};

/// How long the servers have to say what is free: who closes a file does not need them otherwise.
const ANSWER_WAIT: Duration = Duration::from_millis(500);
/// How often it is looked whether a block that was refused has room, or is needed no more.
const LOOK_EVERY: Duration = Duration::from_millis(500);

impl<M: MetaClient, D: DataClient> Vfs<M, D> {
    /// Refuses a write while it is known that a disk is full: what is taken here could only wait. Not as little as an
    /// `fsync` puts into the metadata: that may have room.
    pub(super) fn check_full(&self, state: &State, length: usize) -> FsResult<()> {
        let Some(error) = self.progress.borrow().stuck.filter(|error| is_full(*error)) else { return Ok(()) };
        let little = state.dirty.unstored_bytes() + length as u64 <= self.config.inline_max;
        if little { Ok(()) } else { Err(error) }
    }

    /// Whether a handle can be closed without more ado: its file has nothing to store, or certainly can store it later.
    pub(super) fn closes_at_once(&self, file: &File, state: &State) -> bool {
        let dirty = file.writable && !state.unlinked && state.dirty.has_unstored();
        let must_ask = dirty && self.room.lock().is_old(Instant::now());
        !dirty || (!self.has_given_up() && !must_ask && self.may_store_later())
    }

    /// `soft`: the servers have been silent for so long that programs get errors, until something is stored again.
    fn has_given_up(&self) -> bool {
        self.progress.borrow().stuck == Some(FsError::TimedOut)
    }

    /// Stores what a closed handle's file has, unless that certainly can be done later, or the servers are away: whoever closes
    /// may be who starts them again, a shell that closes the same file once for each program.
    ///
    /// # Errors
    /// It could not be stored. `TimedOut`: this mount has given the servers up; blocks go a few at a time, so the file's own
    /// may not even have been tried, but whoever closes it is not led to believe that it is stored.
    pub(super) async fn store_at_close(&self, file: &File) -> FsResult<()> {
        if self.has_given_up() {
            // What little an `fsync` would put into the metadata needs no data daemon.
            self.commit_inline(&file.inode).await?;
            let left = file.inode.lock().dirty.has_unstored();
            return if left { Err(FsError::TimedOut) } else { Ok(()) };
        }
        self.look_at_room().await;
        if self.may_store_later() {
            return Ok(());
        }
        let stored = self.while_progress(self.flush_inode(file.inode.ino));
        match self.while_answered(stored).await {
            // They have gone away meanwhile. It waits for them in memory, as it does while there is plenty of room.
            Ok(_) | Err(FsError::Unavailable) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Neither was something refused that must be stored before, nor is room about to run out; or nobody knows now.
    fn may_store_later(&self) -> bool {
        if self.room.lock().is_silent() {
            return true;
        }
        let refused = self.progress.borrow().stuck.is_some_and(|error| !error.is_transient());
        let (written, _dirty) = self.buffer.written();
        !refused && self.room.lock().is_plenty(written)
    }

    /// Asks what is free, unless that was done a moment ago.
    async fn look_at_room(&self) {
        let _asking = self.asking.lock().await;
        let now = Instant::now();
        if !self.room.lock().is_old(now) {
            return;
        }
        let (written, dirty) = self.buffer.written();
        let free = tokio::time::timeout(ANSWER_WAIT, self.free_space(dirty)).await;
        self.room.lock().learn(now, free.ok().and_then(Result::ok), written.saturating_sub(dirty));
    }

    /// What is free. What a data daemon that is away has room for counts where that decides: writes wait for it.
    async fn free_space(&self, dirty: u64) -> FsResult<u64> {
        let available = self.meta.statfs().await?.available;
        if is_plenty(available, dirty) {
            return Ok(available);
        }
        Ok(available.saturating_add(self.meta.away().await?.unwrap_or(u64::MAX)))
    }

    /// Waits until a block that was refused should be sent again, at most for `pause`. A full disk is sent it sooner when
    /// room has come.
    pub(super) async fn pause_after(&self, segment: u64, refused: Option<Refused>, pause: Duration) {
        let end = Instant::now() + pause;
        let mut refused = refused;
        while Instant::now() < end && self.buffer.is_live(segment) {
            tokio::time::sleep_until(end.min(Instant::now() + LOOK_EVERY).into()).await;
            let Some(refused) = &mut refused else { continue };
            self.look_at_room().await;
            if refused.may_fit(self.room.lock().free()) {
                return;
            }
        }
    }
}
