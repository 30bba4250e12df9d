//! Writing: into the buffer where this mount holds the file's data lease, through to the servers where
//! other mounts have the file open too.

use super::Vfs;
use super::handle::File;
use super::inode::{Inode, State};
use crate::client::{DataClient, MetaClient};
use crate::fuse::ops::WriteAt;
use bytes::Bytes;
use cairn_common::attr::{Caller, Timestamp};
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::Ino;
use cairn_common::limits::FILE_SIZE_MAX;
use cairn_common::namespace::op::{Commit, Extent, ExtentData, FileCommit, OpBody, OpReply, Piece};
use cairn_common::summary::{self, SummaryEntry};
use cairn_common::wire::Payload;
use std::time::Duration;

/// A writer that waits for memory looks again after this long: a finished block's bytes may be
/// held for a moment by whoever sent them.
const ROOM_CHECK: Duration = Duration::from_millis(10);
/// Writes are taken into the buffer in portions of this size when memory is short.
const PORTION: usize = 1 << 20;

/// Bytes that an open file may put into the metadata while others have it open too.
const INLINE_WHILE_SHARED: u64 = 16 << 20;

/// How often the lease may change while a write looks for its way.
const TRIES: u32 = 16;

const SYNC_FLAGS: i32 = libc::O_SYNC | libc::O_DSYNC;

impl<M: MetaClient, D: DataClient> Vfs<M, D> {
    /// A buffered write that need not wait for anything.
    pub(super) fn write_now(&self, write: &WriteAt, data: &[u8]) -> Option<FsResult<u32>> {
        let file = match self.writable(write) {
            Ok(file) => file,
            Err(error) => return Some(Err(error)),
        };
        if write.flags & SYNC_FLAGS != 0 || self.writers.try_lock().is_err() {
            return None;
        }
        let mut state = file.inode.lock();
        if !state.is_cached() || state.attr.is_none() || self.appends_at_server(write) {
            return None;
        }
        if let Err(error) = Self::stored_error(&file, &state) {
            return Some(Err(error));
        }
        if let Err(error) = self.check_full(&state, data.len()) {
            return Some(Err(error));
        }
        let offset = if appends(write) { state.size } else { write.offset };
        if too_large(offset, data.len()) {
            return Some(Err(FsError::FileTooLarge));
        }
        if !self.place(file.inode.ino, &mut state, offset, data) {
            return None;
        }
        self.touch(&mut state, write.kill_suidgid);
        Some(Ok(length_of(data)))
    }

    /// Any write.
    pub(super) async fn write_any(&self, caller: &Caller, write: WriteAt, data: Bytes) -> FsResult<u32> {
        let file = self.writable(&write)?;
        let inode = &file.inode;
        Self::stored_error(&file, &inode.lock())?;
        self.write_either_way(caller, &file, &write, &data).await?;
        if write.flags & SYNC_FLAGS != 0 {
            self.sync_file(&file).await?;
        }
        Ok(length_of(&data))
    }

    /// While other mounts exist, only the server places appended data: a lease that comes or goes between two
    /// appends must not leave one of them at an end that has moved.
    fn appends_at_server(&self, write: &WriteAt) -> bool {
        appends(write) && !self.policy.is_sole()
    }

    /// Into the buffer or through to the servers. The lease may come or go until the data is placed; then it
    /// is the other way's turn.
    async fn write_either_way(
        &self,
        caller: &Caller,
        file: &File,
        write: &WriteAt,
        data: &Bytes,
    ) -> FsResult<()> {
        for _ in 0..TRIES {
            if !self.appends_at_server(write) && self.may_buffer(&file.inode).await? {
                if self.while_answered(self.write_buffered(file, write, data)).await? {
                    return Ok(());
                }
            } else if self.write_through(caller, &file.inode, write, data).await? {
                return Ok(());
            }
        }
        Err(FsError::Unavailable)
    }

    /// Whether this mount holds the lease of the file's data, and knows its size.
    async fn may_buffer(&self, inode: &Inode) -> FsResult<bool> {
        let known = {
            let state = inode.lock();
            if state.lease.is_none() {
                return Err(FsError::Evicted);
            }
            !state.is_cached() || state.attr.is_some()
        };
        if !known {
            self.attr_now(inode.ino).await?;
        }
        Ok(inode.lock().is_cached())
    }

    fn writable(&self, write: &WriteAt) -> FsResult<std::sync::Arc<File>> {
        // Pages of a mapping may come by any handle of the file.
        if write.from_mapping {
            return self.handles.file(write.fh).ok_or(FsError::BadHandle);
        }
        self.writable_file(write.fh)
    }

    /// Writes into the buffer, waiting for memory. False if the file is shared (now).
    async fn write_buffered(&self, file: &File, write: &WriteAt, data: &[u8]) -> FsResult<bool> {
        let inode = &file.inode;
        let mut turn = None;
        let mut done = 0;
        let mut base = None;
        while done < data.len() || base.is_none() {
            let portion = &data[done..data.len().min(done + PORTION)];
            let placed = {
                let mut state = inode.lock();
                if !state.is_cached() {
                    // What is in the buffer is flushed by whoever recalled the lease.
                    return if done == 0 { Ok(false) } else { Err(FsError::Io) };
                }
                let start = *base.get_or_insert(if appends(write) { state.size } else { write.offset });
                if too_large(start, data.len()) {
                    return Err(FsError::FileTooLarge);
                }
                self.check_full(&state, portion.len())?;
                let placed = self.place(inode.ino, &mut state, start + done as u64, portion);
                if placed {
                    self.touch(&mut state, write.kill_suidgid);
                }
                placed
            };
            if placed {
                done += portion.len();
                continue;
            }
            if turn.is_none() {
                turn = Some(self.writers.lock().await);
            }
            self.wait_for_room().await?;
        }
        Ok(true)
    }

    async fn wait_for_room(&self) -> FsResult<()> {
        if let Some(error) = self.progress.borrow().stuck {
            return Err(error);
        }
        // Memory is in sealed segments, but for the open one: let that go too.
        self.buffer.seal(None);
        let _woken = tokio::time::timeout(ROOM_CHECK, self.buffer.room.notified()).await;
        Ok(())
    }

    /// Puts `data` into the buffer; false if there is no memory now.
    fn place(&self, ino: Ino, state: &mut State, offset: u64, data: &[u8]) -> bool {
        let end = offset + data.len() as u64;
        let in_place = (!state.dirty.is_empty())
            .then(|| self.buffer.open_segment())
            .flatten()
            .and_then(|segment| Some((segment, state.dirty.in_place(offset, data.len() as u64, segment)?)));
        let overwritten = in_place.is_some_and(|(segment, at)| self.buffer.overwrite(segment, at, data));
        if !overwritten {
            let Some(placed) = self.buffer.append(ino, offset, data) else { return false };
            let mut at = offset;
            for (slot, length) in placed {
                let buffer = &self.buffer;
                let freed = &mut |segment, bytes| buffer.release(segment, bytes);
                state.dirty.insert(at, u64::from(length), slot, freed);
                at += u64::from(length);
            }
        }
        state.size = state.size.max(end);
        true
    }

    /// A write has happened.
    fn touch(&self, state: &mut State, kill_suidgid: bool) {
        // As the rules do: `ctime` moves forward, and `mtime` goes with it wherever it was set to.
        let before = state.attr.map_or(Timestamp::default(), |attr| attr.ctime);
        let before = state.write_time.map_or(before, |time| time.max(before));
        state.write_time = Some(before.advance(self.meta.now()));
        state.kill_suidgid |= kill_suidgid;
    }

    /// Stores and commits a write before it is answered: others look at this file. False if they have gone.
    async fn write_through(
        &self,
        caller: &Caller,
        inode: &Inode,
        write: &WriteAt,
        data: &Bytes,
    ) -> FsResult<bool> {
        if data.is_empty() {
            return Ok(true);
        }
        if !appends(write) && too_large(write.offset, data.len()) {
            return Err(FsError::FileTooLarge);
        }
        {
            let mut state = inode.lock();
            if state.is_cached() && !self.appends_at_server(write) {
                return Ok(false);
            }
            // Until it is answered, the lease does not come back: nobody may buffer beside it.
            state.pending += 1;
        }
        let result = self.write_at_server(caller, inode, write, data).await;
        let mut state = inode.lock();
        state.pending -= 1;
        if state.is_cached() {
            // What is known here of the file's end is from before.
            state.drop_cached();
        }
        drop(state);
        self.retire(inode.ino);
        result.map(|()| true)
    }

    async fn write_at_server(
        &self,
        caller: &Caller,
        inode: &Inode,
        write: &WriteAt,
        data: &Bytes,
    ) -> FsResult<()> {
        let ino = inode.ino;
        // What was buffered before the lease was recalled comes first: stored after this write, it
        // would replace it.
        self.while_answered(self.flush_inode(ino)).await?;
        let inline = self.may_inline(inode, data);
        let (placed, block) = self.store_alone(ino, write.offset, data, inline).await?;
        let length = data.len() as u64;
        let kill_suidgid = write.kill_suidgid;
        let body = if appends(write) {
            let block_length = block.map_or(0, |(_, length)| length);
            OpBody::Append { ino, length, data: placed, block_length, kill_suidgid }
        } else {
            let extent = Extent { offset: write.offset, length, data: placed };
            let size_at_least = write.offset + length;
            let file = FileCommit { ino, size_at_least, mtime: Some(self.meta.now()), kill_suidgid };
            let blocks = block.into_iter().collect();
            OpBody::Commit(Commit { blocks, pieces: vec![Piece { ino, extent }], files: vec![file] })
        };
        let ticket = self.meta.submit(caller, body);
        let seq = ticket.seq;
        match ticket.await? {
            OpReply::Appended { attr, .. } => self.note_attr(attr, seq),
            OpReply::Committed { files } => files.into_iter().for_each(|attr| self.note_attr(attr, seq)),
            _ => return Err(FsError::Io),
        }
        Ok(())
    }

    /// Whether a write may go into the metadata: it is small, and there are not too many of them yet.
    fn may_inline(&self, inode: &Inode, data: &Bytes) -> bool {
        let length = data.len() as u64;
        let mut state = inode.lock();
        let may = length <= self.config.inline_max && state.inline_bytes + length <= INLINE_WHILE_SHARED;
        state.inline_bytes += if may { length } else { 0 };
        may
    }

    /// A small write goes into the operation, a larger one into a block of its own.
    async fn store_alone(
        &self,
        ino: Ino,
        offset: u64,
        data: &Bytes,
        inline: bool,
    ) -> FsResult<(ExtentData, Option<(cairn_common::ids::BlockRef, u32)>)> {
        if inline {
            return Ok((ExtentData::Inline(data.clone()), None));
        }
        let entry = SummaryEntry { ino, offset, at: 0, length: length_of(data) };
        let summary = Bytes::from(summary::encode(&[entry]));
        let summary_len = length_of(&summary);
        let payload = Payload::from_segments(vec![data.clone(), summary]);
        let block = self.data.put(payload, summary_len).await?;
        Ok((ExtentData::Block { block, offset: 0 }, Some((block, length_of(data) + summary_len))))
    }
}

fn appends(write: &WriteAt) -> bool {
    write.flags & libc::O_APPEND != 0 && !write.from_mapping
}

fn too_large(offset: u64, length: usize) -> bool {
    offset.checked_add(length as u64).is_none_or(|end| end > FILE_SIZE_MAX)
}

fn length_of(data: &[u8]) -> u32 {
    u32::try_from(data.len()).expect("a write and a summary are far shorter than 4 GiB")
}
