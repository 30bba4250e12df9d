//! `fsync`. What little a program makes durable at a time (a database's journal) travels inside the
//! operation itself: one round trip, one flush of the server's log. Such bytes sit in the metadata
//! until there are too many of them or the file is closed; then they go the way of all others.

use super::Vfs;
use super::flush::Building;
use super::handle::File;
use super::inode::{Inode, State};
use crate::cache::extent::Found;
use crate::client::{DataClient, MetaClient, OpTicket};
use bytes::Bytes;
use cairn_common::error::FsResult;
use cairn_common::ids::Ino;
use cairn_common::namespace::op::{Extent, ExtentData, OpReply};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Stretches that an inline commit may have.
const INLINE_PIECES: usize = 64;

/// What is to be done about a file's dirty bytes.
enum Inline {
    /// They are in this operation, marked with this number.
    Submitted(OpTicket, u64),
    /// There are none that the server does not have.
    Nothing,
    /// They must go into a block.
    TooMuch,
}

impl<M: MetaClient, D: DataClient> Vfs<M, D> {
    /// `fsync`: the file's data and all operations so far are on stable storage.
    pub(super) async fn sync_file(&self, file: &File) -> FsResult<()> {
        let inode = &file.inode;
        let _follows = self.meta.sync_follows();
        let (stored, synced) = match self.submit_inline(inode) {
            Inline::Submitted(ticket, id) => {
                // Asked for together: one round trip.
                let synced = self.meta.sync(self.meta.last_submitted());
                tokio::join!(self.committed_inline(inode, ticket, id), synced)
            }
            Inline::Nothing => (Ok(()), self.meta.sync(self.meta.last_submitted()).await),
            Inline::TooMuch => {
                let stored = self.flush_inode(inode.ino).await.map(|_seq| ());
                (stored, self.meta.sync(self.meta.last_submitted()).await)
            }
        };
        let told = Self::stored_error(file, &inode.lock());
        stored.and(told).and(synced)
    }

    /// Commits what little is dirty of a file inside the operation. If it is too much, it stays dirty.
    pub(super) async fn commit_inline(&self, inode: &Arc<Inode>) -> FsResult<()> {
        match self.submit_inline(inode) {
            Inline::Submitted(ticket, id) => self.committed_inline(inode, ticket, id).await,
            Inline::Nothing | Inline::TooMuch => Ok(()),
        }
    }

    /// Waits for an inline commit; what it carried is clean then.
    async fn committed_inline(&self, inode: &Arc<Inode>, ticket: OpTicket, id: u64) -> FsResult<()> {
        let seq = ticket.seq;
        let result = ticket.await;
        let attr = match &result {
            Ok(OpReply::Committed { files }) => files.first().copied(),
            _ => None,
        };
        let buffer = &self.buffer;
        inode.lock().dirty.settle(id, result.is_ok(), &mut |segment, bytes| buffer.release(segment, bytes));
        self.inline_settled.notify_waiters();
        self.answered(inode, attr, seq, result.is_ok());
        result.map(|_reply| ())
    }

    fn submit_inline(&self, inode: &Arc<Inode>) -> Inline {
        let _order = self.order.lock();
        let mut state = inode.lock();
        let stretches: Vec<_> = state.dirty.unstored().copied().collect();
        let bytes = stretches.iter().map(|dirty| dirty.length).sum::<u64>();
        if bytes == 0 {
            return Inline::Nothing;
        }
        if bytes > self.config.inline_max || stretches.len() > INLINE_PIECES {
            return Inline::TooMuch;
        }
        if state.extents.inline_bytes() + bytes > self.config.inline_per_file {
            self.move_inline(inode.ino, &mut state);
            return Inline::TooMuch;
        }
        let id = self.commits.fetch_add(1, Ordering::Relaxed) + 1;
        let mut building = Building::default();
        let (mtime, kill) = (state.write_time, state.kill_suidgid);
        for dirty in stretches {
            let length = usize::try_from(dirty.length).expect("an interval is at most one segment long");
            // A slice would keep a whole arena for as long as the operation is remembered.
            let data = Bytes::copy_from_slice(&self.buffer.read(dirty.slot, length));
            let extent =
                Extent { offset: dirty.offset, length: dirty.length, data: ExtentData::Inline(data) };
            if state.is_cached() {
                state.extents.replace(&extent);
            }
            building.add(inode.ino, extent, mtime, kill);
        }
        state.dirty.mark(id);
        state.pending += 1;
        state.stamp += 1;
        let ticket = self.submit_built(building, Vec::new());
        // Nobody waits for these to be moved.
        let many = state.extents.inline_bytes() > self.config.inline_per_file / 2;
        if many && !state.dirty.has_stored() {
            self.move_inline(inode.ino, &mut state);
            // Without room in the buffer nothing was moved, and the next fsync tries again.
            if state.dirty.has_stored() {
                self.buffer.seal(None);
            }
        }
        Inline::Submitted(ticket, id)
    }

    /// Makes a file's bytes that are in the metadata go into a block with whatever else is written. Nothing is changed
    /// by that, and nobody waits for it; the server moves what is still the same then (decision 6).
    pub(super) fn move_inline(&self, ino: Ino, state: &mut State) {
        if !state.is_cached() || state.registered.writers == 0 || state.extents.inline_bytes() == 0 {
            return;
        }
        for (offset, length) in state.extents.inline_ranges() {
            for (offset, bytes) in clean_inline(state, offset, offset + length) {
                let Some(placed) = self.buffer.append(ino, offset, &bytes) else { return };
                let mut at = offset;
                for (slot, length) in placed {
                    state.dirty.insert_stored(at, u64::from(length), slot);
                    at += u64::from(length);
                }
            }
        }
    }
}

/// Inline bytes of `start..end` that nothing dirty replaces.
fn clean_inline(state: &State, start: u64, end: u64) -> Vec<(u64, Bytes)> {
    let mut clean = Vec::new();
    let mut at = start;
    let dirty = state.dirty.range(start, end).map(|dirty| (dirty.offset, dirty.end())).chain([(end, end)]);
    for (from, to) in dirty {
        state.extents.scan(at, from, &mut |offset, found| {
            if let Found::Extent { data: ExtentData::Inline(bytes), skip, length } = found {
                let skip = usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len());
                let end = usize::try_from(length).unwrap_or(usize::MAX).saturating_add(skip).min(bytes.len());
                clean.push((offset, bytes.slice(skip..end)));
            }
            true
        });
        at = to;
    }
    clean
}
