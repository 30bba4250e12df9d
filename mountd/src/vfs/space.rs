//! Space in files: `fallocate`, holes, and copies that share extents.

use super::Vfs;
use super::inode::State;
use crate::cache::extent::{ExtentCache, Found};
use crate::client::{DataClient, MetaClient};
use crate::fuse::ops::{CopyRange, Fh, Seek};
use cairn_common::attr::Caller;
use cairn_common::error::{FsError, FsResult};
use cairn_common::ids::Ino;
use cairn_common::limits::FILE_SIZE_MAX;
use cairn_common::namespace::op::{Commit, Extent, ExtentData, FallocateMode, FileCommit, OpBody, OpReply};

/// Most pages of extents that one `lseek` or `fallocate` looks through.
const PAGES_MAX: u32 = 65_536;

impl<M: MetaClient, D: DataClient> Vfs<M, D> {
    pub(super) async fn allocate(
        &self,
        caller: &Caller,
        fh: Fh,
        mode: FallocateMode,
        offset: u64,
        length: u64,
    ) -> FsResult<()> {
        let file = self.writable_file(fh)?;
        let ino = file.inode.ino;
        let end =
            offset.checked_add(length).filter(|end| *end <= FILE_SIZE_MAX).ok_or(FsError::FileTooLarge)?;
        if length == 0 {
            return Err(FsError::Invalid);
        }
        match mode {
            FallocateMode::Allocate { .. } | FallocateMode::ZeroRange { .. } => {
                self.check_room(ino, offset, end).await?;
            }
            // Everything behind moves: what is dirty must be at the server first.
            FallocateMode::CollapseRange | FallocateMode::InsertRange => {
                self.while_answered(self.flush_inode(ino)).await?;
            }
            FallocateMode::PunchHole => {}
        }
        let buffer = &self.buffer;
        let body = OpBody::Fallocate { ino, mode, offset, length };
        let mut written = None;
        let (ticket, inode) = self.submit_on(caller, ino, body, |state| {
            // This change is later than the writes before it, whenever they are committed.
            written = state.write_time.take();
            if matches!(mode, FallocateMode::PunchHole | FallocateMode::ZeroRange { .. }) {
                self.commit_size(ino, state);
                state.dirty.remove(offset, end, &mut |segment, bytes| buffer.release(segment, bytes));
            } else if !matches!(mode, FallocateMode::Allocate { .. }) {
                state.dirty.remove_stored(0, u64::MAX, &mut |segment, bytes| buffer.release(segment, bytes));
            }
            state.foresee(mode, offset, end);
        });
        let result = self.settle(ino, ticket, inode).await;
        if result.is_err() {
            let mut state = file.inode.lock();
            state.write_time = state.write_time.or(written);
        }
        result.map(|_reply| ())
    }

    /// POSIX promises that writes into what `fallocate` set aside do not fail for lack of space. Nothing is set
    /// aside on the data daemons, so this is only an early answer where it could not be kept from the start.
    async fn check_room(&self, ino: Ino, start: u64, end: u64) -> FsResult<()> {
        let available = self.meta.statfs().await?.available;
        if end - start <= available {
            return Ok(());
        }
        // Writes wait for a data daemon that is away: what it has room for is no lack of space.
        let Some(away) = self.meta.away().await? else { return Ok(()) };
        let room = available.saturating_add(away);
        // The extents are looked at only if they decide.
        if end - start > room && self.missing(ino, start, end, room).await? > room {
            return Err(FsError::NoSpace);
        }
        Ok(())
    }

    /// Bytes of `start..end` that no extent holds; counted until there are more than `enough`.
    async fn missing(&self, ino: Ino, start: u64, end: u64, enough: u64) -> FsResult<u64> {
        self.while_answered(self.flush_inode(ino)).await?;
        let (mut at, mut missing) = (start, 0);
        for _ in 0..PAGES_MAX {
            let page = self.extent_page(ino, at, end).await?;
            let mut told = ExtentCache::default();
            told.learn(page.start, page.end, &page.extents);
            let until = page.end.min(end);
            missing += told.uncovered(at, until);
            if until >= end || missing > enough {
                return Ok(missing);
            }
            at = until;
        }
        Err(FsError::Io)
    }

    /// The size that writes have reached; the writes themselves may be cut away before they are committed.
    pub(super) fn commit_size(&self, ino: Ino, state: &State) {
        let grown = state.attr.is_some_and(|attr| state.size > attr.size);
        if !state.is_cached() || !grown || state.dirty.is_empty() {
            return;
        }
        let file = FileCommit { ino, size_at_least: state.size, mtime: None, kill_suidgid: false };
        let body = OpBody::Commit(Commit { blocks: Vec::new(), pieces: Vec::new(), files: vec![file] });
        // What follows it in the operation log is waited for.
        drop(self.meta.submit(&Caller::default(), body));
    }

    pub(super) async fn copy(&self, caller: &Caller, copy: CopyRange) -> FsResult<u64> {
        let from = self.file(copy.from_fh)?.inode.ino;
        let file = self.writable_file(copy.to_fh)?;
        let to = file.inode.ino;
        self.while_answered(self.flush_inode(from)).await?;
        self.while_answered(self.flush_inode(to)).await?;
        let body = OpBody::CloneRange {
            from,
            from_offset: copy.from_offset,
            to,
            to_offset: copy.to_offset,
            length: copy.length,
        };
        let end = copy.to_offset.saturating_add(copy.length);
        let buffer = &self.buffer;
        let (ticket, inode) = self.submit_on(caller, to, body, |state| {
            state.extents.forget(copy.to_offset, end);
            // It would be read in place of the copy.
            state
                .dirty
                .remove_stored(copy.to_offset, end, &mut |segment, bytes| buffer.release(segment, bytes));
        });
        match self.settle(to, ticket, inode).await? {
            OpReply::Copied { length, .. } => {
                let mut state = file.inode.lock();
                if length > 0 {
                    state.size = state.size.max(copy.to_offset + length);
                }
                Ok(length)
            }
            _ => Err(FsError::Io),
        }
    }

    pub(super) async fn seek_for(&self, fh: Fh, offset: u64, seek: Seek) -> FsResult<u64> {
        let file = self.file(fh)?;
        let ino = file.inode.ino;
        {
            let state = file.inode.lock();
            if state.is_cached() && state.attr.is_some() && state.extents.allocated().is_some() {
                return found(offset, state.size, seek, state.search(offset, seek));
            }
        }
        self.flush_inode(ino).await?;
        let mut at = offset;
        for _ in 0..PAGES_MAX {
            let page = self.extent_page(ino, at, u64::MAX).await?;
            if at >= page.size {
                return found(offset, page.size, seek, None);
            }
            let mut told = ExtentCache::default();
            told.learn(page.start, page.end, &page.extents);
            let hit = search(&told, at, page.end.min(page.size), seek);
            if hit.is_some() || page.end >= page.size || page.end <= at {
                return found(offset, page.size, seek, hit);
            }
            at = page.end;
        }
        Err(FsError::Io)
    }
}

/// The answer of `lseek`: each file ends in a hole.
fn found(offset: u64, size: u64, seek: Seek, hit: Option<u64>) -> FsResult<u64> {
    match (hit.filter(|at| *at < size), seek) {
        _ if offset >= size => Err(FsError::NoData),
        (Some(at), _) => Ok(at),
        (None, Seek::Hole) => Ok(size),
        (None, Seek::Data) => Err(FsError::NoData),
    }
}

fn search(extents: &ExtentCache, start: u64, end: u64, seek: Seek) -> Option<u64> {
    let mut hit = None;
    extents.scan(start, end, &mut |at, found| {
        let is_data = matches!(&found, Found::Extent { data, .. } if !matches!(data, ExtentData::Reserved));
        if is_data == (seek == Seek::Data) {
            hit = Some(at);
        }
        hit.is_none()
    });
    hit
}

impl State {
    /// The first data or hole from `start` on, dirty data included.
    fn search(&self, start: u64, seek: Seek) -> Option<u64> {
        let mut at = start;
        for dirty in self.dirty.range(start, self.size) {
            if let Some(hit) = search(&self.extents, at, dirty.offset, seek) {
                return Some(hit);
            }
            if seek == Seek::Data {
                return Some(dirty.offset);
            }
            at = dirty.end();
        }
        search(&self.extents, at, self.size, seek)
    }

    /// Changes what is known of the extents as the server will change them. Where this is wrong, the
    /// answer's number of allocated bytes differs, and everything is asked for again.
    fn foresee(&mut self, mode: FallocateMode, start: u64, end: u64) {
        let reserved = |offset: u64, length: u64| Extent { offset, length, data: ExtentData::Reserved };
        match mode {
            FallocateMode::PunchHole => self.extents.hole(start, end),
            FallocateMode::ZeroRange { .. } => self.extents.replace(&reserved(start, end - start)),
            FallocateMode::Allocate { .. } => {
                let mut holes = Vec::new();
                self.extents.scan(start, end, &mut |at, found| {
                    if let Found::Hole { length } = found {
                        holes.push(reserved(at, length));
                    }
                    true
                });
                holes.iter().for_each(|extent| self.extents.replace(extent));
            }
            FallocateMode::CollapseRange | FallocateMode::InsertRange => self.extents.clear(),
        }
        let grows = matches!(
            mode,
            FallocateMode::Allocate { keep_size: false } | FallocateMode::ZeroRange { keep_size: false }
        );
        if grows {
            self.size = self.size.max(end);
        }
    }
}
